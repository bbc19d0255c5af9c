/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_ERROR_H
#define LIVESNAP_CLIENT_LIB_ERROR_H

/* Why the last function of the library failed in this thread. All functions here set it and return -1. */

#include "common/error.h"

/** lib_fail() - fail with an error of the library's own; @name is one of LIVESNAP_ERROR_* */
int lib_fail(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** lib_fail_errno() - fail because of a system call; ": " and the text of @errnum (positive) are appended */
int lib_fail_errno(int errnum, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** lib_fail_named() - fail with an error from the daemon; what it says is cut to a sane length and made printable */
int lib_fail_named(const char *name, const char *message);

/** lib_fail_error() - fail with what a module below the library said */
int lib_fail_error(const struct error *error);

#endif
