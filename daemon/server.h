/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_SERVER_H
#define LIVESNAP_DAEMON_SERVER_H

/*
 * The listening socket and the sessions on it: takes method calls to the functions that implement them. It knows
 * org.varlink.service; all else comes from the table that it is given. Main thread only.
 */

#include <event2/event.h>

#include "common/error.h"
#include "daemon/call.h"
#include "daemon/quota.h"

struct server;

/** struct server_method - an entry of a table; one whose name is NULL ends it */
struct server_method {
        const char *name; /* in full, such as "io.livesnap.Attach" */
        /* Answers the call, at once or later; see daemon/call.h. */
        void (*call)(struct call *call, void *context);
};

/**
 * struct server_config - how to serve
 * @socket_path: where to make the socket, mode 0660; not used if there is a @listen_fd
 * @listen_fd: a socket that listens already, such as systemd's; -1: none. Consumed by server_new() on success.
 * @limits: NULL for quota_limits_default
 */
struct server_config {
        const char *socket_path;
        int listen_fd;
        const struct quota_limits *limits;
};

/**
 * server_new() - listen
 * @base: must have the features EV_FEATURE_ET and EV_FEATURE_EARLY_CLOSE; borrowed
 * @methods: borrowed
 * @context: handed to every method
 *
 * Return: 0, or -1 with *error set.
 */
int server_new(struct event_base *base, const struct server_config *config, const struct server_method *methods,
               void *context, struct server **ret, struct error *error);

/**
 * server_stop() - take no more connections and calls
 *
 * Removes the name of the socket where server_new() made it. Calls in progress can still be answered.
 */
void server_stop(struct server *server);

/**
 * server_free() - close all connections; NULL is allowed
 *
 * Calls in progress learn that their callers are gone. They may be answered later, or never if the process ends.
 */
void server_free(struct server *server);

/** server_sessions() - how many connections there are */
unsigned server_sessions(const struct server *server);

#endif
