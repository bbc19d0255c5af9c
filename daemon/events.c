/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/events.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/uffd.h"
#include "daemon/clock.h"

/* Tracking is lost, or may be: say so, and end a snapshot that relies on it. */
static void event_lose(struct fault_thread *thread, const char *why, enum run_stop reason) {
        thread->domain->untracked = why;
        if (thread->run)
                run_stop(thread->run, reason, 0);
}

/*
 * What the parent maps with MADV_DONTFORK the child has not. A range of which nothing is mapped cannot be registered;
 * the rest is registered already, and doing it again changes nothing. The child does not run before its event is read,
 * so nothing else can be mapped there.
 */
static int event_forget_not_forked(struct context *child) {
        uint64_t address = 0;
        const struct mapping *next;
        int r = 0;

        while (r == 0 && (next = context_next(child, address))) {
                struct mapping m = *next;

                address = m.address + m.length;
                if (uffd_register_wp(child->uffd, m.address, m.length) == -EINVAL)
                        r = context_remove(child, m.address, m.length);
        }
        return r;
}

static void event_on_fork(struct fault_thread *thread, const struct context *parent, int uffd) {
        struct context *child;
        int r;

        /* The kernel gives the child the flags that its parent was made with, not those that we have set since. */
        (void) fcntl(uffd, F_SETFL, O_NONBLOCK);
        (void) fcntl(uffd, F_SETFD, FD_CLOEXEC);
        if (context_new(uffd, parent->async, 0, &child) < 0) {
                close(uffd);
                event_lose(thread, "there was no memory to track a forked process", RUN_NO_MEMORY);
                return;
        }
        r = context_copy_mappings(child, parent);
        if (r == 0)
                r = event_forget_not_forked(child);
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
 * Where changes are tracked, what can be written unseen from now until the next census counts as written: what was left
 * behind at the old place, or all that a second mapping could be of.
 */
static void event_note_left_behind(const struct context *context, uint64_t from, uint64_t length) {
        for (unsigned i = 0; i < context->n_mappings; i++) {
                const struct mapping *m = &context->mappings[i];
                bool is_here = m->address < from + (length ? length : 1) && from < m->address + m->length;

                if (is_here && m->region->tracking)
                        tracking_mark_range(m->region->tracking, m->offset, m->region->bytes - m->offset);
        }
}

/*
 * The event does not tell a plain move from MREMAP_DONTUNMAP, which leaves the old place writable and unarmed, nor how
 * far the mapping grew; with an old size of zero a second, unarmed mapping was made and the length is 0. Registration
 * and protection of what was moved have moved with it. What became of the rest is looked up by the census before the
 * next cut; a snapshot that is being taken ends.
 */
static void event_on_remap(struct fault_thread *thread, struct context *context, uint64_t from, uint64_t to,
                           uint64_t length) {
        int r;

        event_note_left_behind(context, from, length);
        pthread_mutex_lock(&thread->domain->lock);
        r = length ? context_move(context, from, to, length) : 0;
        pthread_mutex_unlock(&thread->domain->lock);
        if (r < 0)
                event_lose(thread, "a process moved a mapping in a way that cannot be followed", RUN_REMAPPED);
        if (thread->run)
                run_stop(thread->run, RUN_REMAPPED, 0);
}

static void event_on_remove(struct fault_thread *thread, const struct context *context, uint64_t start, uint64_t end) {
        for (unsigned i = 0; i < context->n_mappings; i++) {
                const struct mapping *m = &context->mappings[i];
                uint64_t low = m->address > start ? m->address : start;
                uint64_t high = m->address + m->length < end ? m->address + m->length : end;

                if (low >= high)
                        continue;
                if (thread->run)
                        capture_mark_removed(&thread->run->capture, m->region->index, low - m->address + m->offset,
                                             high - low);
                /* A page that was punched and then read is data again, and no longer seen to be gone. */
                if (m->region->tracking && m->region->guarantee != GUARANTEE_SEALED)
                        tracking_mark_removed(m->region->tracking, low - m->address + m->offset, high - low,
                                              clock_now_ns());
        }
}

/* What is unmapped may be a part that a mapping has grown by, which nothing told of. */
static void event_note_grown(const struct context *context, uint64_t start, uint64_t end) {
        for (unsigned i = 0; i < context->n_mappings; i++) {
                uint64_t m_end = context->mappings[i].address + context->mappings[i].length;

                if (m_end >= start && m_end < end)
                        changes_note_grown(&context->mappings[i]);
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
                event_note_grown(context, message->arg.remove.start, message->arg.remove.end);
                changes_lose_unmapped(context, message->arg.remove.start, message->arg.remove.end);
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
