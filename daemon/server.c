/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/socket.h"
#include "common/varlink.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "daemon/session.h"

#define SERVER_SOCKET_MODE 0660
#define SERVER_BACKLOG 128
#define SERVER_ACCEPT_BURST 16
#define SERVER_ACCEPT_RETRY_MS 100

struct server_session {
        LIST_ENTRY(server_session) link;
        struct server *server;
        struct session *session; /* owned */
};

struct server {
        struct event_base *base;             /* borrowed */
        const struct server_method *methods; /* borrowed */
        void *context;
        struct quota *quota; /* owned, as are the following */
        struct gate *gate;
        struct event *accept;
        struct event *accept_retry; /* a timer, pending while there is no descriptor for new connections */
        int listen_fd;
        char *made_path; /* name of the socket where we made it; NULL: it is not ours to remove */
        dev_t made_device;
        ino_t made_inode;
        LIST_HEAD(, server_session) sessions;
        unsigned n_sessions;
};

static const struct server_method service_methods[] = {
        { "org.varlink.service.GetInfo", service_get_info },
        { "org.varlink.service.GetInterfaceDescription", service_get_interface_description },
        {},
};

static const struct server_method *find_method(const struct server_method *methods, const char *name) {
        for (; methods->name; methods++)
                if (!strcmp(methods->name, name))
                        return methods;
        return NULL;
}

static void dispatch(void *data, struct call *call) {
        struct server_session *server_session = data;
        struct server *server = server_session->server;
        const char *name = call_method(call), *dot = strrchr(name, '.');
        const struct server_method *method;
        struct error error = {};
        size_t interface_len = dot ? (size_t) (dot - name) : 0;

        if (server->listen_fd < 0) {
                error_set(&error, ERROR_BUSY, "livesnapd is ending; try again when it has been started anew");
                call_fail(call, &error);
                return;
        }
        method = find_method(service_methods, name);
        if (!method)
                method = find_method(server->methods, name);
        if (method)
                method->call(call, server->context);
        else if (service_find_interface(name, interface_len))
                call_fail_with(call, VARLINK_ERROR_METHOD_NOT_FOUND, json_pack("{s:s}", "method", name));
        else
                call_fail_with(call, VARLINK_ERROR_INTERFACE_NOT_FOUND,
                               json_pack("{s:s%}", "interface", name, interface_len));
}

static void server_session_free(struct server_session *server_session) {
        if (!server_session)
                return;
        session_free(server_session->session);
        free(server_session);
}

static void ended(void *data, struct session *session) {
        struct server_session *server_session = data;

        LIST_REMOVE(server_session, link);
        server_session->server->n_sessions--;
        server_session_free(server_session);
}

static const struct session_owner session_owner = {
        .dispatch = dispatch,
        .ended = ended,
};

/* Tell a client that it is one too many, if its socket takes it: it finds that instead of the answer to its first call.
 */
static void refuse(int fd, uid_t uid) {
        static const char format[] = "{\"error\":\"io.livesnap.LimitExceeded\",\"parameters\":{\"message\":"
                                     "\"user %u has too many connections to livesnapd; close some of them\"}}";
        CLEANUP_FREE char *text = NULL;
        int n = asprintf(&text, format, (unsigned) uid);

        if (n < 0)
                text = NULL;
        else if (send(fd, text, (size_t) n + 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                return;
}

static int add_session(struct server *server, int fd, const struct socket_peer *peer, struct quota_user *user) {
        struct server_session *server_session = calloc(1, sizeof(*server_session));
        int r;

        if (!server_session)
                return -ENOMEM;
        server_session->server = server;
        r = session_new(server->base, fd, server->gate, peer, user, &session_owner, server_session,
                        &server_session->session);
        if (r < 0) {
                free(server_session);
                return r;
        }
        LIST_INSERT_HEAD(&server->sessions, server_session, link);
        server->n_sessions++;
        return 0;
}

/* @fd is consumed. */
static void take_connection(struct server *server, int fd) {
        CLEANUP_CLOSE int guarded = fd;
        struct quota_user *user;
        struct socket_peer peer;

        if (socket_get_peer(fd, &peer) < 0 || quota_get_user(server->quota, peer.uid, &user) < 0)
                return;
        if (quota_charge(user, QUOTA_SESSIONS, 1) < 0) {
                refuse(fd, peer.uid);
        } else if (add_session(server, fd, &peer, user) < 0) {
                quota_discharge(user, QUOTA_SESSIONS, 1);
        } else {
                steal_fd(&guarded);
                return;
        }
        quota_user_unref(user);
}

/* The backlog stays readable while we cannot take from it: look away for a moment. */
static void pause_accepting(struct server *server, int error) {
        static const struct timeval moment = { .tv_usec = SERVER_ACCEPT_RETRY_MS * 1000 };

        log_warning("cannot take new connections for now: %s", strerror(error));
        event_del(server->accept);
        evtimer_add(server->accept_retry, &moment);
}

static void on_retry(evutil_socket_t fd, short events, void *data) {
        struct server *server = data;

        event_add(server->accept, NULL);
}

static void on_accept(evutil_socket_t listen_fd, short events, void *data) {
        struct server *server = data;

        for (unsigned i = 0; i < SERVER_ACCEPT_BURST; i++) {
                int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0) {
                        take_connection(server, fd);
                } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                        pause_accepting(server, errno);
                        return;
                } else if (errno != EINTR && errno != ECONNABORTED) {
                        return;
                }
        }
}

static int explain_listen(const char *path, int r, struct error *error) {
        switch (r) {
        case -EADDRINUSE:
                return error_set(
                        error, ERROR_BUSY,
                        "another daemon listens on %s already; stop it, or choose another socket with --socket", path);
        case -EEXIST:
                return error_set(error, ERROR_BAD_REQUEST,
                                 "cannot make the socket %s: something else has that name; remove it, or choose "
                                 "another with --socket",
                                 path);
        case -ENOENT:
                return error_set(error, ERROR_BAD_REQUEST,
                                 "cannot make the socket %s: its directory does not exist; make it, or choose another "
                                 "with --socket",
                                 path);
        case -EACCES:
        case -EPERM:
        case -EROFS:
                return error_set(
                        error, ERROR_PERMISSION_DENIED,
                        "cannot make the socket %s: %s; run livesnapd as a user who may write to its directory, "
                        "or choose another with --socket",
                        path, strerror(-r));
        default:
                return error_set(error, ERROR_INTERNAL, "cannot listen on %s: %s", path, strerror(-r));
        }
}

static int make_socket(struct server *server, const char *path, struct error *error) {
        struct stat status;
        int fd;

        /* So that a daemon that is started by hand needs no options. Any other directory has to exist. */
        if (!strcmp(path, SOCKET_PATH_DEFAULT))
                mkdir(SOCKET_DIRECTORY_DEFAULT, 0755);
        fd = socket_listen(path, SERVER_SOCKET_MODE, SERVER_BACKLOG);
        if (fd < 0)
                return explain_listen(path, fd, error);
        server->listen_fd = fd;
        server->made_path = strdup(path);
        if (!server->made_path || lstat(path, &status) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot listen on %s: %s", path, strerror(errno));
        server->made_device = status.st_dev;
        server->made_inode = status.st_ino;
        return 0;
}

static int check_socket(int fd, struct error *error) {
        int listening = 0, type = 0, domain = 0;
        socklen_t length = sizeof(int);

        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 ||
            getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || !listening || domain != AF_UNIX ||
            type != SOCK_STREAM)
                return error_set(
                        error, ERROR_BAD_REQUEST,
                        "the socket that livesnapd was started with is not a listening stream socket of AF_UNIX");
        return 0;
}

static int watch_socket(struct server *server, struct error *error) {
        int flags = fcntl(server->listen_fd, F_GETFL);

        if (flags < 0 || fcntl(server->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot set up the socket: %s", strerror(errno));
        server->accept = event_new(server->base, server->listen_fd, EV_READ | EV_PERSIST, on_accept, server);
        server->accept_retry = evtimer_new(server->base, on_retry, server);
        if (!server->accept || !server->accept_retry || event_add(server->accept, NULL) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot watch the socket: out of memory");
        return 0;
}

int server_new(struct event_base *base, const struct server_config *config, const struct server_method *methods,
               void *context, struct server **ret, struct error *error) {
        const struct quota_limits *limits = config->limits ? config->limits : &quota_limits_default;
        struct server *server = calloc(1, sizeof(*server));
        int r;

        if (!server)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        server->base = base;
        server->methods = methods;
        server->context = context;
        server->listen_fd = -1;
        LIST_INIT(&server->sessions);
        if (quota_new(limits, &server->quota) < 0 || gate_new(&server->gate) < 0) {
                r = error_set(error, ERROR_INTERNAL, "out of memory");
        } else if (config->listen_fd >= 0) {
                r = check_socket(config->listen_fd, error);
                if (r == 0)
                        server->listen_fd = config->listen_fd;
        } else {
                r = make_socket(server, config->socket_path, error);
        }
        if (r == 0)
                r = watch_socket(server, error);
        if (r < 0) {
                if (config->listen_fd >= 0)
                        server->listen_fd = -1; /* remains the caller's */
                server_free(server);
                return -1;
        }
        *ret = server;
        return 0;
}

/* While we still listen, so that a daemon that starts now does not take the name for a dead one's and make it anew. */
static void remove_socket(struct server *server) {
        struct stat status;

        if (!server->made_path)
                return;
        if (lstat(server->made_path, &status) == 0 && status.st_dev == server->made_device &&
            status.st_ino == server->made_inode)
                unlink(server->made_path);
        free(STEAL_PTR(server->made_path));
}

void server_stop(struct server *server) {
        remove_socket(server);
        if (server->accept)
                event_free(STEAL_PTR(server->accept));
        if (server->accept_retry)
                event_free(STEAL_PTR(server->accept_retry));
        if (server->listen_fd >= 0)
                close(steal_fd(&server->listen_fd));
}

void server_free(struct server *server) {
        struct server_session *server_session;

        if (!server)
                return;
        server_stop(server);
        while ((server_session = LIST_FIRST(&server->sessions)))
                ended(server_session, server_session->session);
        gate_free(server->gate);
        quota_free(server->quota);
        free(server);
}

unsigned server_sessions(const struct server *server) {
        return server->n_sessions;
}
