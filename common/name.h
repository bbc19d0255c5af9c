/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_NAME_H
#define LIVESNAP_COMMON_NAME_H

/*
 * Names of domains, regions and snapshots. They become names of files, so both the daemon and whoever reads a snapshot
 * back check them: no '/', nothing hidden, nothing that looks like an option.
 */

#include <stdbool.h>

#include "common/error.h"

#define NAME_LENGTH_MAX 128

/** name_is_valid() - is @name 1 to NAME_LENGTH_MAX characters of A-Z a-z 0-9 . _ : @ + - with no '.' or '-' in front?
 */
bool name_is_valid(const char *name);

/**
 * name_check() - refuse a name with a sentence that says what is wrong with it
 * @what: what it names, as in "the name of a domain": "domain", "region", "snapshot"
 * @name: any bytes; what goes into the message is made printable
 *
 * Return: 0, or -1 with *error set (ERROR_INVALID_NAME).
 */
int name_check(const char *what, const char *name, struct error *error);

#endif
