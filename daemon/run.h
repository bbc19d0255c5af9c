/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_RUN_H
#define LIVESNAP_DAEMON_RUN_H

/*
 * A run: what the fault thread and the snapshot thread share while one snapshot is taken. The snapshot thread owns it;
 * the fault thread knows it from fault_begin() until fault_end() and writes the figures marked as its own.
 */

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "daemon/capture.h"
#include "daemon/histogram.h"

enum pool_policy {
        POOL_THROTTLE, /* a thread that faults waits until the sweep has come by */
        POOL_ABORT,    /* the snapshot is given up */
};

/** Why a snapshot ends before its time. The first reason is kept. */
enum run_stop {
        RUN_GOES_ON,
        RUN_CANCELLED,
        RUN_POOL_SPENT,
        RUN_READ_FAILED,
        RUN_UNTRACKED,
        RUN_REMAPPED,
        RUN_NO_MEMORY,
};

struct removal_watch;

struct run {
        struct capture capture;
        struct removal_watch *removal;
        enum pool_policy policy;
        uint64_t max_hold_ns;
        bool increment; /* save only what was written since the parent */

        _Atomic int stop; /* enum run_stop */
        _Atomic int stop_errno;

        /* The fault thread's own. */
        struct histogram faults;
        uint64_t arm_ns;
        uint64_t hold_ns; /* where programs were stopped for the cut: for how long */
        uint32_t slots_used_peak;

        /* The sweep's own. */
        uint64_t throttled_ns;
        uint64_t pages_fault;
        uint64_t pages_read;
};

/** run_stop() - end the run for this reason, unless there is one already; any thread, safe on the fault path */
static inline void run_stop(struct run *run, enum run_stop reason, int error_number) {
        int none = RUN_GOES_ON;

        if (atomic_compare_exchange_strong(&run->stop, &none, reason))
                atomic_store(&run->stop_errno, error_number);
}

static inline bool run_goes_on(const struct run *run) {
        return atomic_load_explicit(&run->stop, memory_order_relaxed) == RUN_GOES_ON;
}

#endif
