/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib_connection.h"
#include "client/lib_error.h"
#include "client/lib_reply.h"
#include "client/lib_snapshot.h"
#include "common/cleanup.h"

/* How the writes to a domain are known, and being stopped for it. */

/* @parameters is consumed. */
static int set_tracking(struct livesnap *livesnap, json_t *parameters, const int *fds, size_t n_fds) {
        int r;

        if (!parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        r = connection_call(livesnap, "SetTracking", parameters, fds, n_fds, NULL, NULL);
        json_decref(parameters);
        return r;
}

int livesnap_set_tracking(struct livesnap *livesnap, const char *domain, enum livesnap_tracking tracking) {
        static const char *const modes[] = { "off", "sync", "async" };

        if ((size_t) tracking >= sizeof(modes) / sizeof(modes[0]))
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "there is no way %d of tracking", (int) tracking);
        return set_tracking(livesnap, json_pack("{s:s, s:s}", "domain", domain, "mode", modes[tracking]), NULL, 0);
}

static int open_in(const char *directory, const char *name, int flags) {
        char path[PATH_MAX];

        if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int) sizeof(path)) {
                errno = ENAMETOOLONG;
                return -1;
        }
        return open(path, flags | O_CLOEXEC);
}

/* The daemon may not be allowed to freeze it, so it is given what this process opens. */
static int set_tracking_cgroup(struct livesnap *livesnap, const char *domain, const char *cgroup) {
        CLEANUP_CLOSE int freezer = open_in(cgroup, "cgroup.freeze", O_RDWR);
        CLEANUP_CLOSE int events = open_in(cgroup, "cgroup.events", O_RDONLY);
        json_t *parameters =
                json_pack("{s:s, s:s, s:s, s:i}", "domain", domain, "mode", "async", "quiesce", "cgroup", "freezer", 0);
        int fds[2];

        if (freezer < 0 && errno == ENOENT)
                freezer = open_in(cgroup, "freezer.state", O_RDWR);
        if (freezer < 0) {
                json_decref(parameters);
                return lib_fail_errno(errno, "cannot open the freezer of cgroup '%s'", cgroup);
        }
        fds[0] = freezer;
        fds[1] = events;
        if (parameters && events >= 0)
                json_object_set_new(parameters, "freezer_events", json_integer(1));
        return set_tracking(livesnap, parameters, fds, events >= 0 ? 2 : 1);
}

int livesnap_set_tracking_async(struct livesnap *livesnap, const char *domain, enum livesnap_quiesce quiesce,
                                const char *cgroup) {
        static const char *const ways[] = { "signal", "cgroup", "client", "none" };

        if ((size_t) quiesce >= sizeof(ways) / sizeof(ways[0]) || !cgroup == (quiesce == LIVESNAP_QUIESCE_CGROUP))
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                                "a cgroup is needed to freeze one, and for no other way to quiesce");
        if (cgroup)
                return set_tracking_cgroup(livesnap, domain, cgroup);
        return set_tracking(livesnap,
                            json_pack("{s:s, s:s, s:s}", "domain", domain, "mode", "async", "quiesce", ways[quiesce]),
                            NULL, 0);
}

/* The offer to stop; owned by the call that is queued for it: AwaitQuiesce and Quiesced in turns. */
struct quiesce_offer {
        struct livesnap *livesnap; /* borrowed */
        struct livesnap_quiesce_callback callback;
        char *domain;
        bool stopped;
};

static void offer_free(struct quiesce_offer *offer) {
        if (offer->callback.free)
                offer->callback.free(offer->callback.data);
        free(offer->domain);
        free(offer);
}

static void offer_resume(struct quiesce_offer *offer) {
        if (offer->stopped && offer->callback.resume)
                offer->callback.resume(offer->callback.data);
        offer->stopped = false;
}

static void offer_end(struct quiesce_offer *offer) {
        offer_resume(offer);
        if (offer->callback.ended)
                offer->callback.ended(offer->callback.data);
        offer_free(offer);
}

static void offer_on_reply(void *data, struct livesnap_reply *reply);

/* A call that is given up when the connection is closed still owns the offer; one that was answered does no more. */
static void offer_on_free(void *data) {
        struct quiesce_offer **owned = data;

        if (*owned) {
                offer_resume(*owned);
                offer_free(*owned);
        }
        free(owned);
}

static int offer_call(struct quiesce_offer *offer, const char *method, json_t *parameters) {
        struct livesnap_callback callback = { .function = offer_on_reply, .free = offer_on_free };
        struct quiesce_offer **owned = malloc(sizeof(*owned));
        int r;

        if (!owned || !parameters) {
                free(owned);
                json_decref(parameters);
                return lib_fail_errno(ENOMEM, "cannot call %s", method);
        }
        *owned = NULL; /* of a call that is refused it stays the caller's */
        callback.data = owned;
        r = connection_start(offer->livesnap, method, parameters, NULL, 0, 0, &callback);
        if (r == 0)
                *owned = offer;
        json_decref(parameters);
        return r;
}

static int offer_await(struct quiesce_offer *offer) {
        return offer_call(offer, "AwaitQuiesce", json_pack("{s:s}", "domain", offer->domain));
}

static void offer_on_reply(void *data, struct livesnap_reply *reply) {
        struct quiesce_offer **owned = data, *offer = STEAL_PTR(*owned);
        uint64_t id;
        int r = reply_check(reply);

        if (r == 0 && offer->stopped) {
                offer_resume(offer);
                r = offer_await(offer);
        } else if (r == 0) {
                r = json_get_u64(reply->parameters, "quiesce", &id);
                if (r == 0) {
                        offer->callback.stop(offer->callback.data);
                        offer->stopped = true;
                        r = offer_call(offer, "Quiesced",
                                       json_pack("{s:s, s:I}", "domain", offer->domain, "quiesce", (json_int_t) id));
                }
        }
        if (r < 0)
                offer_end(offer);
}

int livesnap_start_quiesce(struct livesnap *livesnap, const char *domain,
                           const struct livesnap_quiesce_callback *callback) {
        struct quiesce_offer *offer = calloc(1, sizeof(*offer));

        if (offer)
                offer->domain = strdup(domain);
        if (!offer || !offer->domain) {
                free(offer);
                if (callback->free)
                        callback->free(callback->data);
                return lib_fail_errno(ENOMEM, "cannot offer to stop");
        }
        offer->livesnap = livesnap;
        offer->callback = *callback;
        if (offer_await(offer) < 0) {
                offer_free(offer);
                return -1;
        }
        return 0;
}
