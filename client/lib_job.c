/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib_connection.h"
#include "client/lib_error.h"
#include "client/lib_job.h"
#include "client/lib_reply.h"
#include "client/lib_snapshot.h"

/*
 * Jobs: Snapshot, WaitJob and VerifySnapshot answer alike, with any number of replies {job: Job} that continue and a
 * last one. A blocking call is a queued one whose callback keeps the result.
 */

/** struct job_call - a job that is followed; owned by its call */
struct job_call {
        struct livesnap_job_callback callback;
        unsigned flags; /* JOB_* */
};

static void job_callback_free(const struct livesnap_job_callback *callback) {
        if (callback && callback->free)
                callback->free(callback->data);
}

static void job_call_free(void *data) {
        struct job_call *call = data;

        job_callback_free(&call->callback);
        free(call);
}

static void job_on_progress(struct job_call *call, const json_t *json) {
        struct job job;

        /* Progress that cannot be read is no progress; the last reply is what counts. */
        if (!call->callback.progress || job_init(&job, json) < 0)
                return;
        call->callback.progress(call->callback.data, &job.public);
        job_deinit(&job);
}

static int job_read_end(const struct job_call *call, const struct livesnap_reply *reply,
                        struct livesnap_snapshot **ret) {
        json_t *job = json_object_get(reply->parameters, "job");
        json_t *snapshot = json_object_get(job, "snapshot");

        if (reply_check(reply) < 0)
                return -1;
        if (!json_is_object(job))
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd's reply has no job");
        if (json_is_object(snapshot))
                return snapshot_new(snapshot, ret);
        if (call->flags & JOB_WANTS_SNAPSHOT)
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd says that the snapshot is done, but not which");
        return 0;
}

static void job_on_reply(void *data, struct livesnap_reply *reply) {
        struct job_call *call = data;
        struct livesnap_snapshot *snapshot = NULL;
        bool failed;

        if (reply->continues) {
                job_on_progress(call, json_object_get(reply->parameters, "job"));
                return;
        }
        failed = job_read_end(call, reply, &snapshot) < 0;
        if (!failed && (call->flags & JOB_TELLS_END))
                job_on_progress(call, json_object_get(reply->parameters, "job"));
        if (call->callback.done)
                call->callback.done(call->callback.data, failed, &snapshot);
        livesnap_snapshot_free(snapshot);
}

int job_start(struct livesnap *livesnap, const char *method, json_t *parameters, unsigned flags,
              const struct livesnap_job_callback *callback) {
        struct livesnap_callback on_reply = { .function = job_on_reply, .free = job_call_free };
        struct job_call *call;
        int r;

        if (!parameters) {
                job_callback_free(callback);
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        }
        call = calloc(1, sizeof(*call));
        if (!call) {
                job_callback_free(callback);
                json_decref(parameters);
                return lib_fail_errno(ENOMEM, "cannot call %s", method);
        }
        if (callback)
                call->callback = *callback;
        call->flags = flags;
        on_reply.data = call;
        r = connection_start(livesnap, method, parameters, NULL, 0, LIVESNAP_CALL_MORE, &on_reply);
        json_decref(parameters);
        return r;
}

/* A blocking job call; on the stack of the caller, who waits until @done. */
struct sync_job {
        const struct livesnap_job_callback *callback;
        struct livesnap_snapshot *snapshot; /* owned */
        bool done;
        bool failed;
        char name[128];
        char message[1024];
};

static void sync_progress(void *data, const struct livesnap_job *job) {
        struct sync_job *sync = data;

        if (sync->callback && sync->callback->progress)
                sync->callback->progress(sync->callback->data, job);
}

static void sync_done(void *data, bool failed, struct livesnap_snapshot **snapshot) {
        struct sync_job *sync = data;

        sync->done = true;
        sync->failed = failed;
        if (failed) {
                /* Kept: the error would not outlive whatever goes wrong on the connection after it. */
                snprintf(sync->name, sizeof(sync->name), "%s", livesnap_get_error_name());
                snprintf(sync->message, sizeof(sync->message), "%s", livesnap_get_error());
        }
        if (sync->callback && sync->callback->done)
                sync->callback->done(sync->callback->data, failed, snapshot);
        sync->snapshot = *snapshot;
        *snapshot = NULL;
}

int job_call(struct livesnap *livesnap, const char *method, json_t *parameters, unsigned flags,
             const struct livesnap_job_callback *callback, struct livesnap_snapshot **ret) {
        struct sync_job sync = { .callback = callback };
        struct livesnap_job_callback on_job = { .progress = sync_progress, .done = sync_done, .data = &sync };
        int r;

        r = job_start(livesnap, method, parameters, flags, &on_job);
        if (r == 0)
                r = connection_wait(livesnap, &sync.done);
        job_callback_free(callback);
        if (r < 0)
                return -1;
        if (sync.failed)
                return lib_fail_named(sync.name, sync.message);
        if (ret)
                *ret = sync.snapshot;
        else
                livesnap_snapshot_free(sync.snapshot);
        return 0;
}

static json_t *snapshot_parameters(const char *domain, const char *name, uint64_t max_rate, bool detach) {
        json_t *parameters = json_pack("{s:s, s:s*}", "domain", domain, "name", name);

        if (parameters && max_rate)
                json_object_set_new(parameters, "max_rate",
                                    json_integer(max_rate > INT64_MAX ? INT64_MAX : (json_int_t) max_rate));
        if (parameters && detach)
                json_object_set_new(parameters, "detach", json_true());
        return parameters;
}

int livesnap_start_snapshot_options(struct livesnap *livesnap, const char *domain,
                                    const struct livesnap_snapshot_options *options,
                                    const struct livesnap_job_callback *callback) {
        json_t *parameters;

        if (options->size != sizeof(*options) ||
            (options->flags & ~(LIVESNAP_SNAPSHOT_STRICT | LIVESNAP_SNAPSHOT_INCREMENTAL |
                                LIVESNAP_SNAPSHOT_PAUSE_ANYWAY | LIVESNAP_SNAPSHOT_STOPPED))) {
                job_callback_free(callback);
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                                "options for snapshots of size %zu and with flags %#x are not known", options->size,
                                options->flags);
        }
        parameters = snapshot_parameters(domain, options->name, options->max_rate, false);
        if (parameters && (options->flags & LIVESNAP_SNAPSHOT_STRICT))
                json_object_set_new(parameters, "strict", json_true());
        if (parameters && (options->flags & LIVESNAP_SNAPSHOT_INCREMENTAL))
                json_object_set_new(parameters, "incremental", json_true());
        if (parameters && (options->flags & LIVESNAP_SNAPSHOT_PAUSE_ANYWAY))
                json_object_set_new(parameters, "on_no_convergence", json_string("pause"));
        if (parameters && (options->flags & LIVESNAP_SNAPSHOT_STOPPED))
                json_object_set_new(parameters, "stopped", json_true());
        if (parameters && options->max_pause_ms)
                json_object_set_new(parameters, "max_pause", json_integer(options->max_pause_ms));
        if (parameters && options->parent &&
            json_object_set_new(parameters, "parent", json_string(options->parent)) < 0) {
                json_decref(parameters);
                parameters = NULL;
        }
        return job_start(livesnap, "Snapshot", parameters, JOB_WANTS_SNAPSHOT, callback);
}

int livesnap_start_snapshot(struct livesnap *livesnap, const char *domain, const char *name, uint64_t max_rate,
                            const struct livesnap_job_callback *callback) {
        const struct livesnap_snapshot_options options = { sizeof(options), .name = name, .max_rate = max_rate };

        return livesnap_start_snapshot_options(livesnap, domain, &options, callback);
}

int livesnap_snapshot(struct livesnap *livesnap, const char *domain, const char *name, uint64_t max_rate,
                      const struct livesnap_job_callback *callback, struct livesnap_snapshot **ret) {
        return job_call(livesnap, "Snapshot", snapshot_parameters(domain, name, max_rate, false), JOB_WANTS_SNAPSHOT,
                        callback, ret);
}

int livesnap_snapshot_detached(struct livesnap *livesnap, const char *domain, const char *name, uint64_t max_rate,
                               uint64_t *ret_job) {
        json_t *parameters = snapshot_parameters(domain, name, max_rate, true);
        struct livesnap_reply *reply;
        int r;

        if (!parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        r = connection_call(livesnap, "Snapshot", parameters, NULL, 0, NULL, &reply);
        json_decref(parameters);
        if (r < 0)
                return -1;
        r = json_get_u64(json_object_get(reply->parameters, "job"), "job", ret_job);
        livesnap_reply_free(reply);
        return r;
}

static json_t *job_parameters(uint64_t job) {
        return json_pack("{s:I}", "job", job > INT64_MAX ? INT64_MAX : (json_int_t) job);
}

int livesnap_start_wait_job(struct livesnap *livesnap, uint64_t job, const struct livesnap_job_callback *callback) {
        return job_start(livesnap, "WaitJob", job_parameters(job), 0, callback);
}

int livesnap_wait_job(struct livesnap *livesnap, uint64_t job, const struct livesnap_job_callback *callback,
                      struct livesnap_snapshot **ret) {
        return job_call(livesnap, "WaitJob", job_parameters(job), 0, callback, ret);
}

int livesnap_cancel_job(const struct livesnap *livesnap, uint64_t job) {
        struct livesnap *other = livesnap_connect(livesnap->path);
        json_t *parameters;
        int r;

        if (!other)
                return -1;
        parameters = job_parameters(job);
        r = connection_call(other, "CancelJob", parameters, NULL, 0, NULL, NULL);
        json_decref(parameters);
        livesnap_close(other);
        return r;
}

static json_t *name_parameters(const char *domain, const char *name) {
        return json_pack("{s:s, s:s}", "domain", domain, "name", name);
}

int livesnap_start_verify(struct livesnap *livesnap, const char *domain, const char *name,
                          const struct livesnap_job_callback *callback) {
        return job_start(livesnap, "VerifySnapshot", name_parameters(domain, name), 0, callback);
}

int livesnap_verify(struct livesnap *livesnap, const char *domain, const char *name,
                    const struct livesnap_job_callback *callback) {
        return job_call(livesnap, "VerifySnapshot", name_parameters(domain, name), 0, callback, NULL);
}

int livesnap_delete(struct livesnap *livesnap, const char *domain, const char *name) {
        json_t *parameters = name_parameters(domain, name);
        int r;

        if (!parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        r = connection_call(livesnap, "DeleteSnapshot", parameters, NULL, 0, NULL, NULL);
        json_decref(parameters);
        return r;
}
