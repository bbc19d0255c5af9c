/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_UNIT_SERVING_H
#define LIVESNAP_TESTS_UNIT_SERVING_H

/* A server with methods made for tests, its loop, and clients, all on the one thread of the test. */

#include <event2/event.h>

#include "common/varlink.h"
#include "daemon/server.h"

#define SERVING_HELD_MAX 1024

struct serving {
        char directory[32];
        char path[64];
        struct event_base *base;
        struct server *server;
        struct call *held[SERVING_HELD_MAX]; /* by test.Hold, not answered yet */
        unsigned n_held;
        unsigned n_gone;  /* callers of test.Hold that went away */
        unsigned n_calls; /* of any method */
        unsigned n_descriptors;
};

/** serving_new() - start; @limits may be NULL */
struct serving *serving_new(const struct quota_limits *limits);

/** serving_free() - end, and see that no descriptor and no file has leaked */
void serving_free(struct serving *serving);

/** serving_turn() - let the server do what it can do without waiting */
void serving_turn(struct serving *serving);

/** serving_turn_for() - the same for some time */
void serving_turn_for(struct serving *serving, unsigned ms);

/** serving_connect() - a new client */
struct varlink *serving_connect(struct serving *serving);

/** serving_call() - send a call made by json_pack(); not waiting for the answer */
void serving_call(struct serving *serving, struct varlink *client, const char *format, ...);

/** serving_answer() - the next message that the client gets, a new reference; NULL: it is disconnected instead */
json_t *serving_answer(struct serving *serving, struct varlink *client);

/** serving_expect() - the next answer is equal to this JSON text */
void serving_expect(struct serving *serving, struct varlink *client, const char *text);

/** serving_expect_error() - the next answer is this error */
void serving_expect_error(struct serving *serving, struct varlink *client, const char *name);

/** serving_expect_nothing() - no answer, but still connected */
void serving_expect_nothing(struct serving *serving, struct varlink *client);

/** serving_expect_end() - the next thing is the end of the connection */
void serving_expect_end(struct serving *serving, struct varlink *client);

/** serving_release() - answer the oldest held call with {} */
void serving_release(struct serving *serving);

#endif
