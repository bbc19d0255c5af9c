/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli.h"
#include "client/cli_follow.h"
#include "common/cleanup.h"

/* As of diff(1): that two snapshots differ is no failure. */
enum { DIFF_EQUAL = 0, DIFF_DIFFERENT = 1, DIFF_TROUBLE = 2 };

static const char *const kind_names[] = {
        [LIVESNAP_DIFFERENCE_CHANGED] = "changed",
        [LIVESNAP_DIFFERENCE_ONLY_IN_FIRST] = "only-in-first",
        [LIVESNAP_DIFFERENCE_ONLY_IN_SECOND] = "only-in-second",
};

struct printing {
        const struct cli *cli;
        json_t *differences; /* with --json; owned */
        uint64_t bytes;
};

static int print_difference(void *data, const struct livesnap_difference *difference) {
        struct printing *printing = data;

        printing->bytes += difference->bytes;
        if (printing->differences)
                json_array_append_new(printing->differences,
                                      json_pack("{s:s, s:s, s:I, s:I}", "region", difference->region, "kind",
                                                kind_names[difference->kind], "offset", (json_int_t) difference->offset,
                                                "length", (json_int_t) difference->bytes));
        else if (difference->kind == LIVESNAP_DIFFERENCE_CHANGED)
                printf("%s %llu %llu\n", difference->region, (unsigned long long) difference->offset,
                       (unsigned long long) difference->bytes);
        else
                printf("%s %llu %llu only in %s\n", difference->region, (unsigned long long) difference->offset,
                       (unsigned long long) difference->bytes,
                       printing->cli->arguments[difference->kind == LIVESNAP_DIFFERENCE_ONLY_IN_SECOND]);
        return cli_interrupted();
}

static int compare(struct cli *cli, const char *domain, const char *first, const char *second) {
        struct printing printing = { .cli = cli, .differences = cli->json ? json_array() : NULL };
        const struct livesnap_diff_callback callback = { print_difference, &printing };
        int r;

        cli_interrupt_catch();
        r = livesnap_diff(cli->livesnap, domain, first, second, cli_get_option(cli, "region"), &callback);
        if (r < 0) {
                json_decref(printing.differences);
                cli_fail_library(cli);
                return DIFF_TROUBLE;
        }
        if (cli->json &&
            cli_print_json(cli, json_pack("{s:s, s:s, s:b, s:I, s:o}", "first", cli->arguments[0], "second",
                                          cli->arguments[1], "equal", r == 0, "bytes", (json_int_t) printing.bytes,
                                          "differences", printing.differences)) != CLI_OK)
                return DIFF_TROUBLE;
        if (fflush(stdout) != 0 || ferror(stdout)) {
                cli_fail(cli, LIVESNAP_ERROR_SYSTEM, "cannot write the result: %s", strerror(errno));
                return DIFF_TROUBLE;
        }
        return r > 0 ? DIFF_DIFFERENT : DIFF_EQUAL;
}

static int run_diff(struct cli *cli) {
        CLEANUP_FREE char *domain = NULL;
        CLEANUP_FREE char *other = NULL;
        const char *first, *second;

        if (cli_split_snapshot(cli, cli->arguments[0], &domain, &first) != CLI_OK ||
            cli_split_snapshot(cli, cli->arguments[1], &other, &second) != CLI_OK)
                return DIFF_TROUBLE;
        if (strcmp(domain, other) != 0)
                return cli_usage(cli, "diff: '%s' and '%s' are of different domains", cli->arguments[0],
                                 cli->arguments[1]);
        if (cli_connect(cli) != CLI_OK)
                return DIFF_TROUBLE;
        return compare(cli, domain, first, second);
}

const struct cli_command cli_command_diff = {
        .name = "diff",
        .arguments = "DOMAIN/NAME DOMAIN/NAME",
        .min_arguments = 2,
        .max_arguments = 2,
        .summary = "List the ranges in which two snapshots of a domain differ",
        .details = "A line for each: region, offset and length in bytes. Pages are compared by their checksums; no "
                   "image is\n"
                   "read. Exit status, as of diff(1): 0 they are equal, 1 they differ, 2 it failed.",
        .options =
                (const struct cli_option[]){
                        { "region", "REGION", "only this region" },
                        { 0 },
                },
        .run = run_diff,
};
