/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_JOBS_H
#define LIVESNAP_DAEMON_JOBS_H

/*
 * Jobs: what lasts longer than one call. A job may have callers who wait for it; one of them may own it, and then it is
 * cancelled when that caller goes away. Main thread only, but for jobs_wake().
 */

#include <stdbool.h>
#include <stdint.h>

#include <event2/event.h>
#include <jansson.h>

#include "common/error.h"
#include "daemon/call.h"

#define JOBS_ACTIVE_MAX 64u
/* Of these, what one user may have, and all users together, so that there are always some left for root. */
#define JOBS_ACTIVE_USER_MAX 16u
#define JOBS_ACTIVE_USERS_MAX 48u

struct jobs;
struct job;

/** What a job does is told by its kind. */
struct job_kind {
        const char *name;
        /** state, bytes_done and bytes_total as they are now */
        void (*progress)(void *work, const char **ret_state, uint64_t *ret_done, uint64_t *ret_total);
        void (*cancel)(void *work);
        /** has the work ended? Then finish() is called at once. */
        bool (*has_ended)(void *work);
        /** take the result (a Snapshot, or NULL) and free the work; 0, or -1 with *error set */
        int (*finish)(void *work, json_t **ret, struct error *error);
        bool result_is_members; /* the result is an object of members of the Job, not a Snapshot */
};

/** jobs_new() - @base is borrowed */
int jobs_new(struct event_base *base, struct jobs **ret);

/** jobs_free() - there must be no active job any more; see jobs_cancel_all() */
void jobs_free(struct jobs *jobs);

/** jobs_add() - @work is the kind's; NULL with *error set if there are too many */
struct job *jobs_add(struct jobs *jobs, const struct job_kind *kind, const char *domain, const char *name, uid_t uid,
                     struct error *error);

/** job_start() - the work goes on from here */
void job_start(struct job *job, void *work);

/** job_drop() - forget a job that could not be started */
void job_drop(struct job *job);

uint64_t job_id(const struct job *job);

/** job_answer() - answer the call when the job has ended, and tell it progress; @owns: cancel the job if the caller
 * goes */
void job_answer(struct job *job, struct call *call, bool owns);

/** jobs_find() - NULL with *error set (NoSuchJob) */
struct job *jobs_find(struct jobs *jobs, uint64_t id, uid_t uid, struct error *error);
void job_cancel(struct job *job);

/** jobs_has() - does a job of this kind run on the domain? */
bool jobs_has(const struct jobs *jobs, const struct job_kind *kind, const char *domain);

/** job_json(), jobs_list() - the type Job of io.livesnap */
json_t *job_json(struct job *job);
json_t *jobs_list(struct jobs *jobs, uid_t uid);
unsigned jobs_count(const struct jobs *jobs);

/** jobs_check() - finish what has ended */
void jobs_check(struct jobs *jobs);

/** jobs_cancel_all() - cancel all jobs; jobs_count() is 0 once jobs_check() has finished them */
void jobs_cancel_all(struct jobs *jobs);

#endif
