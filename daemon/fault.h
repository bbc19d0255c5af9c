/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_FAULT_H
#define LIVESNAP_DAEMON_FAULT_H

/*
 * The fault thread of a domain. It reads the messages of all userfaultfds of the domain, at all times, because with
 * events enabled a client's fork, mremap or madvise sleeps until its event is read.
 *
 *   phase | a fault is                                            | entered by
 *   ------+-------------------------------------------------------+---------------------------
 *   idle  | disarmed, and noted where changes are tracked         | start, fault_end()
 *   hold  | parked: one bit a page, answered after the cut        | fault_begin()
 *   serve | captured, then disarmed                               | the cut
 *
 * It alone changes the domain's lists. Other threads ask it to, with fault_call().
 *
 * While it serves it allocates nothing, logs nothing, and takes no lock that is held over a system call.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "daemon/changes.h"
#include "daemon/domain.h"
#include "daemon/run.h"

enum fault_phase {
        FAULT_IDLE,
        FAULT_HOLD,
        FAULT_SERVE,
};

struct fault_call;

struct fault_thread {
        struct domain *domain; /* borrowed */
        pthread_t thread;
        int epoll_fd;
        int wake_fd;    /* eventfd: there are calls */
        int reserve_fd; /* given up for a moment when no descriptor is left to read a fork event with */
        bool ends;

        enum fault_phase phase;
        struct run *run; /* in hold and serve */
        struct changes changes;
        bool new_contexts; /* a process was forked since somebody looked */

        _Atomic uint64_t rounds; /* how often it has looked at what there is to serve */
        uint64_t rounds_seen;    /* by fault_thread_answers() */

        pthread_mutex_t calls_lock;
        struct fault_call *calls;

        /* Told on the fault thread, every second for as long as there is a region that nobody maps, but not in a run.
         */
        void (*on_unmapped)(void *data);
        void *on_unmapped_data;
};

/** fault_thread_new() - start to read. @on_unmapped must not block; @domain is borrowed and outlives the thread. */
int fault_thread_new(struct domain *domain, void (*on_unmapped)(void *data), void *data, struct fault_thread **ret);

/** fault_thread_free() - disarm all, wake all, stop the thread; contexts stay with the domain */
void fault_thread_free(struct fault_thread *thread);

/**
 * fault_thread_answers() - has it come round its loop since this was last called? Asks it to, for the next time.
 *
 * Does not block. One thread only may ask.
 */
bool fault_thread_answers(struct fault_thread *thread);

/** fault_call() - run a function on the fault thread and wait for its end; must not be called while it holds */
int fault_call(struct fault_thread *thread, int (*function)(struct fault_thread *thread, void *data), void *data);

/**
 * fault_begin() - make the cut
 *
 * Arms all mappings, then serves faults into @run, which the caller keeps until fault_end(). On failure everything is
 * disarmed again. Return: 0, or -1 with *error set.
 */
int fault_begin(struct fault_thread *thread, struct run *run, struct error *error);

/**
 * fault_end() - forget the run and answer what is parked
 * @disarm: the sweep has not been everywhere: disarm all, unless it stays armed to track changes
 */
void fault_end(struct fault_thread *thread, bool disarm);

/* For the code that runs on the fault thread. */

/** fault_give_up() - a snapshot came to nothing: disarm all, unless it stays armed for the next increment */
void fault_give_up(struct fault_thread *thread);

/** fault_watch() - start to read a context's messages. 0 or -errno. */
int fault_watch(struct fault_thread *thread, struct context *context);

/** fault_unwatch() - stop to read a context's messages, before it is dropped */
void fault_unwatch(struct fault_thread *thread, struct context *context);

/**
 * fault_change_over() - put the mappings of a context under its spare userfaultfd, and make the other one the spare
 *
 * Their protection is gone by that, and who waits goes on. Return: 0, or -ENOENT where there is no spare.
 */
int fault_change_over(struct fault_thread *thread, struct context *context);

/** fault_reap() - drop the contexts of processes that are gone or map nothing any more */
void fault_reap(struct fault_thread *thread);

/** fault_release() - take a mapping out of its userfaultfd: no protection stays, and who waits goes on */
void fault_release(struct context *context, const struct mapping *mapping);

/** fault_release_all() - the same for all mappings of a region, or (NULL) of the domain */
void fault_release_all(struct fault_thread *thread, const struct region *region);

/** fault_drain() - read the messages that wait, of all contexts, and treat them as the phase says; bounded */
void fault_drain(struct fault_thread *thread);

/** fault_disarm_all() - take the protection from every mapping and wake everybody */
void fault_disarm_all(struct fault_thread *thread);

/**
 * fault_retry() - run an ioctl again while it gives -EAGAIN, reading events meanwhile
 * @deadline_ns: until when
 */
int fault_retry(struct fault_thread *thread, int (*ioctl)(int uffd, uint64_t address, uint64_t length),
                struct context *context, uint64_t address, uint64_t length, uint64_t deadline_ns);

#endif
