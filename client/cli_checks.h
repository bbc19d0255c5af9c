/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_CHECKS_H
#define LIVESNAP_CLIENT_CLI_CHECKS_H

/* What `livesnap doctor` finds: a list of checks, each with what it means here and a remedy where something is missing.
 */

#include <stddef.h>

#include "common/uffd_probe.h"

enum check_status {
        CHECK_OK,      /* works */
        CHECK_NOTE,    /* good to know; nothing to do */
        CHECK_WARNING, /* something that not everybody needs is missing */
        CHECK_FAILED,  /* livesnap cannot work */
};

struct check {
        enum check_status status;
        const char *name; /* static */
        char detail[320];
        char remedy[500]; /* "" where none is needed */
};

#define CHECKS_MAX 32

/** struct checks - a list by value; what does not fit is dropped */
struct checks {
        size_t n;
        struct check list[CHECKS_MAX];
};

/** checks_add() - the next one; give it a remedy with checks_remedy() */
void checks_add(struct checks *checks, enum check_status status, const char *name, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

/** checks_remedy() - what to do about the one that was added last */
void checks_remedy(struct checks *checks, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** checks_add_kernel() - what the probe of write protection says; @error is what it failed with, if it did */
void checks_add_kernel(struct checks *checks, const struct uffd_probe *probe, const struct error *error);

/** checks_add_system() - huge pages, io_uring, locked memory, capabilities */
void checks_add_system(struct checks *checks, const struct uffd_probe *probe);

#endif
