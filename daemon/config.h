/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CONFIG_H
#define LIVESNAP_DAEMON_CONFIG_H

/* The file livesnapd.conf. */

#include "common/error.h"
#include "daemon/options.h"

/**
 * config_read() - read the file into the options
 * @path: the file
 * @may_be_absent: then it changes nothing
 *
 * A key that there is not, or that is in a section that there is not, is warned of and passed over, so that the file of
 * a newer version does not keep an older one from starting. What is wrong with a value is an error. Return: 0, or -1
 * with *error set to a sentence that names file and line; the options may be half changed then.
 */
int config_read(const char *path, bool may_be_absent, struct options *options, struct error *error);

#endif
