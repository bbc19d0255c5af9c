/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli.h"
#include "client/cli_follow.h"
#include "client/cli_format.h"
#include "client/cli_snapshot.h"
#include "client/cli_upkeep.h"
#include "common/cleanup.h"

/*
 * An increment every so often, and a prune after each. Runs until it is interrupted. What may pass is said and waited
 * out; what will not ends it.
 */

#define NS_PER_S UINT64_C(1000000000)
#define RECONNECT_NS (5 * NS_PER_S)
/* After the daemon was restarted its clients are attached anew by whoever did it before. */
#define ATTACH_PATIENCE_NS (60 * NS_PER_S)

struct watch {
        struct cli *cli;
        const char *domain;
        const char *prefix; /* of names; NULL: the daemon makes them */
        uint64_t every_ns;
        struct livesnap_prune_options rules;
        bool was_connected;    /* once, so that a daemon that is not there has gone away */
        bool said_unreachable; /* since it was last reached */
        bool said_unattached;
        uint64_t reconnected_ns; /* 0: not, or the domain was seen since */
        char *warnings;          /* as they were last printed; owned */
};

enum outcome {
        GO_ON,
        TRY_AGAIN, /* soon */
        GIVE_UP,
};

static uint64_t now_ns(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * NS_PER_S + (uint64_t) now.tv_nsec;
}

static bool is_one_of(const char *name, const char *const *names) {
        for (; *names; names++)
                if (!strcmp(*names, name))
                        return true;
        return false;
}

static void disconnect(struct watch *watch) {
        livesnap_close(watch->cli->livesnap);
        watch->cli->livesnap = NULL;
}

/* Say what failed, once for each time that the daemon is away. */
static enum outcome judge_unreachable(struct watch *watch, const char *name, const char *message) {
        if (!watch->said_unreachable)
                cli_fail(watch->cli, name, "%s; trying again", message);
        watch->said_unreachable = true;
        return TRY_AGAIN;
}

/* A domain that is not there is waited for only where it may be on its way. */
static enum outcome judge_no_domain(struct watch *watch, const char *name, const char *message) {
        if (!watch->reconnected_ns || now_ns() - watch->reconnected_ns > ATTACH_PATIENCE_NS) {
                cli_fail(watch->cli, name, "%s; the watch ends", message);
                return GIVE_UP;
        }
        if (!watch->said_unattached)
                fprintf(stderr, "livesnap: livesnapd was restarted; waiting until domain '%s' is attached again\n",
                        watch->domain);
        watch->said_unattached = true;
        return TRY_AGAIN;
}

static enum outcome judge_failure(struct watch *watch, const char *name, const char *message) {
        static const char *const lost[] = { LIVESNAP_ERROR_DISCONNECTED, LIVESNAP_ERROR_UNREACHABLE,
                                            LIVESNAP_ERROR_SYSTEM, NULL };
        static const char *const passing[] = {
                "io.livesnap.Busy",         "io.livesnap.LimitExceeded",  "io.livesnap.ArmFailed",
                "io.livesnap.HoldTooLong",  "io.livesnap.ContentLost",    "io.livesnap.UntrackedWriter",
                "io.livesnap.PoolSpent",    "io.livesnap.StoreFailed",    "io.livesnap.SnapshotExists",
                "io.livesnap.Cancelled",    "io.livesnap.Internal",       "io.livesnap.SnapshotCorrupt",
                "io.livesnap.NoSuchRegion", "io.livesnap.NoSuchSnapshot", NULL,
        };

        if (is_one_of(name, lost)) {
                disconnect(watch);
                return judge_unreachable(watch, name, message);
        }
        if (!strcmp(name, "io.livesnap.NoSuchDomain"))
                return judge_no_domain(watch, name, message);
        if (!is_one_of(name, passing)) {
                cli_fail(watch->cli, name, "%s; the watch ends", message);
                return GIVE_UP;
        }
        cli_fail(watch->cli, name, "%s", message);
        fflush(stdout);
        return GO_ON;
}

static enum outcome judge_library(struct watch *watch) {
        CLEANUP_FREE char *message = strdup(livesnap_get_error());
        CLEANUP_FREE char *name = strdup(livesnap_get_error_name());

        return judge_failure(watch, name ? name : LIVESNAP_ERROR_SYSTEM, message ? message : "out of memory");
}

/* With tracking off each snapshot is full, which is not what a watch is for. */
static enum outcome look_at_tracking(struct watch *watch) {
        CLEANUP_FREE char *parameters = NULL;
        json_t *object = json_pack("{s:s}", "domain", watch->domain), *reply_json, *domain;
        struct livesnap_reply *reply;

        parameters = object ? json_dumps(object, JSON_COMPACT) : NULL;
        json_decref(object);
        if (!parameters) {
                cli_fail(watch->cli, LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
                return GIVE_UP;
        }
        if (livesnap_call(watch->cli->livesnap, "ListDomains", parameters, NULL, 0, NULL, &reply) < 0)
                return judge_library(watch);
        reply_json = json_loads(livesnap_reply_get_parameters(reply), 0, NULL);
        livesnap_reply_free(reply);
        domain = json_array_get(json_object_get(reply_json, "domains"), 0);
        if (!strcmp(cli_json_text(domain, "tracking"), "off"))
                fprintf(stderr,
                        "livesnap: tracking of domain '%s' is off, so each snapshot is full; 'livesnap tracking %s "
                        "sync' "
                        "turns it on\n",
                        watch->domain, watch->domain);
        json_decref(reply_json);
        watch->reconnected_ns = 0;
        watch->said_unattached = false;
        return GO_ON;
}

static enum outcome connect_to_daemon(struct watch *watch) {
        struct cli *cli = watch->cli;

        if (!cli->livesnap) {
                cli->livesnap = livesnap_connect(cli->socket);
                if (!cli->livesnap && !watch->was_connected) {
                        cli_fail_library(cli);
                        return GIVE_UP;
                }
                if (!cli->livesnap)
                        return judge_library(watch);
                watch->reconnected_ns = watch->was_connected ? now_ns() : 0;
                watch->was_connected = true;
                watch->said_unreachable = false;
                return look_at_tracking(watch);
        }
        return watch->reconnected_ns ? look_at_tracking(watch) : GO_ON;
}

/* A name of the form PREFIX20261122T204505Z; the daemon makes them alike. */
static const char *make_name(const struct watch *watch, char *buffer, size_t bytes) {
        time_t now = time(NULL);
        char stamp[32];
        struct tm utc;

        if (!watch->prefix)
                return NULL;
        gmtime_r(&now, &utc);
        strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc);
        snprintf(buffer, bytes, "%s%s", watch->prefix, stamp);
        return buffer;
}

static enum outcome take(struct watch *watch, json_t **ret) {
        char name[256];
        const struct livesnap_snapshot_options options = {
                .size = sizeof(options),
                .name = make_name(watch, name, sizeof(name)),
                .flags = LIVESNAP_SNAPSHOT_INCREMENTAL,
        };
        struct livesnap_job_callback callback;
        enum outcome outcome = GO_ON;
        struct cli_follow follow;

        cli_follow_init(&follow, &callback);
        if (livesnap_start_snapshot_options(watch->cli->livesnap, watch->domain, &options, &callback) < 0)
                outcome = judge_library(watch);
        else if (cli_follow_run(watch->cli, &follow))
                *ret = json_loads(follow.snapshot->json, 0, NULL);
        else if (!cli_interrupted())
                outcome = judge_failure(watch, follow.error_name, follow.error_message);
        cli_follow_deinit(&follow);
        return outcome;
}

static enum outcome prune(struct watch *watch, json_t **ret) {
        struct livesnap_job_callback callback;
        enum outcome outcome = GO_ON;
        struct cli_follow follow;

        cli_follow_init(&follow, &callback);
        if (livesnap_start_prune(watch->cli->livesnap, watch->domain, &watch->rules, &callback) < 0)
                outcome = judge_library(watch);
        else if (cli_follow_run(watch->cli, &follow))
                *ret = follow.job_json ? json_loads(follow.job_json, 0, NULL) : NULL;
        else if (!cli_interrupted())
                outcome = judge_failure(watch, follow.error_name, follow.error_message);
        cli_follow_deinit(&follow);
        return outcome;
}

/* The same with each snapshot would only hide what is new. */
static void print_new_warnings(struct watch *watch, const json_t *snapshot) {
        char *warnings = json_dumps(json_object_get(snapshot, "warnings"), JSON_COMPACT);

        if (warnings && (!watch->warnings || strcmp(warnings, watch->warnings) != 0))
                cli_print_warnings(snapshot);
        free(watch->warnings);
        watch->warnings = warnings;
}

static void print_line(const struct watch *watch, const json_t *snapshot, const json_t *pruned) {
        const char *parent = json_string_value(json_object_get(snapshot, "parent"));
        const char *reason = json_string_value(json_object_get(snapshot, "full_reason"));
        size_t n_deleted = json_array_size(json_object_get(pruned, "deleted"));
        size_t n_folded = json_array_size(json_object_get(pruned, "folded"));

        if (watch->cli->json) {
                (void) cli_print_json(watch->cli, json_pack("{s:O, s:O*, s:O*}", "snapshot", snapshot, "deleted",
                                                            json_object_get(pruned, "deleted"), "folded",
                                                            json_object_get(pruned, "folded")));
                return;
        }
        printf("%s: %s%s%s", cli_json_text(snapshot, "snapshot"), parent ? "on " : "full",
               parent ? parent : (reason ? ", " : ""), !parent && reason ? reason : "");
        printf("; %s written in %s, hold %s", cli_format_bytes(cli_json_count(snapshot, "bytes_written")).text,
               cli_format_us(cli_json_count(snapshot, "duration_us")).text,
               cli_format_us(cli_json_count(snapshot, "hold_us")).text);
        if (n_deleted)
                printf("; %zu deleted", n_deleted);
        if (n_folded)
                printf("; %zu made whole", n_folded);
        putchar('\n');
}

static enum outcome do_once(struct watch *watch) {
        json_t *snapshot = NULL, *pruned = NULL;
        enum outcome outcome = connect_to_daemon(watch);

        if (outcome == GO_ON && !cli_interrupted())
                outcome = take(watch, &snapshot);
        if (outcome == GO_ON && snapshot && !cli_interrupted())
                outcome = prune(watch, &pruned);
        if (snapshot) {
                print_new_warnings(watch, snapshot);
                print_line(watch, snapshot, pruned);
        }
        json_decref(snapshot);
        json_decref(pruned);
        if (fflush(stdout) != 0 || ferror(stdout)) {
                fprintf(stderr, "livesnap: cannot write the result: %s\n", strerror(errno));
                return GIVE_UP;
        }
        return outcome;
}

/* What takes longer than the interval skips the times that it has missed. */
static int watch_loop(struct watch *watch) {
        uint64_t next_ns = now_ns(), now;

        cli_interrupt_catch();
        while (!cli_interrupted()) {
                enum outcome outcome = do_once(watch);

                if (outcome == GIVE_UP)
                        return CLI_FAILED;
                now = now_ns();
                if (outcome == TRY_AGAIN) {
                        cli_interrupt_sleep(watch->every_ns < RECONNECT_NS ? watch->every_ns : RECONNECT_NS);
                        continue;
                }
                next_ns += (now < next_ns ? 1 : (now - next_ns) / watch->every_ns + 1) * watch->every_ns;
                cli_interrupt_sleep(next_ns - now);
        }
        return CLI_OK;
}

static int run_watch(struct cli *cli) {
        const char *every = cli_get_option(cli, "every");
        struct watch watch = {
                .cli = cli,
                .domain = cli->arguments[0],
                .prefix = cli_get_option(cli, "name-prefix"),
                .rules = { .size = sizeof(watch.rules), .prefix = cli_get_option(cli, "name-prefix") },
        };
        uint64_t every_s;
        int status;

        if (!every)
                return cli_usage(cli, "watch: --every is missing");
        if (cli_parse_duration(every, &every_s) < 0)
                return cli_usage(cli,
                                 "--every '%s' is no time: a whole number with s, m, h or d is expected, such as 10m",
                                 every);
        status = cli_read_rules(cli, &watch.rules);
        if (status != CLI_OK)
                return status;
        if (!watch.rules.keep_last && !watch.rules.keep_hourly && !watch.rules.keep_daily)
                return cli_usage(cli,
                                 "watch: nothing says what to keep: give --keep-last, --keep-hourly or --keep-daily");
        watch.every_ns = every_s * NS_PER_S;
        status = watch_loop(&watch);
        free(watch.warnings);
        return status;
}

const struct cli_command cli_command_watch = {
        .name = "watch",
        .arguments = "DOMAIN",
        .min_arguments = 1,
        .max_arguments = 1,
        .summary = "Take an increment every so often, and prune after each",
        .details =
                "Runs until SIGINT or SIGTERM, and prints a line for each snapshot (with --json, an object a line).\n"
                "What may pass, such as a full disk, is said and tried again at the next time. It ends where the "
                "domain\n"
                "is gone. A snapshot that takes longer than the interval skips, it does not queue up.",
        .options =
                (const struct cli_option[]){
                        { "every", "TIME", "the interval: 5s, 10m, 1h, 1d" },
                        CLI_RULE_OPTIONS,
                        { "name-prefix", "P", "begin names with P, and prune only those that begin so" },
                        { 0 },
                },
        .run = run_watch,
};
