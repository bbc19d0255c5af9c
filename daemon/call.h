/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CALL_H
#define LIVESNAP_DAEMON_CALL_H

/*
 * One method call in progress.
 *
 * A method gets it and must answer it exactly once, with call_reply() or one of call_fail*(), at once or at any time
 * later, from the main loop; that frees it. It stays valid until then also when its caller goes away: the answer then
 * goes nowhere. Main thread only.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "common/error.h"
#include "common/varlink.h"
#include "daemon/parameters.h"
#include "daemon/quota.h"

struct call;

/** call_method() - full name of the method, borrowed */
const char *call_method(const struct call *call);

/** call_parameters() - an object, empty where the caller sent none; borrowed, valid until the call is answered */
json_t *call_parameters(const struct call *call);

/**
 * call_read() - read the parameters by a table, see daemon/parameters.h
 *
 * Return: 0, or -1 when they are not right: then the call has been answered with InvalidParameter and is gone.
 */
int call_read(struct call *call, const struct parameter *parameters);

/** call_wants_more() - may call_reply_continues() be used? Where not, it does nothing. */
bool call_wants_more(const struct call *call);

/** call_oneway() - the caller wants no answer; answer all the same, it goes nowhere */
bool call_oneway(const struct call *call);

/** call_peer_uid(), call_peer_pid() - who called, as the socket knows it; the pid is 0 where it has none in our
 * namespace */
uid_t call_peer_uid(const struct call *call);
pid_t call_peer_pid(const struct call *call);

/** call_take_fd() - move a descriptor that came with the call to the method; -1 where there is none or it was taken */
int call_take_fd(struct call *call, uint64_t index);

/**
 * call_reply() - answer
 * @parameters: an object, whose reference is taken over; NULL for an empty one
 * @fds: @n_fds descriptors that go with it, consumed
 */
void call_reply(struct call *call, json_t *parameters, const int *fds, unsigned n_fds);

/**
 * call_reply_continues() - tell progress
 * @parameters: an object, whose reference is taken over
 *
 * To a caller that has not read the last one only the newest is sent when it has, so progress must not consist of
 * differences. Does nothing where call_wants_more() is false.
 */
void call_reply_continues(struct call *call, json_t *parameters);

/** call_fail() - answer with an error of io.livesnap; one that was not set becomes Internal */
void call_fail(struct call *call, const struct error *error);

/** call_fail_with() - answer with any error; the reference to @parameters, which may be NULL, is taken over */
void call_fail_with(struct call *call, const char *name, json_t *parameters);

/** call_fail_parameter() - answer that a parameter is not right; the format makes its name, such as "regions[2].object"
 */
void call_fail_parameter(struct call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));

/**
 * call_on_gone() - ask to be told when the caller goes away before the answer
 * @gone: called once, from the main loop, never from within a function of the call; it may answer the call; NULL:
 * forget it
 */
void call_on_gone(struct call *call, void (*gone)(struct call *call, void *data), void *data);

/*
 * What follows is for the session that the call came from.
 */

/** struct call_channel - the way back to the caller */
struct call_channel {
        /** queue a message; @fds are consumed. Return: 0, -EMSGSIZE, or another -errno after which there is no channel
         */
        int (*send)(void *session, json_t *message, const int *fds, unsigned n_fds);
        /** has the caller not read what was sent? */
        bool (*is_behind)(void *session);
        /** the call is answered, and freed after this */
        void (*answered)(void *session);
};

/**
 * call_new() - make a call of a message
 * @message: consumed
 * @user: the caller's account; referenced
 *
 * Return: 0, -EBADMSG where it is not a method call, or -ENOMEM.
 */
int call_new(struct varlink_message *message, struct quota_user *user, uid_t uid, pid_t pid,
             const struct call_channel *channel, void *session, struct call **ret);

/** call_charge() - count it as one of its user's. Return: 0 or -EDQUOT. */
int call_charge(struct call *call);

/** call_upgrade() - did the caller ask to leave Varlink behind after this call? */
bool call_upgrade(const struct call *call);

/** call_n_fds() - how many descriptors it came with */
unsigned call_n_fds(const struct call *call);

/** call_send_progress() - the caller has read all: send the progress that waited for that */
void call_send_progress(struct call *call);

/** call_gone() - the caller has gone away and the session is going too */
void call_gone(struct call *call);

#endif
