/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/scan.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/pagemap.h"
#include "daemon/arm.h"
#include "daemon/clock.h"

#define SCAN_RANGES 2048u
/* What has to be armed as a whole is, in pieces, so that who forks meanwhile does not wait for all of it. */
#define SCAN_PIECE_BYTES (64ULL << 20)
/* A client that forks without end has its protection refused without end. */
#define SCAN_PATIENCE_NS NSEC_PER_SEC

struct scan_work {
        struct fault_thread *thread;
        struct context *context;
        int pagemap;        /* owned, or -1: it cannot be asked */
        uint64_t gap_pages; /* runs that lie no more than so many pages apart are protected with one call */
        struct error *error;
        struct page_region ranges[SCAN_RANGES];
};

static int scan_fail(struct scan_work *work, int r, uint64_t address) {
        if (r == -ESRCH) {
                work->context->gone = true;
                return 0;
        }
        if (r == -EPERM)
                return error_set(work->error, ERROR_ARM_FAILED,
                                 "the memory of process %d at %#llx is not tracked, although it was said to be: the "
                                 "userfaultfd that was attached is of another process, or the mapping changed just "
                                 "now; try again, or detach and attach again",
                                 (int) work->context->pid, (unsigned long long) address);
        return error_set(work->error, ERROR_ARM_FAILED, "cannot track the memory of process %d at %#llx: %s",
                         (int) work->context->pid, (unsigned long long) address, strerror(-r));
}

static int scan_arm(struct scan_work *work, uint64_t start, uint64_t end, uint64_t page_bytes) {
        int r = 0;

        for (uint64_t at = start; at < end && r == 0; at += SCAN_PIECE_BYTES) {
                uint64_t length = end - at < SCAN_PIECE_BYTES ? end - at : SCAN_PIECE_BYTES;

                if (at > start)
                        fault_drain(work->thread);
                r = arm_range(work->thread, work->context, at, length, page_bytes, clock_now_ns() + SCAN_PATIENCE_NS);
        }
        return r < 0 ? scan_fail(work, r, start) : 0;
}

/* All of it counts as written. */
static int scan_all(struct scan_work *work, const struct mapping *mapping) {
        struct mapping *known;

        tracking_mark_range(mapping->region->tracking, mapping->offset, mapping->length);
        if (scan_arm(work, mapping->address, mapping->address + mapping->length, mapping->region->page_bytes) < 0)
                return -1;
        known = context_find(work->context, mapping->address);
        if (known && known->address == mapping->address && known->length == mapping->length)
                known->unarmed = false;
        return 0;
}

/* A run of pages to be protected again: all were written, or, where nobody runs, lie between such. */
struct scan_run {
        uint64_t start, end;
};

static int scan_written(struct scan_work *work, const struct mapping *mapping, struct scan_run *run, uint64_t start,
                        uint64_t end) {
        if (start >= end)
                return 0;
        tracking_mark_range(mapping->region->tracking, start - mapping->address + mapping->offset, end - start);
        if (run->start < run->end && start - run->end <= work->gap_pages * mapping->region->page_bytes) {
                run->end = end;
                return 0;
        }
        if (scan_arm(work, run->start, run->end, mapping->region->page_bytes) < 0)
                return -1;
        *run = (struct scan_run){ start, end };
        return 0;
}

static int scan_mapping(struct scan_work *work, const struct mapping *mapping) {
        uint64_t at = mapping->address, end = mapping->address + mapping->length, walked = at;
        struct scan_run run = { 0 };

        if (mapping->unarmed || work->pagemap < 0)
                return scan_all(work, mapping);
        while (walked < end) {
                ssize_t n = pagemap_scan_protected(work->pagemap, walked, end, work->ranges, SCAN_RANGES, &walked);

                if (n == -EPERM) {
                        const struct mapping *known;

                        /* If it was unmapped, and something else mapped there, the message of that waits to be read. */
                        fault_drain(work->thread);
                        known = context_find(work->context, mapping->address);
                        if (!known || known->address != mapping->address || known->length != mapping->length)
                                return scan_arm(work, run.start, run.end, mapping->region->page_bytes);
                }
                if (n < 0)
                        return scan_fail(work, (int) n, mapping->address);
                for (ssize_t i = 0; i < n; i++) {
                        if (scan_written(work, mapping, &run, at, work->ranges[i].start) < 0)
                                return -1;
                        at = work->ranges[i].end;
                }
                if (scan_written(work, mapping, &run, at, walked) < 0)
                        return -1;
                at = walked;
        }
        return scan_arm(work, run.start, run.end, mapping->region->page_bytes);
}

static int scan_context(struct scan_work *work) {
        const struct mapping *next;
        uint64_t address = 0;
        int r = 0;

        work->pagemap = work->context->pid ? pagemap_open(work->context->pid) : -1;
        /* By address, since events that are read meanwhile may change the list. */
        while (r == 0 && !work->context->gone && (next = context_next(work->context, address))) {
                struct mapping mapping = *next;

                address = mapping.address + mapping.length;
                r = scan_mapping(work, &mapping);
        }
        if (work->pagemap >= 0)
                close(work->pagemap);
        return r;
}

static int scan_contexts(struct scan_work *work, struct scan *scan) {
        struct domain *domain = work->thread->domain;

        /* The list may grow at its end as we go. */
        for (unsigned i = 0; i < domain->n_contexts; i++) {
                work->context = domain->contexts[i];
                scan->n_unknown += work->context->pid == 0;
                if (!work->context->gone && scan_context(work) < 0)
                        return -1;
        }
        return 0;
}

int scan_domain(struct fault_thread *thread, bool stopped, struct scan *ret, struct error *error) {
        CLEANUP_FREE struct scan_work *work = malloc(sizeof(*work));
        struct scan scan = { 0 };

        if (!work)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        work->thread = thread;
        work->gap_pages = stopped ? ARM_GAP_PAGES : 0;
        work->error = error;
        fault_drain(thread);
        fault_reap(thread);
        if (scan_contexts(work, &scan) < 0)
                return -1;
        /* Of those that have gone meanwhile nothing can be told any more. */
        fault_reap(thread);
        scan.bytes_dirty = changes_count_dirty(thread);
        *ret = scan;
        return 0;
}
