/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_ORACLE_PROCESS_H
#define LIVESNAP_TESTS_ORACLE_PROCESS_H

/* The processes of an oracle-writer, their writing threads, and what they share. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/programs/oracle-memory.h"

#define PROCESSES_MAX 16
#define THREADS_MAX 16

/**
 * enum writer_order - what orders the writes of all threads of all processes
 * @WRITER_ORDER_LOCK: a lock held over taking a number and storing it: every state is the one after exactly N writes
 * @WRITER_ORDER_TICKET: an atomic counter: many stores, and many faults, at once. A thread may be late with one number;
 *                       words only ever grow, so what is there in the end does not depend on who was late.
 */
enum writer_order {
        WRITER_ORDER_LOCK,
        WRITER_ORDER_TICKET,
};

struct writer_options {
        enum writer_order order;
        unsigned threads;  /* of each process */
        uint64_t rate;     /* writes a second of each thread; 0 for as many as possible */
        bool zap;          /* madvise the process's own mappings at random */
        bool kernel_reads; /* let read(2) do one store in eight */
};

/* In shared memory of its own, outside the regions of the oracle. */
struct writer_control {
        pthread_mutex_t lock; /* of writes with WRITER_ORDER_LOCK */
        /* Numbers taken, and numbers stored. */
        _Atomic uint64_t issued;
        _Atomic uint64_t completed;
        _Atomic bool paused;
        _Atomic bool stop;
        _Atomic bool leave[PROCESSES_MAX];
        _Atomic bool eat[PROCESSES_MAX]; /* take memory until somebody puts an end to it */
        _Atomic unsigned n_ready;        /* processes whose memory may be written from now on */
        /* The longest that one batch of writes took since somebody last asked. */
        _Atomic uint64_t worst_ns;
        _Atomic uint64_t zaps[MEMORY_ZAP_MAX];
        _Atomic uint64_t kernel_reads;
};

/**
 * struct writer - all of an oracle-writer
 * @prepare: called in each process that was not forked from an attached one, before it writes; NULL for nothing.
 *           Returns 0, or says why not and returns -1.
 * @offer: called in the first process after it; NULL for nothing. The same.
 * @children: the other processes, of which this one is the parent; [0] is this process itself
 */
struct writer {
        const struct writer_options *options;
        struct oracle_layout layout;
        struct memory memory;
        struct writer_control *control;
        int (*prepare)(struct writer *writer);
        int (*offer)(struct writer *writer);
        unsigned n_processes;
        pid_t processes[PROCESSES_MAX];
        pthread_t threads[THREADS_MAX + 1]; /* of this process; the last one zaps */
        unsigned n_threads;
};

/** writer_make_control() - the shared block, in a memfd called "oracle-control"; 0 or -errno */
int writer_make_control(struct writer *writer);

/** writer_start() - start the threads of the calling process, which is number @process; 0 or -errno */
int writer_start(struct writer *writer, unsigned process);

/** writer_join() - wait for the threads of the calling process, after it was told to stop or leave */
void writer_join(struct writer *writer);

/**
 * writer_fork() - add a process that writes
 * @is_new: it must prepare itself; else it takes part in what its parent is in
 *
 * Return: its pid, or -errno.
 */
pid_t writer_fork(struct writer *writer, bool is_new);

/** writer_pause() - come back when no write is under way and none will start. With WRITER_ORDER_LOCK only. */
void writer_pause(struct writer *writer);
void writer_resume(struct writer *writer);

#endif
