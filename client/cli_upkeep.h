/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_UPKEEP_H
#define LIVESNAP_CLIENT_CLI_UPKEEP_H

/* What the commands share that look after chains of increments. */

#include "client/cli.h"

/* The rules of prune, for the options of a command. */
#define CLI_RULE_OPTIONS                                                                            \
        { "keep-last", "N", "keep the newest N" },                                                  \
                { "keep-hourly", "N", "keep the newest of each of N hours (UTC) that have any" }, { \
                "keep-daily", "N", "keep the newest of each of N days (UTC) that have any"          \
        }

/** cli_read_rules() - the options above; none given is no error. Return: CLI_OK or CLI_USAGE. */
int cli_read_rules(const struct cli *cli, struct livesnap_prune_options *ret);

/**
 * cli_follow_delete_fold() - delete DOMAIN/NAME with fold, and say so
 *
 * Return: CLI_OK, or CLI_FAILED after having said why.
 */
int cli_follow_delete_fold(struct cli *cli, const char *domain, const char *name);

#endif
