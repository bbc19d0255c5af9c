/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_OPTIONS_H
#define LIVESNAP_DAEMON_OPTIONS_H

/* The command line of livesnapd. */

#include <stdbool.h>
#include <stdint.h>

struct options {
        const char *socket; /* borrowed from argv, as all strings */
        const char *store;
        uint64_t pool_bytes;
        bool pool_abort; /* fail the snapshot, rather than make faulting threads wait, when the pool is spent */
        unsigned max_hold_ms;
};

enum options_result {
        OPTIONS_RUN,  /* go on */
        OPTIONS_DONE, /* --help or --version was answered: exit with 0 */
        OPTIONS_BAD,  /* what is wrong has been said on stderr: exit with 2 */
};

/** options_read() - read argv into *ret, which is filled only for OPTIONS_RUN */
enum options_result options_read(int argc, char **argv, struct options *ret);

/** options_parse_bytes() - "4096", "64K", "256M", "1G", "1T", powers of 1024. Return: 0, -EINVAL or -ERANGE. */
int options_parse_bytes(const char *text, uint64_t *ret);

#endif
