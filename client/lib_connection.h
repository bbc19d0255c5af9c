/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_CONNECTION_H
#define LIVESNAP_CLIENT_LIB_CONNECTION_H

/* A connection and the calls that wait on it. Replies come in the order of the calls, so the calls are a queue. */

#include <sys/queue.h>

#include <jansson.h>

#include "common/varlink.h"
#include "livesnap/livesnap.h"

/** struct livesnap_reply - owns the message (with its descriptors), the text and the names */
struct livesnap_reply {
        struct varlink_message message;
        json_t *parameters; /* an object; its own reference */
        char *text;         /* of the parameters; made when it is asked for */
        const char *error_name;
        const char *error_message;
        bool continues;
};

/** struct call - a call that waits for replies; in the queue of its connection, which owns it */
struct call {
        STAILQ_ENTRY(call) link;
        bool more;
        struct livesnap_callback callback;
        char method[]; /* full name */
};

/** struct livesnap - a connection; owns all it names */
struct livesnap {
        struct varlink *varlink;
        char *path;            /* of the socket, for further connections and for messages */
        bool broken;           /* no call waits, and none can be made any more */
        char broken_name[128]; /* why, for every call from then on */
        char broken_message[1024];
        STAILQ_HEAD(, call) calls;
};

/**
 * connection_start() - queue a call whose parameters are at hand as an object
 * @parameters: borrowed; NULL for none
 * @fds, @n_fds, @flags, @callback: as for livesnap_start_call()
 */
int connection_start(struct livesnap *livesnap, const char *method, json_t *parameters, const int *fds, size_t n_fds,
                     unsigned flags, const struct livesnap_callback *callback);

/** connection_wait() - dispatch until *@done; -1 once the connection is broken */
int connection_wait(struct livesnap *livesnap, const bool *done);

/** connection_drain() - dispatch until no call waits */
int connection_drain(struct livesnap *livesnap);

/** connection_call() - make a call and wait for its reply; arguments as for connection_start() and livesnap_call() */
int connection_call(struct livesnap *livesnap, const char *method, json_t *parameters, const int *fds, size_t n_fds,
                    const struct livesnap_callback *progress, struct livesnap_reply **ret);

#endif
