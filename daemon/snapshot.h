/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_SNAPSHOT_H
#define LIVESNAP_DAEMON_SNAPSHOT_H

/*
 * Takes one snapshot of a domain, on a thread of its own: prepares the image, has the fault thread make the cut,
 * sweeps, and publishes. Whatever goes wrong, every page is disarmed in the end and nothing half-done is visible.
 */

#include <stdatomic.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "daemon/fault.h"
#include "daemon/pool.h"
#include "daemon/quiesce.h"
#include "daemon/run.h"
#include "daemon/store.h"

struct snapshot;

enum snapshot_state {
        SNAPSHOT_ARMING,
        SNAPSHOT_DRAINING,
        SNAPSHOT_PUBLISHING,
        SNAPSHOT_ENDED,
};

struct snapshot_spec {
        struct fault_thread *thread; /* of the domain, which must not be changed from outside until the end; borrowed */
        struct pool *pool;           /* borrowed */
        struct store *store;         /* borrowed */
        const char *name;            /* NULL: one is made up */
        const char *parent;          /* of an increment: which it has to be; NULL: the one there is */
        uint32_t uid;                /* who asked */
        enum pool_policy policy;
        bool incremental;  /* save only what was written since the parent, if there is one */
        bool strict;       /* fail where there may be untracked writers, rather than warn */
        uint64_t max_rate; /* bytes a second, 0: none */
        uint64_t max_hold_ns;

        /* Where the domain is tracked asynchronously. */
        const struct quiesce *quiesce; /* borrowed */
        struct guardian *guardian;     /* borrowed */
        uint64_t max_pause_ns;
        bool pause_anyway;
        void (*ended)(void *data); /* on the snapshot's thread, which does nothing after it */
        void *data;
};

/** snapshot_start() - begin. @spec is copied. Return: 0, or -1 with *error set. */
int snapshot_start(const struct snapshot_spec *spec, struct snapshot **ret, struct error *error);

/** snapshot_cancel() - ask it to end soon without a result; does not wait; any thread */
void snapshot_cancel(struct snapshot *snapshot);

struct snapshot_progress {
        enum snapshot_state state;
        uint64_t bytes_done;
        uint64_t bytes_total;
};

struct snapshot_progress snapshot_get_progress(const struct snapshot *snapshot);

/**
 * snapshot_finish() - wait for the end, take the result, and free the snapshot
 * @ret: the Snapshot of io.livesnap, a new reference
 *
 * Return: 0, or -1 with *error set: no snapshot was made.
 */
int snapshot_finish(struct snapshot *snapshot, json_t **ret, struct error *error);

#endif
