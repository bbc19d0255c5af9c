/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/session.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/varlink.h"

/* Messages that are handled before other sessions get their turn. */
#define SESSION_BURST 16

struct session {
        struct varlink *varlink; /* owned, and with it the socket */
        struct event *io;        /* edge-triggered, always pending: what is not read now is not told again */
        struct event *resume;    /* a timer of zero, for going on in the next turn of the loop */
        struct gate *gate;       /* borrowed */
        struct socket_peer peer;
        struct quota_user *user; /* a reference, charged with one session and with the following */
        size_t charged_bytes;
        size_t charged_fds;
        struct call *call; /* in progress; owned by the method that will answer it */
        size_t call_fds;
        bool running; /* in session_run(), which looks at everything itself */
        bool broken;  /* to be ended, but by session_run() only */
        const struct session_owner *owner;
        void *owner_data;
};

static void resume_later(struct session *session) {
        static const struct timeval now;

        if (!session->running)
                evtimer_add(session->resume, &now);
}

/* Tell the account what the session has. Return: 0 or -EDQUOT. */
static int charge(struct session *session) {
        int r = quota_recharge(session->user, QUOTA_BYTES, &session->charged_bytes,
                               varlink_memory_bytes(session->varlink));

        if (r < 0)
                return r;
        return quota_recharge(session->user, QUOTA_FDS, &session->charged_fds,
                              varlink_held_fds(session->varlink) + session->call_fds);
}

/* The functions of the call's channel. */

static int channel_send(void *data, json_t *message, const int *fds, unsigned n_fds) {
        struct session *session = data;
        int r = varlink_send(session->varlink, message, fds, n_fds);

        if (r == -EMSGSIZE)
                return r;
        if (r == 0)
                r = varlink_flush(session->varlink);
        if (r == 0)
                r = charge(session);
        if (r < 0) {
                session->broken = true;
                resume_later(session);
        }
        return r;
}

static bool channel_is_behind(void *data) {
        struct session *session = data;

        return varlink_queued_bytes(session->varlink) > 0;
}

static void channel_answered(void *data) {
        struct session *session = data;

        session->call = NULL;
        session->call_fds = 0;
        resume_later(session);
}

static const struct call_channel channel = {
        .send = channel_send,
        .is_behind = channel_is_behind,
        .answered = channel_answered,
};

static void start_call(struct session *session, struct call *call) {
        session->call = call;
        session->call_fds = call_n_fds(call);
        if (call_charge(call) < 0) {
                struct error error = {};

                error_set(&error, ERROR_LIMIT_EXCEEDED,
                          "user %u has too many calls in progress; wait for some of them to end, or cancel them",
                          (unsigned) session->peer.uid);
                call_fail(call, &error);
        } else if (call_upgrade(call)) {
                call_fail_parameter(call, "upgrade");
        } else {
                session->owner->dispatch(session->owner_data, call);
        }
}

/* Is the connection gone, not just the half of it that the peer writes to? */
static bool peer_is_gone(const struct session *session) {
        struct pollfd pollfd = { .fd = varlink_get_fd(session->varlink) };

        return poll(&pollfd, 1, 0) > 0 && (pollfd.revents & (POLLHUP | POLLERR));
}

/* Return: 1 a call was read and started, 0 there is none, or -errno: the session is over. */
static int read_call(struct session *session) {
        struct varlink_message message;
        struct call *call;
        int r;

        r = varlink_receive(session->varlink, &message);
        if (r > 0) {
                r = call_new(&message, session->user, session->peer.uid, session->peer.pid, &channel, session, &call);
                if (r < 0)
                        return r;
                start_call(session, call);
                r = 1;
        }
        if (r >= 0 && charge(session) < 0)
                return -EDQUOT;
        return r;
}

/* Do what can be done without waiting. Return: 1 there may be more to do, 0 nothing now, or -errno: it is over. */
static int run_once(struct session *session) {
        int r;

        r = varlink_flush(session->varlink);
        if (r < 0)
                return r;
        if (session->call && varlink_queued_bytes(session->varlink) == 0)
                call_send_progress(session->call);
        if (session->broken)
                return -EPIPE;
        if (session->call || varlink_queued_bytes(session->varlink) > 0)
                return peer_is_gone(session) ? -EPIPE : charge(session);
        return read_call(session);
}

static void session_run(struct session *session) {
        int r = 1;

        session->running = true;
        for (unsigned i = 0; i < SESSION_BURST && r > 0; i++)
                r = run_once(session);
        session->running = false;
        if (r < 0)
                session->owner->ended(session->owner_data, session);
        else if (r > 0)
                resume_later(session);
}

static void on_event(evutil_socket_t fd, short events, void *data) {
        session_run(data);
}

static ssize_t receive(void *data, int fd, struct msghdr *header) {
        struct session *session = data;

        return gate_receive(session->gate, session->peer.uid, fd, header);
}

int session_new(struct event_base *base, int fd, struct gate *gate, const struct socket_peer *peer,
                struct quota_user *user, const struct session_owner *owner, void *owner_data, struct session **ret) {
        struct session *session = calloc(1, sizeof(*session));

        if (!session)
                return -ENOMEM;
        session->gate = gate;
        session->peer = *peer;
        session->owner = owner;
        session->owner_data = owner_data;
        session->io = event_new(base, fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST, on_event, session);
        session->resume = evtimer_new(base, on_event, session);
        if (!session->io || !session->resume || event_add(session->io, NULL) < 0 ||
            varlink_new(fd, VARLINK_SERVER, &session->varlink) < 0) {
                session_free(session);
                return -ENOMEM;
        }
        varlink_set_receive(session->varlink, receive, session);
        session->user = user;
        *ret = session;
        return 0;
}

void session_free(struct session *session) {
        if (!session)
                return;
        if (session->io)
                event_free(session->io);
        if (session->resume)
                event_free(session->resume);
        if (session->call)
                call_gone(STEAL_PTR(session->call));
        varlink_free(session->varlink);
        if (session->user) {
                quota_discharge(session->user, QUOTA_BYTES, session->charged_bytes);
                quota_discharge(session->user, QUOTA_FDS, session->charged_fds);
                quota_discharge(session->user, QUOTA_SESSIONS, 1);
                quota_user_unref(session->user);
        }
        free(session);
}
