/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/rounds.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "daemon/census.h"
#include "daemon/clock.h"
#include "daemon/holes.h"
#include "daemon/removal.h"
#include "daemon/scan.h"

/* How often to look whether the run still goes on, while the disk has what was copied. */
#define ROUNDS_LOOK_MS 20
#define ROUNDS_MAX 40u
/* A round that leaves more than this part of what the one before it left is no progress; so many in a row are enough.
 */
#define ROUNDS_PROGRESS_PERCENT 85u
#define ROUNDS_WITHOUT_PROGRESS 3u
/* Stops that came to nothing, since more was written by then than could be copied in time, or a thread did not stop. */
#define ROUNDS_STOPS_MAX 8u
/* Processes may be forked until all that are known have stopped. */
#define ROUNDS_CHASES_MAX 16u
/* What copying costs until it was measured; on the slow side. */
#define ROUNDS_NS_PER_MIB (2 * NSEC_PER_MSEC)
#define ROUNDS_OVERHEAD_NS (2 * NSEC_PER_MSEC)

enum rounds_result {
        ROUNDS_DONE,
        ROUNDS_NOT_NOW,
        ROUNDS_FAILED,
};

struct rounds_scan {
        bool stopped;
        struct scan scan;
        struct error *error;
};

/*
 * On the fault thread
 */

static int rounds_on_begin(struct fault_thread *thread, void *data) {
        struct run *run = data;

        thread->run = run;
        changes_begin_rounds(thread, run);
        return 0;
}

static int rounds_on_end(struct fault_thread *thread, void *data) {
        thread->run = NULL;
        return 0;
}

static int rounds_on_scan(struct fault_thread *thread, void *data) {
        struct rounds_scan *scan = data;

        return scan_domain(thread, scan->stopped, &scan->scan, scan->error);
}

static int rounds_on_holes(struct fault_thread *thread, void *data) {
        struct rounds *rounds = data;

        changes_note_removed(thread, rounds->sweep->run);
        rounds->bytes_dirty = changes_count_dirty(thread);
        return 0;
}

static int rounds_on_freeze(struct fault_thread *thread, void *data) {
        changes_freeze_round(thread, data);
        return 0;
}

static int rounds_on_thaw(struct fault_thread *thread, void *data) {
        changes_thaw_round(thread);
        return 0;
}

struct rounds_pids {
        pid_t *pids; /* owned by who asked */
        unsigned n;
        unsigned n_unknown;
};

static int rounds_on_list(struct fault_thread *thread, void *data) {
        const struct domain *domain = thread->domain;
        struct rounds_pids *list = data;

        fault_drain(thread);
        fault_reap(thread);
        list->pids = calloc(domain->n_contexts + 1, sizeof(*list->pids));
        if (!list->pids)
                return -ENOMEM;
        for (unsigned i = 0; i < domain->n_contexts; i++)
                if (domain->contexts[i]->pid)
                        list->pids[list->n++] = domain->contexts[i]->pid;
                else
                        list->n_unknown++;
        return 0;
}

/*
 * On the snapshot's
 */

/* Forked children have no name until they are looked for. */
static int rounds_identify(struct rounds *rounds, struct error *error) {
        struct census census = { 0 };
        struct rounds_pids list = { 0 };
        int r = fault_call(rounds->thread, rounds_on_list, &list);

        free(list.pids);
        if (r < 0)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (list.n_unknown == 0)
                return 0;
        r = census_take(rounds->thread, CENSUS_ADOPT, &census, error);
        census_deinit(&census);
        return r;
}

/* What was written since the last time, and what was removed, is noted. */
static int rounds_look(struct rounds *rounds, bool stopped, unsigned *ret_n_unknown, struct error *error) {
        struct rounds_scan scan = { .stopped = stopped, .error = error };

        if (fault_call(rounds->thread, rounds_on_scan, &scan) < 0)
                return -1;
        holes_take(rounds->thread->domain, rounds->sweep->run);
        fault_call(rounds->thread, rounds_on_holes, rounds);
        *ret_n_unknown = scan.scan.n_unknown;
        return 0;
}

static uint64_t rounds_copy_ns(const struct rounds *rounds) {
        return (rounds->bytes_dirty >> 12) * rounds->thread->domain->copy_ns_per_mib >> 8;
}

static bool rounds_fits_pool(const struct rounds *rounds) {
        const struct pool *pool = rounds->sweep->run->capture.pool;

        return rounds->bytes_dirty / POOL_SLOT_BYTES <= pool_slots_free(pool);
}

/* Could it be stopped now, for as long as is wished, to copy what is left? */
static bool rounds_fits(const struct rounds *rounds) {
        return rounds_fits_pool(rounds) && rounds->overhead_ns + rounds_copy_ns(rounds) <= rounds->max_pause_ns;
}

static int rounds_read_page(void *data, const struct iovec *iov, int n_iov, uint64_t offset) {
        return region_read(data, iov, n_iov, offset);
}

/* Copy what this round has to save to the pool. Return: false where that is spent: the rest is left to the sweep. */
static bool rounds_copy(struct rounds *rounds) {
        struct run *run = rounds->sweep->run;
        struct region *region;

        TAILQ_FOREACH (region, &rounds->thread->domain->regions, link) {
                const struct capture_region *r = &run->capture.regions[region->index];

                for (uint64_t page = 0; (page = capture_next_wanted(r, page)) < r->n_pages; page++)
                        switch (capture_fault(&run->capture, region->index, page, rounds_read_page, region)) {
                        case CAPTURE_NO_SLOT:
                                return false;
                        case CAPTURE_READ_FAILED:
                                run_stop(run, RUN_READ_FAILED, errno);
                                return true;
                        default:
                                break;
                        }
        }
        return true;
}

/* Was anything removed, or written past the mappings, since the hole maps were taken? */
static bool rounds_was_disturbed(const struct rounds *rounds) {
        struct removal_watch *watch = rounds->sweep->run->removal;
        struct region *region;

        TAILQ_FOREACH (region, &rounds->thread->domain->regions, link)
                if (region->guarantee != GUARANTEE_SEALED &&
                    (removal_watch_modified(watch, region) || removal_watch_shrunk(watch, region)))
                        return true;
        return false;
}

/* All that are known, and those that were forked until these had stopped. */
static enum rounds_result rounds_quiesce(struct rounds *rounds, struct quiesce_stop *stop, uint64_t deadline_ns,
                                         struct error *error) {
        for (unsigned i = 0; i < ROUNDS_CHASES_MAX; i++) {
                struct rounds_pids list = { 0 };
                enum quiesce_result result;
                bool all_stopped = true;

                if (fault_call(rounds->thread, rounds_on_list, &list) < 0) {
                        error_set(error, ERROR_INTERNAL, "out of memory");
                        return ROUNDS_FAILED;
                }
                for (unsigned j = 0; j < list.n && all_stopped; j++)
                        all_stopped = quiesce_has(stop, list.pids[j]);
                /* The second look finds what was forked between the first one and the stop. */
                if (i > 0 && all_stopped && list.n_unknown == 0) {
                        free(list.pids);
                        return ROUNDS_DONE;
                }
                if (i > 0 && list.n_unknown > 0) {
                        free(list.pids);
                        break;
                }
                result = quiesce_processes(stop, list.pids, list.n, deadline_ns, &rounds->not_now);
                free(list.pids);
                if (result == QUIESCE_FAILED)
                        *error = rounds->not_now;
                if (result != QUIESCE_STOPPED)
                        return result == QUIESCE_FAILED ? ROUNDS_FAILED : ROUNDS_NOT_NOW;
        }
        error_set(&rounds->not_now, ERROR_NOT_CONVERGING, "processes are forked faster than they can be stopped");
        return ROUNDS_NOT_NOW;
}

/* How far a stop came. */
struct rounds_progress {
        bool frozen; /* what is left is what this round has to save */
        bool copied; /* it is in the pool */
        bool swept;  /* it went to the image, since the pool had no room for it */
};

/* With all stopped: the last scan and the last copy. */
static enum rounds_result rounds_cut(struct rounds *rounds, const struct quiesce_stop *stop, uint64_t start_ns,
                                     bool force, struct rounds_progress *progress, struct error *error) {
        struct run *run = rounds->sweep->run;
        uint64_t copy_ns;
        unsigned n_unknown;

        if (rounds_look(rounds, true, &n_unknown, error) < 0)
                return ROUNDS_FAILED;
        rounds->overhead_ns = clock_now_ns() - start_ns;
        if (n_unknown || (!force && !rounds_fits(rounds))) {
                error_set(&rounds->not_now, ERROR_NOT_CONVERGING,
                          "more was written by then than could be copied in time");
                return ROUNDS_NOT_NOW;
        }
        rounds->cut_time = clock_real_seconds();
        fault_call(rounds->thread, rounds_on_freeze, run);
        progress->frozen = true;
        copy_ns = clock_now_ns();
        progress->copied = rounds_copy(rounds);
        progress->swept = !progress->copied;
        if (progress->swept && !sweep_run(rounds->sweep))
                return ROUNDS_FAILED;
        rounds->pages_paused = rounds->bytes_dirty / CHUNK_PAGE_BYTES;
        copy_ns = clock_now_ns() - copy_ns;
        if (rounds->bytes_dirty >> 20)
                rounds->thread->domain->copy_ns_per_mib = copy_ns / (rounds->bytes_dirty >> 20);
        if (!run_goes_on(run))
                return ROUNDS_FAILED;
        if (!quiesce_is_intact(stop) || rounds_was_disturbed(rounds)) {
                error_set(&rounds->not_now, ERROR_NOT_CONVERGING,
                          "a program went away, or memory was changed through a descriptor, while all were stopped");
                return ROUNDS_NOT_NOW;
        }
        return ROUNDS_DONE;
}

static bool rounds_settle(struct rounds *rounds) {
        struct run *run = rounds->sweep->run;

        while (run_goes_on(run) && !image_writer_settle(rounds->sweep->writer, ROUNDS_LOOK_MS))
                ;
        return run_goes_on(run) && !image_writer_failed(rounds->sweep->writer);
}

/* Stop, and try to come to an end. Where that is not possible yet, all goes on as if nothing had been. */
static enum rounds_result rounds_stop(struct rounds *rounds, bool force, struct error *error) {
        uint64_t start_ns = clock_now_ns(), patience_ns = rounds->max_pause_ns;
        struct run *run = rounds->sweep->run;
        struct rounds_progress progress = { 0 };
        struct quiesce_stop stop;
        enum rounds_result result;

        if (force && patience_ns < NSEC_PER_SEC)
                patience_ns = NSEC_PER_SEC;
        rounds->n_stops++;
        rounds->not_now = (struct error){ 0 };
        quiesce_stop_init(&stop, rounds->quiesce, rounds->guardian);
        result = rounds_quiesce(rounds, &stop, start_ns + patience_ns, error);
        if (result == ROUNDS_DONE)
                result = rounds_cut(rounds, &stop, start_ns, force, &progress, error);
        rounds->n_workers = stop.n_workers;
        quiesce_resume(&stop);
        rounds->pause_ns = clock_now_ns() - start_ns;
        if (result == ROUNDS_NOT_NOW && progress.frozen) {
                if (progress.swept && !rounds_settle(rounds))
                        return ROUNDS_FAILED;
                fault_call(rounds->thread, rounds_on_thaw, NULL);
                capture_reopen(&run->capture);
        }
        if (result == ROUNDS_DONE && progress.copied && !sweep_run(rounds->sweep))
                return ROUNDS_FAILED;
        return result;
}

/* Copy what was written so far to the image, while the programs run. */
static int rounds_round(struct rounds *rounds) {
        struct run *run = rounds->sweep->run;

        fault_call(rounds->thread, rounds_on_freeze, run);
        /* The first one of a full snapshot is all, whatever the tables say. */
        rounds->sweep->only_wanted = run->increment || rounds->n_rounds > 0;
        if (!rounds->sweep->only_wanted)
                for (unsigned i = 0; i < run->capture.n_regions; i++)
                        run->capture.regions[i].wanted = NULL;
        /* A page may come again once the image has it. */
        if (!sweep_run(rounds->sweep) || !rounds_settle(rounds))
                return -1;
        capture_reopen(&run->capture);
        rounds->sweep->only_wanted = true;
        rounds->n_rounds++;
        return 0;
}

static int rounds_fail(const struct rounds *rounds, struct error *error) {
        if (rounds->not_now.kind)
                return error_set(error, ERROR_NOT_CONVERGING,
                                 "no moment was found in %u rounds to stop the programs for the snapshot: at last %s; "
                                 "allow more (--max-pause), or use tracking sync, which stops nobody",
                                 rounds->n_rounds, rounds->not_now.message);
        return error_set(
                error, ERROR_NOT_CONVERGING,
                "the programs write faster than it can be saved: after %u rounds %llu MiB were left, for which "
                "they would have to be stopped for some %llu ms, and --max-pause allows %llu ms; allow more, "
                "use --on-no-convergence pause, or tracking sync, which stops nobody",
                rounds->n_rounds, (unsigned long long) (rounds->bytes_dirty >> 20),
                (unsigned long long) ((rounds->overhead_ns + rounds_copy_ns(rounds)) / NSEC_PER_MSEC),
                (unsigned long long) (rounds->max_pause_ns / NSEC_PER_MSEC));
}

static int rounds_loop(struct rounds *rounds, struct error *error) {
        uint64_t bytes_before = UINT64_MAX;
        unsigned n_without_progress = 0;

        for (;;) {
                uint64_t scan_ns;
                unsigned n_unknown;
                bool can_stop, lost;

                if (rounds_identify(rounds, error) < 0)
                        return -1;
                scan_ns = clock_now_ns();
                if (rounds_look(rounds, false, &n_unknown, error) < 0)
                        return -1;
                scan_ns = clock_now_ns() - scan_ns;
                if (rounds->n_stops == 0)
                        rounds->overhead_ns = ROUNDS_OVERHEAD_NS + scan_ns;
                rounds->expect(rounds->data, rounds->bytes_dirty);

                can_stop = rounds->sweep->run->increment || rounds->n_rounds > 0;
                n_without_progress = rounds->bytes_dirty >= bytes_before / 100 * ROUNDS_PROGRESS_PERCENT
                                             ? n_without_progress + 1
                                             : 0;
                lost = n_without_progress >= ROUNDS_WITHOUT_PROGRESS || rounds->n_rounds >= ROUNDS_MAX ||
                       rounds->n_stops >= ROUNDS_STOPS_MAX;
                if (can_stop && (rounds_fits(rounds) || (lost && rounds->pause_anyway))) {
                        enum rounds_result result;

                        rounds->sweep->only_wanted = true;
                        rounds->forced = !rounds_fits(rounds);
                        result = rounds_stop(rounds, lost && rounds->pause_anyway, error);
                        if (result != ROUNDS_NOT_NOW)
                                return result == ROUNDS_DONE ? 0 : -1;
                        lost |= rounds->n_stops >= 2 * ROUNDS_STOPS_MAX;
                }
                if (can_stop && lost && (!rounds->pause_anyway || rounds->n_stops >= 2 * ROUNDS_STOPS_MAX))
                        return rounds_fail(rounds, error);
                if (rounds->n_rounds > 0)
                        bytes_before = rounds->bytes_dirty;
                if (rounds_round(rounds) < 0)
                        return -1;
        }
}

int rounds_run(struct rounds *rounds, struct error *error) {
        int r;

        if (!rounds->thread->domain->copy_ns_per_mib)
                rounds->thread->domain->copy_ns_per_mib = ROUNDS_NS_PER_MIB;
        fault_call(rounds->thread, rounds_on_begin, rounds->sweep->run);
        r = rounds_loop(rounds, error);
        fault_call(rounds->thread, rounds_on_end, NULL);
        return r;
}
