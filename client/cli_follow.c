/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
        interrupted = 1;
}

void cli_interrupt_catch(void) {
        struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int) SA_RESETHAND };

        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void) {
        return interrupted;
}

static void on_progress(void *data, const struct livesnap_job *job) {
        struct cli_follow *follow = data;

        follow->job = job->job;
        free(follow->job_json);
        follow->job_json = strdup(job->json);
        cli_progress_show(&follow->progress, follow->cancelling ? "cancelling" : job->state, job->bytes_done,
                          job->bytes_total);
}

static void on_done(void *data, bool failed, struct livesnap_snapshot **snapshot) {
        struct cli_follow *follow = data;

        follow->done = true;
        follow->failed = failed;
        if (failed) {
                snprintf(follow->error_name, sizeof(follow->error_name), "%s", livesnap_get_error_name());
                snprintf(follow->error_message, sizeof(follow->error_message), "%s", livesnap_get_error());
        }
        follow->snapshot = *snapshot;
        *snapshot = NULL;
}

void cli_follow_init(struct cli_follow *follow, struct livesnap_job_callback *ret) {
        *follow = (struct cli_follow){ 0 };
        *ret = (struct livesnap_job_callback){ .progress = on_progress, .done = on_done, .data = follow };
        cli_progress_init(&follow->progress);
        cli_interrupt_catch();
}

/* Waits for the daemon or a signal; the signals are let in only while it waits, so that none is missed. */
static int wait_once(struct cli *cli) {
        struct pollfd pollfd = {
                .fd = livesnap_get_fd(cli->livesnap),
                .events = (short) livesnap_get_events(cli->livesnap),
        };
        sigset_t outside;

        sigprocmask(SIG_BLOCK, NULL, &outside);
        sigdelset(&outside, SIGINT);
        sigdelset(&outside, SIGTERM);
        if (ppoll(&pollfd, 1, NULL, &outside) < 0)
                return errno == EINTR ? 0 : -1;
        return livesnap_dispatch(cli->livesnap);
}

/* The job's number comes with its first progress; until then there is nothing that could be named. */
static void cancel_when_asked(struct cli *cli, struct cli_follow *follow) {
        sigset_t signals;

        if (!interrupted || follow->cancelling || !follow->job)
                return;
        follow->cancelling = true;
        /* From here on a second signal ends the program, also where the daemon does not answer any more. */
        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        sigprocmask(SIG_UNBLOCK, &signals, NULL);
        /* Where it has just ended by itself there is nothing to cancel, and the result is what it is. */
        (void) livesnap_cancel_job(cli->livesnap, follow->job);
}

bool cli_follow_run(struct cli *cli, struct cli_follow *follow) {
        sigset_t signals, before;

        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        sigprocmask(SIG_BLOCK, &signals, &before);
        while (!follow->done) {
                cancel_when_asked(cli, follow);
                if (wait_once(cli) < 0 && !follow->done) {
                        on_done(follow, true, &(struct livesnap_snapshot *){ NULL });
                        break;
                }
        }
        sigprocmask(SIG_SETMASK, &before, NULL);
        cli_progress_clear(&follow->progress);
        return !follow->failed;
}

int cli_follow_wait(struct cli *cli, struct cli_follow *follow) {
        return !cli_follow_run(cli, follow) ? cli_fail(cli, follow->error_name, "%s", follow->error_message) : CLI_OK;
}

void cli_interrupt_sleep(uint64_t ns) {
        struct timespec until, now, left;
        sigset_t signals, before, outside;

        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        sigprocmask(SIG_BLOCK, &signals, &before);
        outside = before;
        sigdelset(&outside, SIGINT);
        sigdelset(&outside, SIGTERM);
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t) (ns / 1000000000);
        until.tv_nsec += (long) (ns % 1000000000);
        while (!interrupted) {
                int64_t left_ns;

                clock_gettime(CLOCK_MONOTONIC, &now);
                left_ns = (int64_t) (until.tv_sec - now.tv_sec) * 1000000000 + (until.tv_nsec - now.tv_nsec);
                if (left_ns <= 0)
                        break;
                left = (struct timespec){ .tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000 };
                ppoll(NULL, 0, &left, &outside);
        }
        sigprocmask(SIG_SETMASK, &before, NULL);
}

void cli_follow_deinit(struct cli_follow *follow) {
        livesnap_snapshot_free(follow->snapshot);
        free(follow->job_json);
}
