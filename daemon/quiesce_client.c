/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/quiesce_client.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <time.h>

#include "daemon/clock.h"

#define QUIESCE_CLIENTS_MAX 64u

enum quiesce_state {
        QUIESCE_IDLE,
        QUIESCE_WANTED,   /* the snapshot's thread wants it */
        QUIESCE_ASKED,    /* the programs are told */
        QUIESCE_RESUMING, /* the snapshot's thread is done */
};

struct quiesce_caller {
        struct quiesce_client *client;
        struct call *call;
        LIST_ENTRY(quiesce_caller) link;
};

LIST_HEAD(quiesce_callers, quiesce_caller);

struct quiesce_client {
        void (*wake)(void *data);
        void *data;

        /* The main thread's. */
        struct quiesce_callers awaiting; /* AwaitQuiesce */
        struct quiesce_callers stopped;  /* Quiesced */

        pthread_mutex_t lock; /* of all below */
        pthread_cond_t changed;
        enum quiesce_state state;
        uint64_t id;
        unsigned n_awaiting;
        unsigned n_asked;
        unsigned n_stopped;
        unsigned n_expected; /* so many were there the last time: give them the time to come again */
        bool broken;         /* one that had stopped went away */
};

int quiesce_client_new(void (*wake)(void *data), void *data, struct quiesce_client **ret) {
        struct quiesce_client *client = calloc(1, sizeof(*client));
        pthread_condattr_t monotonic;

        if (!client)
                return -ENOMEM;
        client->wake = wake;
        client->data = data;
        LIST_INIT(&client->awaiting);
        LIST_INIT(&client->stopped);
        pthread_mutex_init(&client->lock, NULL);
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&client->changed, &monotonic);
        pthread_condattr_destroy(&monotonic);
        *ret = client;
        return 0;
}

/* Takes the caller off its list and returns its call, which is to be answered. */
static struct call *caller_take(struct quiesce_caller *caller) {
        struct call *call = caller->call;

        LIST_REMOVE(caller, link);
        free(caller);
        call_on_gone(call, NULL, NULL);
        return call;
}

void quiesce_client_free(struct quiesce_client *client) {
        const struct error gone = { ERROR_NO_SUCH_DOMAIN, "the domain was let go" };
        struct quiesce_caller *caller;

        if (!client)
                return;
        while ((caller = LIST_FIRST(&client->awaiting)))
                call_fail(caller_take(caller), &gone);
        while ((caller = LIST_FIRST(&client->stopped)))
                call_fail(caller_take(caller), &gone);
        pthread_cond_destroy(&client->changed);
        pthread_mutex_destroy(&client->lock);
        free(client);
}

/* With the lock held. Tells all that await it to stop, once those are there that are to be expected. */
static void client_ask(struct quiesce_client *client) {
        struct quiesce_caller *caller;

        if (client->n_awaiting < client->n_expected)
                return;
        client->id++;
        client->n_asked = client->n_awaiting;
        client->n_awaiting = client->n_stopped = 0;
        client->broken = false;
        client->state = QUIESCE_ASKED;
        while ((caller = LIST_FIRST(&client->awaiting)))
                call_reply(caller_take(caller), json_pack("{s:I}", "quiesce", (json_int_t) client->id), NULL, 0);
}

/* With the lock held. */
static void client_let_go(struct quiesce_client *client) {
        struct quiesce_caller *caller;

        while ((caller = LIST_FIRST(&client->stopped)))
                call_reply(caller_take(caller), NULL, NULL, 0);
        client->state = QUIESCE_IDLE;
}

void quiesce_client_check(struct quiesce_client *client) {
        pthread_mutex_lock(&client->lock);
        if (client->state == QUIESCE_RESUMING)
                client_let_go(client);
        else if (client->state == QUIESCE_WANTED)
                client_ask(client);
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
}

static void client_on_awaiting_gone(struct call *call, void *data) {
        struct quiesce_caller *caller = data;
        struct quiesce_client *client = caller->client;

        pthread_mutex_lock(&client->lock);
        client->n_awaiting--;
        if (client->n_expected > client->n_awaiting)
                client->n_expected = client->n_awaiting;
        pthread_mutex_unlock(&client->lock);
        call_reply(caller_take(caller), NULL, NULL, 0);
}

static void client_on_stopped_gone(struct call *call, void *data) {
        struct quiesce_caller *caller = data;
        struct quiesce_client *client = caller->client;

        pthread_mutex_lock(&client->lock);
        client->broken = true;
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
        call_reply(caller_take(caller), NULL, NULL, 0);
}

static struct quiesce_caller *caller_new(struct quiesce_client *client, struct call *call,
                                         void (*gone)(struct call *call, void *data)) {
        struct quiesce_caller *caller = malloc(sizeof(*caller));

        if (!caller) {
                call_fail(call, &(struct error){ ERROR_INTERNAL, "out of memory" });
                return NULL;
        }
        *caller = (struct quiesce_caller){ .client = client, .call = call };
        call_on_gone(call, gone, caller);
        return caller;
}

void quiesce_client_await(struct quiesce_client *client, struct call *call) {
        struct quiesce_caller *caller;
        struct error error = { 0 };

        /* Only this thread changes it. */
        if (client->n_awaiting >= QUIESCE_CLIENTS_MAX) {
                error_set(&error, ERROR_LIMIT_EXCEEDED, "no more than %u programs of a domain can be asked to stop",
                          QUIESCE_CLIENTS_MAX);
                call_fail(call, &error);
                return;
        }
        caller = caller_new(client, call, client_on_awaiting_gone);
        if (!caller)
                return;
        LIST_INSERT_HEAD(&client->awaiting, caller, link);
        pthread_mutex_lock(&client->lock);
        client->n_awaiting++;
        pthread_mutex_unlock(&client->lock);
        quiesce_client_check(client);
}

void quiesce_client_stopped(struct quiesce_client *client, struct call *call, uint64_t id) {
        struct quiesce_caller *caller = NULL;
        bool is_wanted;

        pthread_mutex_lock(&client->lock);
        is_wanted = client->state == QUIESCE_ASKED && client->id == id && client->n_stopped < client->n_asked;
        pthread_mutex_unlock(&client->lock);
        if (is_wanted)
                caller = caller_new(client, call, client_on_stopped_gone);
        else /* too late: it may go on */
                call_reply(call, NULL, NULL, 0);
        if (!caller)
                return;
        LIST_INSERT_HEAD(&client->stopped, caller, link);
        pthread_mutex_lock(&client->lock);
        client->n_stopped++;
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
}

/*
 * The snapshot's side
 */

/* With the lock held. Return: false past the deadline. */
static bool client_wait(struct quiesce_client *client, uint64_t deadline_ns) {
        const struct timespec until = { .tv_sec = (time_t) (deadline_ns / NSEC_PER_SEC),
                                        .tv_nsec = (long) (deadline_ns % NSEC_PER_SEC) };

        return pthread_cond_timedwait(&client->changed, &client->lock, &until) == 0;
}

int quiesce_client_stop(struct quiesce_client *client, uint64_t deadline_ns, struct error *error) {
        bool in_time = true;
        int r = 1;

        pthread_mutex_lock(&client->lock);
        while (client->state != QUIESCE_IDLE && in_time)
                in_time = client_wait(client, deadline_ns);
        client->state = QUIESCE_WANTED;
        pthread_mutex_unlock(&client->lock);
        client->wake(client->data);

        pthread_mutex_lock(&client->lock);
        while (in_time && !client->broken && !(client->state == QUIESCE_ASKED && client->n_stopped == client->n_asked))
                in_time = client_wait(client, deadline_ns);
        if (client->broken) {
                r = error_set(error, ERROR_NOT_CONVERGING,
                              "a program that had stopped for the snapshot went away before it was over");
        } else if (client->state == QUIESCE_ASKED && client->n_asked == 0) {
                r = error_set(
                        error, ERROR_BAD_REQUEST,
                        "no program of the domain has offered to stop when it is asked to: have it do so, or choose "
                        "another way to quiesce");
        } else if (!in_time) {
                error_set(error, ERROR_NOT_CONVERGING,
                          "%u of the %u programs that were asked to stop have not answered in time",
                          client->n_asked - client->n_stopped, client->n_asked);
                r = 0;
        }
        client->n_expected = r == 1 ? client->n_asked : 0;
        pthread_mutex_unlock(&client->lock);
        return r;
}

bool quiesce_client_is_intact(struct quiesce_client *client) {
        bool intact;

        pthread_mutex_lock(&client->lock);
        intact = !client->broken;
        pthread_mutex_unlock(&client->lock);
        return intact;
}

void quiesce_client_resume(struct quiesce_client *client) {
        pthread_mutex_lock(&client->lock);
        client->state = QUIESCE_RESUMING;
        client->broken = false;
        pthread_mutex_unlock(&client->lock);
        client->wake(client->data);
}
