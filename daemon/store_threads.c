/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store_threads.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/fdtable.h"

struct call_queue {
        struct store_call *head;
        struct store_call **tail;
};

struct store_threads {
        struct store *store; /* borrowed */
        void (*end)(struct store *store);
        int done_fd;       /* eventfd, owned; open in both tables */
        int channel_main;  /* owned; open in the process's table only */
        int channel_store; /* owned; open in the store's table only, where it goes with the last thread */
        pthread_t root;
        sem_t started;
        int start_error;

        pthread_mutex_t lock;      /* all that follows; the only lock here */
        pthread_cond_t root_wake;  /* lasting, finished, stopping */
        pthread_cond_t short_wake; /* brief, short_stopping */
        struct call_queue brief;
        struct call_queue lasting;
        struct call_queue done;
        struct lasting_thread *finished; /* threads to be joined */
        unsigned n_lasting;              /* threads not joined yet */
        bool stopping;
        bool short_stopping;
};

struct lasting_thread {
        struct store_threads *threads;
        struct store_call *call;
        pthread_t id;
        struct lasting_thread *next;
};

static void queue_init(struct call_queue *queue) {
        queue->head = NULL;
        queue->tail = &queue->head;
}

static void queue_push(struct call_queue *queue, struct store_call *call) {
        call->next = NULL;
        *queue->tail = call;
        queue->tail = &call->next;
}

static struct store_call *queue_pop(struct call_queue *queue) {
        struct store_call *call = queue->head;

        if (call) {
                queue->head = call->next;
                if (!queue->head)
                        queue->tail = &queue->head;
        }
        return call;
}

static void call_run(struct store_threads *threads, struct store_call *call) {
        ssize_t written;

        call->run(threads->store, call);

        pthread_mutex_lock(&threads->lock);
        queue_push(&threads->done, call);
        pthread_mutex_unlock(&threads->lock);
        written = write(threads->done_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
        assert(written == sizeof(uint64_t)); /* the counter would have to be at 2^64 - 1 */
        (void) written;
}

static void *short_main(void *data) {
        struct store_threads *threads = data;
        struct store_call *call;

        pthread_setname_np(pthread_self(), "store-short");
        for (;;) {
                pthread_mutex_lock(&threads->lock);
                while (!threads->brief.head && !threads->short_stopping)
                        pthread_cond_wait(&threads->short_wake, &threads->lock);
                call = queue_pop(&threads->brief);
                pthread_mutex_unlock(&threads->lock);
                if (!call)
                        return NULL;
                call_run(threads, call);
        }
}

static void *lasting_main(void *data) {
        struct lasting_thread *thread = data;
        struct store_threads *threads = thread->threads;

        pthread_setname_np(pthread_self(), "store-job");
        call_run(threads, thread->call);

        pthread_mutex_lock(&threads->lock);
        thread->next = threads->finished;
        threads->finished = thread;
        pthread_cond_signal(&threads->root_wake);
        pthread_mutex_unlock(&threads->lock);
        return NULL;
}

/* Where no thread can be had the call runs on the short thread: the others wait, but none is lost. */
static void lasting_start(struct store_threads *threads, struct store_call *call) {
        struct lasting_thread *thread = malloc(sizeof(*thread));

        if (thread) {
                *thread = (struct lasting_thread){ .threads = threads, .call = call };
                threads->n_lasting++;
                /* Under the lock, so that the thread cannot be joined before its id is known. */
                if (!pthread_create(&thread->id, NULL, lasting_main, thread))
                        return;
                threads->n_lasting--;
                free(thread);
        }
        queue_push(&threads->brief, call);
        pthread_cond_signal(&threads->short_wake);
}

static void finished_join(struct store_threads *threads, struct lasting_thread *thread) {
        pthread_mutex_unlock(&threads->lock);
        pthread_join(thread->id, NULL);
        free(thread);
        pthread_mutex_lock(&threads->lock);
        threads->n_lasting--;
}

static void root_loop(struct store_threads *threads) {
        struct lasting_thread *thread;
        struct store_call *call;

        pthread_mutex_lock(&threads->lock);
        for (;;) {
                if ((thread = threads->finished)) {
                        threads->finished = thread->next;
                        finished_join(threads, thread);
                } else if ((call = queue_pop(&threads->lasting)))
                        lasting_start(threads, call);
                else if (threads->stopping && threads->n_lasting == 0)
                        break;
                else
                        pthread_cond_wait(&threads->root_wake, &threads->lock);
        }
        threads->short_stopping = true;
        pthread_cond_signal(&threads->short_wake);
        pthread_mutex_unlock(&threads->lock);
}

static void *root_main(void *data) {
        struct store_threads *threads = data;
        pthread_t short_thread;

        pthread_setname_np(pthread_self(), "store");
        /* A copy of the listening socket, say, would keep a new daemon from binding for as long as a thread of this one
         * waits for a disk. */
        threads->start_error = fdtable_isolate(threads->done_fd, threads->channel_store);
        if (!threads->start_error)
                threads->start_error = -pthread_create(&short_thread, NULL, short_main, threads);
        if (threads->start_error) {
                sem_post(&threads->started);
                return NULL;
        }
        sem_post(&threads->started);

        root_loop(threads);
        pthread_join(short_thread, NULL);
        threads->end(threads->store);
        return NULL;
}

/* Signals are for the threads of the process that expect them. */
static int root_start(struct store_threads *threads) {
        sigset_t all, before;
        int r;

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = -pthread_create(&threads->root, NULL, root_main, threads);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r < 0)
                return r;
        while (sem_wait(&threads->started) < 0)
                ; /* EINTR */
        if (threads->start_error)
                pthread_join(threads->root, NULL);
        return threads->start_error;
}

static void threads_destroy(struct store_threads *threads) {
        if (threads->done_fd >= 0)
                close(threads->done_fd);
        if (threads->channel_main >= 0)
                close(threads->channel_main);
        pthread_cond_destroy(&threads->short_wake);
        pthread_cond_destroy(&threads->root_wake);
        pthread_mutex_destroy(&threads->lock);
        sem_destroy(&threads->started);
        free(threads);
}

int store_threads_new(struct store *store, void (*end)(struct store *store), struct store_threads **ret) {
        struct store_threads *threads = calloc(1, sizeof(*threads));
        int channel[2], r;

        if (!threads)
                return -ENOMEM;
        threads->store = store;
        threads->end = end;
        threads->channel_main = -1;
        queue_init(&threads->brief);
        queue_init(&threads->lasting);
        queue_init(&threads->done);
        pthread_mutex_init(&threads->lock, NULL);
        pthread_cond_init(&threads->root_wake, NULL);
        pthread_cond_init(&threads->short_wake, NULL);
        sem_init(&threads->started, 0, 0);

        threads->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = threads->done_fd < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0 ? -errno : 0;
        if (r == 0) {
                threads->channel_main = channel[0];
                threads->channel_store = channel[1];
                r = root_start(threads);
                close(channel[1]); /* in this table; the store's has its own copy */
        }
        if (r < 0) {
                threads_destroy(threads);
                return r;
        }
        *ret = threads;
        return 0;
}

void store_threads_submit(struct store_threads *threads, struct store_call *call) {
        pthread_mutex_lock(&threads->lock);
        assert(!threads->stopping);
        queue_push(call->lasting ? &threads->lasting : &threads->brief, call);
        pthread_cond_signal(call->lasting ? &threads->root_wake : &threads->short_wake);
        pthread_mutex_unlock(&threads->lock);
}

int store_threads_get_fd(const struct store_threads *threads) {
        return threads->done_fd;
}

int store_threads_channel(const struct store_threads *threads, bool main_thread) {
        return main_thread ? threads->channel_main : threads->channel_store;
}

void store_threads_dispatch(struct store_threads *threads) {
        struct store_call *call, *next;
        uint64_t count;
        ssize_t got;

        got = read(threads->done_fd, &count, sizeof(count)); /* before the list, so that no call is overlooked */
        (void) got;

        pthread_mutex_lock(&threads->lock);
        call = threads->done.head;
        queue_init(&threads->done);
        pthread_mutex_unlock(&threads->lock);
        for (; call; call = next) {
                next = call->next;
                call->done(call);
        }
}

void store_threads_free(struct store_threads *threads) {
        if (!threads)
                return;
        pthread_mutex_lock(&threads->lock);
        threads->stopping = true;
        pthread_cond_signal(&threads->root_wake);
        pthread_mutex_unlock(&threads->lock);
        pthread_join(threads->root, NULL);
        store_threads_dispatch(threads);
        threads_destroy(threads);
}
