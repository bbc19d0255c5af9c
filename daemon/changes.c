/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/changes.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "daemon/clock.h"
#include "daemon/fault.h"
#include "daemon/removal.h"

#define WHY_OFF "the domain does not track changes"
#define WHY_NEW "no snapshot was taken since tracking began"

void changes_init(struct changes *changes) {
        *changes = (struct changes){ .why_full = WHY_OFF };
}

void changes_deinit(struct changes *changes) {
        removal_watch_free(changes->watch);
        changes->watch = NULL;
}

static void changes_forget(struct fault_thread *thread, const char *why) {
        struct changes *changes = &thread->changes;

        pthread_mutex_lock(&thread->domain->lock);
        changes->has_parent = false;
        changes->why_full = why;
        pthread_mutex_unlock(&thread->domain->lock);
        changes_deinit(changes);
}

/* A domain of which a part is tracked in one way and the rest in another would be neither. */
static int changes_check_way(const struct fault_thread *thread, bool async, struct error *error) {
        const struct domain *domain = thread->domain;

        for (unsigned i = 0; i < domain->n_contexts; i++) {
                const struct context *context = domain->contexts[i];

                if (context->async != async && context->spare < 0)
                        return error_set(error, ERROR_BAD_REQUEST,
                                         context->pid
                                                 ? "process %d of domain %s has no second userfaultfd, which "
                                                   "another way of tracking needs: detach the domain, and choose "
                                                   "the way when it is attached (--tracking)"
                                                 : "a process (%d: not known yet) of domain %s was forked after the "
                                                   "domain was attached and can be tracked in one way only: detach "
                                                   "the domain, and choose the way when it is attached "
                                                   "(--tracking)",
                                         (int) context->pid, domain->name);
        }
        return 0;
}

static void changes_set_way(struct fault_thread *thread, bool async) {
        for (unsigned i = 0; i < thread->domain->n_contexts; i++)
                if (thread->domain->contexts[i]->async != async)
                        (void) fault_change_over(thread, thread->domain->contexts[i]);
}

int changes_set_mode(struct fault_thread *thread, enum tracking_mode mode, struct error *error) {
        bool async = mode == TRACKING_ASYNC;
        struct region *region;

        if (thread->changes.mode == mode)
                return 0;
        fault_drain(thread);
        fault_reap(thread);
        if (changes_check_way(thread, async, error) < 0)
                return -1;
        fault_disarm_all(thread);
        changes_set_way(thread, async);
        changes_note_armed(thread, false);
        changes_forget(thread, mode == TRACKING_OFF ? WHY_OFF : WHY_NEW);
        pthread_mutex_lock(&thread->domain->lock);
        thread->changes.mode = mode;
        pthread_mutex_unlock(&thread->domain->lock);
        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                tracking_free(region->tracking);
                region->tracking = NULL;
        }
        if (mode == TRACKING_OFF || changes_fit(thread) == 0)
                return 0;
        (void) changes_set_mode(thread, TRACKING_OFF, NULL);
        return error_set(error, ERROR_INTERNAL, "out of memory for the tracking of changes");
}

int changes_fit(struct fault_thread *thread) {
        struct region *region;

        if (thread->changes.mode == TRACKING_OFF)
                return 0;
        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                struct tracking *tracking = region->tracking;

                if (tracking && tracking->n_pages == (region->bytes + region->page_bytes - 1) / region->page_bytes)
                        continue;
                if (tracking)
                        changes_lose_parent(thread, "a region changed its size");
                tracking_free(tracking);
                region->tracking = NULL;
                if (tracking_new(region->bytes, region->page_bytes, &region->tracking) < 0)
                        return -ENOMEM;
        }
        return 0;
}

void changes_lose_mapping(struct mapping *mapping) {
        mapping->unarmed = true;
        if (mapping->region->tracking)
                tracking_mark_range(mapping->region->tracking, mapping->offset, mapping->length);
}

void changes_note_grown(const struct mapping *mapping) {
        uint64_t end = mapping->offset + mapping->length, bytes = mapping->region->bytes;

        if (mapping->region->tracking && end < bytes)
                tracking_mark_range(mapping->region->tracking, end, bytes - end);
}

static void changes_note_written(const struct mapping *mapping, uint64_t start, uint64_t end) {
        if (mapping->region->tracking && start < end)
                tracking_mark_range(mapping->region->tracking, start - mapping->address + mapping->offset, end - start);
}

void changes_lose_unmapped(const struct context *context, uint64_t start, uint64_t end) {
        /* Of others each first write came to us. */
        for (unsigned i = 0; context->async && i < context->n_mappings; i++) {
                const struct mapping *m = &context->mappings[i];

                changes_note_written(m, m->address > start ? m->address : start,
                                     m->address + m->length < end ? m->address + m->length : end);
        }
}

void changes_lose_context(const struct context *context) {
        for (unsigned i = 0; i < context->n_mappings; i++)
                changes_note_grown(&context->mappings[i]);
        changes_lose_unmapped(context, 0, UINT64_MAX);
}

void changes_note_armed(struct fault_thread *thread, bool armed) {
        struct domain *domain = thread->domain;

        pthread_mutex_lock(&domain->lock);
        for (unsigned i = 0; i < domain->n_contexts; i++)
                for (unsigned j = 0; j < domain->contexts[i]->n_mappings; j++)
                        domain->contexts[i]->mappings[j].unarmed = !armed;
        pthread_mutex_unlock(&domain->lock);
}

void changes_lose_parent(struct fault_thread *thread, const char *why) {
        struct region *region;

        if (thread->changes.mode == TRACKING_OFF)
                return;
        if (thread->changes.has_parent)
                changes_forget(thread, why);
        changes_note_armed(thread, false);
        TAILQ_FOREACH (region, &thread->domain->regions, link)
                if (region->tracking)
                        tracking_mark_all(region->tracking);
}

bool changes_keep_armed(const struct changes *changes) {
        return changes->mode != TRACKING_OFF && changes->has_parent;
}

void changes_freeze(struct fault_thread *thread, struct run *run) {
        struct region *region;

        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                if (!region->tracking)
                        continue;
                tracking_freeze(region->tracking, clock_now_ns());
                if (run->increment)
                        run->capture.regions[region->index].wanted = region->tracking->frozen;
        }
}

static bool changes_freeze_all(struct tracking *tracking) {
        bool more = false;

        for (uint64_t page = 0; page < tracking->n_pages; page++)
                if (!tracking_is_frozen(tracking, page)) {
                        tracking_freeze_more(tracking, page);
                        more = true;
                }
        return more;
}

static bool changes_freeze_holes(struct tracking *tracking, const uint64_t *data_at_cut) {
        bool more = false;

        for (uint64_t i = 0; i < tracking->n_pages / 64 + 1; i++) {
                uint64_t vanished = tracking->data[i] & ~data_at_cut[i] & ~tracking->frozen[i];

                for (; vanished; vanished &= vanished - 1, more = true)
                        tracking_freeze_more(tracking, i * 64 + (uint64_t) __builtin_ctzll(vanished));
        }
        return more;
}

bool changes_freeze_vanished(struct fault_thread *thread, struct run *run) {
        struct removal_watch *watch = thread->changes.watch;
        struct region *region;
        bool more = false;

        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                const uint64_t *data_at_cut = run->capture.regions[region->index].data_at_cut;

                if (!data_at_cut && !region->tracking->has_data)
                        continue; /* sealed, and was so at the parent's cut */
                /* A hole that was punched and then read is data again, so not only holes tell of a punch. */
                if (!watch || !data_at_cut || !region->tracking->has_data || removal_watch_modified(watch, region) ||
                    removal_watch_shrunk(watch, region))
                        more |= changes_freeze_all(region->tracking);
                else
                        more |= changes_freeze_holes(region->tracking, data_at_cut);
        }
        return more;
}

void changes_begin_rounds(struct fault_thread *thread, struct run *run) {
        struct removal_watch *watch = thread->changes.watch;
        struct region *region;

        /* The new watch starts before the old one is asked, so that no change falls between them. */
        removal_watch_start(run->removal, thread->domain);
        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                bool has_map = run->capture.regions[region->index].data_at_cut;

                if (!thread->changes.has_parent)
                        continue; /* all of it counts as written already */
                /* A sealed region has no map: what was punched before the seal cannot be told. */
                if (has_map != region->tracking->has_data ||
                    (has_map &&
                     (!watch || removal_watch_modified(watch, region) || removal_watch_shrunk(watch, region))))
                        tracking_mark_all(region->tracking);
                if (!has_map)
                        tracking_keep_data(region->tracking, NULL);
        }
}

void changes_note_removed(struct fault_thread *thread, struct run *run) {
        struct region *region;

        removal_watch_start(run->removal, thread->domain);
        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                const uint64_t *data = run->capture.regions[region->index].data_at_cut;

                if (!data)
                        continue;
                if (removal_watch_changed_before(run->removal, region))
                        tracking_mark_all(region->tracking);
                tracking_note_holes(region->tracking, data);
        }
}

void changes_freeze_round(struct fault_thread *thread, struct run *run) {
        struct region *region;

        TAILQ_FOREACH (region, &thread->domain->regions, link) {
                tracking_freeze_round(region->tracking, clock_now_ns());
                run->capture.regions[region->index].wanted = region->tracking->round;
        }
}

void changes_thaw_round(struct fault_thread *thread) {
        struct region *region;

        TAILQ_FOREACH (region, &thread->domain->regions, link)
                tracking_thaw_round(region->tracking);
}

uint64_t changes_count_dirty(struct fault_thread *thread) {
        struct region *region;
        uint64_t bytes = 0;

        TAILQ_FOREACH (region, &thread->domain->regions, link)
                if (region->tracking)
                        bytes += tracking_count_dirty(region->tracking) * region->page_bytes;
        return bytes;
}

void changes_commit(struct fault_thread *thread, struct run *run, const struct changes_parent *parent) {
        struct changes *changes = &thread->changes;
        struct region *region;

        TAILQ_FOREACH (region, &thread->domain->regions, link)
                if (region->tracking) {
                        tracking_commit(region->tracking);
                        tracking_keep_data(region->tracking, run->capture.regions[region->index].data_at_cut);
                }
        changes_deinit(changes);
        changes->watch = STEAL_PTR(run->removal);
        pthread_mutex_lock(&thread->domain->lock);
        changes->parent = *parent;
        changes->has_parent = true;
        changes->why_full = NULL;
        pthread_mutex_unlock(&thread->domain->lock);
}

void changes_restore(struct fault_thread *thread) {
        struct region *region;

        TAILQ_FOREACH (region, &thread->domain->regions, link)
                if (region->tracking)
                        tracking_restore(region->tracking);
}

bool changes_get_parent(struct fault_thread *thread, struct changes_parent *ret, const char **ret_why) {
        bool has_parent;

        pthread_mutex_lock(&thread->domain->lock);
        has_parent = thread->changes.has_parent;
        *ret = thread->changes.parent;
        *ret_why = thread->changes.why_full;
        pthread_mutex_unlock(&thread->domain->lock);
        return has_parent;
}

enum tracking_mode changes_get_mode(struct fault_thread *thread) {
        enum tracking_mode mode;

        pthread_mutex_lock(&thread->domain->lock);
        mode = thread->changes.mode;
        pthread_mutex_unlock(&thread->domain->lock);
        return mode;
}
