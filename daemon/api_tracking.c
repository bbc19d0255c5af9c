/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Methods about how the writes to a domain are known, and about stopping its programs for a moment. */

#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/api_internal.h"

bool api_knows_mode(const char *mode) {
        return !strcmp(mode, "off") || !strcmp(mode, "sync") || !strcmp(mode, "async");
}

struct api_mode {
        enum tracking_mode mode;
        struct error *error;
};

/* On the fault thread. */
static int api_on_mode(struct fault_thread *thread, void *data) {
        const struct api_mode *mode = data;

        return changes_set_mode(thread, mode->mode, mode->error);
}

int api_set_mode(const struct api *api, struct registry_entry *entry, const char *mode, struct error *error) {
        struct api_mode wanted = { !strcmp(mode, "async")  ? TRACKING_ASYNC
                                   : !strcmp(mode, "sync") ? TRACKING_SYNC
                                                           : TRACKING_OFF,
                                   error };
        struct utsname name;

        uname(&name);
        if (wanted.mode == TRACKING_ASYNC && !api->async_works)
                return error_set(
                        error, ERROR_KERNEL_UNSUPPORTED,
                        "kernel %s does not note by itself which pages were written (WP_ASYNC and PAGEMAP_SCAN, "
                        "Linux 6.7), as tracking async needs: use tracking sync",
                        name.release);
        return fault_call(entry->thread, api_on_mode, &wanted);
}

/* How a domain is quiesced, as a call says it. */
struct api_quiesce {
        const char *way; /* NULL: as it is */
        int freezer;     /* owned; -1: none */
        int events;      /* the same */
};

static int api_set_quiesce(struct registry_entry *entry, struct api_quiesce *quiesce, struct error *error) {
        enum quiesce_way way;

        if (!quiesce->way)
                return 0;
        (void) quiesce_way_from_name(quiesce->way, &way);
        if (way == QUIESCE_CGROUP)
                return quiesce_set_cgroup(&entry->quiesce, steal_fd(&quiesce->freezer), steal_fd(&quiesce->events),
                                          error);
        quiesce_set_way(&entry->quiesce, way);
        return 0;
}

static int api_set_tracking(const struct api *api, uid_t uid, const char *name, const char *mode,
                            struct api_quiesce *quiesce, json_t **ret, struct error *error) {
        struct registry_entry *entry = registry_find(api->registry, name, uid, error);

        if (!entry)
                return -1;
        if (entry->job)
                return error_set(error, ERROR_BUSY,
                                 "a snapshot of domain %s is being taken (job %llu): wait until it has ended", name,
                                 (unsigned long long) entry->job);
        if (api_set_quiesce(entry, quiesce, error) < 0 || api_set_mode(api, entry, mode, error) < 0)
                return -1;
        *ret = registry_entry_json(entry);
        return 0;
}

/* Returns the name of the parameter that is wrong, or NULL. */
static const char *api_read_quiesce(struct call *call, struct api_quiesce *quiesce, uint64_t freezer, uint64_t events) {
        enum quiesce_way way;

        if (!quiesce->way)
                return NULL;
        if (!quiesce_way_from_name(quiesce->way, &way))
                return "quiesce";
        if (way != QUIESCE_CGROUP)
                return NULL;
        quiesce->freezer = call_take_fd(call, freezer);
        if (quiesce->freezer < 0)
                return "freezer";
        if (events == UINT64_MAX)
                return NULL;
        quiesce->events = call_take_fd(call, events);
        return quiesce->events < 0 ? "freezer_events" : NULL;
}

void api_on_set_tracking(struct call *call, void *context) {
        struct api_quiesce quiesce = { .freezer = -1, .events = -1 };
        uint64_t freezer = UINT64_MAX, events = UINT64_MAX;
        const char *domain = NULL, *mode = NULL, *wrong;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                { "mode", .required = true, .string = &mode },
                { "quiesce", .string = &quiesce.way },
                { "freezer", .number = &freezer },
                { "freezer_events", .number = &events },
                {},
        };
        struct error error = { 0 };
        json_t *json = NULL;

        if (call_read(call, parameters) < 0)
                return;
        wrong = api_knows_mode(mode) ? api_read_quiesce(call, &quiesce, freezer, events) : "mode";
        if (wrong)
                call_fail_parameter(call, "%s", wrong);
        else if (api_set_tracking(context, call_peer_uid(call), domain, mode, &quiesce, &json, &error) < 0)
                call_fail(call, &error);
        else
                call_reply(call, json_pack("{s:o}", "domain", json), NULL, 0);
        cleanup_close_p(&quiesce.freezer);
        cleanup_close_p(&quiesce.events);
}

/* NULL if the call was answered with an error. */
static struct quiesce_client *api_find_client(struct api *api, struct call *call, const char *domain) {
        struct error error = { 0 };
        struct registry_entry *entry = registry_find(api->registry, domain, call_peer_uid(call), &error);

        if (!entry)
                call_fail(call, &error);
        return entry ? entry->quiesce_client : NULL;
}

void api_on_await_quiesce(struct call *call, void *context) {
        const char *domain = NULL;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                {},
        };
        struct quiesce_client *client;

        if (call_read(call, parameters) < 0)
                return;
        client = api_find_client(context, call, domain);
        if (client)
                quiesce_client_await(client, call);
}

void api_on_quiesced(struct call *call, void *context) {
        const char *domain = NULL;
        uint64_t id = 0;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                { "quiesce", .required = true, .number = &id },
                {},
        };
        struct quiesce_client *client;

        if (call_read(call, parameters) < 0)
                return;
        client = api_find_client(context, call, domain);
        if (client)
                quiesce_client_stopped(client, call, id);
}
