/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/programs/oracle-process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* Writes for each taking of the lock: a lock for every write would measure the lock. */
#define BATCH_WRITES 16
#define KERNEL_READ_INTERVAL 8
#define IDLE_NS (200 * 1000)
#define ZAP_INTERVAL_NS (300 * 1000)

/* One thread of one process. Owned by the thread. */
struct worker {
        struct writer *writer;
        unsigned process;
        unsigned thread;
        int pipe[2]; /* for read(2) into the regions */
};

static uint64_t now_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t) t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_ns(uint64_t ns) {
        struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

        nanosleep(&t, NULL);
}

int writer_make_control(struct writer *writer) {
        pthread_mutexattr_t attributes;
        struct writer_control *control;
        int fd = memfd_create("oracle-control", MFD_CLOEXEC);

        if (fd < 0 || ftruncate(fd, sizeof(*control)) < 0)
                return -errno;
        control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (control == MAP_FAILED)
                return -errno;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutex_init(&control->lock, &attributes);
        pthread_mutexattr_destroy(&attributes);
        writer->control = control;
        return 0;
}

static bool worker_must_end(const struct worker *worker) {
        const struct writer_control *control = worker->writer->control;

        return control->stop || control->leave[worker->process];
}

/* A store that is done by the kernel's copy_to_user(): eight aligned bytes, so it too is one store. */
static void store_by_read(struct worker *worker, uint64_t *word, uint64_t sequence) {
        if (write(worker->pipe[1], &sequence, sizeof(sequence)) != sizeof(sequence) ||
            read(worker->pipe[0], word, sizeof(*word)) != sizeof(*word)) {
                fprintf(stderr, "oracle-writer: read(2) into the region failed: %s\n", strerror(errno));
                _exit(1);
        }
        worker->writer->control->kernel_reads++;
}

static void write_locked(struct worker *worker, unsigned count) {
        struct writer *writer = worker->writer;
        struct writer_control *control = writer->control;

        pthread_mutex_lock(&control->lock);
        for (unsigned i = 0; i < count && !control->paused; i++) {
                uint64_t sequence = control->issued + 1;
                uint64_t *word = memory_word(&writer->memory, oracle_layout_place(&writer->layout, sequence), sequence);

                /* Others read both counters without the lock: issued is never behind memory, completed never ahead. */
                control->issued = sequence;
                if (writer->options->kernel_reads && sequence % KERNEL_READ_INTERVAL == 0)
                        store_by_read(worker, word, sequence);
                else
                        __atomic_store_n(word, sequence, __ATOMIC_RELEASE);
                control->completed = sequence;
        }
        pthread_mutex_unlock(&control->lock);
}

static void write_ticket(struct worker *worker) {
        struct writer *writer = worker->writer;
        uint64_t sequence = ++writer->control->issued;
        uint64_t *word = memory_word(&writer->memory, oracle_layout_place(&writer->layout, sequence), sequence);
        uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED);

        while (!oracle_is_sequence(old) || old < sequence)
                if (__atomic_compare_exchange_n(word, &old, sequence, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
                        break;
        writer->control->completed++;
}

static void note_duration(struct writer_control *control, uint64_t ns) {
        uint64_t worst = control->worst_ns;

        while (ns > worst && !atomic_compare_exchange_weak(&control->worst_ns, &worst, ns))
                ;
}

/* The lock is not held here, so that the others can go on afterwards where this is the only thread of its process. */
static void __attribute__((noreturn)) eat_memory(void) {
        const size_t bytes = 1 << 20;

        for (;;) {
                char *memory = malloc(bytes);

                if (memory)
                        memset(memory, 0xff, bytes);
        }
}

static void *worker_write(void *argument) {
        struct worker *worker = argument;
        const struct writer_options *options = worker->writer->options;
        struct writer_control *control = worker->writer->control;

        while (!worker_must_end(worker)) {
                uint64_t start_ns;

                if (control->eat[worker->process])
                        eat_memory();
                if (control->paused) {
                        sleep_ns(IDLE_NS);
                        continue;
                }
                start_ns = now_ns();
                if (options->order == WRITER_ORDER_TICKET)
                        write_ticket(worker);
                else
                        write_locked(worker, options->rate ? 1 : BATCH_WRITES);
                note_duration(control, now_ns() - start_ns);
                if (options->rate)
                        sleep_ns(1000000000 / options->rate);
        }
        close(worker->pipe[0]);
        close(worker->pipe[1]);
        free(worker);
        return NULL;
}

static void *worker_zap(void *argument) {
        struct worker *worker = argument;
        struct writer *writer = worker->writer;
        unsigned seed = getpid();

        while (!worker_must_end(worker)) {
                enum memory_zap zap = rand_r(&seed) % MEMORY_ZAP_MAX;
                uint64_t random = (uint64_t) rand_r(&seed) << 31 | rand_r(&seed);

                /* Not every kind of memory takes every advice: what counts is how often it was taken. */
                if (memory_zap(&writer->memory, zap, random) == 0)
                        writer->control->zaps[zap]++;
                sleep_ns(ZAP_INTERVAL_NS);
        }
        free(worker);
        return NULL;
}

static int start_worker(struct writer *writer, unsigned process, void *(*run)(void *), bool needs_pipe) {
        struct worker *worker = calloc(1, sizeof(*worker));
        int r;

        if (!worker)
                return -ENOMEM;
        *worker = (struct worker){
                .writer = writer, .process = process, .thread = writer->n_threads, .pipe = { -1, -1 }
        };
        if (needs_pipe && pipe(worker->pipe) < 0) {
                free(worker);
                return -errno;
        }
        r = pthread_create(&writer->threads[writer->n_threads], NULL, run, worker);
        if (r != 0) {
                free(worker);
                return -r;
        }
        writer->n_threads++;
        return 0;
}

int writer_start(struct writer *writer, unsigned process) {
        int r = 0;

        writer->n_threads = 0;
        for (unsigned i = 0; i < writer->options->threads && r == 0; i++)
                r = start_worker(writer, process, worker_write, true);
        if (r == 0 && writer->options->zap)
                r = start_worker(writer, process, worker_zap, false);
        return r;
}

void writer_join(struct writer *writer) {
        for (unsigned i = 0; i < writer->n_threads; i++)
                pthread_join(writer->threads[i], NULL);
        writer->n_threads = 0;
}

static void __attribute__((noreturn)) run_child(struct writer *writer, unsigned process, bool is_new) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (is_new && writer->prepare && writer->prepare(writer) < 0)
                _exit(1);
        writer->control->n_ready++;
        if (writer_start(writer, process) < 0)
                _exit(1);
        writer_join(writer);
        _exit(0);
}

pid_t writer_fork(struct writer *writer, bool is_new) {
        unsigned process = writer->n_processes;
        pid_t pid;

        if (process == PROCESSES_MAX)
                return -E2BIG;
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                run_child(writer, process, is_new);
        writer->processes[writer->n_processes++] = pid;
        return pid;
}

void writer_pause(struct writer *writer) {
        writer->control->paused = true;
        /* Whoever has the lock sees the flag at its next write; the lock comes when it has seen it. */
        pthread_mutex_lock(&writer->control->lock);
        pthread_mutex_unlock(&writer->control->lock);
}

void writer_resume(struct writer *writer) {
        writer->control->paused = false;
}
