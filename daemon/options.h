/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_OPTIONS_H
#define LIVESNAP_DAEMON_OPTIONS_H

/*
 * What livesnapd is told: the defaults, over them the file (daemon/config.h), over that the command line. A key of the
 * file is the name of the option.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "daemon/log.h"

#define OPTIONS_CONFIG_DEFAULT "/etc/livesnap/livesnapd.conf"

struct options {
        char *config; /* owned, as all strings */
        char *socket;
        char *store;
        uint64_t pool_bytes;
        bool pool_abort; /* fail the snapshot, rather than make faulting threads wait, when the pool is spent */
        unsigned max_hold_ms;
        enum log_level log_level;
};

enum options_result {
        OPTIONS_RUN,  /* go on */
        OPTIONS_DONE, /* --help or --version was answered: exit with 0 */
        OPTIONS_BAD,  /* what is wrong has been said on stderr: exit with 2 */
};

/**
 * options_read() - read argv and the file into *ret
 *
 * Uses the state of getopt_long(), so it is not for several threads. Return: with OPTIONS_RUN *ret is to be freed with
 * options_deinit(), otherwise it is untouched.
 */
enum options_result options_read(int argc, char **argv, struct options *ret);

/** options_deinit() - free what it owns; it may be all zero */
void options_deinit(struct options *options);

/** options_has() - is there an option of this name that may stand in the file? */
bool options_has(const char *name);

/**
 * options_set() - set the option @name, which options_has(), from text
 *
 * Return: 0, or -1 with *error set to a sentence that names neither file nor option.
 */
int options_set(struct options *options, const char *name, const char *value, struct error *error);

/** options_parse_bytes() - "4096", "64K", "256M", "1G", "1T", powers of 1024. Return: 0, -EINVAL or -ERANGE. */
int options_parse_bytes(const char *text, uint64_t *ret);

#endif
