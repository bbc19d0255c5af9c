/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_SESSION_H
#define LIVESNAP_DAEMON_SESSION_H

/*
 * One connection of a client.
 *
 * Calls are handled one after the other: the next is not even read while one is in progress or while its answer waits
 * to be sent. So pipelining works, answers come in order, and what a client floods us with, or does not read, stays in
 * its socket and stops the client. Between the messages of one session the others get their turn.
 *
 * A client that shuts down its writing side still gets its answers. One whose socket is gone is told to the call.
 */

#include <event2/event.h>

#include "common/socket.h"
#include "daemon/call.h"
#include "daemon/gate.h"
#include "daemon/quota.h"

struct session;

/** struct session_owner - who gets what a session has */
struct session_owner {
        void (*dispatch)(void *owner, struct call *call);    /* answers it, now or later */
        void (*ended)(void *owner, struct session *session); /* must free it */
};

/**
 * session_new() - serve a connection
 * @fd: the connected socket; consumed on success
 * @gate: by which descriptors come in; borrowed
 * @user: the peer's account, which has been charged with this session; the reference and the charge are taken over on
 *        success
 *
 * The base must tell closed peers early and edges (EV_FEATURE_EARLY_CLOSE, EV_FEATURE_ET). Return: 0 or -ENOMEM.
 */
int session_new(struct event_base *base, int fd, struct gate *gate, const struct socket_peer *peer,
                struct quota_user *user, const struct session_owner *owner, void *owner_data, struct session **ret);

/** session_free() - close the connection; a call in progress learns that its caller is gone. NULL is allowed. */
void session_free(struct session *session);

#endif
