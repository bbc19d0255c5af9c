/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_API_INTERNAL_H
#define LIVESNAP_DAEMON_API_INTERNAL_H

/* What the files of the API share. Main thread only. */

#include "daemon/api.h"
#include "daemon/call.h"
#include "daemon/jobs.h"
#include "daemon/pool.h"
#include "daemon/registry.h"

struct api {
        struct api_config config;
        struct store *store;     /* borrowed */
        struct event_base *base; /* borrowed */
        struct pool *pool;
        struct registry *registry;
        struct jobs *jobs;
        bool async_works; /* the kernel can tell which pages were written */
        int device;       /* /dev/userfaultfd, to be passed to clients; -1: there is none */
        /* eventfd: other threads say that a job has ended or a domain is empty */
        int wake_fd;
        struct event *wake;
        unsigned n_store_calls; /* with the store; they know the api */
};

/** api_wake() - have the main loop look at jobs and domains; any thread */
void api_wake(struct api *api);

/* api_domains.c */
void api_on_get_userfaultfd_device(struct call *call, void *context);
void api_on_attach(struct call *call, void *context);
void api_on_detach(struct call *call, void *context);
void api_on_list_domains(struct call *call, void *context);

/* api_tracking.c */
void api_on_set_tracking(struct call *call, void *context);
void api_on_await_quiesce(struct call *call, void *context);
void api_on_quiesced(struct call *call, void *context);

/** api_set_mode() - change a domain's way of tracking by its name. Return: 0, or -1 with *error set. */
int api_set_mode(const struct api *api, struct registry_entry *entry, const char *mode, struct error *error);

/** api_knows_mode() - is this the name of a way of tracking? */
bool api_knows_mode(const char *mode);

/* api_snapshots.c */
void api_on_snapshot(struct call *call, void *context);
void api_on_list_jobs(struct call *call, void *context);
void api_on_wait_job(struct call *call, void *context);
void api_on_cancel_job(struct call *call, void *context);

/* api_store.c */
void api_on_list_snapshots(struct call *call, void *context);
void api_on_show_snapshot(struct call *call, void *context);
void api_on_open_snapshot(struct call *call, void *context);
void api_on_verify_snapshot(struct call *call, void *context);
void api_on_delete_snapshot(struct call *call, void *context);

/* api_upkeep.c */
void api_on_compact_snapshot(struct call *call, void *context);
void api_on_prune(struct call *call, void *context);
/** of DeleteSnapshot, with fold; the names have been checked */
void api_delete_fold(struct call *call, struct api *api, const char *domain, const char *name, bool detach);

#endif
