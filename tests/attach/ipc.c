/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Calls that wait for another process. */
#include "victim.h"

#include <linux/io_uring.h>
#include <poll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void recv_with_timeout(uint64_t timeout_ns, uint64_t late_ns) {
        struct timeval time = { (time_t) (timeout_ns / 1000000000), (suseconds_t) (timeout_ns % 1000000000 / 1000) };
        uint64_t start_ns;
        int sockets[2];
        char byte;

        CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
        CHECK(!setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)));
        victim_ready();
        start_ns = victim_now_ns();
        CHECK(recv(sockets[0], &byte, 1, 0) < 0 && errno == EAGAIN);
        victim_check_elapsed(start_ns, timeout_ns, late_ns);
}

static void in_recv_timeout(void) {
        recv_with_timeout(VICTIM_SLEEP_NS, VICTIM_LATE_NS);
}

static void in_recv_timeout_long(void) {
        recv_with_timeout(VICTIM_LONG_NS, VICTIM_ANEW_NS);
}

static void in_semtimedop(void) {
        struct timespec time = victim_timespec(VICTIM_LONG_NS);
        struct sembuf operation = { .sem_op = -1 };
        int semaphores = semget(IPC_PRIVATE, 1, 0600), r;
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        r = semtimedop(semaphores, &operation, 1, &time);
        CHECK(r < 0 && errno == EAGAIN);
        victim_check_elapsed(start_ns, VICTIM_LONG_NS, VICTIM_ANEW_NS);
        semctl(semaphores, 0, IPC_RMID);
}

static void later_semop(void *data) {
        struct sembuf operation = { .sem_op = 1 };

        semop(*(int *) data, &operation, 1);
}

static void in_semop(void) {
        struct sembuf operation = { .sem_op = -1 };
        int semaphores = semget(IPC_PRIVATE, 1, 0600), r;

        victim_later(later_semop, &semaphores);
        victim_ready();
        r = semop(semaphores, &operation, 1);
        CHECK(!r);
        semctl(semaphores, 0, IPC_RMID);
}

struct message {
        long type;
        char text[8];
};

static void later_msgsnd(void *data) {
        struct message message = { .type = 1 };

        msgsnd(*(int *) data, &message, sizeof(message.text), 0);
}

static void in_msgrcv(void) {
        int queue = msgget(IPC_PRIVATE, 0600);
        struct message message;

        victim_later(later_msgsnd, &queue);
        victim_ready();
        CHECK(msgrcv(queue, &message, sizeof(message.text), 0, 0) == sizeof(message.text));
        msgctl(queue, IPC_RMID, NULL);
}

static struct sockaddr_un listener_address;
static socklen_t listener_length;

static int listener_new(void) {
        int listener = socket(AF_UNIX, SOCK_STREAM, 0);

        listener_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
        listener_length = sizeof(listener_address);
        CHECK(!bind(listener, (struct sockaddr *) &listener_address, sizeof(sa_family_t)));
        CHECK(!listen(listener, 0));
        CHECK(!getsockname(listener, (struct sockaddr *) &listener_address, &listener_length));
        return listener;
}

static void later_connect(void *data) {
        (void) data;
        CHECK(!connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *) &listener_address, listener_length));
        usleep(100000);
}

static void in_accept(void) {
        int listener = listener_new(), connection;

        victim_later(later_connect, NULL);
        victim_ready();
        connection = accept(listener, NULL, NULL);
        CHECK(connection >= 0);
        close(connection);
}

static void later_accept(void *data) {
        CHECK(accept(*(int *) data, NULL, NULL) >= 0);
        usleep(300000);
}

static void in_connect(void) {
        int listener = listener_new(), sockets[2];

        for (int i = 0; i < 2; i++)
                sockets[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK(!connect(sockets[0], (struct sockaddr *) &listener_address, listener_length));
        victim_later(later_accept, &listener);
        victim_ready();
        CHECK(!connect(sockets[1], (struct sockaddr *) &listener_address, listener_length));
}

static void later_nothing(void *data) {
        (void) data;
}

static void in_waitpid(void) {
        victim_later(later_nothing, NULL);
        victim_ready();
        CHECK(waitpid(-1, NULL, 0) > 0);
}

static void in_io_uring_enter(void) {
        struct io_uring_params parameters = { 0 };
        struct io_uring_sqe *entries;
        int pipe_fds[2], ring;
        uint32_t *queue;

        ring = (int) syscall(SYS_io_uring_setup, 4, &parameters);
        if (ring < 0)
                victim_skip("no io_uring here");
        CHECK(!pipe(pipe_fds));
        queue = mmap(NULL, parameters.sq_off.array + parameters.sq_entries * sizeof(uint32_t), PROT_READ | PROT_WRITE,
                     MAP_SHARED, ring, IORING_OFF_SQ_RING);
        entries = mmap(NULL, 4 * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
        CHECK(queue != MAP_FAILED && entries != MAP_FAILED);
        entries[0] = (struct io_uring_sqe){ .opcode = IORING_OP_POLL_ADD, .fd = pipe_fds[0], .poll32_events = POLLIN };
        queue[parameters.sq_off.array / sizeof(uint32_t)] = 0;
        __atomic_store_n(&queue[parameters.sq_off.tail / sizeof(uint32_t)], 1, __ATOMIC_RELEASE);
        CHECK(syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0) == 1);
        victim_later(victim_later_write, &pipe_fds[1]);
        victim_ready();
        CHECK(!syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
}

const struct victim_situation victim_ipc[] = {
        { "recv-timeout", in_recv_timeout },
        { "recv-timeout-long", in_recv_timeout_long },
        { "semtimedop", in_semtimedop },
        { "semop", in_semop },
        { "msgrcv", in_msgrcv },
        { "accept", in_accept },
        { "connect", in_connect },
        { "waitpid", in_waitpid },
        { "io-uring-enter", in_io_uring_enter },
        { 0 },
};
