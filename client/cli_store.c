/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli.h"
#include "client/cli_follow.h"
#include "client/cli_format.h"
#include "client/cli_snapshot.h"
#include "client/cli_upkeep.h"
#include "common/cleanup.h"

/* Commands that deal with published snapshots: list, show, verify, delete. */

static void print_list(const json_t *snapshots) {
        const char *const headings[] = { "SNAPSHOT", "CREATED", "SIZE", "WRITTEN", "HOLD", "TIME", "GUARANTEE", NULL };
        struct cli_table table;
        const json_t *snapshot;
        size_t i;

        cli_table_init(&table, 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5, headings);
        json_array_foreach (snapshots, i, snapshot) {
                cli_table_add(&table, cli_json_text(snapshot, "snapshot"));
                cli_table_add(&table, cli_format_time(cli_json_count(snapshot, "created")).text);
                cli_table_add(&table, cli_format_bytes(cli_json_bytes(json_object_get(snapshot, "regions"))).text);
                cli_table_add(&table, cli_format_bytes(cli_json_count(snapshot, "bytes_written")).text);
                cli_table_add(&table, cli_format_us(cli_json_count(snapshot, "hold_us")).text);
                cli_table_add(&table, cli_format_us(cli_json_count(snapshot, "duration_us")).text);
                cli_table_add(&table, cli_json_text(snapshot, "guarantee"));
        }
        cli_table_print(&table);
}

static int run_list(struct cli *cli) {
        json_t *parameters = json_pack("{s:s*}", "domain", cli->n_arguments ? cli->arguments[0] : NULL);
        json_t *reply, *snapshots;
        int status;

        if (!parameters)
                return cli_fail(cli, LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        status = cli_call(cli, "ListSnapshots", parameters, &reply);
        if (status != CLI_OK)
                return status;
        snapshots = json_object_get(reply, "snapshots");
        if (cli->json)
                status = cli_print_json(cli, json_incref(snapshots));
        else if (json_array_size(snapshots) == 0)
                printf("no snapshots\n");
        else
                print_list(snapshots);
        json_decref(reply);
        return status;
}

const struct cli_command cli_command_list = {
        .name = "list",
        .arguments = "[DOMAIN]",
        .max_arguments = 1,
        .summary = "List the snapshots, of all domains or of one",
        .run = run_list,
};

/* The parameters {domain, name} of the argument DOMAIN/NAME. */
static int name_parameters(struct cli *cli, json_t **ret) {
        CLEANUP_FREE char *domain = NULL;
        const char *name;
        int status = cli_split_snapshot(cli, cli->arguments[0], &domain, &name);

        if (status != CLI_OK)
                return status;
        *ret = json_pack("{s:s, s:s}", "domain", domain, "name", name);
        return *ret ? CLI_OK : cli_fail(cli, LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
}

static void print_row(const char *key, const char *value) {
        printf("%-14s%s\n", key, value);
}

/* What it builds on, or why it is full although an increment was asked for. */
static void print_kind(const json_t *snapshot) {
        const char *parent = json_string_value(json_object_get(snapshot, "parent"));
        const char *reason = json_string_value(json_object_get(snapshot, "full_reason"));

        if (parent)
                printf("%-14san increment on %s, %s\n", "kind", parent,
                       json_is_true(json_object_get(snapshot, "delta")) ? "read through it" : "whole by itself");
        else
                printf("%-14sfull%s%s\n", "kind", reason ? ": " : "", reason ? reason : "");
}

static void print_show(const json_t *snapshot) {
        const json_t *regions = json_object_get(snapshot, "regions"), *region, *warning;
        const json_t *fault_us = json_object_get(snapshot, "fault_us");
        size_t i;

        print_row("snapshot", cli_json_text(snapshot, "snapshot"));
        print_row("created", cli_format_time(cli_json_count(snapshot, "created")).text);
        printf("%-14s%.0f\n", "owner", cli_json_count(snapshot, "uid"));
        print_kind(snapshot);
        print_row("guarantee", cli_json_text(snapshot, "guarantee"));
        print_row("size", cli_format_bytes(cli_json_bytes(regions)).text);
        print_row("written", cli_format_bytes(cli_json_count(snapshot, "bytes_written")).text);
        if (json_object_get(snapshot, "pause_us"))
                printf("%-14s%s, after %.0f rounds; %s pages meanwhile\n", "stopped",
                       cli_format_us(cli_json_count(snapshot, "pause_us")).text, cli_json_count(snapshot, "rounds"),
                       cli_format_count((uint64_t) cli_json_count(snapshot, "pages_paused")).text);
        else
                print_row("hold", cli_format_us(cli_json_count(snapshot, "hold_us")).text);
        print_row("arm", cli_format_us(cli_json_count(snapshot, "arm_us")).text);
        print_row("duration", cli_format_us(cli_json_count(snapshot, "duration_us")).text);
        printf("%-14s%s by fault, %s by sweep, %s zero\n", "pages",
               cli_format_count((uint64_t) cli_json_count(snapshot, "pages_fault")).text,
               cli_format_count((uint64_t) cli_json_count(snapshot, "pages_sweep")).text,
               cli_format_count((uint64_t) cli_json_count(snapshot, "pages_zero")).text);
        printf("%-14sp50 %s, p99 %s, p99.9 %s, max %s\n", "faults", cli_format_us(cli_json_count(fault_us, "p50")).text,
               cli_format_us(cli_json_count(fault_us, "p99")).text,
               cli_format_us(cli_json_count(fault_us, "p999")).text,
               cli_format_us(cli_json_count(fault_us, "max")).text);
        print_row("throttled", cli_format_us(cli_json_count(snapshot, "throttled_us")).text);
        print_row("pool peak", cli_format_bytes(cli_json_count(snapshot, "pool_peak_bytes")).text);
        json_array_foreach (regions, i, region)
                printf("%-14s%s: %s, %s mapping(s), %s\n", i ? "" : "regions", cli_json_text(region, "name"),
                       cli_format_bytes(cli_json_count(region, "bytes")).text,
                       cli_format_count((uint64_t) cli_json_count(region, "mappings")).text,
                       cli_json_text(region, "path"));
        json_array_foreach (json_object_get(snapshot, "warnings"), i, warning)
                print_row(i ? "" : "warnings", json_string_value(warning) ? json_string_value(warning) : "-");
}

static int run_show(struct cli *cli) {
        json_t *parameters, *reply, *snapshot;
        int status = name_parameters(cli, &parameters);

        if (status == CLI_OK)
                status = cli_call(cli, "ShowSnapshot", parameters, &reply);
        if (status != CLI_OK)
                return status;
        snapshot = json_object_get(reply, "snapshot");
        if (cli->json)
                status = cli_print_json(cli, json_incref(snapshot));
        else
                print_show(snapshot);
        json_decref(reply);
        return status;
}

const struct cli_command cli_command_show = {
        .name = "show",
        .arguments = "DOMAIN/NAME",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Say all that is known of a snapshot, and where its images are",
        .run = run_show,
};

static int run_verify(struct cli *cli) {
        CLEANUP_FREE char *domain = NULL;
        struct livesnap_job_callback callback;
        struct cli_follow follow;
        const char *name;
        int status = cli_split_snapshot(cli, cli->arguments[0], &domain, &name);

        if (status != CLI_OK)
                return status;
        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        cli_follow_init(&follow, &callback);
        if (livesnap_start_verify(cli->livesnap, domain, name, &callback) < 0)
                return cli_fail_library(cli);
        status = cli_follow_wait(cli, &follow);
        if (status == CLI_OK && cli->json)
                status = cli_print_json(cli, json_pack("{s:s, s:b}", "snapshot", cli->arguments[0], "verified", 1));
        else if (status == CLI_OK)
                printf("%s: every page matches its checksum\n", cli->arguments[0]);
        cli_follow_deinit(&follow);
        return status;
}

const struct cli_command cli_command_verify = {
        .name = "verify",
        .arguments = "DOMAIN/NAME",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Read a snapshot back and compare every page with its checksum",
        .run = run_verify,
};

static int run_delete_fold(struct cli *cli) {
        CLEANUP_FREE char *domain = NULL;
        const char *name;
        int status = cli_split_snapshot(cli, cli->arguments[0], &domain, &name);

        return status == CLI_OK ? cli_follow_delete_fold(cli, domain, name) : status;
}

static int run_delete(struct cli *cli) {
        json_t *parameters, *reply;
        int status;

        if (cli_get_option(cli, "fold"))
                return run_delete_fold(cli);
        status = name_parameters(cli, &parameters);
        if (status == CLI_OK)
                status = cli_call(cli, "DeleteSnapshot", parameters, &reply);
        if (status != CLI_OK)
                return status;
        json_decref(reply);
        if (cli->json)
                return cli_print_json(cli, json_pack("{s:s}", "snapshot", cli->arguments[0]));
        printf("%s is deleted\n", cli->arguments[0]);
        return CLI_OK;
}

const struct cli_command cli_command_delete = {
        .name = "delete",
        .arguments = "DOMAIN/NAME",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Delete a snapshot",
        .details = "One that increments are read through is deleted only with --fold.",
        .options =
                (const struct cli_option[]){
                        { "fold", NULL, "make whole first what builds on it" },
                        { 0 },
                },
        .run = run_delete,
};
