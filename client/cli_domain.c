/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cli.h"
#include "client/cli_format.h"
#include "client/cli_snapshot.h"
#include "client/cli_tracking.h"

/* Commands that deal with domains: attach, detach, domains. */

#define ATTACH_PROGRAM "livesnap-attach"
#define ATTACH_ARGUMENTS_MAX 16

/*
 * attach is a program of its own, small and privileged. It is looked for beside this one first, so that programs run
 * from a build tree find each other. Returns only where none could be started.
 */
static void exec_attach(char *const *arguments) {
        static const char *const below[] = { "", "attach/", "../client/attach/" };
        char self[PATH_MAX], path[PATH_MAX + 64];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

        if (n > 0) {
                self[n] = '\0';
                dirname(self);
                for (size_t i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
                        snprintf(path, sizeof(path), "%s/%s%s", self, below[i], ATTACH_PROGRAM);
                        execv(path, arguments);
                        if (errno != ENOENT)
                                return;
                }
        }
        execv(LIVESNAP_LIBEXECDIR "/" ATTACH_PROGRAM, arguments);
}

static int check_pid(const struct cli *cli, const char *pid) {
        char *end;
        long number;

        if (!pid)
                return cli_usage(cli, "attach: --pid is missing");
        errno = 0;
        number = strtol(pid, &end, 10);
        if (errno || *end || end == pid || number <= 0 || number > INT_MAX)
                return cli_usage(cli, "--pid '%s' is not the number of a process", pid);
        return CLI_OK;
}

static int run_attach(struct cli *cli) {
        static const char *const passed[] = { "--pid", "--domain", "--object", "--discard", "--tracking" };
        char *arguments[ATTACH_ARGUMENTS_MAX];
        const char *discard = cli_get_option(cli, "discard"), *tracking = cli_get_option(cli, "tracking");
        int n = 0;

        if (check_pid(cli, cli_get_option(cli, "pid")) != CLI_OK)
                return CLI_USAGE;
        if (discard && strcmp(discard, "fail") && strcmp(discard, "zero"))
                return cli_usage(cli, "--discard '%s' is neither 'fail' nor 'zero'", discard);
        if (tracking && cli_tracking_mode(tracking) < 0)
                return cli_usage(cli, "--tracking '%s' is no way of tracking: off, sync or async is expected",
                                 tracking);
        arguments[n++] = (char *) ATTACH_PROGRAM;
        for (size_t i = 0; i < sizeof(passed) / sizeof(passed[0]); i++) {
                const char *value = cli_get_option(cli, passed[i] + 2);

                if (value) {
                        arguments[n++] = (char *) passed[i];
                        arguments[n++] = (char *) value;
                }
        }
        if (cli->socket) {
                arguments[n++] = (char *) "--socket";
                arguments[n++] = (char *) cli->socket;
        }
        if (cli->json)
                arguments[n++] = (char *) "--json";
        if (cli_get_option(cli, "strict"))
                arguments[n++] = (char *) "--strict";
        arguments[n] = NULL;
        exec_attach(arguments);
        return cli_fail(cli, LIVESNAP_ERROR_SYSTEM, "cannot start the program " ATTACH_PROGRAM ": %s; is it installed?",
                        strerror(errno));
}

const struct cli_command cli_command_attach = {
        .name = "attach",
        .arguments = "--pid PID",
        .summary = "Put a running program's shared memory under the daemon's care",
        .details = "All writable shared mappings of the program are found, and every other process that maps the same\n"
                   "objects. The program is not changed by it. Only root can do this.",
        .options =
                (const struct cli_option[]){
                        { "pid", "PID", "the program" },
                        { "domain", "NAME", "name of the domain (default: made from program and pid)" },
                        { "object", "GLOB", "only objects whose name in /proc/PID/maps matches" },
                        { "discard", "fail|zero", "what a page becomes that is removed before it was saved" },
                        { "tracking", "MODE", "how writes are known between snapshots: off, sync or async" },
                        { "strict", NULL, "refuse what may be written untracked, now and in each snapshot" },
                        { 0 },
                },
        .run = run_attach,
};

static int run_detach(struct cli *cli) {
        const char *region = cli_get_option(cli, "region");
        json_t *parameters = json_pack("{s:s, s:s*}", "domain", cli->arguments[0], "region", region);
        json_t *reply;
        int status;

        if (!parameters)
                return cli_fail(cli, LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        status = cli_call(cli, "Detach", parameters, &reply);
        if (status != CLI_OK)
                return status;
        json_decref(reply);
        if (cli->json)
                return cli_print_json(cli, json_pack("{s:s, s:s?}", "domain", cli->arguments[0], "region", region));
        printf("%s%s%s is let go\n", cli->arguments[0], region ? ", region " : "", region ? region : "");
        return CLI_OK;
}

const struct cli_command cli_command_detach = {
        .name = "detach",
        .arguments = "DOMAIN",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Let a domain go; its snapshots are kept",
        .options =
                (const struct cli_option[]){
                        { "region", "REGION", "only this region of it" },
                        { 0 },
                },
        .run = run_detach,
};

static void print_domain(struct cli_table *table, const json_t *domain) {
        const json_t *regions = json_object_get(domain, "regions"), *region;
        char number[32];
        size_t i;

        json_array_foreach (regions, i, region) {
                cli_table_add(table, i ? "" : cli_json_text(domain, "name"));
                snprintf(number, sizeof(number), "%.0f", cli_json_count(domain, "processes"));
                cli_table_add(table, i ? "" : number);
                cli_table_add(table, cli_json_text(region, "name"));
                cli_table_add(table, cli_json_text(region, "kind"));
                cli_table_add(table, cli_format_bytes(cli_json_count(region, "bytes")).text);
                cli_table_add(table, cli_format_count((uint64_t) cli_json_count(region, "mappings")).text);
                cli_table_add(table, cli_json_text(region, "guarantee"));
                snprintf(number, sizeof(number), "%.0f", cli_json_count(domain, "job"));
                cli_table_add(table, json_is_integer(json_object_get(domain, "job")) && !i ? number : i ? "" : NULL);
        }
}

static int run_domains(struct cli *cli) {
        const char *const headings[] = { "DOMAIN",   "PROCESSES", "REGION", "KIND", "SIZE",
                                         "MAPPINGS", "GUARANTEE", "JOB",    NULL };
        json_t *reply, *domains, *domain;
        struct cli_table table;
        size_t i;
        int status = cli_call(cli, "ListDomains", NULL, &reply);

        if (status != CLI_OK)
                return status;
        domains = json_object_get(reply, "domains");
        if (cli->json) {
                status = cli_print_json(cli, json_incref(domains));
        } else if (json_array_size(domains) == 0) {
                printf("no domains: 'livesnap attach --pid PID' makes one\n");
        } else {
                cli_table_init(&table, 1u << 1 | 1u << 4 | 1u << 5 | 1u << 7, headings);
                json_array_foreach (domains, i, domain)
                        print_domain(&table, domain);
                cli_table_print(&table);
        }
        json_decref(reply);
        return status;
}

const struct cli_command cli_command_domains = {
        .name = "domains",
        .arguments = "",
        .summary = "List the domains and their regions",
        .run = run_domains,
};
