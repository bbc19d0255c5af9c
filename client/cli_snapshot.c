/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli.h"
#include "client/cli_follow.h"
#include "client/cli_format.h"

/* Commands that deal with jobs: snapshot, jobs, cancel. */

const char *cli_json_text(const json_t *object, const char *key) {
        const char *text = json_string_value(json_object_get(object, key));

        return text ? text : "-";
}

double cli_json_count(const json_t *object, const char *key) {
        return json_number_value(json_object_get(object, key));
}

double cli_json_bytes(const json_t *array) {
        double bytes = 0;
        const json_t *entry;
        size_t i;

        json_array_foreach (array, i, entry)
                bytes += cli_json_count(entry, "bytes");
        return bytes;
}

void cli_print_warnings(const json_t *snapshot) {
        const json_t *warning;
        size_t i;

        json_array_foreach (json_object_get(snapshot, "warnings"), i, warning)
                fprintf(stderr, "livesnap: warning: %s\n",
                        json_string_value(warning) ? json_string_value(warning) : "-");
}

static void print_snapshot(const struct livesnap_snapshot *snapshot) {
        double bytes = 0, seconds = (double) snapshot->duration_us / 1e6;
        json_t *json = json_loads(snapshot->json, 0, NULL);
        const char *parent = json_string_value(json_object_get(json, "parent"));
        const char *reason = json_string_value(json_object_get(json, "full_reason"));

        for (size_t i = 0; i < snapshot->n_regions; i++)
                bytes += (double) snapshot->regions[i].bytes;
        printf("%s%s%s\n", snapshot->snapshot, parent ? ", an increment on " : "", parent ? parent : "");
        if (reason)
                printf("  full, not an increment: %s\n", reason);
        printf("  frozen at %s; %s %s; guarantee %s\n", cli_format_time(snapshot->created).text,
               json_object_get(json, "pause_us") ? "stopped for" : "hold",
               cli_format_us((double) snapshot->hold_us).text, snapshot->guarantee);
        printf("  %s in %s (%s/s), %s written\n", cli_format_bytes(bytes).text,
               cli_format_us((double) snapshot->duration_us).text,
               cli_format_bytes(seconds > 0 ? bytes / seconds : 0).text,
               cli_format_bytes((double) snapshot->bytes_written).text);
        if (snapshot->pages_fault)
                printf("  %s faults, p50 %s, p99 %s, max %s\n", cli_format_count(snapshot->pages_fault).text,
                       cli_format_us(snapshot->fault_p50_us).text, cli_format_us(snapshot->fault_p99_us).text,
                       cli_format_us(snapshot->fault_max_us).text);
        else if (json_object_get(json, "rounds"))
                printf("  %.0f rounds while the programs ran, then %s pages while they were stopped\n",
                       cli_json_count(json, "rounds"),
                       cli_format_count((uint64_t) cli_json_count(json, "pages_paused")).text);
        else
                printf("  no faults: nobody wrote ahead of the sweep\n");
        if (snapshot->throttled_us)
                printf("  writers waited %s because the pool was spent\n",
                       cli_format_us((double) snapshot->throttled_us).text);
        cli_print_warnings(json);
        json_decref(json);
}

static int snapshot_detached(struct cli *cli, uint64_t max_rate, unsigned max_pause_ms) {
        json_t *parameters =
                json_pack("{s:s, s:s*, s:s*, s:b, s:b, s:b, s:b, s:s*}", "domain", cli->arguments[0], "name",
                          cli_get_option(cli, "name"), "parent", cli_get_option(cli, "parent"), "detach", 1, "strict",
                          cli_get_option(cli, "strict") != NULL, "incremental",
                          cli_get_option(cli, "incremental") != NULL, "stopped", cli_get_option(cli, "stopped") != NULL,
                          "on_no_convergence", cli_get_option(cli, "on-no-convergence"));
        json_t *reply, *job;
        int status;

        if (parameters && max_rate)
                json_object_set_new(parameters, "max_rate", json_integer((json_int_t) max_rate));
        if (parameters && max_pause_ms)
                json_object_set_new(parameters, "max_pause", json_integer(max_pause_ms));
        if (!parameters)
                return cli_fail(cli, LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        status = cli_call(cli, "Snapshot", parameters, &reply);
        if (status != CLI_OK)
                return status;
        job = json_object_get(reply, "job");
        if (cli->json)
                status = cli_print_json(cli, json_incref(job));
        else
                printf("job %.0f takes it; 'livesnap jobs' shows it, 'livesnap cancel %.0f' ends it\n",
                       cli_json_count(job, "job"), cli_json_count(job, "job"));
        json_decref(reply);
        return status;
}

static unsigned snapshot_flags(const struct cli *cli) {
        const char *no_convergence = cli_get_option(cli, "on-no-convergence");

        return (cli_get_option(cli, "strict") ? LIVESNAP_SNAPSHOT_STRICT : 0) |
               (cli_get_option(cli, "incremental") ? LIVESNAP_SNAPSHOT_INCREMENTAL : 0) |
               (cli_get_option(cli, "stopped") ? LIVESNAP_SNAPSHOT_STOPPED : 0) |
               (no_convergence && !strcmp(no_convergence, "pause") ? LIVESNAP_SNAPSHOT_PAUSE_ANYWAY : 0);
}

static int snapshot_followed(struct cli *cli, uint64_t max_rate, unsigned max_pause_ms) {
        const struct livesnap_snapshot_options options = {
                .size = sizeof(options),
                .name = cli_get_option(cli, "name"),
                .max_rate = max_rate,
                .flags = snapshot_flags(cli),
                .parent = cli_get_option(cli, "parent"),
                .max_pause_ms = max_pause_ms,
        };
        struct livesnap_job_callback callback;
        struct cli_follow follow;
        int status;

        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        cli_follow_init(&follow, &callback);
        if (livesnap_start_snapshot_options(cli->livesnap, cli->arguments[0], &options, &callback) < 0)
                return cli_fail_library(cli);
        status = cli_follow_wait(cli, &follow);
        if (status == CLI_OK && cli->json)
                status = cli_print_json(cli, json_loads(follow.snapshot->json, 0, NULL));
        else if (status == CLI_OK)
                print_snapshot(follow.snapshot);
        cli_follow_deinit(&follow);
        return status;
}

static int parse_milliseconds(const char *text, unsigned *ret) {
        unsigned long value;
        char *end;

        errno = 0;
        value = strtoul(text, &end, 10);
        if (errno || *end || end == text || *text == '-' || value == 0 || value > 600000)
                return -EINVAL;
        *ret = (unsigned) value;
        return 0;
}

static int run_snapshot(struct cli *cli) {
        const char *rate = cli_get_option(cli, "max-rate"), *pause = cli_get_option(cli, "max-pause");
        const char *no_convergence = cli_get_option(cli, "on-no-convergence");
        unsigned max_pause_ms = 0;
        uint64_t max_rate = 0;

        if (pause && parse_milliseconds(pause, &max_pause_ms) < 0)
                return cli_usage(cli, "--max-pause '%s' is no time: milliseconds, from 1 to 600000", pause);
        if (no_convergence && strcmp(no_convergence, "fail") && strcmp(no_convergence, "pause"))
                return cli_usage(cli, "--on-no-convergence '%s' is neither 'fail' nor 'pause'", no_convergence);
        if (rate && cli_parse_bytes(rate, &max_rate) < 0)
                return cli_usage(cli, "--max-rate '%s' is no rate: bytes a second, such as 100M", rate);
        return cli_get_option(cli, "detach") ? snapshot_detached(cli, max_rate, max_pause_ms)
                                             : snapshot_followed(cli, max_rate, max_pause_ms);
}

const struct cli_command cli_command_snapshot = {
        .name = "snapshot",
        .arguments = "DOMAIN",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Take a snapshot of a domain while its programs run",
        .details = "Returns when the snapshot is complete and durable. Ctrl-C cancels it.",
        .options =
                (const struct cli_option[]){
                        { "name", "NAME", "its name (default: made from the time)" },
                        { "max-rate", "BYTES", "write at most so many bytes a second (K, M, G)" },
                        { "incremental", NULL, "save only what was written since the last one, if that is known" },
                        { "parent", "NAME", "the same, and fail if that was not snapshot NAME" },
                        { "strict", NULL, "fail where there may be untracked writers, rather than warn" },
                        { "detach", NULL, "return as soon as it has begun" },
                        { "max-pause", "MS", "with tracking async: stop the programs for no longer (default: 100)" },
                        { "on-no-convergence", "fail|pause",
                          "the same: if that is too little, give up or take longer" },
                        { "stopped", NULL, "the same: they are stopped already, and stay so until it returns" },
                        { 0 },
                },
        .run = run_snapshot,
};

static void print_jobs(const json_t *jobs) {
        const char *const headings[] = { "JOB", "KIND", "SNAPSHOT", "STATE", "DONE", "OF", "ERROR", NULL };
        struct cli_table table;
        const json_t *job;
        size_t i;

        cli_table_init(&table, 1u << 0 | 1u << 4 | 1u << 5, headings);
        json_array_foreach (jobs, i, job) {
                char number[32], name[300];

                snprintf(number, sizeof(number), "%.0f", cli_json_count(job, "job"));
                /* A snapshot that is to be named by the time has no name before it is published. */
                snprintf(name, sizeof(name), *cli_json_text(job, "name") ? "%s/%s" : "%s", cli_json_text(job, "domain"),
                         cli_json_text(job, "name"));
                cli_table_add(&table, number);
                cli_table_add(&table, cli_json_text(job, "kind"));
                cli_table_add(&table, name);
                cli_table_add(&table, cli_json_text(job, "state"));
                cli_table_add(&table, cli_format_bytes(cli_json_count(job, "bytes_done")).text);
                cli_table_add(&table, cli_format_bytes(cli_json_count(job, "bytes_total")).text);
                cli_table_add(&table, json_string_value(json_object_get(job, "error")));
        }
        cli_table_print(&table);
}

static int run_jobs(struct cli *cli) {
        json_t *reply, *jobs;
        int status = cli_call(cli, "ListJobs", NULL, &reply);

        if (status != CLI_OK)
                return status;
        jobs = json_object_get(reply, "jobs");
        if (cli->json)
                status = cli_print_json(cli, json_incref(jobs));
        else if (json_array_size(jobs) == 0)
                printf("no jobs\n");
        else
                print_jobs(jobs);
        json_decref(reply);
        return status;
}

const struct cli_command cli_command_jobs = {
        .name = "jobs",
        .arguments = "",
        .summary = "List the jobs that run, and those that ended lately",
        .run = run_jobs,
};

static int run_cancel(struct cli *cli) {
        char *end;
        long long job;
        json_t *reply;
        int status;

        errno = 0;
        job = strtoll(cli->arguments[0], &end, 10);
        if (errno || *end || end == cli->arguments[0] || job < 0)
                return cli_usage(cli, "'%s' is no job: the number that 'livesnap jobs' shows is expected",
                                 cli->arguments[0]);
        status = cli_call(cli, "CancelJob", json_pack("{s:I}", "job", (json_int_t) job), &reply);
        if (status != CLI_OK)
                return status;
        json_decref(reply);
        if (cli->json)
                return cli_print_json(cli, json_pack("{s:I}", "job", (json_int_t) job));
        printf("job %lld is cancelled\n", job);
        return CLI_OK;
}

const struct cli_command cli_command_cancel = {
        .name = "cancel",
        .arguments = "JOB",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Cancel a job; a snapshot that is cancelled leaves nothing behind",
        .run = run_cancel,
};
