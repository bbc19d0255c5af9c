/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/cut.h"

#include <errno.h>
#include <string.h>

#include "daemon/arm.h"
#include "daemon/clock.h"
#include "daemon/holes.h"
#include "daemon/removal.h"

/* What arming costs a kernel at most, for each GiB, is not held against --max-hold. */
#define CUT_NS_PER_GIB (30 * NSEC_PER_MSEC)

struct cut {
        struct fault_thread *thread;
        struct run *run;
        bool partial; /* what is not noted as written is armed still, since an earlier cut */
        uint64_t deadline_ns;
};

static bool cut_is_late(const struct cut *cut) {
        return clock_now_ns() > cut->deadline_ns;
}

/* Arm the pages of a mapping that may have lost their protection since an earlier cut. */
static int cut_arm_written(struct cut *cut, struct context *context, const struct mapping *mapping) {
        const struct tracking *tracking = mapping->region->tracking;
        uint64_t page_bytes = mapping->region->page_bytes, first = mapping->offset / page_bytes;
        uint64_t last = first + mapping->length / page_bytes, page = first, start, end;
        int r = 0;

        while (r == 0 && page < last && tracking_next_run(tracking, page, ARM_GAP_PAGES, &start, &end) &&
               start < last) {
                page = end < last ? end : last;
                r = arm_range(cut->thread, context, mapping->address + (start - first) * page_bytes,
                              (page - start) * page_bytes, page_bytes, cut->deadline_ns);
        }
        return r;
}

static int cut_arm_mapping(struct cut *cut, struct context *context, const struct mapping *mapping) {
        uint64_t start_ns = clock_now_ns();
        int r;

        if (cut->partial && !mapping->unarmed)
                r = cut_arm_written(cut, context, mapping);
        else
                r = arm_range(cut->thread, context, mapping->address, mapping->length, mapping->region->page_bytes,
                              cut->deadline_ns);
        cut->run->arm_ns += clock_now_ns() - start_ns;
        return r;
}

static int cut_arm_context(struct cut *cut, struct context *context) {
        const struct mapping *next;
        uint64_t address = 0;

        context->fresh = false;
        /* By address, since events that are read meanwhile may change the list. */
        while ((next = context_next(context, address))) {
                struct mapping mapping = *next;
                int r = cut_arm_mapping(cut, context, &mapping);

                if (r == -ESRCH) {
                        context->gone = true;
                        return 0;
                }
                if (r < 0)
                        return r;
                address = mapping.address + mapping.length;
        }
        return 0;
}

static int cut_fail(struct cut *cut, const struct context *context, int r, struct error *error) {
        if (cut_is_late(cut))
                return error_set(error, ERROR_HOLD_TOO_LONG,
                                 "the hold lasted longer than %llu ms and 30 ms for each GiB, so all threads were let "
                                 "go and no snapshot was "
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

                if (r < 0 || cut_is_late(cut))
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

static uint64_t cut_allowance_ns(const struct domain *domain) {
        uint64_t bytes = 0;

        for (unsigned i = 0; i < domain->n_contexts; i++)
                for (unsigned j = 0; j < domain->contexts[i]->n_mappings; j++)
                        bytes += domain->contexts[i]->mappings[j].length;
        return (bytes >> 20) * CUT_NS_PER_GIB >> 10;
}

static int cut_arm(struct cut *cut, struct error *error) {
        struct domain *domain = cut->thread->domain;

        for (unsigned i = 0; i < domain->n_contexts; i++)
                domain->contexts[i]->fresh = true;
        if (cut_arm_all(cut, error) < 0 || !run_goes_on(cut->run))
                return -1; /* if it is the latter the run knows why */
        holes_take(domain, cut->run);
        return 0;
}

int cut_make(struct fault_thread *thread, struct run *run, struct error *error) {
        struct cut cut = { .thread = thread, .run = run };
        uint64_t start_ns;

        /* Old events and stale faults first: a pending fork would refuse the arm. */
        fault_drain(thread);
        start_ns = clock_now_ns();
        cut.deadline_ns = start_ns + run->max_hold_ns + cut_allowance_ns(thread->domain);
        cut.partial = changes_keep_armed(&thread->changes);
        changes_freeze(thread, run);
        /*
         * A hole is one of the cut only if all is armed when it is looked for, and so are those that are found. The new
         * watch starts before the old one is asked, so that no change falls between them.
         */
        do {
                if (cut_arm(&cut, error) < 0)
                        return -1;
                removal_watch_start(run->removal, thread->domain);
        } while (run->increment && changes_freeze_vanished(thread, run));
        changes_note_armed(thread, true);
        run->hold_ns = clock_now_ns() - start_ns;
        return 0;
}
