/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/name.h"

#include <ctype.h>
#include <string.h>

#define ALLOWED "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+-"
#define QUOTED_MAX 40

/* The message goes to terminals and logs: no byte of an invalid name goes there as it is unless it is printable ASCII.
 */
static void name_quote(const char *name, char quoted[QUOTED_MAX + 4]) {
        size_t i;

        for (i = 0; name[i] && i < QUOTED_MAX; i++)
                quoted[i] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
        strcpy(quoted + i, name[i] ? "..." : "");
}

bool name_is_valid(const char *name) {
        size_t length = strnlen(name, NAME_LENGTH_MAX + 1);

        return length > 0 && length <= NAME_LENGTH_MAX && name[0] != '.' && name[0] != '-' &&
               strspn(name, ALLOWED) == length;
}

int name_check(const char *what, const char *name, struct error *error) {
        char quoted[QUOTED_MAX + 4];
        unsigned char bad;

        if (name_is_valid(name))
                return 0;
        name_quote(name, quoted);
        if (!name[0])
                return error_set(error, ERROR_INVALID_NAME, "the name of a %s must not be empty", what);
        if (strnlen(name, NAME_LENGTH_MAX + 1) > NAME_LENGTH_MAX)
                return error_set(error, ERROR_INVALID_NAME,
                                 "'%s' is too long for the name of a %s: at most %d characters", quoted, what,
                                 NAME_LENGTH_MAX);
        if (name[0] == '.' || name[0] == '-')
                return error_set(error, ERROR_INVALID_NAME,
                                 "'%s' cannot be the name of a %s: it must not start with '%c'", quoted, what, name[0]);

        bad = (unsigned char) name[strspn(name, ALLOWED)];
        if (isascii(bad) && isprint(bad))
                return error_set(error, ERROR_INVALID_NAME,
                                 "'%s' cannot be the name of a %s: it contains '%c'; use A-Z a-z 0-9 . _ : @ + -",
                                 quoted, what, bad);
        return error_set(error, ERROR_INVALID_NAME,
                         "'%s' cannot be the name of a %s: it contains the byte 0x%02x; use A-Z a-z 0-9 . _ : @ + -",
                         quoted, what, bad);
}
