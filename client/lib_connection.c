/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_connection.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "client/lib_error.h"
#include "client/lib_reply.h"
#include "common/cleanup.h"
#include "common/socket.h"

static void livesnap_close_p(struct livesnap **livesnap) {
        livesnap_close(*livesnap);
}

static int fail_unreachable(int errnum, const char *path) {
        const char *remedy = "is livesnapd running? (systemctl start livesnapd, or name its socket with --socket or "
                             "LIVESNAP_SOCKET)";

        if (errnum == EACCES || errnum == EPERM)
                remedy = "this user may not use it: join the socket's group, or run as root";
        return lib_fail(LIVESNAP_ERROR_UNREACHABLE, "cannot connect to livesnapd at '%s': %s; %s", path,
                        strerror(errnum), remedy);
}

struct livesnap *livesnap_connect(const char *socket_path) {
        CLEANUP(livesnap_close_p) struct livesnap *livesnap = NULL;
        CLEANUP_CLOSE int fd = -1;
        int r;

        if (!socket_path)
                socket_path = secure_getenv("LIVESNAP_SOCKET");
        if (!socket_path || !*socket_path)
                socket_path = SOCKET_PATH_DEFAULT;

        livesnap = calloc(1, sizeof(*livesnap));
        if (!livesnap)
                goto no_memory;
        STAILQ_INIT(&livesnap->calls);
        livesnap->path = strdup(socket_path);
        if (!livesnap->path)
                goto no_memory;
        fd = socket_connect(socket_path);
        if (fd < 0) {
                fail_unreachable(-fd, socket_path);
                return NULL;
        }
        r = varlink_new(fd, VARLINK_CLIENT, &livesnap->varlink);
        if (r < 0)
                goto no_memory;
        steal_fd(&fd);
        return STEAL_PTR(livesnap);

no_memory:
        lib_fail_errno(ENOMEM, "cannot connect to livesnapd");
        return NULL;
}

static void call_free(struct call *call) {
        if (call->callback.free)
                call->callback.free(call->callback.data);
        free(call);
}

void livesnap_close(struct livesnap *livesnap) {
        struct call *call;

        if (!livesnap)
                return;
        varlink_free(livesnap->varlink);
        while ((call = STAILQ_FIRST(&livesnap->calls))) {
                STAILQ_REMOVE_HEAD(&livesnap->calls, link);
                call_free(call);
        }
        free(livesnap->path);
        free(livesnap);
}

int livesnap_get_fd(const struct livesnap *livesnap) {
        return varlink_get_fd(livesnap->varlink);
}

int livesnap_get_events(const struct livesnap *livesnap) {
        return varlink_get_events(livesnap->varlink);
}

static int fail_broken(const struct livesnap *livesnap) {
        return lib_fail_named(livesnap->broken_name, livesnap->broken_message);
}

/* Ends all calls that wait. They are told the error that has just been set in this thread. */
static int connection_break(struct livesnap *livesnap) {
        struct call *call;

        livesnap->broken = true;
        snprintf(livesnap->broken_name, sizeof(livesnap->broken_name), "%s", livesnap_get_error_name());
        snprintf(livesnap->broken_message, sizeof(livesnap->broken_message), "%s", livesnap_get_error());
        while ((call = STAILQ_FIRST(&livesnap->calls))) {
                struct livesnap_reply reply = {
                        .error_name = livesnap->broken_name,
                        .error_message = livesnap->broken_message,
                };

                STAILQ_REMOVE_HEAD(&livesnap->calls, link);
                call->callback.function(call->callback.data, &reply);
                reply_deinit(&reply);
                call_free(call);
        }
        return fail_broken(livesnap);
}

static int connection_handle(struct livesnap *livesnap, struct varlink_message *message) {
        CLEANUP(reply_deinit) struct livesnap_reply reply;
        struct call *call = STAILQ_FIRST(&livesnap->calls);

        if (reply_init(&reply, message) < 0)
                return -1;
        if (!call || (reply.continues && !call->more))
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd at '%s' sent a reply that nobody asked for",
                                livesnap->path);
        /* Off the queue before it is called back: the callback may queue the next. */
        if (!reply.continues)
                STAILQ_REMOVE_HEAD(&livesnap->calls, link);
        call->callback.function(call->callback.data, &reply);
        if (!reply.continues)
                call_free(call);
        return 0;
}

static int fail_transport(const struct livesnap *livesnap, int errnum) {
        const struct call *call = STAILQ_FIRST(&livesnap->calls);

        if (errnum == EPIPE || errnum == ECONNRESET)
                return lib_fail(
                        LIVESNAP_ERROR_DISCONNECTED,
                        "livesnapd at '%s' closed the connection%s%s; if it has died, nothing is protected any more "
                        "and programs run on: start it and attach again",
                        livesnap->path, call ? " during " : "", call ? call->method : "");
        if (errnum == EBADMSG || errnum == EMSGSIZE)
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY,
                                "what answers at '%s' does not speak Varlink, or too much of it", livesnap->path);
        if (errnum == ETOOMANYREFS)
                return lib_fail(LIVESNAP_ERROR_SYSTEM,
                                "descriptors from livesnapd were lost: too few are free in this process (ulimit -n)");
        return lib_fail_errno(errnum, "the connection to livesnapd at '%s' failed", livesnap->path);
}

int livesnap_dispatch(struct livesnap *livesnap) {
        int sent, r;

        if (livesnap->broken)
                return fail_broken(livesnap);
        /* A peer that refuses us answers and closes: what it said is still there to be read when sending fails. */
        sent = varlink_flush(livesnap->varlink);
        for (;;) {
                struct varlink_message message = { 0 };

                r = varlink_receive(livesnap->varlink, &message);
                if (r <= 0)
                        break;
                r = connection_handle(livesnap, &message);
                varlink_message_deinit(&message);
                if (r < 0)
                        return connection_break(livesnap);
        }
        if (r == 0)
                r = sent;
        if (r < 0) {
                fail_transport(livesnap, -r);
                return connection_break(livesnap);
        }
        return 0;
}

/* Descriptors that the queue may own. Return: 0 or -errno, with none left open. */
static int duplicate_fds(const int *fds, size_t n_fds, int *ret) {
        for (size_t i = 0; i < n_fds; i++) {
                ret[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
                if (ret[i] < 0) {
                        int r = -errno;

                        while (i > 0)
                                close(ret[--i]);
                        return r;
                }
        }
        return 0;
}

static int connection_send(struct livesnap *livesnap, const struct call *call, json_t *parameters, const int *fds,
                           size_t n_fds) {
        int copies[VARLINK_FDS_MAX];
        json_t *json;
        int r;

        if (n_fds > VARLINK_FDS_MAX)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                                "%s: %zu descriptors are more than one call can carry (%u)", call->method, n_fds,
                                VARLINK_FDS_MAX);
        json = json_pack("{s:s, s:O*}", "method", call->method, "parameters", parameters);
        if (!json)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "%s: not a method name in UTF-8", call->method);
        if (call->more)
                json_object_set_new(json, "more", json_true());
        r = duplicate_fds(fds, n_fds, copies);
        if (r == 0)
                r = varlink_send(livesnap->varlink, json, copies, (unsigned) n_fds);
        json_decref(json);
        if (r == -EMSGSIZE)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "%s: the call is larger than the protocol allows",
                                call->method);
        return r < 0 ? lib_fail_errno(-r, "cannot call %s", call->method) : 0;
}

int connection_start(struct livesnap *livesnap, const char *method, json_t *parameters, const int *fds, size_t n_fds,
                     unsigned flags, const struct livesnap_callback *callback) {
        const char *interface = strchr(method, '.') ? "" : "io.livesnap.";
        size_t length = strlen(interface) + strlen(method) + 1;
        struct call *call = malloc(sizeof(*call) + length);

        if (!call) {
                if (callback->free)
                        callback->free(callback->data);
                return lib_fail_errno(ENOMEM, "cannot call %s", method);
        }
        call->more = flags & LIVESNAP_CALL_MORE;
        call->callback = *callback;
        snprintf(call->method, length, "%s%s", interface, method);
        if (livesnap->broken) {
                call_free(call);
                return fail_broken(livesnap);
        }
        if (connection_send(livesnap, call, parameters, fds, n_fds) < 0) {
                call_free(call);
                return -1;
        }
        STAILQ_INSERT_TAIL(&livesnap->calls, call, link);
        return 0;
}

static int connection_poll(struct livesnap *livesnap) {
        struct pollfd pollfd = { .fd = livesnap_get_fd(livesnap), .events = (short) livesnap_get_events(livesnap) };

        if (poll(&pollfd, 1, -1) < 0 && errno != EINTR) {
                lib_fail_errno(errno, "cannot wait for livesnapd");
                return connection_break(livesnap);
        }
        return livesnap_dispatch(livesnap);
}

int connection_wait(struct livesnap *livesnap, const bool *done) {
        int r = 0;

        while (r == 0 && !*done)
                r = connection_poll(livesnap);
        /* What was waited for counts, also when the connection broke behind it. */
        return *done ? 0 : r;
}

int connection_drain(struct livesnap *livesnap) {
        int r = 0;

        while (r == 0 && !STAILQ_EMPTY(&livesnap->calls))
                r = connection_poll(livesnap);
        return r;
}
