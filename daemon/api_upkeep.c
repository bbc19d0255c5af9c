/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Methods that look after chains of increments: compact, prune, delete with fold. Each is a job on a store thread. */

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/name.h"
#include "daemon/api_internal.h"
#include "daemon/changes.h"

struct upkeep {
        struct store_call base;
        struct api *api;
        uid_t uid;
        char domain[NAME_LENGTH_MAX + 1];
        char name[NAME_LENGTH_MAX + 1];
        char prefix[NAME_LENGTH_MAX + 1];
        char parent[NAME_LENGTH_MAX + 1];
        struct store_prune_rules rules; /* pointing to the names above */
        _Atomic uint64_t done;
        _Atomic uint64_t total;
        atomic_bool cancelled;
        bool ended;
        json_t *result; /* members of the Job; owned */
        struct error error;
};

static struct upkeep *upkeep_of(struct store_call *base) {
        return (struct upkeep *) ((char *) base - offsetof(struct upkeep, base));
}

/* On a thread of the store's, as the three that follow. */
static bool upkeep_on_progress(void *data, uint64_t done, uint64_t total) {
        struct upkeep *upkeep = data;

        atomic_store(&upkeep->done, done);
        atomic_store(&upkeep->total, total);
        return !atomic_load(&upkeep->cancelled);
}

static void upkeep_run_compact(struct store *store, struct store_call *base) {
        struct upkeep *upkeep = upkeep_of(base);
        const struct store_progress progress = { upkeep_on_progress, upkeep };
        json_t *snapshot;
        bool folded;

        if (store_compact(store, upkeep->domain, upkeep->name, upkeep->uid, &progress, &folded, &upkeep->error) < 0 ||
            store_show(store, upkeep->domain, upkeep->name, &snapshot, &upkeep->error) < 0)
                return;
        upkeep->result = json_pack("{s:o, s:[]}", "snapshot", snapshot, "folded");
        if (folded)
                json_array_append_new(json_object_get(upkeep->result, "folded"), json_string(upkeep->name));
}

static void upkeep_run_delete(struct store *store, struct store_call *base) {
        struct upkeep *upkeep = upkeep_of(base);
        const struct store_progress progress = { upkeep_on_progress, upkeep };

        if (store_delete_fold(store, upkeep->domain, upkeep->name, upkeep->uid, &progress, &upkeep->result,
                              &upkeep->error) == 0)
                json_object_set_new(upkeep->result, "deleted", json_pack("[s]", upkeep->name));
}

static void upkeep_run_prune(struct store *store, struct store_call *base) {
        struct upkeep *upkeep = upkeep_of(base);
        const struct store_progress progress = { upkeep_on_progress, upkeep };

        (void) store_prune(store, upkeep->domain, upkeep->uid, &upkeep->rules, &progress, &upkeep->result,
                           &upkeep->error);
}

static void upkeep_on_done(struct store_call *base) {
        struct upkeep *upkeep = upkeep_of(base);
        struct api *api = upkeep->api;

        upkeep->ended = true;
        api->n_store_calls--;
        jobs_check(api->jobs); /* frees it */
}

static void upkeep_count(const struct upkeep *upkeep, uint64_t *ret_done, uint64_t *ret_total) {
        *ret_done = atomic_load(&upkeep->done);
        *ret_total = atomic_load(&upkeep->total);
}

static void compact_progress(void *data, const char **ret_state, uint64_t *ret_done, uint64_t *ret_total) {
        *ret_state = "compacting";
        upkeep_count(data, ret_done, ret_total);
}

static void prune_progress(void *data, const char **ret_state, uint64_t *ret_done, uint64_t *ret_total) {
        *ret_state = "pruning";
        upkeep_count(data, ret_done, ret_total);
}

static void delete_progress(void *data, const char **ret_state, uint64_t *ret_done, uint64_t *ret_total) {
        *ret_state = "deleting";
        upkeep_count(data, ret_done, ret_total);
}

static void upkeep_cancel(void *data) {
        struct upkeep *upkeep = data;

        atomic_store(&upkeep->cancelled, true);
}

static bool upkeep_has_ended(void *data) {
        const struct upkeep *upkeep = data;

        return upkeep->ended;
}

static int upkeep_finish(void *data, json_t **ret, struct error *error) {
        struct upkeep *upkeep = data;
        int r = upkeep->error.kind ? -1 : 0;

        if (r < 0)
                *error = upkeep->error;
        else
                *ret = json_incref(upkeep->result);
        json_decref(upkeep->result);
        free(upkeep);
        return r;
}

static const struct job_kind compact_kind = {
        .name = "compact",
        .progress = compact_progress,
        .cancel = upkeep_cancel,
        .has_ended = upkeep_has_ended,
        .finish = upkeep_finish,
        .result_is_members = true,
};

static const struct job_kind delete_kind = {
        .name = "delete",
        .progress = delete_progress,
        .cancel = upkeep_cancel,
        .has_ended = upkeep_has_ended,
        .finish = upkeep_finish,
        .result_is_members = true,
};

static const struct job_kind prune_kind = {
        .name = "prune",
        .progress = prune_progress,
        .cancel = upkeep_cancel,
        .has_ended = upkeep_has_ended,
        .finish = upkeep_finish,
        .result_is_members = true,
};

/* Return: the work, not yet started, and its job; NULL when the call was answered. */
static struct upkeep *upkeep_new(struct call *call, struct api *api, const struct job_kind *kind, const char *domain,
                                 const char *name, struct job **ret_job) {
        struct upkeep *upkeep = calloc(1, sizeof(*upkeep));
        struct error error = { 0 };

        if (!upkeep)
                error_set(&error, ERROR_INTERNAL, "out of memory");
        else
                *ret_job = jobs_add(api->jobs, kind, domain, name, call_peer_uid(call), &error);
        if (error.kind) {
                free(upkeep);
                call_fail(call, &error);
                return NULL;
        }
        upkeep->base = (struct store_call){ .done = upkeep_on_done, .lasting = true };
        upkeep->api = api;
        upkeep->uid = call_peer_uid(call);
        strcpy(upkeep->domain, domain);
        strcpy(upkeep->name, name ? name : "");
        return upkeep;
}

static void upkeep_start(struct call *call, struct upkeep *upkeep, struct job *job,
                         void (*run)(struct store *store, struct store_call *base), bool detach) {
        struct api *api = upkeep->api;

        upkeep->base.run = run;
        api->n_store_calls++;
        job_start(job, upkeep);
        store_submit(api->store, &upkeep->base);
        if (detach)
                call_reply(call, json_pack("{s:o}", "job", job_json(job)), NULL, 0);
        else
                job_answer(job, call, true);
}

static bool names_fit(struct call *call, const char *domain, const char *name) {
        struct error error = { 0 };

        if (name_check("domain", domain, &error) == 0 && (!name || name_check("snapshot", name, &error) == 0))
                return true;
        call_fail(call, &error);
        return false;
}

void api_on_compact_snapshot(struct call *call, void *context) {
        const char *domain = NULL, *name = NULL;
        bool detach = false;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                { "name", .required = true, .string = &name },
                { "detach", .boolean = &detach },
                {},
        };
        struct upkeep *upkeep;
        struct job *job;

        if (call_read(call, parameters) < 0 || !names_fit(call, domain, name))
                return;
        upkeep = upkeep_new(call, context, &compact_kind, domain, name, &job);
        if (upkeep)
                upkeep_start(call, upkeep, job, upkeep_run_compact, detach);
}

void api_delete_fold(struct call *call, struct api *api, const char *domain, const char *name, bool detach) {
        struct job *job;
        struct upkeep *upkeep = upkeep_new(call, api, &delete_kind, domain, name, &job);

        if (upkeep)
                upkeep_start(call, upkeep, job, upkeep_run_delete, detach);
}

/* What the next increment of the domain builds on, if it is attached and its changes are known. */
static void find_parent(struct upkeep *upkeep) {
        struct registry_entry *entry;
        struct changes_parent parent;
        struct error error = { 0 };
        const char *why;

        /* As root: whosever the domain is, what it builds on must stay. */
        entry = registry_find(upkeep->api->registry, upkeep->domain, 0, &error);
        if (!entry || !changes_get_parent(entry->thread, &parent, &why))
                return;
        strcpy(upkeep->parent, parent.name);
        upkeep->rules.parent = upkeep->parent;
}

static bool prefix_fits(struct call *call, const char *prefix) {
        if (!prefix || !*prefix || name_is_valid(prefix))
                return true;
        call_fail_parameter(call, "prefix");
        return false;
}

void api_on_prune(struct call *call, void *context) {
        struct store_prune_rules rules = { 0 };
        const char *domain = NULL, *prefix = NULL;
        bool detach = false;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                { "keep_last", .number = &rules.last },
                { "keep_hourly", .number = &rules.hourly },
                { "keep_daily", .number = &rules.daily },
                { "prefix", .string = &prefix },
                { "dry_run", .boolean = &rules.dry_run },
                { "detach", .boolean = &detach },
                {},
        };
        struct api *api = context;
        struct upkeep *upkeep;
        struct error error = { 0 };
        struct job *job;

        if (call_read(call, parameters) < 0 || !names_fit(call, domain, NULL) || !prefix_fits(call, prefix))
                return;
        if (jobs_has(api->jobs, &prune_kind, domain)) {
                error_set(&error, ERROR_BUSY, "domain %s is being pruned already: wait until that has ended", domain);
                call_fail(call, &error);
                return;
        }
        upkeep = upkeep_new(call, api, &prune_kind, domain, NULL, &job);
        if (!upkeep)
                return;
        strcpy(upkeep->prefix, prefix ? prefix : "");
        upkeep->rules = rules;
        upkeep->rules.prefix = upkeep->prefix;
        find_parent(upkeep);
        upkeep_start(call, upkeep, job, upkeep_run_prune, detach);
}
