/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Methods that take snapshots, and those about jobs. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/name.h"
#include "daemon/api_internal.h"
#include "daemon/clock.h"
#include "daemon/snapshot.h"

/* For how long programs are stopped at most, in milliseconds, unless the caller says otherwise; and what it may say. */
#define API_MAX_PAUSE_MS 100u
#define API_MAX_PAUSE_LIMIT_MS 600000u

struct api_snapshot {
        struct api *api;
        struct registry_entry *entry;
        struct snapshot *snapshot;
};

static void api_snapshot_on_ended(void *data) {
        struct api_snapshot *work = data;

        api_wake(work->api);
}

static void api_snapshot_progress(void *data, const char **ret_state, uint64_t *ret_done, uint64_t *ret_total) {
        static const char *const states[] = {
                [SNAPSHOT_ARMING] = "arming",
                [SNAPSHOT_DRAINING] = "draining",
                [SNAPSHOT_PUBLISHING] = "publishing",
                [SNAPSHOT_ENDED] = "publishing",
        };
        const struct api_snapshot *work = data;
        struct snapshot_progress progress = snapshot_get_progress(work->snapshot);

        *ret_state = states[progress.state];
        *ret_done = progress.bytes_done;
        *ret_total = progress.bytes_total;
}

static void api_snapshot_cancel(void *data) {
        const struct api_snapshot *work = data;

        snapshot_cancel(work->snapshot);
}

static bool api_snapshot_has_ended(void *data) {
        const struct api_snapshot *work = data;

        return snapshot_get_progress(work->snapshot).state == SNAPSHOT_ENDED;
}

static int api_snapshot_finish(void *data, json_t **ret, struct error *error) {
        struct api_snapshot *work = data;
        int r = snapshot_finish(work->snapshot, ret, error);

        work->entry->job = 0;
        free(work);
        return r;
}

static const struct job_kind api_snapshot_kind = {
        .name = "snapshot",
        .progress = api_snapshot_progress,
        .cancel = api_snapshot_cancel,
        .has_ended = api_snapshot_has_ended,
        .finish = api_snapshot_finish,
};

/* What the caller wishes. */
struct api_snapshot_wish {
        const char *name;
        const char *parent;
        uint64_t max_rate;
        uint64_t max_pause_ms;
        const char *on_no_convergence;
        bool incremental;
        bool strict;
        bool stopped;
        bool detach;
};

/* The owner says that nobody writes. */
static const struct quiesce api_stopped = { .way = QUIESCE_NONE, .freezer = -1, .events = -1 };

static struct job *api_start_snapshot(struct api *api, struct registry_entry *entry,
                                      const struct api_snapshot_wish *wish, uid_t uid, struct error *error) {
        struct api_snapshot *work;
        struct snapshot_spec spec = {
                .thread = entry->thread,
                .pool = api->pool,
                .store = api->store,
                .name = wish->name,
                .parent = wish->parent,
                .uid = uid,
                .policy = api->config.pool_abort ? POOL_ABORT : POOL_THROTTLE,
                .incremental = wish->incremental || wish->parent,
                .strict = wish->strict || entry->domain->strict,
                .max_rate = wish->max_rate,
                .max_hold_ns = api->config.max_hold_ms * NSEC_PER_MSEC,
                .quiesce = wish->stopped ? &api_stopped : &entry->quiesce,
                .guardian = api->config.guardian,
                .max_pause_ns = wish->max_pause_ms * NSEC_PER_MSEC,
                .pause_anyway = wish->on_no_convergence && !strcmp(wish->on_no_convergence, "pause"),
                .ended = api_snapshot_on_ended,
        };
        struct job *job = jobs_add(api->jobs, &api_snapshot_kind, entry->domain->name, wish->name, uid, error);

        if (!job)
                return NULL;
        work = calloc(1, sizeof(*work));
        if (!work) {
                error_set(error, ERROR_INTERNAL, "out of memory");
                job_drop(job);
                return NULL;
        }
        work->api = api;
        work->entry = entry;
        spec.data = work;
        if (snapshot_start(&spec, &work->snapshot, error) < 0) {
                free(work);
                job_drop(job);
                return NULL;
        }
        entry->job = job_id(job);
        job_start(job, work);
        return job;
}

static struct job *api_find_and_start(struct api *api, const struct call *call, const char *domain,
                                      const struct api_snapshot_wish *wish, struct error *error) {
        struct registry_entry *entry;

        if ((wish->name && name_check("snapshot", wish->name, error) < 0) ||
            (wish->parent && name_check("snapshot", wish->parent, error) < 0))
                return NULL;
        entry = registry_find(api->registry, domain, call_peer_uid(call), error);
        if (!entry)
                return NULL;
        if (entry->job) {
                error_set(error, ERROR_BUSY,
                          "a snapshot of domain %s is being taken already (job %llu): wait until it has ended", domain,
                          (unsigned long long) entry->job);
                return NULL;
        }
        if (changes_get_mode(entry->thread) == TRACKING_ASYNC && entry->quiesce.way == QUIESCE_NONE && !wish->stopped) {
                error_set(error, ERROR_BAD_REQUEST,
                          "the programs of domain %s are stopped by their owner: stop them and say so (--stopped), or "
                          "choose how livesnapd is to do it ('livesnap tracking %s async --quiesce signal')",
                          domain, domain);
                return NULL;
        }
        return api_start_snapshot(api, entry, wish, call_peer_uid(call), error);
}

void api_on_snapshot(struct call *call, void *context) {
        struct api_snapshot_wish wish = { .max_pause_ms = API_MAX_PAUSE_MS };
        const char *domain = NULL;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                { "name", .string = &wish.name },
                { "max_rate", .number = &wish.max_rate },
                { "detach", .boolean = &wish.detach },
                { "strict", .boolean = &wish.strict },
                { "incremental", .boolean = &wish.incremental },
                { "parent", .string = &wish.parent },
                { "max_pause", .number = &wish.max_pause_ms },
                { "on_no_convergence", .string = &wish.on_no_convergence },
                { "stopped", .boolean = &wish.stopped },
                {},
        };
        struct error error = { 0 };
        struct job *job;

        if (call_read(call, parameters) < 0)
                return;
        if (wish.max_pause_ms > API_MAX_PAUSE_LIMIT_MS) {
                call_fail_parameter(call, "max_pause");
                return;
        }
        if (wish.on_no_convergence && strcmp(wish.on_no_convergence, "fail") &&
            strcmp(wish.on_no_convergence, "pause")) {
                call_fail_parameter(call, "on_no_convergence");
                return;
        }
        job = api_find_and_start(context, call, domain, &wish, &error);
        if (!job)
                call_fail(call, &error);
        else if (wish.detach)
                call_reply(call, json_pack("{s:o}", "job", job_json(job)), NULL, 0);
        else
                job_answer(job, call, true);
}

void api_on_list_jobs(struct call *call, void *context) {
        struct api *api = context;
        const struct parameter parameters[] = { {} };

        if (call_read(call, parameters) < 0)
                return;
        call_reply(call, json_pack("{s:o}", "jobs", jobs_list(api->jobs, call_peer_uid(call))), NULL, 0);
}

/* NULL if the call was answered with an error. */
static struct job *api_find_job(struct api *api, struct call *call) {
        uint64_t id = 0;
        const struct parameter parameters[] = {
                { "job", .required = true, .number = &id },
                {},
        };
        struct error error = { 0 };
        struct job *job;

        if (call_read(call, parameters) < 0)
                return NULL;
        job = jobs_find(api->jobs, id, call_peer_uid(call), &error);
        if (!job)
                call_fail(call, &error);
        return job;
}

void api_on_wait_job(struct call *call, void *context) {
        struct job *job = api_find_job(context, call);

        if (job)
                job_answer(job, call, false);
}

void api_on_cancel_job(struct call *call, void *context) {
        struct job *job = api_find_job(context, call);

        if (!job)
                return;
        job_cancel(job);
        call_reply(call, NULL, NULL, 0);
}
