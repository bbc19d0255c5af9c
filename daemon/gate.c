/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/gate.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/cgroup.h"
#include "daemon/fdtable.h"

#define GATE_FDS_MAX 64
/* Threads that have not closed all yet. Who sends by mistake what hangs has one or two; an attacker gains nothing by
 * more. */
#define GATE_HANGING_USER 16
#define GATE_HANGING_ALL 256
/* At the end, for threads that do not hang to be seen to end. */
#define GATE_END_S 1

/* One message on its way in. The thread that receives it uses the main thread's memory only until @received. */
struct passage {
        LIST_ENTRY(passage) link;
        uid_t uid;
        pthread_t thread;
        int socket;     /* of the peer; borrowed, open in both tables */
        int channel[2]; /* [0] is the main thread's, [1] the other's; owned by gate_receive(), open in both tables */
        void *data;     /* to receive to: borrowed from the caller of gate_receive() */
        size_t bytes;
        sem_t received;
        ssize_t result; /* set before @received: bytes or -errno */
        int flags;
        unsigned n_fds;
        bool has_strangers; /* something is left to close */
};

struct gate {
        LIST_HEAD(, passage) passages; /* whose threads have not been joined */
};

union control {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(GATE_FDS_MAX * sizeof(int))];
};

/*
 * The thread
 */

/* May it come into the process's table? Nothing here asks the filesystem of a stranger. */
static bool is_ours(int fd) {
        char path[64], target[64];
        int flags = fcntl(fd, F_GETFL);
        ssize_t n;

        /* Closed without ->flush by every kernel; and who is sent one can say why it will not do. */
        if (flags >= 0 && (flags & O_PATH))
                return true;
        /* Only shmem and hugetlbfs know seals, and neither does anything when a descriptor is closed. */
        if (fcntl(fd, F_GET_SEALS) >= 0)
                return true;
        /* For the freezer of a cgroup; nothing is asked when it is closed. */
        if (cgroup_identify(fd) != CGROUP_NONE)
                return true;
        snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        target[n < 0 ? 0 : n] = '\0';
        return !strcmp(target, "anon_inode:[userfaultfd]");
}

static unsigned get_fds(struct msghdr *header, int *ret) {
        unsigned n = 0;

        for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
                size_t bytes = control->cmsg_len - CMSG_LEN(0);

                if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
                        continue;
                assert(n + bytes / sizeof(int) <= GATE_FDS_MAX);
                memcpy(ret + n, CMSG_DATA(control), bytes);
                n += (unsigned) (bytes / sizeof(int));
        }
        return n;
}

static void put_fds(struct msghdr *header, const int *fds, unsigned n) {
        struct cmsghdr *control;

        header->msg_controllen = CMSG_SPACE(n * sizeof(int));
        control = CMSG_FIRSTHDR(header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(control), fds, n * sizeof(int));
}

/* What is ours goes on to the main thread and leaves this table before the main thread can use it. Return: 0 or -errno.
 */
static int pass_on(struct passage *passage, const int *fds, unsigned n_fds) {
        union control control = { .bytes = { 0 } };
        struct iovec byte = { .iov_base = &(char){ 0 }, .iov_len = 1 };
        struct msghdr header = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control };
        CLEANUP_CLOSE int placeholder = eventfd(0, EFD_CLOEXEC);
        int passed[GATE_FDS_MAX], r = 0;

        if (placeholder < 0)
                return -errno;
        for (unsigned i = 0; i < n_fds; i++) {
                passed[i] = is_ours(fds[i]) ? fds[i] : placeholder;
                passage->has_strangers |= passed[i] == placeholder;
        }
        put_fds(&header, passed, n_fds);
        if (sendmsg(passage->channel[1], &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                r = -errno;
        for (unsigned i = 0; i < n_fds; i++)
                if (passed[i] != placeholder)
                        close(passed[i]);
        passage->n_fds = n_fds;
        return r;
}

/* In the thread's own table. Return: bytes or -errno. */
static ssize_t receive_apart(struct passage *passage) {
        union control control;
        struct iovec vector = { .iov_base = passage->data, .iov_len = passage->bytes };
        struct msghdr header = { .msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = CMSG_LEN(GATE_FDS_MAX * sizeof(int)) };
        int fds[GATE_FDS_MAX], r;
        unsigned n_fds;
        ssize_t n;

        do
                n = recvmsg(passage->socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        passage->flags = header.msg_flags;
        n_fds = get_fds(&header, fds);
        r = n_fds ? pass_on(passage, fds, n_fds) : 0;
        return r < 0 ? r : n;
}

static void *passage_main(void *data) {
        struct passage *passage = data;
        int r = fdtable_isolate(passage->socket, passage->channel[1]);

        pthread_setname_np(pthread_self(), "gate");
        if (r == 0) {
                passage->result = receive_apart(passage);
                close(passage->socket);
                close(passage->channel[1]);
        } else {
                passage->result = r;
        }
        sem_post(&passage->received);
        /* Here it may hang. */
        if (r == 0)
                close_range(3, ~0u, 0);
        return NULL;
}

/*
 * The main thread
 */

int gate_new(struct gate **ret) {
        struct gate *gate = calloc(1, sizeof(*gate));

        if (!gate)
                return -ENOMEM;
        LIST_INIT(&gate->passages);
        *ret = gate;
        return 0;
}

static void passage_free(struct passage *passage) {
        LIST_REMOVE(passage, link);
        sem_destroy(&passage->received);
        free(passage);
}

void gate_free(struct gate *gate) {
        struct passage *passage, *next;
        struct timespec end;

        if (!gate)
                return;
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec += GATE_END_S;
        for (passage = LIST_FIRST(&gate->passages); passage; passage = next) {
                next = LIST_NEXT(passage, link);
                if (pthread_timedjoin_np(passage->thread, NULL, &end) != 0)
                        pthread_detach(passage->thread);
                passage_free(passage);
        }
        free(gate);
}

/* Forgets the threads that have ended; of the others, is there room for one more? */
static bool gate_has_room(struct gate *gate, uid_t uid) {
        struct passage *passage, *next;
        unsigned n_user = 0, n_all = 0;

        for (passage = LIST_FIRST(&gate->passages); passage; passage = next) {
                next = LIST_NEXT(passage, link);
                if (pthread_tryjoin_np(passage->thread, NULL) == 0) {
                        passage_free(passage);
                        continue;
                }
                n_user += passage->has_strangers && passage->uid == uid;
                n_all++;
        }
        return n_user < GATE_HANGING_USER && (n_all < GATE_HANGING_ALL || uid == 0);
}

/* Signals are for the threads of the process that expect them. Return: 0 or -errno. */
static int passage_start(struct passage *passage) {
        sigset_t all, before;
        int r;

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = -pthread_create(&passage->thread, NULL, passage_main, passage);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
}

/* What the other thread has passed on, into this table. Return: 0 or -errno. */
static int take_fds(const struct passage *passage, struct msghdr *header) {
        struct iovec byte = { .iov_base = &(char){ 0 }, .iov_len = 1 };
        struct msghdr passed = { .msg_iov = &byte,
                                 .msg_iovlen = 1,
                                 .msg_control = header->msg_control,
                                 .msg_controllen = header->msg_controllen };

        if (recvmsg(passage->channel[0], &passed, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0)
                return -errno;
        header->msg_controllen = passed.msg_controllen;
        header->msg_flags |= passed.msg_flags & MSG_CTRUNC;
        return 0;
}

static ssize_t pass(struct gate *gate, struct passage *passage, struct msghdr *header) {
        ssize_t result;
        int r = passage_start(passage);

        if (r < 0) {
                sem_destroy(&passage->received);
                free(passage);
                return r;
        }
        LIST_INSERT_HEAD(&gate->passages, passage, link);
        while (sem_wait(&passage->received) < 0)
                ; /* EINTR */
        result = passage->result;
        header->msg_flags = passage->flags;
        if (result >= 0 && passage->n_fds) {
                r = take_fds(passage, header);
                if (r < 0)
                        return r;
        } else {
                header->msg_controllen = 0;
        }
        return result;
}

static ssize_t receive_fds(struct gate *gate, uid_t uid, int socket, struct msghdr *header, size_t bytes) {
        struct passage *passage;
        int channel[2];
        ssize_t n;

        if (!gate_has_room(gate, uid))
                return -EDQUOT;
        passage = calloc(1, sizeof(*passage));
        if (!passage)
                return -ENOMEM;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0) {
                free(passage);
                return -errno;
        }
        passage->uid = uid;
        passage->socket = socket;
        memcpy(passage->channel, channel, sizeof(channel));
        passage->data = header->msg_iov->iov_base;
        passage->bytes = bytes;
        sem_init(&passage->received, 0, 0);
        n = pass(gate, passage, header);
        close(channel[0]);
        close(channel[1]);
        return n;
}

/* No memory for descriptors is given, so the kernel installs none and says that there are some. Return: bytes or
 * -errno. */
static ssize_t receive_bytes(int socket, const struct msghdr *header, size_t bytes, int flags, bool *ret_has_fds) {
        struct iovec vector = { .iov_base = header->msg_iov->iov_base, .iov_len = bytes };
        struct msghdr plain = { .msg_iov = &vector, .msg_iovlen = 1 };
        ssize_t n;

        do
                n = recvmsg(socket, &plain, MSG_DONTWAIT | flags);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        *ret_has_fds = plain.msg_flags & MSG_CTRUNC;
        return n;
}

ssize_t gate_receive(struct gate *gate, uid_t uid, int socket, struct msghdr *header) {
        bool has_fds = false;
        ssize_t n;

        assert(header->msg_iovlen == 1 && header->msg_controllen <= CMSG_SPACE(GATE_FDS_MAX * sizeof(int)));
        n = receive_bytes(socket, header, header->msg_iov->iov_len, MSG_PEEK, &has_fds);
        if (n > 0 && has_fds)
                return receive_fds(gate, uid, socket, header, (size_t) n);
        header->msg_controllen = 0;
        header->msg_flags = 0;
        /* Not more than was looked at: what has come meanwhile may have descriptors with it. */
        return n > 0 ? receive_bytes(socket, header, (size_t) n, 0, &has_fds) : n;
}
