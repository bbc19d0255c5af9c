/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_upkeep.h"

#include <stdio.h>
#include <stdlib.h>

#include "client/cli_follow.h"
#include "client/cli_format.h"
#include "client/cli_snapshot.h"
#include "common/cleanup.h"

/* Commands that look after chains of increments: compact, prune, and delete with fold. All are jobs. */

/* A job that goes on without us. The reference to @parameters is stolen; NULL: out of memory, or not UTF-8. */
static int start_detached(struct cli *cli, const char *method, json_t *parameters) {
        json_t *reply, *job;
        int status;

        if (!parameters)
                return cli_fail(cli, LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        json_object_set_new(parameters, "detach", json_true());
        status = cli_call(cli, method, parameters, &reply);
        if (status != CLI_OK)
                return status;
        job = json_object_get(reply, "job");
        if (cli->json)
                status = cli_print_json(cli, json_incref(job));
        else
                printf("job %.0f does it; 'livesnap jobs' shows it, 'livesnap cancel %.0f' ends it\n",
                       cli_json_count(job, "job"), cli_json_count(job, "job"));
        json_decref(reply);
        return status;
}

/* What came of a job, which is what it was last seen as; a new reference. */
static json_t *job_end(const struct cli_follow *follow) {
        return follow->job_json ? json_loads(follow->job_json, 0, NULL) : NULL;
}

static int compact_followed(struct cli *cli, const char *domain, const char *name) {
        struct livesnap_job_callback callback;
        struct cli_follow follow;
        json_t *job, *folded;
        int status;

        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        cli_follow_init(&follow, &callback);
        if (livesnap_start_compact(cli->livesnap, domain, name, &callback) < 0)
                return cli_fail_library(cli);
        status = cli_follow_wait(cli, &follow);
        job = job_end(&follow);
        folded = json_object_get(job, "folded");
        if (status == CLI_OK && cli->json)
                status = cli_print_json(cli, json_pack("{s:s, s:b}", "snapshot", cli->arguments[0], "folded",
                                                       json_array_size(folded) > 0));
        else if (status == CLI_OK && json_array_size(folded) > 0)
                printf("%s is whole now, and needs no other snapshot\n", cli->arguments[0]);
        else if (status == CLI_OK)
                printf("%s is whole already\n", cli->arguments[0]);
        json_decref(job);
        cli_follow_deinit(&follow);
        return status;
}

static int run_compact(struct cli *cli) {
        CLEANUP_FREE char *domain = NULL;
        const char *name;
        int status = cli_split_snapshot(cli, cli->arguments[0], &domain, &name);

        if (status != CLI_OK)
                return status;
        if (cli_get_option(cli, "detach"))
                return start_detached(cli, "CompactSnapshot", json_pack("{s:s, s:s}", "domain", domain, "name", name));
        return compact_followed(cli, domain, name);
}

const struct cli_command cli_command_compact = {
        .name = "compact",
        .arguments = "DOMAIN/NAME",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Make an increment whole, so that it needs no other snapshot",
        .details = "It is a full snapshot then, with the same content; what builds on it still does. Where increments "
                   "share\n"
                   "their data with their parents, as on XFS and Btrfs, they are whole already. Ctrl-C cancels it.",
        .options =
                (const struct cli_option[]){
                        { "detach", NULL, "return as soon as it has begun" },
                        { 0 },
                },
        .run = run_compact,
};

int cli_follow_delete_fold(struct cli *cli, const char *domain, const char *name) {
        struct livesnap_job_callback callback;
        struct cli_follow follow;
        json_t *job, *folded, *each;
        size_t i;
        int status;

        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        cli_follow_init(&follow, &callback);
        if (livesnap_start_delete_fold(cli->livesnap, domain, name, &callback) < 0)
                return cli_fail_library(cli);
        status = cli_follow_wait(cli, &follow);
        job = job_end(&follow);
        folded = json_object_get(job, "folded");
        if (status == CLI_OK && cli->json) {
                status = cli_print_json(cli, json_pack("{s:s, s:O*}", "snapshot", cli->arguments[0], "folded", folded));
        } else if (status == CLI_OK) {
                json_array_foreach (folded, i, each)
                        printf("%s/%s is whole now\n", domain, json_string_value(each));
                printf("%s is deleted\n", cli->arguments[0]);
        }
        json_decref(job);
        cli_follow_deinit(&follow);
        return status;
}

static int read_rule(const struct cli *cli, const char *option, uint64_t *ret) {
        const char *value = cli_get_option(cli, option);

        if (!value || cli_parse_count(value, ret) == 0)
                return CLI_OK;
        return cli_usage(cli, "--%s '%s' is no number of snapshots: 1 or more is expected", option, value);
}

int cli_read_rules(const struct cli *cli, struct livesnap_prune_options *ret) {
        int status = read_rule(cli, "keep-last", &ret->keep_last);

        if (status == CLI_OK)
                status = read_rule(cli, "keep-hourly", &ret->keep_hourly);
        if (status == CLI_OK)
                status = read_rule(cli, "keep-daily", &ret->keep_daily);
        return status;
}

static void print_pruned(const char *domain, const json_t *job, bool dry_run) {
        static const struct {
                const char *member, *now, *then;
        } lines[] = {
                { "folded", "made whole", "would be made whole" },
                { "deleted", "deleted", "would be deleted" },
                { "needed", "kept, since others are read through it", "kept, since others are read through it" },
        };
        const json_t *names, *name;
        size_t i;

        for (size_t line = 0; line < sizeof(lines) / sizeof(lines[0]); line++)
                json_array_foreach (json_object_get(job, lines[line].member), i, name)
                        printf("%s/%s: %s\n", domain, json_string_value(name),
                               dry_run ? lines[line].then : lines[line].now);
        names = json_object_get(job, "deleted");
        printf("%zu of %zu snapshots of %s %s\n", json_array_size(names),
               json_array_size(names) + json_array_size(json_object_get(job, "kept")) +
                       json_array_size(json_object_get(job, "needed")),
               domain, dry_run ? "would be deleted" : "are deleted");
}

static json_t *prune_report(const char *domain, const json_t *job, bool dry_run) {
        return json_pack("{s:s, s:b, s:O*, s:O*, s:O*, s:O*}", "domain", domain, "dry_run", dry_run, "kept",
                         json_object_get(job, "kept"), "needed", json_object_get(job, "needed"), "folded",
                         json_object_get(job, "folded"), "deleted", json_object_get(job, "deleted"));
}

static int prune_followed(struct cli *cli, const struct livesnap_prune_options *options) {
        bool dry_run = options->flags & LIVESNAP_PRUNE_DRY_RUN;
        struct livesnap_job_callback callback;
        struct cli_follow follow;
        json_t *job;
        int status;

        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        cli_follow_init(&follow, &callback);
        if (livesnap_start_prune(cli->livesnap, cli->arguments[0], options, &callback) < 0)
                return cli_fail_library(cli);
        status = cli_follow_wait(cli, &follow);
        job = job_end(&follow);
        if (status == CLI_OK && cli->json)
                status = cli_print_json(cli, prune_report(cli->arguments[0], job, dry_run));
        else if (status == CLI_OK)
                print_pruned(cli->arguments[0], job, dry_run);
        json_decref(job);
        cli_follow_deinit(&follow);
        return status;
}

static json_t *prune_parameters(const char *domain, const struct livesnap_prune_options *options) {
        return json_pack("{s:s, s:I, s:I, s:I, s:s*, s:b}", "domain", domain, "keep_last",
                         (json_int_t) options->keep_last, "keep_hourly", (json_int_t) options->keep_hourly,
                         "keep_daily", (json_int_t) options->keep_daily, "prefix", options->prefix, "dry_run",
                         (options->flags & LIVESNAP_PRUNE_DRY_RUN) != 0);
}

static int run_prune(struct cli *cli) {
        struct livesnap_prune_options options = {
                .size = sizeof(options),
                .prefix = cli_get_option(cli, "name-prefix"),
                .flags = cli_get_option(cli, "dry-run") ? LIVESNAP_PRUNE_DRY_RUN : 0,
        };
        int status = cli_read_rules(cli, &options);

        if (status != CLI_OK)
                return status;
        if (!options.keep_last && !options.keep_hourly && !options.keep_daily)
                return cli_usage(cli,
                                 "prune: nothing says what to keep: give --keep-last, --keep-hourly or --keep-daily");
        if (cli_get_option(cli, "detach"))
                return start_detached(cli, "Prune", prune_parameters(cli->arguments[0], &options));
        return prune_followed(cli, &options);
}

const struct cli_command cli_command_prune = {
        .name = "prune",
        .arguments = "DOMAIN",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Delete the snapshots of a domain that no rule keeps",
        .details =
                "A snapshot that any rule names is kept; hours and days are those of UTC. What kept increments are "
                "read\n"
                "through is kept for as long as that is no more than the rules keep; then increments are made whole.",
        .options =
                (const struct cli_option[]){
                        CLI_RULE_OPTIONS,
                        { "name-prefix", "P", "count and delete only snapshots whose name begins with P" },
                        { "dry-run", NULL, "say what would be deleted and made whole, and do nothing" },
                        { "detach", NULL, "return as soon as it has begun" },
                        { 0 },
                },
        .run = run_prune,
};
