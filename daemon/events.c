/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/events.h"

#include <unistd.h>

#include "common/proc_maps.h"
#include "common/uffd.h"

/* Tracking is lost, or may be: say so, and end a snapshot that relies on it. */
static void event_lose(struct fault_thread *thread, const char *why, enum run_stop reason) {
        thread->domain->untracked = why;
        if (thread->run)
                run_stop(thread->run, reason, 0);
}

static void event_on_fork(struct fault_thread *thread, const struct context *parent, int uffd) {
        struct context *child;
        int r;

        if (context_new(uffd, 0, &child) < 0) {
                close(uffd);
                event_lose(thread, "there was no memory to track a forked process", RUN_NO_MEMORY);
                return;
        }
        r = context_copy_mappings(child, parent);
        if (r == 0)
                r = fault_watch(thread, child);
        if (r == 0)
                r = domain_add_context(thread->domain, child);
        if (r < 0) {
                context_unref(child);
                event_lose(thread, "there are too many forked processes to track them all", RUN_UNTRACKED);
                return;
        }
        child->fresh = true;
        thread->new_contexts = true;
}

/*
 * The event does not tell a plain move from MREMAP_DONTUNMAP, which leaves the old place writable and unarmed, nor how
 * far the mapping grew; with an old size of zero a second, unarmed mapping was made and the length is 0. Registration
 * and protection of what was moved have moved with it. What became of the rest is looked up: by the census before the
 * next cut, and in the course of a snapshot by event_settle_remaps().
 */
static void event_on_remap(struct fault_thread *thread, struct context *context, uint64_t from, uint64_t to,
                           uint64_t length) {
        int r;

        pthread_mutex_lock(&thread->domain->lock);
        r = length ? context_move(context, from, to, length) : 0;
        context->remapped = true;
        pthread_mutex_unlock(&thread->domain->lock);
        if (r < 0)
                event_lose(thread, "a process moved a mapping in a way that cannot be followed", RUN_REMAPPED);
        context->fresh = true;
        thread->new_contexts = true;
        thread->remaps_unsettled = true;
}

static bool event_is_settled(struct fault_thread *thread, const struct context *context) {
        struct proc_maps maps = { 0 };
        bool settled;

        /* A forked child's pid is not known here. */
        if (context->pid == 0 || proc_maps_read(context->pid, PROC_MAPS_SHARED, &maps) < 0)
                return !uffd_owner_is_alive(context->uffd);
        settled = true;
        for (size_t i = 0; i < maps.n_items && settled; i++) {
                const struct proc_map *map = &maps.items[i];
                const struct region *region = domain_find_region(thread->domain, map->dev, map->inode);

                settled = !region || context_maps(context->mappings, context->n_mappings, region, map->start, map->end,
                                                  map->offset);
        }
        proc_maps_deinit(&maps);
        return settled;
}

bool event_settle_remaps(struct fault_thread *thread) {
        bool all = true;

        for (unsigned i = 0; i < thread->domain->n_contexts; i++) {
                struct context *context = thread->domain->contexts[i];

                if (!context->remapped)
                        continue;
                context->remapped = !event_is_settled(thread, context);
                all &= !context->remapped;
        }
        thread->remaps_unsettled = !all;
        return all;
}

static void event_on_remove(struct fault_thread *thread, const struct context *context, uint64_t start, uint64_t end) {
        if (!thread->run)
                return;
        for (unsigned i = 0; i < context->n_mappings; i++) {
                const struct mapping *m = &context->mappings[i];
                uint64_t low = m->address > start ? m->address : start;
                uint64_t high = m->address + m->length < end ? m->address + m->length : end;

                if (low < high)
                        capture_mark_removed(&thread->run->capture, m->region->index, low - m->address + m->offset,
                                             high - low);
        }
}

void event_handle(struct fault_thread *thread, struct context *context, const struct uffd_msg *message) {
        int r;

        switch (message->event) {
        case UFFD_EVENT_FORK:
                event_on_fork(thread, context, (int) message->arg.fork.ufd);
                break;
        case UFFD_EVENT_REMAP:
                event_on_remap(thread, context, message->arg.remap.from, message->arg.remap.to, message->arg.remap.len);
                break;
        case UFFD_EVENT_REMOVE:
                event_on_remove(thread, context, message->arg.remove.start, message->arg.remove.end);
                break;
        case UFFD_EVENT_UNMAP:
                pthread_mutex_lock(&thread->domain->lock);
                r = context_remove(context, message->arg.remove.start,
                                   message->arg.remove.end - message->arg.remove.start);
                pthread_mutex_unlock(&thread->domain->lock);
                if (r < 0)
                        event_lose(thread, "there was no memory to note an unmap", RUN_NO_MEMORY);
                break;
        default:
                break;
        }
}
