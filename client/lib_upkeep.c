/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib_error.h"
#include "client/lib_job.h"

/* Looking after chains of increments: compact, delete with fold, prune. */

static json_t *name_parameters(const char *domain, const char *name, bool fold) {
        json_t *parameters = json_pack("{s:s, s:s}", "domain", domain, "name", name);

        if (parameters && fold)
                json_object_set_new(parameters, "fold", json_true());
        return parameters;
}

int livesnap_start_compact(struct livesnap *livesnap, const char *domain, const char *name,
                           const struct livesnap_job_callback *callback) {
        return job_start(livesnap, "CompactSnapshot", name_parameters(domain, name, false),
                         JOB_WANTS_SNAPSHOT | JOB_TELLS_END, callback);
}

int livesnap_compact(struct livesnap *livesnap, const char *domain, const char *name,
                     const struct livesnap_job_callback *callback) {
        return job_call(livesnap, "CompactSnapshot", name_parameters(domain, name, false),
                        JOB_WANTS_SNAPSHOT | JOB_TELLS_END, callback, NULL);
}

int livesnap_start_delete_fold(struct livesnap *livesnap, const char *domain, const char *name,
                               const struct livesnap_job_callback *callback) {
        return job_start(livesnap, "DeleteSnapshot", name_parameters(domain, name, true), JOB_TELLS_END, callback);
}

int livesnap_delete_fold(struct livesnap *livesnap, const char *domain, const char *name,
                         const struct livesnap_job_callback *callback) {
        return job_call(livesnap, "DeleteSnapshot", name_parameters(domain, name, true), JOB_TELLS_END, callback, NULL);
}

static void set_count(json_t *parameters, const char *key, uint64_t count) {
        if (parameters && count)
                json_object_set_new(parameters, key, json_integer(count > INT64_MAX ? INT64_MAX : (json_int_t) count));
}

/* Return: 0, or -1 with the error set: options that this version does not know. *ret is NULL for names that are none.
 */
static int prune_parameters(const char *domain, const struct livesnap_prune_options *options, json_t **ret) {
        json_t *parameters;

        if (options->size != sizeof(*options) || (options->flags & ~LIVESNAP_PRUNE_DRY_RUN))
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                                "options for a prune of size %zu and with flags %#x are not known", options->size,
                                options->flags);
        parameters = json_pack("{s:s, s:s*}", "domain", domain, "prefix", options->prefix);
        set_count(parameters, "keep_last", options->keep_last);
        set_count(parameters, "keep_hourly", options->keep_hourly);
        set_count(parameters, "keep_daily", options->keep_daily);
        if (parameters && (options->flags & LIVESNAP_PRUNE_DRY_RUN))
                json_object_set_new(parameters, "dry_run", json_true());
        *ret = parameters;
        return 0;
}

int livesnap_start_prune(struct livesnap *livesnap, const char *domain, const struct livesnap_prune_options *options,
                         const struct livesnap_job_callback *callback) {
        json_t *parameters;

        if (prune_parameters(domain, options, &parameters) < 0) {
                if (callback && callback->free)
                        callback->free(callback->data);
                return -1;
        }
        return job_start(livesnap, "Prune", parameters, JOB_TELLS_END, callback);
}

/** struct pruned - owns what the public part points to */
struct pruned {
        struct livesnap_pruned public;
        json_t *json;
        const char **names;
};

void livesnap_pruned_free(struct livesnap_pruned *public) {
        struct pruned *pruned = (struct pruned *) public;

        if (!pruned)
                return;
        json_decref(pruned->json);
        free(pruned->names);
        free(pruned);
}

/* A list of the report, whose names are put behind those that are there already. */
static int read_names(const json_t *job, const char *key, const char **names, size_t *n, struct livesnap_names *ret) {
        const json_t *array = json_object_get(job, key), *name;
        size_t i;

        *ret = (struct livesnap_names){ 0, names + *n };
        json_array_foreach (array, i, name) {
                if (!json_is_string(name))
                        return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd's reply has no usable member '%s'", key);
                names[(*n)++] = json_string_value(name);
                ret->n++;
        }
        return 0;
}

static int pruned_new(const char *text, struct livesnap_pruned **ret) {
        struct pruned *pruned = calloc(1, sizeof(*pruned));
        struct livesnap_pruned *public = &pruned->public;
        size_t n = 0, n_all = 1;

        if (!pruned)
                return lib_fail_errno(ENOMEM, "cannot read a reply");
        pruned->json = text ? json_loads(text, 0, NULL) : NULL;
        n_all += json_array_size(json_object_get(pruned->json, "kept"));
        n_all += json_array_size(json_object_get(pruned->json, "needed"));
        n_all += json_array_size(json_object_get(pruned->json, "folded"));
        n_all += json_array_size(json_object_get(pruned->json, "deleted"));
        pruned->names = calloc(n_all, sizeof(*pruned->names));
        if (!pruned->json || !pruned->names) {
                livesnap_pruned_free(public);
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd does not say what it pruned");
        }
        if (read_names(pruned->json, "kept", pruned->names, &n, &public->kept) < 0 ||
            read_names(pruned->json, "needed", pruned->names, &n, &public->needed) < 0 ||
            read_names(pruned->json, "folded", pruned->names, &n, &public->folded) < 0 ||
            read_names(pruned->json, "deleted", pruned->names, &n, &public->deleted) < 0) {
                livesnap_pruned_free(public);
                return -1;
        }
        *ret = public;
        return 0;
}

/* Keeps what the job was last seen as, which in the end is what came of it. */
struct prune_call {
        const struct livesnap_job_callback *callback; /* may be NULL */
        char *job;                                    /* JSON; owned */
};

static void prune_on_progress(void *data, const struct livesnap_job *job) {
        struct prune_call *call = data;

        free(call->job);
        call->job = strdup(job->json);
        if (call->callback && call->callback->progress)
                call->callback->progress(call->callback->data, job);
}

static void prune_on_done(void *data, bool failed, struct livesnap_snapshot **snapshot) {
        const struct prune_call *call = data;

        if (call->callback && call->callback->done)
                call->callback->done(call->callback->data, failed, snapshot);
}

int livesnap_prune(struct livesnap *livesnap, const char *domain, const struct livesnap_prune_options *options,
                   const struct livesnap_job_callback *callback, struct livesnap_pruned **ret) {
        struct prune_call call = { .callback = callback };
        const struct livesnap_job_callback own = { prune_on_progress, prune_on_done, &call, NULL };
        json_t *parameters;
        int r = prune_parameters(domain, options, &parameters);

        if (r == 0)
                r = job_call(livesnap, "Prune", parameters, JOB_TELLS_END, &own, NULL);
        if (r == 0 && ret)
                r = pruned_new(call.job, ret);
        free(call.job);
        if (callback && callback->free)
                callback->free(callback->data);
        return r;
}
