/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "client/cli.h"
#include "client/cli_follow.h"
#include "client/cli_format.h"
#include "common/cleanup.h"

static int on_progress(void *data, uint64_t bytes_done, uint64_t bytes_total) {
        cli_progress_show(data, "restoring", bytes_done, bytes_total);
        return cli_interrupted();
}

static double seconds_since(const struct timespec *start) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double) (now.tv_sec - start->tv_sec) + (double) (now.tv_nsec - start->tv_nsec) / 1e9;
}

static int print_restored_json(const struct cli *cli, const struct livesnap_restored *restored, double seconds) {
        json_t *regions = json_array();

        for (size_t i = 0; i < restored->n_regions; i++)
                json_array_append_new(regions, json_pack("{s:s, s:I, s:s}", "name", restored->regions[i].name, "bytes",
                                                         (json_int_t) restored->regions[i].bytes, "path",
                                                         restored->regions[i].path));
        return cli_print_json(cli, json_pack("{s:s, s:o, s:I, s:I, s:I}", "snapshot", cli->arguments[0], "regions",
                                             regions, "bytes", (json_int_t) restored->bytes, "bytes_data",
                                             (json_int_t) restored->bytes_data, "duration_us",
                                             (json_int_t) (seconds * 1e6)));
}

static void print_restored(const struct cli *cli, const struct livesnap_restored *restored, double seconds) {
        for (size_t i = 0; i < restored->n_regions; i++)
                printf("%s\n", restored->regions[i].path);
        printf("  %s of %s in %s (%s/s), %s of it data, all checksums right\n",
               cli_format_bytes((double) restored->bytes).text, cli->arguments[0], cli_format_us(seconds * 1e6).text,
               cli_format_bytes(seconds > 0 ? (double) restored->bytes / seconds : 0).text,
               cli_format_bytes((double) restored->bytes_data).text);
}

static int run_restore(struct cli *cli) {
        CLEANUP_FREE char *domain = NULL;
        const char *output = cli_get_option(cli, "output"), *name;
        struct cli_progress progress;
        struct livesnap_restore_callback callback = { .function = on_progress, .data = &progress };
        struct livesnap_restored *restored;
        struct timespec start;
        int status, r;

        status = cli_split_snapshot(cli, cli->arguments[0], &domain, &name);
        if (status != CLI_OK)
                return status;
        if (!output || !*output)
                return cli_usage(cli, "restore: --output is missing");
        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        cli_progress_init(&progress);
        cli_interrupt_catch();
        clock_gettime(CLOCK_MONOTONIC, &start);
        r = livesnap_restore(cli->livesnap, domain, name, cli_get_option(cli, "region"), output, &callback, &restored);
        cli_progress_clear(&progress);
        if (r < 0)
                return cli_fail_library(cli);
        if (cli->json)
                status = print_restored_json(cli, restored, seconds_since(&start));
        else
                print_restored(cli, restored, seconds_since(&start));
        livesnap_restored_free(restored);
        return status;
}

const struct cli_command cli_command_restore = {
        .name = "restore",
        .arguments = "DOMAIN/NAME",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Make a file REGION.mem of each region of a snapshot",
        .details = "Every page is compared with its checksum. Existing files are not overwritten. The files appear "
                   "complete\n"
                   "or not at all.",
        .options =
                (const struct cli_option[]){
                        { "output", "DIR", "the directory for them; made where it does not exist" },
                        { "region", "REGION", "only this region" },
                        { 0 },
                },
        .run = run_restore,
};
