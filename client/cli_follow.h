/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_FOLLOW_H
#define LIVESNAP_CLIENT_CLI_FOLLOW_H

/* Waiting for something that lasts, with a progress bar, so that Ctrl-C ends it in good order. */

#include "client/cli.h"
#include "client/cli_progress.h"

/** struct cli_follow - a job that is waited for; owns its snapshot */
struct cli_follow {
        struct cli_progress progress;
        uint64_t job;    /* 0: not known yet */
        char *job_json;  /* the job as it was last seen; owned */
        bool cancelling; /* the daemon has been asked to end it */
        bool done;
        bool failed;
        char error_name[128];
        char error_message[1024];
        struct livesnap_snapshot *snapshot;
};

/** cli_follow_init() - prepare, and give the callback to start the job with */
void cli_follow_init(struct cli_follow *follow, struct livesnap_job_callback *ret);

/** cli_follow_run() - the same as cli_follow_wait(), but say nothing: the reason is in @follow. Return: did it succeed?
 */
bool cli_follow_run(struct cli *cli, struct cli_follow *follow);

/**
 * cli_follow_wait() - wait until the job has ended
 *
 * The first SIGINT or SIGTERM cancels the job; a second one ends the program. Return: CLI_OK, or CLI_FAILED after
 * having said why.
 */
int cli_follow_wait(struct cli *cli, struct cli_follow *follow);

/** cli_follow_deinit() - release it */
void cli_follow_deinit(struct cli_follow *follow);

/** cli_interrupt_catch() - from now on the first SIGINT or SIGTERM only sets a flag */
void cli_interrupt_catch(void);

/** cli_interrupt_sleep() - sleep so long, or until one comes or has come */
void cli_interrupt_sleep(uint64_t ns);

/** cli_interrupted() - has one come? */
bool cli_interrupted(void);

#endif
