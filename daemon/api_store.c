/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Methods about published snapshots. Their work is done on the store's threads. */

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/name.h"
#include "daemon/api_internal.h"

/* One call that the store works on. Parameters point into the call's own. */
struct api_store_call {
        struct store_call base;
        struct api *api;
        struct call *call;
        uid_t uid;
        const char *domain;
        const char *name;
        const char *region;
        json_t *result;
        struct store_opened opened;
        bool is_opened;
        struct error error;
};

static struct api_store_call *api_store_call_of(struct store_call *base) {
        return (struct api_store_call *) ((char *) base - offsetof(struct api_store_call, base));
}

static void api_store_call_free(struct api_store_call *work) {
        work->api->n_store_calls--;
        json_decref(work->result);
        free(work);
}

/* The answer of most methods: an error, or what `result` holds. */
static void api_store_on_done(struct store_call *base) {
        struct api_store_call *work = api_store_call_of(base);

        if (work->error.kind)
                call_fail(work->call, &work->error);
        else
                call_reply(work->call, STEAL_PTR(work->result), NULL, 0);
        api_store_call_free(work);
}

static void api_store_submit(struct call *call, struct api *api, void (*run)(struct store *, struct store_call *),
                             void (*done)(struct store_call *), const struct api_store_call *parameters) {
        struct api_store_call *work = calloc(1, sizeof(*work));

        if (!work) {
                call_fail(call, &(struct error){ ERROR_INTERNAL, "out of memory" });
                return;
        }
        *work = *parameters;
        work->base = (struct store_call){ .run = run, .done = done };
        work->api = api;
        work->call = call;
        work->uid = call_peer_uid(call);
        work->opened.manifest = -1;
        api->n_store_calls++;
        store_submit(api->store, &work->base);
}

/* Names come from a peer and become paths. Returns false when the call was answered. */
static bool api_check_names(struct call *call, const char *domain, const char *name) {
        struct error error = { 0 };

        if ((!domain || name_check("domain", domain, &error) == 0) &&
            (!name || name_check("snapshot", name, &error) == 0))
                return true;
        call_fail(call, &error);
        return false;
}

/* Reads the parameters domain and name, which most methods have. */
static bool api_read_snapshot(struct call *call, struct api_store_call *work) {
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &work->domain },
                { "name", .required = true, .string = &work->name },
                {},
        };

        return call_read(call, parameters) == 0 && api_check_names(call, work->domain, work->name);
}

static bool api_may_see(const json_t *snapshot, uid_t uid) {
        return uid == 0 || json_integer_value(json_object_get(snapshot, "uid")) == (json_int_t) uid;
}

static void api_run_list(struct store *store, struct store_call *base) {
        struct api_store_call *work = api_store_call_of(base);
        json_t *all = NULL, *mine, *snapshot;
        size_t i;

        if (store_list(store, work->domain, &all, &work->error) < 0)
                return;
        mine = json_array();
        json_array_foreach (all, i, snapshot) {
                if (api_may_see(snapshot, work->uid))
                        json_array_append(mine, snapshot);
        }
        json_decref(all);
        work->result = json_pack("{s:o}", "snapshots", mine);
}

void api_on_list_snapshots(struct call *call, void *context) {
        struct api_store_call work = { 0 };
        const struct parameter parameters[] = {
                { "domain", .string = &work.domain },
                {},
        };

        if (call_read(call, parameters) == 0 && api_check_names(call, work.domain, NULL))
                api_store_submit(call, context, api_run_list, api_store_on_done, &work);
}

static void api_run_show(struct store *store, struct store_call *base) {
        struct api_store_call *work = api_store_call_of(base);
        json_t *snapshot = NULL;

        if (store_show(store, work->domain, work->name, &snapshot, &work->error) < 0)
                return;
        if (!api_may_see(snapshot, work->uid))
                error_set(&work->error, ERROR_PERMISSION_DENIED,
                          "snapshot %s/%s belongs to another user: only that user and root may see it", work->domain,
                          work->name);
        work->result = json_pack("{s:o}", "snapshot", snapshot);
}

void api_on_show_snapshot(struct call *call, void *context) {
        struct api_store_call work = { 0 };

        if (api_read_snapshot(call, &work))
                api_store_submit(call, context, api_run_show, api_store_on_done, &work);
}

static void api_run_delete(struct store *store, struct store_call *base) {
        struct api_store_call *work = api_store_call_of(base);

        (void) store_delete(store, work->domain, work->name, work->uid, &work->error);
}

void api_on_delete_snapshot(struct call *call, void *context) {
        struct api_store_call work = { 0 };
        bool fold = false, detach = false;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &work.domain },
                { "name", .required = true, .string = &work.name },
                { "fold", .boolean = &fold },
                { "detach", .boolean = &detach },
                {},
        };

        if (call_read(call, parameters) < 0 || !api_check_names(call, work.domain, work.name))
                return;
        if (fold)
                api_delete_fold(call, context, work.domain, work.name, detach);
        else
                api_store_submit(call, context, api_run_delete, api_store_on_done, &work);
}

static void api_run_open(struct store *store, struct store_call *base) {
        struct api_store_call *work = api_store_call_of(base);

        if (store_open(store, work->domain, work->name, work->region, work->uid, &work->opened, &work->error) == 0)
                work->is_opened = store_opened_send(store, &work->opened, &work->error) == 0;
}

static void api_on_opened(struct store_call *base) {
        struct api_store_call *work = api_store_call_of(base);
        json_t *regions;
        int *fds = NULL;
        unsigned n = 0;

        if (work->is_opened && store_opened_receive(work->api->store, &work->opened, &work->error) == 0)
                fds = calloc(1 + 2 * (size_t) work->opened.n_regions, sizeof(*fds));
        if (!fds) {
                error_set(&work->error, ERROR_INTERNAL, "out of memory");
                call_fail(work->call, &work->error);
                store_opened_done(&work->opened);
                api_store_call_free(work);
                return;
        }
        fds[n++] = steal_fd(&work->opened.manifest);
        regions = json_array();
        for (unsigned i = 0; i < work->opened.n_regions; i++) {
                struct store_opened_region *region = &work->opened.regions[i];

                json_array_append_new(regions,
                                      json_pack("{s:s, s:I, s:i, s:i}", "name", region->name, "bytes",
                                                (json_int_t) region->bytes, "image", (int) n, "sums", (int) n + 1));
                fds[n++] = steal_fd(&region->image);
                fds[n++] = steal_fd(&region->sums);
        }
        call_reply(work->call, json_pack("{s:i, s:o}", "manifest", 0, "regions", regions), fds, n);
        free(fds);
        store_opened_done(&work->opened);
        api_store_call_free(work);
}

void api_on_open_snapshot(struct call *call, void *context) {
        struct api_store_call work = { 0 };
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &work.domain },
                { "name", .required = true, .string = &work.name },
                { "region", .string = &work.region },
                {},
        };

        if (call_read(call, parameters) == 0 && api_check_names(call, work.domain, work.name))
                api_store_submit(call, context, api_run_open, api_on_opened, &work);
}

/* A verification is a job: it reads the whole image. */
struct api_verify {
        struct store_call base;
        struct api *api;
        uid_t uid;
        char domain[NAME_LENGTH_MAX + 1];
        char name[NAME_LENGTH_MAX + 1];
        _Atomic uint64_t done;
        _Atomic uint64_t total;
        atomic_bool cancelled;
        bool ended;
        struct error error;
};

static struct api_verify *api_verify_of(struct store_call *base) {
        return (struct api_verify *) ((char *) base - offsetof(struct api_verify, base));
}

/* On a thread of the store's. */
static bool api_verify_on_progress(void *data, uint64_t done, uint64_t total) {
        struct api_verify *verify = data;

        atomic_store(&verify->done, done);
        atomic_store(&verify->total, total);
        return !atomic_load(&verify->cancelled);
}

static void api_run_verify(struct store *store, struct store_call *base) {
        struct api_verify *verify = api_verify_of(base);

        (void) store_verify(store, verify->domain, verify->name, verify->uid, api_verify_on_progress, verify,
                            &verify->error);
}

static void api_on_verified(struct store_call *base) {
        struct api_verify *verify = api_verify_of(base);
        struct api *api = verify->api;

        verify->ended = true;
        api->n_store_calls--;
        jobs_check(api->jobs); /* frees it */
}

static void api_verify_progress(void *data, const char **ret_state, uint64_t *ret_done, uint64_t *ret_total) {
        struct api_verify *verify = data;

        *ret_state = "verifying";
        *ret_done = atomic_load(&verify->done);
        *ret_total = atomic_load(&verify->total);
}

static void api_verify_cancel(void *data) {
        struct api_verify *verify = data;

        atomic_store(&verify->cancelled, true);
}

static bool api_verify_has_ended(void *data) {
        const struct api_verify *verify = data;

        return verify->ended;
}

static int api_verify_finish(void *data, json_t **ret, struct error *error) {
        struct api_verify *verify = data;
        int r = verify->error.kind ? -1 : 0;

        if (r < 0)
                *error = verify->error;
        free(verify);
        return r;
}

static const struct job_kind api_verify_kind = {
        .name = "verify",
        .progress = api_verify_progress,
        .cancel = api_verify_cancel,
        .has_ended = api_verify_has_ended,
        .finish = api_verify_finish,
};

void api_on_verify_snapshot(struct call *call, void *context) {
        struct api_store_call names = { 0 };
        struct api *api = context;
        struct error error = { 0 };
        struct api_verify *verify;
        struct job *job;

        if (!api_read_snapshot(call, &names))
                return;
        job = jobs_add(api->jobs, &api_verify_kind, names.domain, names.name, call_peer_uid(call), &error);
        if (!job) {
                call_fail(call, &error);
                return;
        }
        verify = calloc(1, sizeof(*verify));
        if (!verify) {
                job_drop(job);
                call_fail(call, &(struct error){ ERROR_INTERNAL, "out of memory" });
                return;
        }
        verify->base = (struct store_call){ .run = api_run_verify, .done = api_on_verified, .lasting = true };
        verify->api = api;
        verify->uid = call_peer_uid(call);
        strcpy(verify->domain, names.domain);
        strcpy(verify->name, names.name);
        api->n_store_calls++;
        job_start(job, verify);
        store_submit(api->store, &verify->base);
        job_answer(job, call, true);
}
