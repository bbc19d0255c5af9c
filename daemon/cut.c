/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/cut.h"

#include <errno.h>
#include <string.h>

#include "common/uffd.h"
#include "daemon/clock.h"
#include "daemon/events.h"
#include "daemon/removal.h"

struct cut {
        struct fault_thread *thread;
        struct run *run;
        uint64_t deadline_ns;
};

/*
 * Kernels of the 6.1 series protect only a range within one VMA and stop with ENOENT at its end; later ones stop at the
 * first address that is not mapped. Halving finds every part that can be armed. What is not mapped needs no arming.
 */
static int cut_arm_parts(struct cut *cut, struct context *context, uint64_t address, uint64_t length,
                         uint64_t page_bytes) {
        uint64_t half = length / 2 / page_bytes * page_bytes;
        int r = fault_retry(cut->thread, uffd_arm, context, address, length, cut->deadline_ns);

        if (r != -ENOENT || length <= page_bytes)
                return r == -ENOENT ? 0 : r;
        r = cut_arm_parts(cut, context, address, half, page_bytes);
        if (r < 0)
                return r;
        return cut_arm_parts(cut, context, address + half, length - half, page_bytes);
}

static int cut_arm_context(struct cut *cut, struct context *context) {
        context->fresh = false;
        for (unsigned i = 0; i < context->n_mappings; i++) {
                /* A copy: an event that is read meanwhile may change the list; it then marks the context fresh again.
                 */
                struct mapping m = context->mappings[i];
                uint64_t start_ns = clock_now_ns();
                int r = cut_arm_parts(cut, context, m.address, m.length, m.region->page_bytes);

                cut->run->arm_ns += clock_now_ns() - start_ns;
                if (r == -ESRCH) {
                        context->gone = true;
                        return 0;
                }
                if (r < 0)
                        return r;
        }
        return 0;
}

static int cut_fail(struct cut *cut, const struct context *context, int r, struct error *error) {
        if (clock_now_ns() > cut->deadline_ns)
                return error_set(error, ERROR_HOLD_TOO_LONG,
                                 "the hold lasted longer than %llu ms, so all threads were let go and no snapshot was "
                                 "taken: try again when fewer processes are forked, or raise --max-hold",
                                 (unsigned long long) (cut->run->max_hold_ns / NSEC_PER_MSEC));
        return error_set(error, ERROR_ARM_FAILED, "cannot write-protect the memory of process %d: %s",
                         (int) context->pid, strerror(-r));
}

/* Arm every context that is not armed yet, those included that come as we go. */
static int cut_arm_all(struct cut *cut, struct error *error) {
        struct domain *domain = cut->thread->domain;
        unsigned i = 0;

        while (i < domain->n_contexts) {
                struct context *context = domain->contexts[i];
                int r = context->fresh && !context->gone ? cut_arm_context(cut, context) : 0;

                if (r < 0 || clock_now_ns() > cut->deadline_ns)
                        return cut_fail(cut, context, r, error);
                i++;
                if (i == domain->n_contexts) {
                        /* Forks and remaps that came while we armed are known once their events are read. */
                        cut->thread->new_contexts = false;
                        fault_drain(cut->thread);
                        if (cut->thread->new_contexts)
                                i = 0;
                }
        }
        return 0;
}

static void cut_map_holes(struct cut *cut) {
        struct region *region;

        TAILQ_FOREACH (region, &cut->thread->domain->regions, link) {
                uint64_t offset = 0, start, end;

                if (!cut->run->capture.regions[region->index].data_at_cut)
                        continue;
                while (region_next_data(region, offset, region->bytes, &start, &end)) {
                        capture_mark_data(&cut->run->capture, region->index, start, end - start);
                        offset = end;
                }
        }
}

int cut_make(struct fault_thread *thread, struct run *run, struct error *error) {
        struct cut cut = { .thread = thread, .run = run };
        uint64_t start_ns;
        int r;

        /* Old events and stale faults first: a pending fork would refuse the arm. */
        fault_drain(thread);
        for (unsigned i = 0; i < thread->domain->n_contexts; i++)
                thread->domain->contexts[i]->fresh = true;

        start_ns = clock_now_ns();
        cut.deadline_ns = start_ns + run->max_hold_ns;
        r = cut_arm_all(&cut, error);
        if (r < 0)
                return r;
        if (!run_goes_on(run) || (thread->remaps_unsettled && !event_settle_remaps(thread)))
                return error_set(
                        error, ERROR_UNTRACKED_WRITER,
                        "a process began to write untracked while the memory was being protected: attach again");
        cut_map_holes(&cut);
        removal_watch_start(run->removal, thread->domain);
        run->hold_ns = clock_now_ns() - start_ns;
        return 0;
}
