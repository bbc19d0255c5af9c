/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"

/* A message carries no more descriptors than this (SCM_MAX_FD). */
#define GUARDIAN_FDS_MAX 253u
#define GUARDIAN_SOCKET 3

enum guardian_order {
        GUARDIAN_HOLD,
        GUARDIAN_RELEASE,
};

struct guardian_message {
        uint64_t id;
        enum guardian_order order;
        enum guardian_kind kind;
};

struct guardian {
        pid_t pid;
        int socket;           /* owned */
        pthread_mutex_t lock; /* from an order to its answer */
};

/* What the guardian has. */
struct guardian_item {
        uint64_t id;
        enum guardian_kind kind;
        int fd; /* owned */
};

struct guardian_items {
        size_t n, n_allocated;
        struct guardian_item *items;
};

void guardian_let_go(enum guardian_kind kind, int fd) {
        switch (kind) {
        case GUARDIAN_PIDFD:
                (void) syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0);
                break;
        case GUARDIAN_FREEZER_V2:
                (void) !pwrite(fd, "0", 1, 0);
                break;
        case GUARDIAN_FREEZER_V1:
                (void) !pwrite(fd, "THAWED", 6, 0);
                break;
        }
}

/*
 * The guardian
 */

static bool items_add(struct guardian_items *items, const struct guardian_item *item) {
        if (items->n == items->n_allocated) {
                size_t n = items->n_allocated ? items->n_allocated * 2 : 64;
                struct guardian_item *more = reallocarray(items->items, n, sizeof(*more));

                if (!more)
                        return false;
                items->items = more;
                items->n_allocated = n;
        }
        items->items[items->n++] = *item;
        return true;
}

static void items_drop(struct guardian_items *items, uint64_t id) {
        size_t n = 0;

        for (size_t i = 0; i < items->n; i++)
                if (items->items[i].id == id)
                        close(items->items[i].fd);
                else
                        items->items[n++] = items->items[i];
        items->n = n;
}

/* Return: 0 or -errno, and then it has none of them. */
static int guardian_take(struct guardian_items *items, const struct guardian_message *message, struct msghdr *header) {
        int r = header->msg_flags & MSG_CTRUNC ? -EMFILE : 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        struct guardian_item item = { .id = message->id, .kind = message->kind };

                        memcpy(&item.fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (!items_add(items, &item)) {
                                close(item.fd);
                                r = -ENOMEM;
                        }
                }
        }
        if (r < 0)
                items_drop(items, message->id);
        return r;
}

/* Returns false when there is nobody to guard for any more. */
static bool guardian_receive(int fd, struct guardian_items *items) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(GUARDIAN_FDS_MAX * sizeof(int))];
        } control;
        struct guardian_message message;
        struct iovec iov = { &message, sizeof(message) };
        struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
        ssize_t n;

        header.msg_controllen = sizeof(control);
        n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
                return true;
        if (n != sizeof(message))
                return false;
        if (message.order == GUARDIAN_HOLD) {
                int r = guardian_take(items, &message, &header);

                return send(fd, &r, sizeof(r), MSG_NOSIGNAL) == sizeof(r);
        }
        items_drop(items, message.id);
        return true;
}

static void guardian_run(int fd) __attribute__((noreturn));

static void guardian_run(int fd) {
        struct guardian_items items = { 0 };
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_NAME, "livesnap-guard");
        /* Who interrupts the daemon, at a terminal or by its group, must not end us first. We end with it. */
        signal(SIGINT, SIG_IGN);
        signal(SIGQUIT, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        if (null >= 0)
                for (int i = 0; i < 3; i++)
                        dup2(null, i);
        if (fd != GUARDIAN_SOCKET)
                dup2(fd, GUARDIAN_SOCKET);
        syscall(SYS_close_range, GUARDIAN_SOCKET + 1, ~0u, 0);
        while (guardian_receive(GUARDIAN_SOCKET, &items))
                ;
        for (size_t i = 0; i < items.n; i++)
                guardian_let_go(items.items[i].kind, items.items[i].fd);
        _exit(0);
}

/*
 * The daemon's side
 */

int guardian_new(struct guardian **ret, struct error *error) {
        struct guardian *guardian = malloc(sizeof(*guardian));
        int sockets[2];

        if (!guardian)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
                free(guardian);
                return error_set(error, ERROR_INTERNAL, "cannot make a socket for the guardian process: %s",
                                 strerror(errno));
        }
        guardian->socket = sockets[0];
        guardian->pid = fork();
        if (guardian->pid == 0) {
                close(sockets[0]);
                guardian_run(sockets[1]);
        }
        close(sockets[1]);
        if (guardian->pid < 0) {
                close(sockets[0]);
                free(guardian);
                return error_set(error, ERROR_INTERNAL, "cannot make the guardian process: %s", strerror(errno));
        }
        pthread_mutex_init(&guardian->lock, NULL);
        *ret = guardian;
        return 0;
}

void guardian_free(struct guardian *guardian) {
        if (!guardian)
                return;
        close(guardian->socket);
        while (waitpid(guardian->pid, NULL, 0) < 0 && errno == EINTR)
                ;
        pthread_mutex_destroy(&guardian->lock);
        free(guardian);
}

static int guardian_send(const struct guardian *guardian, const struct guardian_message *message, const int *fds,
                         unsigned n_fds) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(GUARDIAN_FDS_MAX * sizeof(int))];
        } control = { 0 };
        struct iovec iov = { (void *) message, sizeof(*message) };
        struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t n;

        if (n_fds) {
                header.msg_control = &control;
                header.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
        }
        do
                n = sendmsg(guardian->socket, &header, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : 0;
}

static int guardian_ask(struct guardian *guardian, const struct guardian_message *message, const int *fds,
                        unsigned n_fds) {
        int answer = -EPIPE, r;

        pthread_mutex_lock(&guardian->lock);
        r = guardian_send(guardian, message, fds, n_fds);
        if (r == 0 && recv(guardian->socket, &answer, sizeof(answer), 0) == sizeof(answer))
                r = answer;
        else if (r == 0)
                r = -EPIPE;
        pthread_mutex_unlock(&guardian->lock);
        return r;
}

int guardian_hold(struct guardian *guardian, uint64_t id, enum guardian_kind kind, const int *fds, unsigned n_fds) {
        const struct guardian_message message = { .id = id, .order = GUARDIAN_HOLD, .kind = kind };
        int r = 0;

        for (unsigned i = 0; i < n_fds && r == 0; i += GUARDIAN_FDS_MAX)
                r = guardian_ask(guardian, &message, fds + i,
                                 n_fds - i < GUARDIAN_FDS_MAX ? n_fds - i : GUARDIAN_FDS_MAX);
        return r;
}

void guardian_release(struct guardian *guardian, uint64_t id) {
        const struct guardian_message message = { .id = id, .order = GUARDIAN_RELEASE };

        pthread_mutex_lock(&guardian->lock);
        (void) guardian_send(guardian, &message, NULL, 0);
        pthread_mutex_unlock(&guardian->lock);
}
