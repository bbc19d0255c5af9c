/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/cleanup.h"
#include "common/name.h"

#define JOBS_TICK_USEC 200000
/* Ended jobs are kept for a while, for whoever started one detached and asks later. */
#define JOBS_ENDED_MAX 64u
#define JOB_WAITERS_MAX 64u

struct job_waiter {
        struct call *call; /* owned until it is answered */
        struct job *job;
        bool owns;
        LIST_ENTRY(job_waiter) link;
};

struct job {
        struct jobs *jobs;
        const struct job_kind *kind;
        uint64_t id;
        char domain[NAME_LENGTH_MAX + 1];
        char name[NAME_LENGTH_MAX + 1];
        uid_t uid;
        void *work; /* NULL once it has ended */
        const char *state;
        uint64_t done;
        uint64_t total;
        json_t *result; /* owned, or NULL */
        struct error error;
        unsigned n_waiters;
        LIST_HEAD(, job_waiter) waiters;
        TAILQ_ENTRY(job) link;
};

struct jobs {
        struct event *tick; /* owned; runs while jobs do */
        uint64_t last_id;
        unsigned n_active;
        unsigned n_ended;
        TAILQ_HEAD(job_queue, job) list;
};

static void jobs_on_tick(evutil_socket_t fd, short events, void *data) {
        struct jobs *jobs = data;
        struct job_waiter *waiter;
        struct job *job;

        jobs_check(jobs);
        TAILQ_FOREACH (job, &jobs->list, link)
                if (job->work)
                        LIST_FOREACH (waiter, &job->waiters, link)
                                call_reply_continues(waiter->call, json_pack("{s:o}", "job", job_json(job)));
}

int jobs_new(struct event_base *base, struct jobs **ret) {
        struct jobs *jobs = calloc(1, sizeof(*jobs));

        if (!jobs)
                return -ENOMEM;
        TAILQ_INIT(&jobs->list);
        jobs->tick = event_new(base, -1, EV_PERSIST, jobs_on_tick, jobs);
        if (!jobs->tick) {
                free(jobs);
                return -ENOMEM;
        }
        *ret = jobs;
        return 0;
}

static void job_free(struct job *job) {
        TAILQ_REMOVE(&job->jobs->list, job, link);
        json_decref(job->result);
        free(job);
}

void jobs_free(struct jobs *jobs) {
        if (!jobs)
                return;
        while (!TAILQ_EMPTY(&jobs->list))
                job_free(TAILQ_FIRST(&jobs->list));
        event_free(jobs->tick);
        free(jobs);
}

static int jobs_check_limits(const struct jobs *jobs, uid_t uid, struct error *error) {
        const struct job *job;
        unsigned n_own = 0, n_users = 0;

        if (jobs->n_active >= JOBS_ACTIVE_MAX)
                return error_set(error, ERROR_LIMIT_EXCEEDED, "%u jobs are running already: wait until one has ended",
                                 jobs->n_active);
        if (uid == 0)
                return 0;
        TAILQ_FOREACH (job, &jobs->list, link) {
                n_own += job->work && job->uid == uid;
                n_users += job->work && job->uid != 0;
        }
        if (n_own >= JOBS_ACTIVE_USER_MAX || n_users >= JOBS_ACTIVE_USERS_MAX)
                return error_set(error, ERROR_LIMIT_EXCEEDED,
                                 "user %u has %u jobs running, and all users %u: wait until one has ended",
                                 (unsigned) uid, n_own, n_users);
        return 0;
}

struct job *jobs_add(struct jobs *jobs, const struct job_kind *kind, const char *domain, const char *name, uid_t uid,
                     struct error *error) {
        struct job *job;

        if (jobs_check_limits(jobs, uid, error) < 0)
                return NULL;
        job = calloc(1, sizeof(*job));
        if (!job) {
                error_set(error, ERROR_INTERNAL, "out of memory");
                return NULL;
        }
        job->jobs = jobs;
        job->kind = kind;
        job->id = ++jobs->last_id;
        job->uid = uid;
        snprintf(job->domain, sizeof(job->domain), "%s", domain);
        snprintf(job->name, sizeof(job->name), "%s", name ? name : "");
        LIST_INIT(&job->waiters);
        TAILQ_INSERT_TAIL(&jobs->list, job, link);
        return job;
}

void job_start(struct job *job, void *work) {
        static const struct timeval interval = { .tv_usec = JOBS_TICK_USEC };

        job->work = work;
        if (job->jobs->n_active++ == 0)
                event_add(job->jobs->tick, &interval);
}

void job_drop(struct job *job) {
        job_free(job);
}

uint64_t job_id(const struct job *job) {
        return job->id;
}

static void job_on_caller_gone(struct call *call, void *data) {
        struct job_waiter *waiter = data;
        struct job *job = waiter->job;
        bool owns = waiter->owns;

        LIST_REMOVE(waiter, link);
        job->n_waiters--;
        free(waiter);
        call_reply(call, NULL, NULL, 0);
        if (owns)
                job_cancel(job);
}

/* Answer with what the job came to. */
static void job_reply(struct job *job, struct call *call) {
        if (job->error.kind)
                call_fail(call, &job->error);
        else
                call_reply(call, json_pack("{s:o}", "job", job_json(job)), NULL, 0);
}

void job_answer(struct job *job, struct call *call, bool owns) {
        struct job_waiter *waiter;
        struct error error = { 0 };

        if (!job->work) {
                job_reply(job, call);
                return;
        }
        waiter = job->n_waiters < JOB_WAITERS_MAX ? calloc(1, sizeof(*waiter)) : NULL;
        if (!waiter) {
                error_set(&error, ERROR_LIMIT_EXCEEDED, "too many callers wait for job %llu",
                          (unsigned long long) job->id);
                call_fail(call, &error);
                return;
        }
        *waiter = (struct job_waiter){ .call = call, .job = job, .owns = owns };
        LIST_INSERT_HEAD(&job->waiters, waiter, link);
        job->n_waiters++;
        call_on_gone(call, job_on_caller_gone, waiter);
}

struct job *jobs_find(struct jobs *jobs, uint64_t id, uid_t uid, struct error *error) {
        struct job *job;

        TAILQ_FOREACH (job, &jobs->list, link)
                if (job->id == id && (uid == 0 || uid == job->uid))
                        return job;
        error_set(error, ERROR_NO_SUCH_JOB, "there is no job %llu: 'livesnap jobs' lists those that there are",
                  (unsigned long long) id);
        return NULL;
}

void job_cancel(struct job *job) {
        if (job->work)
                job->kind->cancel(job->work);
}

json_t *job_json(struct job *job) {
        json_t *json;

        if (job->work)
                job->kind->progress(job->work, &job->state, &job->done, &job->total);
        json = json_pack("{s:I, s:s, s:s, s:s, s:s, s:I, s:I}", "job", (json_int_t) job->id, "kind", job->kind->name,
                         "domain", job->domain, "name", job->name, "state", job->state, "bytes_done",
                         (json_int_t) job->done, "bytes_total", (json_int_t) job->total);
        if (job->error.kind)
                json_object_set_new(json, "error", json_string(job->error.message));
        if (job->result && job->kind->result_is_members)
                json_object_update(json, job->result);
        else if (job->result)
                json_object_set(json, "snapshot", job->result);
        return json;
}

bool jobs_has(const struct jobs *jobs, const struct job_kind *kind, const char *domain) {
        const struct job *job;

        TAILQ_FOREACH (job, &jobs->list, link)
                if (job->work && job->kind == kind && !strcmp(job->domain, domain))
                        return true;
        return false;
}

json_t *jobs_list(struct jobs *jobs, uid_t uid) {
        json_t *list = json_array();
        struct job *job;

        TAILQ_FOREACH (job, &jobs->list, link)
                if (uid == 0 || uid == job->uid)
                        json_array_append_new(list, job_json(job));
        return list;
}

unsigned jobs_count(const struct jobs *jobs) {
        return jobs->n_active;
}

/* The name that was made up for a snapshot is known when it is published. */
static void job_take_name(struct job *job) {
        const char *full = json_string_value(json_object_get(job->result, "snapshot"));
        const char *slash = full ? strrchr(full, '/') : NULL;

        if (slash)
                snprintf(job->name, sizeof(job->name), "%s", slash + 1);
}

static void job_finish(struct job *job) {
        struct jobs *jobs = job->jobs;
        struct job_waiter *waiter;

        job->kind->progress(job->work, &job->state, &job->done, &job->total);
        job->kind->finish(STEAL_PTR(job->work), &job->result, &job->error);
        job->state = job->error.kind == ERROR_NONE        ? "done"
                     : job->error.kind == ERROR_CANCELLED ? "cancelled"
                                                          : "failed";
        if (job->result) {
                if (!job->kind->result_is_members)
                        job_take_name(job);
                job->done = job->total;
        }
        while ((waiter = LIST_FIRST(&job->waiters))) {
                LIST_REMOVE(waiter, link);
                job->n_waiters--;
                job_reply(job, waiter->call);
                free(waiter);
        }
        if (--jobs->n_active == 0)
                event_del(jobs->tick);
        jobs->n_ended++;
}

void jobs_check(struct jobs *jobs) {
        struct job *job, *next;

        TAILQ_FOREACH (job, &jobs->list, link)
                if (job->work && job->kind->has_ended(job->work))
                        job_finish(job);
        for (job = TAILQ_FIRST(&jobs->list); job && jobs->n_ended > JOBS_ENDED_MAX; job = next) {
                next = TAILQ_NEXT(job, link);
                if (!job->work) {
                        job_free(job);
                        jobs->n_ended--;
                }
        }
}

void jobs_cancel_all(struct jobs *jobs) {
        struct job *job;

        TAILQ_FOREACH (job, &jobs->list, link)
                job_cancel(job);
}
