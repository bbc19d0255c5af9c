/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_tracking.h"

#include <stdio.h>
#include <string.h>

#include "client/cli.h"

/* The command tracking. */

#define CGROUP_PREFIX "cgroup:"

int cli_tracking_mode(const char *name) {
        static const char *const names[] = { "off", "sync", "async" };

        for (int i = 0; i < (int) (sizeof(names) / sizeof(names[0])); i++)
                if (!strcmp(name, names[i]))
                        return i;
        return -1;
}

static int set_async(struct cli *cli, const char *quiesce) {
        static const char *const names[] = { [LIVESNAP_QUIESCE_SIGNAL] = "signal",
                                             [LIVESNAP_QUIESCE_CLIENT] = "client",
                                             [LIVESNAP_QUIESCE_NONE] = "none" };
        const char *domain = cli->arguments[0];
        int r = -1;

        if (!strncmp(quiesce, CGROUP_PREFIX, strlen(CGROUP_PREFIX))) {
                r = livesnap_set_tracking_async(cli->livesnap, domain, LIVESNAP_QUIESCE_CGROUP,
                                                quiesce + strlen(CGROUP_PREFIX));
                return r < 0 ? cli_fail_library(cli) : CLI_OK;
        }
        for (int i = 0; i < (int) (sizeof(names) / sizeof(names[0])); i++) {
                if (!names[i] || strcmp(names[i], quiesce))
                        continue;
                r = livesnap_set_tracking_async(cli->livesnap, domain, (enum livesnap_quiesce) i, NULL);
                return r < 0 ? cli_fail_library(cli) : CLI_OK;
        }
        return cli_usage(
                cli, "--quiesce '%s' is no way to stop programs: signal, cgroup:DIRECTORY, client or none is expected",
                quiesce);
}

static void print_mode(const char *domain, int mode) {
        if (mode == LIVESNAP_TRACKING_OFF)
                printf("writes to domain %s are not tracked any more\n", domain);
        else
                printf("writes to domain %s are tracked; the next snapshot is full, those after it can be "
                       "incremental\n",
                       domain);
}

static int run_tracking(struct cli *cli) {
        const char *domain = cli->arguments[0], *quiesce = cli_get_option(cli, "quiesce");
        int mode = cli_tracking_mode(cli->arguments[1]), status;
        json_t *reply;

        if (mode < 0)
                return cli_usage(cli, "'%s' is no way of tracking: off, sync or async is expected", cli->arguments[1]);
        if (quiesce && mode != LIVESNAP_TRACKING_ASYNC)
                return cli_usage(cli, "--quiesce goes with async: with %s nobody is stopped", cli->arguments[1]);
        status = cli_connect(cli);
        if (status == CLI_OK && quiesce)
                status = set_async(cli, quiesce);
        else if (status == CLI_OK && livesnap_set_tracking(cli->livesnap, domain, (enum livesnap_tracking) mode) < 0)
                status = cli_fail_library(cli);
        if (status != CLI_OK)
                return status;
        if (!cli->json) {
                print_mode(domain, mode);
                return CLI_OK;
        }
        status = cli_call(cli, "ListDomains", json_pack("{s:s}", "domain", domain), &reply);
        if (status != CLI_OK)
                return status;
        status = cli_print_json(cli, json_incref(json_array_get(json_object_get(reply, "domains"), 0)));
        json_decref(reply);
        return status;
}

const struct cli_command cli_command_tracking = {
        .name = "tracking",
        .arguments = "DOMAIN off|sync|async",
        .min_arguments = 2,
        .max_arguments = 2,
        .summary = "Choose how writes are known between snapshots, for increments",
        .details = "sync:  pages stay write-protected after a snapshot, and the first write to each waits until "
                   "livesnapd\n"
                   "       has noted it. Nobody is ever stopped.\n"
                   "async: the kernel notes the first write to each page by itself, at a third of the cost. A snapshot "
                   "is\n"
                   "       made while the programs run, but they are stopped for a moment at its end.\n"
                   "Changing it forgets what was known: the next snapshot is full.",
        .options =
                (const struct cli_option[]){
                        { "quiesce", "HOW",
                          "with async, how to stop them: signal (default), cgroup:DIRECTORY, client, none" },
                        { 0 },
                },
        .run = run_tracking,
};
