/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/fault.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/uffd.h"
#include "daemon/clock.h"
#include "daemon/cut.h"
#include "daemon/events.h"

#define FAULT_BATCH 64
#define FAULT_REAP_MS 1000
/* How long a refused disarm (EAGAIN) is tried again before the userfaultfd is closed instead, which always works. */
#define FAULT_STUCK_NS NSEC_PER_SEC
/* Refusals that lie further apart than this are not one. */
#define FAULT_AGAIN_NS (100 * NSEC_PER_MSEC)
#define FAULT_NICE (-15)
#define FAULT_DRAIN_READS 16
/* For how long all of a domain may be tried to be disarmed gently, before it is done by force. */
#define FAULT_GENTLE_NS (20 * NSEC_PER_MSEC)
/* Which userfaultfd of a context an epoll event is of: in the lowest bit of the context's address. */
#define FAULT_ASYNC UINT64_C(1)

struct fault_call {
        int (*function)(struct fault_thread *thread, void *data);
        void *data;
        int result;
        sem_t done;
        struct fault_call *next;
};

static void fault_note_refusal(struct context *context, uint64_t now_ns) {
        if (now_ns - context->again_ns > FAULT_AGAIN_NS)
                context->stuck_since_ns = now_ns;
        else if (now_ns - context->stuck_since_ns > FAULT_STUCK_NS)
                context->gone = true;
        context->again_ns = now_ns;
}

/*
 * While a fork or mremap of the client is under way a disarm is refused, but a wake is not: the thread tries again,
 * finds the page still armed, and we get a new message. Its content is saved by then.
 *
 * Return: was it disarmed?
 */
static bool fault_answer(struct context *context, uint64_t address, uint64_t length, uint64_t now_ns) {
        int r = uffd_disarm(context->uffd, address, length);

        if (r == 0) {
                context->again_ns = 0;
                return true;
        }
        if (r == -ESRCH)
                context->gone = true;
        if (r == -EAGAIN)
                fault_note_refusal(context, now_ns);
        (void) uffd_wake(context->uffd, address, length);
        return false;
}

/* A fault where nothing is known to be mapped: one that is left over from before an unmap, or something went past us.
 */
static void fault_answer_unknown(struct fault_thread *thread, struct context *context, uint64_t address) {
        uint64_t length = CHUNK_PAGE_BYTES;

        /* A huge page is refused in part. No more than the page itself may be disarmed: its neighbours are not saved.
         */
        if (uffd_disarm(context->uffd, address & ~(length - 1), length) == -EINVAL)
                length = CHUNK_BYTES;
        if (!fault_answer(context, address & ~(length - 1), length, clock_now_ns()))
                return;
        if (thread->run)
                run_stop(thread->run, RUN_REMAPPED, 0);
        changes_lose_parent(thread, "a process wrote to a mapping that was not known");
}

static int fault_read_region(void *data, const struct iovec *iov, int n_iov, uint64_t offset) {
        return region_read(data, iov, n_iov, offset);
}

/* Save a page. Returns false if its faults must stay unanswered until the sweep has come by. */
static bool fault_capture(struct run *run, struct region *region, uint64_t page) {
        uint32_t used;

        if (!run_goes_on(run) || !capture_wants(&run->capture.regions[region->index], page))
                return true;
        switch (capture_fault(&run->capture, region->index, page, fault_read_region, region)) {
        case CAPTURE_SAVED:
                used = pool_slots(run->capture.pool) - pool_slots_free(run->capture.pool);
                if (used > run->slots_used_peak)
                        run->slots_used_peak = used;
                return true;
        case CAPTURE_DUPLICATE:
        case CAPTURE_LATE:
                return true;
        case CAPTURE_READ_FAILED:
                run_stop(run, RUN_READ_FAILED, errno);
                return true;
        case CAPTURE_NO_SLOT:
                if (run->policy == POOL_ABORT) {
                        run_stop(run, RUN_POOL_SPENT, 0);
                        return true;
                }
                capture_park(&run->capture, region->index, page);
                return !capture_ask(&run->capture, region->index, page, clock_now_ns());
        }
        assert(false);
        return true;
}

static void fault_serve(struct fault_thread *thread, struct context *context, uint64_t fault_address,
                        uint64_t readable_ns) {
        struct mapping *mapping = context_find(context, fault_address);
        struct run *run = thread->run;
        uint64_t length, address, offset;

        if (!mapping) {
                fault_answer_unknown(thread, context, fault_address);
                return;
        }
        length = mapping->region->page_bytes;
        address = fault_address & ~(length - 1);
        offset = address - mapping->address + mapping->offset;
        if (run && offset < run->capture.regions[mapping->region->index].bytes) {
                if (thread->phase == FAULT_HOLD) {
                        capture_park(&run->capture, mapping->region->index, offset / length);
                        return;
                }
                if (thread->phase == FAULT_SERVE && !fault_capture(run, mapping->region, offset / length))
                        return;
        }
        if (mapping->region->tracking)
                tracking_mark(mapping->region->tracking, offset / length);
        (void) fault_answer(context, address, length, clock_now_ns());
        if (thread->phase == FAULT_SERVE)
                histogram_add(&run->faults, clock_now_ns() - readable_ns);
}

/*
 * A fork event comes with a descriptor. Where none is left the read fails and the client's fork would hang, so the
 * event is read with the reserve, and the child goes untracked: which is remembered.
 */
static int fault_read_with_reserve(struct fault_thread *thread, struct context *context, struct uffd_msg *messages) {
        int n;

        if (thread->reserve_fd >= 0)
                close(thread->reserve_fd);
        n = uffd_read(context->uffd, messages, FAULT_BATCH);
        for (int i = 0; i < n; i++)
                if (messages[i].event == UFFD_EVENT_FORK) {
                        close((int) messages[i].arg.fork.ufd);
                        messages[i].event = 0;
                }
        /* Another thread was quicker to take what we gave up. To close the userfaultfd lets the fork go on, too. */
        if (n == -EMFILE || n == -ENFILE)
                context->gone = true;
        thread->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        thread->domain->untracked = "a process was forked when the daemon had no descriptor left (LimitNOFILE)";
        if (thread->run)
                run_stop(thread->run, RUN_UNTRACKED, 0);
        return n;
}

/* Read once and treat what came. Returns the number of messages. */
static int fault_read(struct fault_thread *thread, struct context *context, uint64_t readable_ns) {
        struct uffd_msg messages[FAULT_BATCH];
        int n = uffd_read(context->uffd, messages, FAULT_BATCH);

        if (n == -EMFILE || n == -ENFILE)
                n = fault_read_with_reserve(thread, context, messages);
        for (int i = 0; i < n; i++) {
                if (messages[i].event == UFFD_EVENT_PAGEFAULT)
                        fault_serve(thread, context, messages[i].arg.pagefault.address, readable_ns);
                else
                        event_handle(thread, context, &messages[i]);
        }
        return n;
}

void fault_drain(struct fault_thread *thread) {
        uint64_t now_ns = clock_now_ns();

        /* The list may grow at its end as we go. A client can make events without end, but not without us. */
        for (unsigned i = 0; i < thread->domain->n_contexts; i++)
                for (unsigned n = 0; n < FAULT_DRAIN_READS; n++)
                        if (fault_read(thread, thread->domain->contexts[i], now_ns) <= 0)
                                break;
        /* It serves, though it may be long until it comes round its loop: large memory takes its time to be armed. */
        atomic_fetch_add_explicit(&thread->rounds, 1, memory_order_relaxed);
}

int fault_retry(struct fault_thread *thread, int (*ioctl)(int uffd, uint64_t address, uint64_t length),
                struct context *context, uint64_t address, uint64_t length, uint64_t deadline_ns) {
        for (;;) {
                int r = ioctl(context->uffd, address, length);

                if (r != -EAGAIN || clock_now_ns() > deadline_ns)
                        return r;
                fault_drain(thread);
        }
}

void fault_release(struct context *context, const struct mapping *mapping) {
        /* This clears the protection and is never refused, but wakes nobody. */
        (void) uffd_unregister(context->uffd, mapping->address, mapping->length);
        (void) uffd_wake(context->uffd, mapping->address, mapping->length);
}

/*
 * Nothing is under the spare one any more, but somebody may have been on the way when the mappings changed over, and
 * sleep until this is read. A child that was forked under it has it alone, and is not tracked: the census finds it.
 * What was moved under it is taken out, for the census to find as well.
 */
static void fault_read_spare(struct context *context) {
        struct uffd_msg messages[FAULT_BATCH];
        int n = uffd_read(context->spare, messages, FAULT_BATCH);

        for (int i = 0; i < n; i++) {
                const struct uffd_msg *m = &messages[i];

                switch (m->event) {
                case UFFD_EVENT_FORK:
                        close((int) m->arg.fork.ufd);
                        break;
                case UFFD_EVENT_REMAP:
                        (void) uffd_unregister(context->spare, m->arg.remap.to, m->arg.remap.len);
                        (void) uffd_wake(context->spare, m->arg.remap.to, m->arg.remap.len);
                        break;
                case UFFD_EVENT_PAGEFAULT:
                        (void) uffd_wake(context->spare, m->arg.pagefault.address & ~(CHUNK_BYTES - 1), CHUNK_BYTES);
                        break;
                default:
                        break;
                }
        }
}

int fault_change_over(struct fault_thread *thread, struct context *context) {
        const struct mapping *next;
        uint64_t address = 0;
        int uffd = context->uffd, r = 0;

        if (context->spare < 0)
                return -ENOENT;
        while ((next = context_next(context, address))) {
                address = next->address + next->length;
                fault_release(context, next);
        }
        context->uffd = context->spare;
        context->spare = uffd;
        context->async = !context->async;
        address = 0;
        while (r == 0 && (next = context_next(context, address))) {
                struct mapping m = *next;

                address = m.address + m.length;
                r = uffd_register_wp(context->uffd, m.address, m.length);
                /* It was unmapped or moved, and the message of that waits to be read. */
                if (r == -EINVAL || r == -EBUSY) {
                        pthread_mutex_lock(&thread->domain->lock);
                        r = context_remove(context, m.address, m.length);
                        pthread_mutex_unlock(&thread->domain->lock);
                }
        }
        if (r < 0 && uffd_owner_is_alive(context->uffd))
                thread->domain->untracked = "the memory of a process could not be registered again";
        return 0;
}

/* A client that forks or unmaps without end has every gentle disarm refused, so there is one deadline for all. */
static void fault_disarm_mapping(struct fault_thread *thread, struct context *context, const struct mapping *mapping,
                                 uint64_t deadline_ns) {
        int r = fault_retry(thread, uffd_disarm, context, mapping->address, mapping->length, deadline_ns);

        if (r == -ESRCH)
                context->gone = true;
        if (r == 0 || r == -ESRCH)
                return;
        fault_release(context, mapping);
        r = uffd_register_wp(context->uffd, mapping->address, mapping->length);
        /* EINVAL: it was unmapped, and its event waits to be read */
        if (r < 0 && r != -EINVAL && uffd_owner_is_alive(context->uffd))
                thread->domain->untracked = "the memory of a process could not be registered again";
}

void fault_disarm_all(struct fault_thread *thread) {
        uint64_t deadline_ns = clock_now_ns() + FAULT_GENTLE_NS;
        struct domain *domain = thread->domain;

        for (unsigned i = 0; i < domain->n_contexts; i++) {
                struct context *context = domain->contexts[i];
                const struct mapping *next;
                uint64_t address = 0;

                while (!context->gone && (next = context_next(context, address))) {
                        struct mapping mapping = *next;

                        address = mapping.address + mapping.length;
                        fault_disarm_mapping(thread, context, &mapping, deadline_ns);
                }
        }
}

/* What is to be an increment is served by what stays armed. */
static void fault_disarm_unless_tracked(struct fault_thread *thread) {
        if (changes_keep_armed(&thread->changes))
                return;
        fault_disarm_all(thread);
        changes_note_armed(thread, false);
}

void fault_give_up(struct fault_thread *thread) {
        changes_restore(thread);
        fault_disarm_unless_tracked(thread);
}

/* Answer all that is parked: save each page, as a fault would, and take its protection away wherever it is mapped. */
static void fault_answer_parked(struct fault_thread *thread, bool save) {
        struct run *run = thread->run;
        unsigned region_index = 0;
        uint64_t page = 0;

        while (capture_unpark(&run->capture, &region_index, &page)) {
                struct region *region;

                TAILQ_FOREACH (region, &thread->domain->regions, link)
                        if (region->index == region_index)
                                break;
                /* A page that is parked anew, for lack of a slot, has its bit again; go on behind it. */
                if (!save || fault_capture(run, region, page)) {
                        uint64_t offset = page * region->page_bytes;

                        if (region->tracking)
                                tracking_mark(region->tracking, page);
                        for (unsigned i = 0; i < thread->domain->n_contexts; i++) {
                                struct context *context = thread->domain->contexts[i];

                                for (unsigned j = 0; j < context->n_mappings; j++) {
                                        const struct mapping *m = &context->mappings[j];

                                        if (m->region == region && offset >= m->offset &&
                                            offset < m->offset + m->length)
                                                (void) fault_answer(context, m->address + (offset - m->offset),
                                                                    region->page_bytes, clock_now_ns());
                                }
                        }
                }
                page++;
        }
}

/* Close what is of no use any more: the process is gone, or refuses every disarm. */
static void fault_drop_gone(struct fault_thread *thread) {
        struct domain *domain = thread->domain;

        for (unsigned i = domain->n_contexts; i-- > 0;) {
                struct context *context = domain->contexts[i];

                if (!context->gone)
                        continue;
                fault_unwatch(thread, context);
                changes_lose_context(context);
                /* One that has unmapped everything writes to nothing. */
                if (context->n_mappings > 0 && uffd_owner_is_alive(context->uffd)) {
                        domain->untracked = "a process refused for a second to have its protection changed";
                        if (thread->run)
                                run_stop(thread->run, RUN_UNTRACKED, 0);
                }
                domain_drop_context(domain, i);
        }
}

/* What nobody maps any more is let go, so that its memory can be; the main thread sees to that. */
static bool fault_has_unmapped_region(struct fault_thread *thread) {
        struct region *region;

        TAILQ_FOREACH (region, &thread->domain->regions, link)
                if (domain_count(thread->domain, region).n_mappings == 0)
                        return true;
        return false;
}

void fault_reap(struct fault_thread *thread) {
        if (thread->reserve_fd < 0)
                thread->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        for (unsigned i = 0; i < thread->domain->n_contexts; i++) {
                struct context *context = thread->domain->contexts[i];

                if (context->n_mappings == 0 || !uffd_owner_is_alive(context->uffd))
                        context->gone = true;
        }
        fault_drop_gone(thread);
}

static void fault_take_calls(struct fault_thread *thread) {
        struct fault_call *call;
        uint64_t count;

        (void) !read(thread->wake_fd, &count, sizeof(count));
        for (;;) {
                pthread_mutex_lock(&thread->calls_lock);
                call = thread->calls;
                if (call)
                        thread->calls = call->next;
                pthread_mutex_unlock(&thread->calls_lock);
                if (!call)
                        return;
                call->result = call->function(thread, call->data);
                sem_post(&call->done);
        }
}

/* The userfaultfd was made blocking by who kept a copy of it. Reading could wait for ever, so nothing is read any more.
 */
static void fault_lose(struct fault_thread *thread, struct context *context) {
        thread->domain->untracked = "somebody tampered with the userfaultfd of a process";
        if (thread->run)
                run_stop(thread->run, RUN_UNTRACKED, 0);
        context->gone = true;
}

static void *fault_main(void *data) {
        struct fault_thread *thread = data;
        struct epoll_event events[FAULT_BATCH];
        uint64_t reaped_ns = clock_now_ns();

        pthread_setname_np(pthread_self(), "fault");
        /* Who faults is asleep until we run. Without the right to it (RLIMIT_NICE) we go on as we are. */
        (void) setpriority(PRIO_PROCESS, (id_t) gettid(), FAULT_NICE);
        while (!thread->ends) {
                int n = epoll_wait(thread->epoll_fd, events, FAULT_BATCH, FAULT_REAP_MS);
                uint64_t now_ns = clock_now_ns();
                bool calls = false;

                for (int i = 0; i < n; i++) {
                        bool async = events[i].data.u64 & FAULT_ASYNC;
                        struct context *context = (struct context *) (events[i].data.u64 & ~FAULT_ASYNC);

                        if (!context)
                                calls = true;
                        else if (events[i].events & EPOLLERR)
                                fault_lose(thread, context);
                        else if (async == context->async)
                                fault_read(thread, context, now_ns);
                        else
                                fault_read_spare(context);
                }
                /* After the messages, since a call may drop contexts that are in `events`. */
                if (calls)
                        fault_take_calls(thread);
                if (now_ns - reaped_ns > FAULT_REAP_MS * NSEC_PER_MSEC) {
                        fault_reap(thread);
                        if (!thread->run && !thread->ends && fault_has_unmapped_region(thread))
                                thread->on_unmapped(thread->on_unmapped_data);
                        reaped_ns = now_ns;
                }
                fault_drop_gone(thread);
                atomic_fetch_add_explicit(&thread->rounds, 1, memory_order_relaxed);
        }
        return NULL;
}

static int fault_watch_one(struct fault_thread *thread, const struct context *context, int uffd, bool async) {
        struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uintptr_t) context | (async ? FAULT_ASYNC : 0) };

        return epoll_ctl(thread->epoll_fd, EPOLL_CTL_ADD, uffd, &event) < 0 ? -errno : 0;
}

int fault_watch(struct fault_thread *thread, struct context *context) {
        int r = fault_watch_one(thread, context, context->uffd, context->async);

        if (r == 0 && context->spare >= 0)
                r = fault_watch_one(thread, context, context->spare, !context->async);
        if (r < 0)
                fault_unwatch(thread, context);
        return r;
}

void fault_unwatch(struct fault_thread *thread, struct context *context) {
        (void) epoll_ctl(thread->epoll_fd, EPOLL_CTL_DEL, context->uffd, NULL);
        if (context->spare >= 0)
                (void) epoll_ctl(thread->epoll_fd, EPOLL_CTL_DEL, context->spare, NULL);
}

static void fault_thread_release(struct fault_thread *thread) {
        if (thread->epoll_fd >= 0)
                close(thread->epoll_fd);
        if (thread->wake_fd >= 0)
                close(thread->wake_fd);
        if (thread->reserve_fd >= 0)
                close(thread->reserve_fd);
        pthread_mutex_destroy(&thread->calls_lock);
        changes_deinit(&thread->changes);
        free(thread);
}

int fault_thread_new(struct domain *domain, void (*on_unmapped)(void *data), void *data, struct fault_thread **ret) {
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
        struct fault_thread *thread = calloc(1, sizeof(*thread));
        int r;

        if (!thread)
                return -ENOMEM;
        thread->domain = domain;
        thread->on_unmapped = on_unmapped;
        thread->on_unmapped_data = data;
        thread->rounds_seen = UINT64_MAX; /* a new thread has done nothing wrong yet */
        pthread_mutex_init(&thread->calls_lock, NULL);
        changes_init(&thread->changes);
        thread->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        thread->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        thread->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (thread->epoll_fd < 0 || thread->wake_fd < 0 || thread->reserve_fd < 0 ||
            epoll_ctl(thread->epoll_fd, EPOLL_CTL_ADD, thread->wake_fd, &event) < 0) {
                r = -errno;
                fault_thread_release(thread);
                return r;
        }
        r = -pthread_create(&thread->thread, NULL, fault_main, thread);
        if (r < 0) {
                fault_thread_release(thread);
                return r;
        }
        *ret = thread;
        return 0;
}

bool fault_thread_answers(struct fault_thread *thread) {
        uint64_t rounds = atomic_load_explicit(&thread->rounds, memory_order_relaxed);
        bool answers = rounds != thread->rounds_seen;
        uint64_t one = 1;

        thread->rounds_seen = rounds;
        (void) !write(thread->wake_fd, &one, sizeof(one));
        return answers;
}

int fault_call(struct fault_thread *thread, int (*function)(struct fault_thread *thread, void *data), void *data) {
        struct fault_call call = { .function = function, .data = data };
        struct fault_call **last;
        uint64_t one = 1;

        sem_init(&call.done, 0, 0);
        pthread_mutex_lock(&thread->calls_lock);
        for (last = &thread->calls; *last; last = &(*last)->next)
                ;
        *last = &call;
        pthread_mutex_unlock(&thread->calls_lock);
        (void) !write(thread->wake_fd, &one, sizeof(one));
        while (sem_wait(&call.done) < 0)
                ;
        sem_destroy(&call.done);
        return call.result;
}

void fault_release_all(struct fault_thread *thread, const struct region *region) {
        struct domain *domain = thread->domain;

        for (unsigned i = 0; i < domain->n_contexts; i++)
                for (unsigned j = 0; j < domain->contexts[i]->n_mappings; j++)
                        if (!region || domain->contexts[i]->mappings[j].region == region)
                                fault_release(domain->contexts[i], &domain->contexts[i]->mappings[j]);
}

static int fault_on_stop(struct fault_thread *thread, void *data) {
        fault_release_all(thread, NULL);
        thread->ends = true;
        return 0;
}

void fault_thread_free(struct fault_thread *thread) {
        if (!thread)
                return;
        fault_call(thread, fault_on_stop, NULL);
        pthread_join(thread->thread, NULL);
        fault_thread_release(thread);
}

struct fault_begin_call {
        struct run *run;
        struct error *error;
};

static int fault_on_begin(struct fault_thread *thread, void *data) {
        struct fault_begin_call *begin = data;
        int r;

        assert(!thread->run);
        thread->run = begin->run;
        thread->phase = FAULT_HOLD;
        r = cut_make(thread, begin->run, begin->error);
        thread->phase = r < 0 ? FAULT_IDLE : FAULT_SERVE;
        if (r < 0) {
                /* Faults that come while we disarm are answered at once, so the parked ones may wait for the end of it.
                 */
                fault_give_up(thread);
                fault_answer_parked(thread, false);
                thread->run = NULL;
        } else {
                fault_answer_parked(thread, true);
        }
        return r;
}

int fault_begin(struct fault_thread *thread, struct run *run, struct error *error) {
        return fault_call(thread, fault_on_begin, &(struct fault_begin_call){ run, error });
}

static int fault_on_end(struct fault_thread *thread, void *data) {
        thread->phase = FAULT_IDLE;
        if (*(bool *) data)
                fault_disarm_unless_tracked(thread);
        fault_answer_parked(thread, false);
        thread->run = NULL;
        return 0;
}

void fault_end(struct fault_thread *thread, bool disarm) {
        fault_call(thread, fault_on_end, &disarm);
}
