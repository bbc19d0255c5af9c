/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/armcheck.h"
#include "daemon/census.h"
#include "daemon/clock.h"
#include "daemon/image_writer.h"
#include "daemon/pins.h"
#include "daemon/removal.h"
#include "daemon/rounds.h"
#include "daemon/sweep.h"

#define SNAPSHOT_LOOK_MS 20
/* An object may be far larger than what is in it, but its tables and checksums grow with its size. */
#define SNAPSHOT_USER_MEMORIES_MAX 8

struct snapshot {
        struct snapshot_spec spec; /* name and parent owned, or NULL */
        struct domain *domain;     /* borrowed */
        pthread_t thread;
        uint64_t started_ns;

        struct run run;
        struct census census;
        struct armcheck armcheck;
        struct pins pins;
        struct pool_share share;
        struct image_writer *writer;
        enum tracking_mode tracking;
        struct changes_parent parent;                /* of an increment */
        char full_reason[IMAGE_WRITER_REASON_BYTES]; /* why it is full, though an increment was asked for; or empty */
        uint64_t pages_dirty;                        /* to be saved by an increment */
        enum guarantee guarantee;
        uint64_t chunks_discarded;
        bool modified; /* through a descriptor, a region whose owner allows that content is removed */

        /* Of a domain that is tracked asynchronously. */
        unsigned n_rounds;
        double cut_time;
        uint64_t pages_paused;
        bool pause_was_forced;
        unsigned n_workers;

        _Atomic int state; /* enum snapshot_state */
        _Atomic uint64_t bytes_done;
        _Atomic uint64_t bytes_total;

        json_t *result; /* owned */
        struct error error;
};

static void snapshot_set_state(struct snapshot *snapshot, enum snapshot_state state) {
        atomic_store(&snapshot->state, state);
}

static int snapshot_explain_stop(struct snapshot *snapshot) {
        struct error *error = &snapshot->error;
        int error_number = atomic_load(&snapshot->run.stop_errno);

        switch ((enum run_stop) atomic_load(&snapshot->run.stop)) {
        case RUN_GOES_ON:
                break;
        case RUN_CANCELLED:
                return error_set(error, ERROR_CANCELLED, "the snapshot was cancelled");
        case RUN_POOL_SPENT:
                return error_set(
                        error, ERROR_POOL_SPENT,
                        "the program wrote faster than the disk, until the pool of %llu MiB was spent, and the "
                        "policy is to give up then: use a larger --pool-size, or --pool-policy throttle",
                        (unsigned long long) (pool_bytes(snapshot->spec.pool) >> 20));
        case RUN_READ_FAILED:
                return error_set(error, ERROR_INTERNAL, "cannot read the memory of domain %s: %s",
                                 snapshot->domain->name, strerror(error_number));
        case RUN_UNTRACKED:
                return error_set(error, ERROR_UNTRACKED_WRITER,
                                 "in the course of the snapshot %s: detach domain %s and attach it again",
                                 snapshot->domain->untracked, snapshot->domain->name);
        case RUN_REMAPPED:
                return error_set(error, ERROR_UNTRACKED_WRITER,
                                 "a process of domain %s called mremap() in the course of the snapshot, so what it "
                                 "wrote since cannot be told: take the snapshot again",
                                 snapshot->domain->name);
        case RUN_NO_MEMORY:
                return error_set(error, ERROR_INTERNAL, "out of memory in the course of the snapshot");
        }
        return 0;
}

static void snapshot_release_chunk(void *data, struct chunk *chunk) {
        struct snapshot *snapshot = data;

        pool_give_chunk(&snapshot->share, chunk);
}

static void snapshot_on_progress(void *data, uint64_t bytes_swept) {
        struct snapshot *snapshot = data;

        atomic_store_explicit(&snapshot->bytes_done, bytes_swept, memory_order_relaxed);
}

/* On the fault thread. */
static int snapshot_on_fit(struct fault_thread *thread, void *data) {
        return changes_fit(thread);
}

/* Is it to be an increment, and on what? */
static int snapshot_choose_parent(struct snapshot *snapshot) {
        const struct snapshot_spec *spec = &snapshot->spec;
        const char *why;

        snapshot->tracking = changes_get_mode(spec->thread);
        if (fault_call(spec->thread, snapshot_on_fit, NULL) < 0)
                return error_set(&snapshot->error, ERROR_INTERNAL, "out of memory for the tracking of changes");
        if (!spec->incremental)
                return 0;
        if (!changes_get_parent(spec->thread, &snapshot->parent, &why)) {
                snprintf(snapshot->full_reason, sizeof(snapshot->full_reason), "%s", why);
                return 0;
        }
        if (spec->parent && strcmp(spec->parent, snapshot->parent.name))
                return error_set(&snapshot->error, ERROR_BAD_REQUEST,
                                 "the changes of domain %s are known since snapshot %s, not since %.128s: leave the "
                                 "parent away, or name that one",
                                 snapshot->domain->name, snapshot->parent.name, spec->parent);
        snapshot->run.increment = true;
        return 0;
}

static int snapshot_open_writer(struct snapshot *snapshot) {
        struct domain *domain = snapshot->domain;
        struct image_writer_region *regions = calloc(domain->n_regions, sizeof(*regions));
        struct region *region;
        int r;

        if (!regions)
                return error_set(&snapshot->error, ERROR_INTERNAL, "out of memory");
        TAILQ_FOREACH (region, &domain->regions, link)
                regions[region->index] = (struct image_writer_region){ region->name, region->bytes };

        r = image_writer_new(snapshot->spec.store,
                             &(struct image_writer_spec){
                                     .domain = domain->name,
                                     .name = snapshot->spec.name,
                                     .uid = snapshot->spec.uid,
                                     .parent = snapshot->run.increment ? snapshot->parent.name : NULL,
                                     .parent_uuid = snapshot->parent.uuid,
                                     .n_regions = domain->n_regions,
                                     .regions = regions,
                                     .max_rate = snapshot->spec.max_rate,
                                     .release = snapshot_release_chunk,
                                     .data = snapshot,
                             },
                             &snapshot->writer, &snapshot->error);
        free(regions);
        if (r == 0 && image_writer_full_reason(snapshot->writer)) {
                snprintf(snapshot->full_reason, sizeof(snapshot->full_reason), "%s",
                         image_writer_full_reason(snapshot->writer));
                snapshot->run.increment = false;
        }
        return r;
}

static int snapshot_prepare_capture(struct snapshot *snapshot) {
        struct domain *domain = snapshot->domain;
        struct region *region;

        if (capture_init(&snapshot->run.capture, snapshot->spec.pool, domain->n_regions) < 0)
                return error_set(&snapshot->error, ERROR_INTERNAL, "out of memory");
        TAILQ_FOREACH (region, &domain->regions, link) {
                if (region->page_bytes / POOL_SLOT_BYTES > pool_slots(snapshot->spec.pool))
                        return error_set(&snapshot->error, ERROR_BAD_REQUEST,
                                         "the pool is too small for huge pages: use a larger --pool-size");
                if (capture_add_region(&snapshot->run.capture, region->index, region->bytes, region->page_bytes,
                                       region->guarantee != GUARANTEE_SEALED) < 0)
                        return error_set(&snapshot->error, ERROR_INTERNAL, "out of memory for the state of the pages");
        }
        if (removal_watch_new(domain, &snapshot->run.removal) < 0)
                return error_set(&snapshot->error, ERROR_INTERNAL,
                                 "cannot watch for removed content: no inotify instance is left "
                                 "(fs.inotify.max_user_instances)");
        return 0;
}

static int snapshot_take_census(struct snapshot *snapshot, enum census_mode mode) {
        const struct census *census = &snapshot->census;

        census_deinit(&snapshot->census);
        if (census_take(snapshot->spec.thread, mode, &snapshot->census, &snapshot->error) < 0)
                return -1;
        if (!snapshot->spec.strict)
                return 0;
        if (census->n_foreign)
                return error_set(&snapshot->error, ERROR_UNTRACKED_WRITER,
                                 "process %d, which is not tracked, has a region open for writing, and the snapshot "
                                 "is to be strict: attach it too, or take a snapshot that is not strict",
                                 (int) census->foreign_pid);
        if (census->n_unreadable)
                return error_set(&snapshot->error, ERROR_UNTRACKED_WRITER,
                                 "%u processes could not be looked into for writers that are not tracked, and the "
                                 "snapshot is to be strict: take one that is not strict",
                                 census->n_unreadable);
        return 0;
}

/*
 * After the cut: did it take? What was pinned after it is no matter, since to pin a page for writing is to fault on it.
 * So the look for pins comes now, and misses none that was there at the cut and is still there.
 */
static int snapshot_check_cut(struct snapshot *snapshot) {
        char text[PINS_TEXT_MAX];

        /* Where it is asynchronous every page is looked at in each round. */
        if (snapshot->tracking != TRACKING_ASYNC &&
            armcheck_run(snapshot->spec.thread, &snapshot->run, false, &snapshot->armcheck, &snapshot->error) < 0)
                return -1;
        for (unsigned i = 0; i < snapshot->census.n_pids; i++)
                pins_look_at(snapshot->census.pids[i], &snapshot->pins);
        if (!snapshot->spec.strict || snapshot->pins.n_processes == 0)
                return 0;
        pins_explain(&snapshot->pins, text);
        return error_set(&snapshot->error, ERROR_UNTRACKED_WRITER,
                         "%s; the snapshot is to be strict: take one that is not strict", text);
}

static int snapshot_check_size(struct snapshot *snapshot, uint64_t total_bytes) {
        uint64_t memory_bytes = (uint64_t) sysconf(_SC_PHYS_PAGES) * (uint64_t) sysconf(_SC_PAGESIZE);

        if (snapshot->domain->uid == 0 || total_bytes / SNAPSHOT_USER_MEMORIES_MAX <= memory_bytes)
                return 0;
        return error_set(&snapshot->error, ERROR_LIMIT_EXCEEDED,
                         "the regions of domain %s are of %llu GiB, more than %d times the memory of this machine, "
                         "which only root's may be",
                         snapshot->domain->name, (unsigned long long) (total_bytes >> 30), SNAPSHOT_USER_MEMORIES_MAX);
}

static int snapshot_prepare(struct snapshot *snapshot) {
        const char *untracked = snapshot->domain->untracked;
        struct region *region;
        uint64_t total = 0;

        if (untracked)
                return error_set(&snapshot->error, ERROR_UNTRACKED_WRITER,
                                 "domain %s may be written untracked, since %s: detach it and attach it again",
                                 snapshot->domain->name, untracked);
        if (TAILQ_EMPTY(&snapshot->domain->regions))
                return error_set(&snapshot->error, ERROR_NO_SUCH_REGION, "domain %s has no regions",
                                 snapshot->domain->name);
        TAILQ_FOREACH (region, &snapshot->domain->regions, link) {
                if (region_refresh(region, &snapshot->error) < 0)
                        return -1;
                total += region->bytes;
        }
        if (snapshot_check_size(snapshot, total) < 0)
                return -1;
        atomic_store(&snapshot->bytes_total, total);
        if (!pool_share_init(&snapshot->share, snapshot->spec.pool))
                return error_set(&snapshot->error, ERROR_LIMIT_EXCEEDED,
                                 "too many snapshots are being taken at once for the size of the pool: wait, or use a "
                                 "larger --pool-size");
        if (snapshot_choose_parent(snapshot) < 0 || snapshot_open_writer(snapshot) < 0 ||
            snapshot_take_census(snapshot, CENSUS_ADOPT) < 0)
                return -1;
        return snapshot_prepare_capture(snapshot);
}

/* Was content removed from this region before it was saved? */
static int snapshot_check_region(struct snapshot *snapshot, struct region *region) {
        struct capture_region *captured = &snapshot->run.capture.regions[region->index];
        bool modified, shrunk;
        uint64_t doubtful = 0, first = 0;

        if (region->guarantee == GUARANTEE_SEALED)
                return 0;
        modified = removal_watch_modified(snapshot->run.removal, region);
        shrunk = removal_watch_shrunk(snapshot->run.removal, region);
        for (uint64_t i = 0; i < captured->n_chunks; i++) {
                const struct capture_chunk *chunk = &captured->chunks[i];

                if (!chunk->suspect || !(modified || shrunk || chunk->removed))
                        continue;
                if (doubtful++ == 0)
                        first = i;
        }
        /* Holes are what the owner allowed; a change that made none may have been a write. */
        if (region->discard_zero && (doubtful || !modified)) {
                snapshot->chunks_discarded += doubtful;
                snapshot->modified |= modified;
                return 0;
        }
        if (doubtful)
                return error_set(
                        &snapshot->error, ERROR_CONTENT_LOST,
                        "content was removed from region %s (near offset %#llx) before it could be saved, by a "
                        "hole punched or a truncation: try again, or attach with --discard zero if what is "
                        "removed was free at the time of the snapshot",
                        region->name, (unsigned long long) first * CHUNK_BYTES);
        if (modified)
                return error_set(
                        &snapshot->error, ERROR_CONTENT_LOST,
                        "region %s was written or punched through a descriptor while it was being saved, which "
                        "cannot be tracked: try again, or have the program write through its mapping",
                        region->name);
        return 0;
}

static int snapshot_check_content(struct snapshot *snapshot) {
        struct region *region;

        TAILQ_FOREACH (region, &snapshot->domain->regions, link)
                if (snapshot_check_region(snapshot, region) < 0)
                        return -1;
        return 0;
}

static json_t *snapshot_make_warnings(const struct snapshot *snapshot) {
        json_t *warnings = json_array();
        char text[PINS_TEXT_MAX];

        if (snapshot->census.n_unreadable)
                json_array_append_new(warnings, json_sprintf("%u process%s could not be looked into for writers that "
                                                             "are not tracked",
                                                             snapshot->census.n_unreadable,
                                                             snapshot->census.n_unreadable == 1 ? "" : "es"));
        if (snapshot->census.n_foreign)
                json_array_append_new(warnings,
                                      json_sprintf("process %d, which is not tracked, has a region open for "
                                                   "writing (%u descriptors in all)",
                                                   (int) snapshot->census.foreign_pid, snapshot->census.n_foreign));
        if (snapshot->pins.n_processes) {
                pins_explain(&snapshot->pins, text);
                json_array_append_new(warnings, json_string(text));
        }
        if (snapshot->armcheck.n_unreadable)
                json_array_append_new(warnings, json_sprintf("of %u processes it could not be verified that their "
                                                             "memory was protected",
                                                             snapshot->armcheck.n_unreadable));
        if (snapshot->n_workers)
                json_array_append_new(warnings,
                                      json_sprintf("%u threads that work for the programs in the kernel (io_uring, "
                                                   "vhost) could not be stopped with them: if they wrote to a region "
                                                   "in that moment, the image is not of one instant",
                                                   snapshot->n_workers));
        if (snapshot->pause_was_forced)
                json_array_append_new(warnings,
                                      json_sprintf("the programs wrote faster than it could be saved, and were "
                                                   "stopped for longer than --max-pause, as was asked for"));
        if (snapshot->chunks_discarded)
                json_array_append_new(warnings,
                                      json_sprintf("content of %llu chunks was removed before it was saved and "
                                                   "counts as zero",
                                                   (unsigned long long) snapshot->chunks_discarded));
        if (snapshot->modified)
                json_array_append_new(warnings,
                                      json_string("a region was changed through a descriptor in the course of the "
                                                  "snapshot; if that was a write, the image is not of one instant"));
        return warnings;
}

static double snapshot_quantile_us(const struct snapshot *snapshot, double q) {
        return (double) histogram_quantile(&snapshot->run.faults, q) / (double) NSEC_PER_USEC;
}

/*
 * The weakest of all regions; of an increment, of all that it builds on too. Between two snapshots nobody looks who
 * opens or maps a file, so there is no more to be said of one that is not sealed.
 */
static enum guarantee snapshot_find_guarantee(const struct snapshot *snapshot) {
        enum guarantee guarantee =
                snapshot->pins.n_processes || snapshot->n_workers ? GUARANTEE_ADVISORY : GUARANTEE_SEALED;
        const struct region *region;

        TAILQ_FOREACH (region, &snapshot->domain->regions, link) {
                if (region->guarantee < guarantee)
                        guarantee = region->guarantee;
                if ((snapshot->modified && region->discard_zero) ||
                    (snapshot->run.increment && region->kind == REGION_TMPFS && region->guarantee != GUARANTEE_SEALED))
                        guarantee = GUARANTEE_ADVISORY;
        }
        if (snapshot->run.increment && snapshot->parent.guarantee < guarantee)
                guarantee = snapshot->parent.guarantee;
        return guarantee;
}

static void snapshot_add_tracking(const struct snapshot *snapshot, json_t *figures) {
        json_object_set_new(figures, "tracking", json_string(tracking_mode_name(snapshot->tracking)));
        if (snapshot->tracking == TRACKING_ASYNC) {
                json_object_set_new(figures, "created", json_real(snapshot->cut_time));
                json_object_set_new(figures, "rounds", json_integer(snapshot->n_rounds));
                json_object_set_new(figures, "pause_us",
                                    json_integer((json_int_t) (snapshot->run.hold_ns / NSEC_PER_USEC)));
                json_object_set_new(figures, "pages_paused", json_integer((json_int_t) snapshot->pages_paused));
        }
        if (snapshot->run.increment)
                json_object_set_new(figures, "pages_dirty", json_integer((json_int_t) snapshot->pages_dirty));
        if (snapshot->full_reason[0])
                json_object_set_new(figures, "full_reason", json_string(snapshot->full_reason));
}

static json_t *snapshot_make_figures(struct snapshot *snapshot) {
        const struct run *run = &snapshot->run;
        json_t *regions = json_array(), *figures;
        struct region *region;

        snapshot->guarantee = snapshot_find_guarantee(snapshot);
        TAILQ_FOREACH (region, &snapshot->domain->regions, link) {
                json_array_append_new(regions, json_pack("{s:i}", "mappings",
                                                         (int) domain_count(snapshot->domain, region).n_mappings));
        }
        figures = json_pack(
                "{s:s, s:o, s:I, s:I, s:I, s:I, s:{s:f, s:f, s:f, s:f}, s:I, s:I, s:o}", "guarantee",
                guarantee_name(snapshot->guarantee), "regions", regions, "arm_us",
                (json_int_t) (run->arm_ns / NSEC_PER_USEC), "hold_us", (json_int_t) (run->hold_ns / NSEC_PER_USEC),
                "pages_fault", (json_int_t) run->pages_fault, "pages_sweep", (json_int_t) run->pages_read, "fault_us",
                "p50", snapshot_quantile_us(snapshot, 0.5), "p99", snapshot_quantile_us(snapshot, 0.99), "p999",
                snapshot_quantile_us(snapshot, 0.999), "max", (double) run->faults.max_ns / (double) NSEC_PER_USEC,
                "throttled_us", (json_int_t) (run->throttled_ns / NSEC_PER_USEC), "pool_peak_bytes",
                (json_int_t) run->slots_used_peak * POOL_SLOT_BYTES, "warnings", snapshot_make_warnings(snapshot));
        if (figures)
                snapshot_add_tracking(snapshot, figures);
        return figures;
}

static void snapshot_count_dirty(struct snapshot *snapshot) {
        const struct region *region;
        uint64_t bytes = 0;

        if (!snapshot->run.increment)
                return;
        TAILQ_FOREACH (region, &snapshot->domain->regions, link) {
                uint64_t pages = tracking_count_frozen(region->tracking);

                snapshot->pages_dirty += pages;
                bytes += pages * region->page_bytes;
        }
        atomic_store(&snapshot->bytes_total, bytes);
}

static struct sweep snapshot_make_sweep(struct snapshot *snapshot) {
        return (struct sweep){
                .domain = snapshot->domain,
                .run = &snapshot->run,
                .share = &snapshot->share,
                .writer = snapshot->writer,
                .only_wanted = snapshot->run.increment,
                .keep_armed = snapshot->tracking != TRACKING_OFF,
                .progress = snapshot_on_progress,
                .data = snapshot,
        };
}

static int snapshot_drain(struct snapshot *snapshot) {
        struct sweep sweep = snapshot_make_sweep(snapshot);
        bool complete;

        snapshot_set_state(snapshot, SNAPSHOT_DRAINING);
        snapshot_count_dirty(snapshot);
        complete = sweep_run(&sweep);
        /* From here on no client waits for this snapshot, however long the disk takes. */
        fault_end(snapshot->spec.thread, !complete);
        return complete ? 0 : -1;
}

/* Make a cut at which nobody is stopped, and save what was there. */
static int snapshot_capture(struct snapshot *snapshot) {
        if (fault_begin(snapshot->spec.thread, &snapshot->run, &snapshot->error) < 0) {
                (void) snapshot_explain_stop(snapshot);
                return -1;
        }
        if (snapshot_check_cut(snapshot) < 0) {
                fault_end(snapshot->spec.thread, true);
                return -1;
        }
        if (snapshot_drain(snapshot) < 0) {
                if (snapshot_explain_stop(snapshot) == 0)
                        (void) image_writer_flush(snapshot->writer, &snapshot->error);
                return -1;
        }
        if (snapshot_explain_stop(snapshot) < 0 || snapshot_take_census(snapshot, CENSUS_CHECK) < 0)
                return -1;
        return snapshot_check_content(snapshot);
}

static void snapshot_on_expect(void *data, uint64_t bytes) {
        struct snapshot *snapshot = data;
        uint64_t total = atomic_load(&snapshot->bytes_done) + bytes;

        if (total > atomic_load(&snapshot->bytes_total) || snapshot->run.increment)
                atomic_store(&snapshot->bytes_total, total);
}

/* Save what is there while it changes, and make the cut at the end. */
static int snapshot_capture_in_rounds(struct snapshot *snapshot) {
        struct sweep sweep = snapshot_make_sweep(snapshot);
        struct rounds rounds = {
                .thread = snapshot->spec.thread,
                .sweep = &sweep,
                .quiesce = snapshot->spec.quiesce,
                .guardian = snapshot->spec.guardian,
                .max_pause_ns = snapshot->spec.max_pause_ns,
                .pause_anyway = snapshot->spec.pause_anyway,
                .expect = snapshot_on_expect,
                .data = snapshot,
        };
        int r;

        snapshot_set_state(snapshot, SNAPSHOT_DRAINING);
        r = rounds_run(&rounds, &snapshot->error);
        if (r < 0 && snapshot->error.kind == ERROR_NONE && snapshot_explain_stop(snapshot) == 0)
                (void) image_writer_flush(snapshot->writer, &snapshot->error);
        if (r < 0 || snapshot_explain_stop(snapshot) < 0 || snapshot_check_cut(snapshot) < 0)
                return -1;
        snapshot->run.hold_ns = rounds.pause_ns;
        snapshot->run.pages_read += snapshot->run.pages_fault; /* copied in the pause, not by a fault */
        snapshot->run.pages_fault = 0;
        snapshot->n_rounds = rounds.n_rounds;
        snapshot->cut_time = rounds.cut_time;
        snapshot->pages_paused = rounds.pages_paused;
        snapshot->pause_was_forced = rounds.forced;
        snapshot->n_workers = rounds.n_workers;
        snapshot_count_dirty(snapshot);
        return snapshot_take_census(snapshot, CENSUS_CHECK);
}

static int snapshot_take(struct snapshot *snapshot) {
        json_t *figures;
        int r;

        if (snapshot_prepare(snapshot) < 0)
                return -1;
        r = snapshot->tracking == TRACKING_ASYNC ? snapshot_capture_in_rounds(snapshot) : snapshot_capture(snapshot);
        if (r < 0)
                return -1;
        snapshot_set_state(snapshot, SNAPSHOT_PUBLISHING);
        /* The disk may take long for what it has, and the snapshot may be cancelled meanwhile. */
        while (run_goes_on(&snapshot->run) && !image_writer_settle(snapshot->writer, SNAPSHOT_LOOK_MS))
                ;
        if (snapshot_explain_stop(snapshot) < 0 || image_writer_flush(snapshot->writer, &snapshot->error) < 0)
                return -1;
        figures = snapshot_make_figures(snapshot);
        if (!figures)
                return error_set(&snapshot->error, ERROR_INTERNAL, "out of memory");
        r = image_writer_publish(snapshot->writer, figures, snapshot->started_ns, &snapshot->result, &snapshot->error);
        json_decref(figures);
        return r;
}

/* On the fault thread: from here on changes are counted since this snapshot, or go on being counted as before. */
static int snapshot_on_over(struct fault_thread *thread, void *data) {
        struct snapshot *snapshot = data;
        struct changes_parent parent = { .guarantee = snapshot->guarantee };

        if (!snapshot->result) {
                fault_give_up(thread);
                return 0;
        }
        snprintf(parent.name, sizeof(parent.name), "%s", image_writer_name(snapshot->writer));
        image_writer_get_uuid(snapshot->writer, parent.uuid);
        changes_commit(thread, &snapshot->run, &parent);
        return 0;
}

static void *snapshot_main(void *data) {
        struct snapshot *snapshot = data;

        pthread_setname_np(pthread_self(), "snapshot");
        (void) snapshot_take(snapshot);
        if (snapshot->tracking != TRACKING_OFF)
                fault_call(snapshot->spec.thread, snapshot_on_over, snapshot);
        image_writer_free(snapshot->writer);
        pool_share_deinit(&snapshot->share);
        capture_deinit(&snapshot->run.capture);
        removal_watch_free(snapshot->run.removal);
        census_deinit(&snapshot->census);
        snapshot_set_state(snapshot, SNAPSHOT_ENDED);
        snapshot->spec.ended(snapshot->spec.data);
        return NULL;
}

static void snapshot_free(struct snapshot *snapshot) {
        json_decref(snapshot->result);
        free((char *) snapshot->spec.name);
        free((char *) snapshot->spec.parent);
        free(snapshot);
}

int snapshot_start(const struct snapshot_spec *spec, struct snapshot **ret, struct error *error) {
        struct snapshot *snapshot = calloc(1, sizeof(*snapshot));

        if (!snapshot)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        snapshot->started_ns = clock_now_ns();
        snapshot->spec = *spec;
        snapshot->spec.name = spec->name ? strdup(spec->name) : NULL;
        snapshot->spec.parent = spec->parent ? strdup(spec->parent) : NULL;
        snapshot->domain = spec->thread->domain;
        snapshot->run.policy = spec->policy;
        snapshot->run.max_hold_ns = spec->max_hold_ns;
        if ((spec->name && !snapshot->spec.name) || (spec->parent && !snapshot->spec.parent) ||
            pthread_create(&snapshot->thread, NULL, snapshot_main, snapshot) != 0) {
                snapshot_free(snapshot);
                return error_set(error, ERROR_INTERNAL, "cannot start a thread for the snapshot");
        }
        *ret = snapshot;
        return 0;
}

void snapshot_cancel(struct snapshot *snapshot) {
        run_stop(&snapshot->run, RUN_CANCELLED, 0);
}

struct snapshot_progress snapshot_get_progress(const struct snapshot *snapshot) {
        return (struct snapshot_progress){
                .state = (enum snapshot_state) atomic_load(&snapshot->state),
                .bytes_done = atomic_load_explicit(&snapshot->bytes_done, memory_order_relaxed),
                .bytes_total = atomic_load_explicit(&snapshot->bytes_total, memory_order_relaxed),
        };
}

int snapshot_finish(struct snapshot *snapshot, json_t **ret, struct error *error) {
        int r = -1;

        pthread_join(snapshot->thread, NULL);
        if (snapshot->result) {
                *ret = STEAL_PTR(snapshot->result);
                r = 0;
        } else {
                error_set(error, snapshot->error.kind ? snapshot->error.kind : ERROR_INTERNAL, "%s",
                          snapshot->error.kind ? snapshot->error.message : "The snapshot ended without a result.");
        }
        snapshot_free(snapshot);
        return r;
}
