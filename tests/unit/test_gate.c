/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The gate: what comes in by it, and what becomes of the rest. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/gate.h"
#include "tests/unit/descriptors.h"

#define FDS_MAX 64
#define PATIENCE_MS 10000

struct meeting {
        struct gate *gate;
        int ours, theirs;
        /* What was received last */
        char data[64];
        int fds[FDS_MAX];
        unsigned n_fds;
        int flags;
};

static int setup(void **state) {
        static struct meeting meeting;
        int pair[2];

        memset(&meeting, 0, sizeof(meeting));
        assert_int_equal(gate_new(&meeting.gate), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        meeting.ours = pair[0];
        meeting.theirs = pair[1];
        *state = &meeting;
        return 0;
}

static int teardown(void **state) {
        struct meeting *meeting = *state;

        gate_free(meeting->gate);
        close(meeting->ours);
        close(meeting->theirs);
        return 0;
}

static ssize_t receive(struct meeting *meeting, size_t bytes) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        } control;
        struct iovec vector = { .iov_base = meeting->data, .iov_len = bytes };
        struct msghdr header = {
                .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n = gate_receive(meeting->gate, 1000, meeting->ours, &header);
        struct cmsghdr *first = n < 0 ? NULL : CMSG_FIRSTHDR(&header);

        meeting->n_fds = 0;
        meeting->flags = header.msg_flags;
        if (first) {
                meeting->n_fds = (unsigned) ((first->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(meeting->fds, CMSG_DATA(first), meeting->n_fds * sizeof(int));
        }
        return n;
}

/* The descriptors are the receiver's alone from here on. */
static void send_away(struct meeting *meeting, const char *text, const int *fds, unsigned n_fds) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(2 * FDS_MAX * sizeof(int))];
        } control = {};
        struct iovec vector = { .iov_base = (void *) (uintptr_t) text, .iov_len = strlen(text) };
        struct msghdr header = { .msg_iov = &vector,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = CMSG_SPACE(n_fds * sizeof(int)) };

        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
        assert_int_equal(sendmsg(meeting->theirs, &header, MSG_NOSIGNAL), (ssize_t) strlen(text));
        for (unsigned i = 0; i < n_fds; i++)
                close(fds[i]);
}

static void close_received(struct meeting *meeting) {
        for (unsigned i = 0; i < meeting->n_fds; i++)
                close(meeting->fds[i]);
}

static bool leads_to(int fd, const char *what) {
        char path[64], target[128];
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n = readlink(path, target, sizeof(target) - 1);
        target[n < 0 ? 0 : n] = '\0';
        return !strcmp(target, what);
}

static void test_bytes(void **state) {
        struct meeting *meeting = *state;

        assert_int_equal(receive(meeting, 10), -EAGAIN);
        assert_int_equal(send(meeting->theirs, "many bytes", 10, 0), 10);
        assert_int_equal(receive(meeting, 4), 4);
        assert_memory_equal(meeting->data, "many", 4);
        assert_int_equal(receive(meeting, 10), 6);
        assert_memory_equal(meeting->data, " bytes", 6);
        assert_int_equal(meeting->n_fds, 0);
        assert_int_equal(shutdown(meeting->theirs, SHUT_WR), 0);
        assert_int_equal(receive(meeting, 10), 0);
}

/* What is memory comes in; what is not is replaced, and the sender's is closed. */
static void test_descriptors(void **state) {
        struct meeting *meeting = *state;
        int pipe_fds[2], fds[4];
        struct pollfd end;

        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        fds[0] = descriptors_new(7);
        fds[1] = pipe_fds[1];
        fds[2] = open("/", O_PATH | O_CLOEXEC);
        fds[3] = descriptors_new(9);
        assert_int_equal(send(meeting->theirs, "before ", 7, 0), 7);
        send_away(meeting, "with", fds, 4);
        assert_int_equal(send(meeting->theirs, " after", 6, 0), 6);

        assert_int_equal(receive(meeting, sizeof(meeting->data)), 11);
        assert_memory_equal(meeting->data, "before with", 11);
        assert_int_equal(meeting->n_fds, 4);
        assert_int_equal(descriptors_number(meeting->fds[0]), 7);
        assert_true(leads_to(meeting->fds[1], "anon_inode:[eventfd]"));
        assert_true(leads_to(meeting->fds[2], "/"));
        assert_int_equal(descriptors_number(meeting->fds[3]), 9);
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(fcntl(meeting->fds[i], F_GETFD), FD_CLOEXEC);
        close_received(meeting);

        end = (struct pollfd){ .fd = pipe_fds[0] };
        assert_int_equal(poll(&end, 1, PATIENCE_MS), 1);
        assert_int_equal(end.revents, POLLHUP);
        close(pipe_fds[0]);
        assert_int_equal(receive(meeting, sizeof(meeting->data)), 6);
        assert_int_equal(meeting->n_fds, 0);
}

static void test_too_many(void **state) {
        struct meeting *meeting = *state;
        int fds[FDS_MAX + 1];

        for (unsigned i = 0; i < FDS_MAX + 1; i++)
                fds[i] = descriptors_new(i);
        send_away(meeting, "x", fds, FDS_MAX + 1);
        assert_int_equal(receive(meeting, sizeof(meeting->data)), 1);
        assert_true(meeting->flags & MSG_CTRUNC);
        assert_int_equal(meeting->n_fds, FDS_MAX);
        assert_int_equal(descriptors_number(meeting->fds[FDS_MAX - 1]), FDS_MAX - 1);
        close_received(meeting);
}

/* Many in a row: threads that are through are no reason to refuse. */
static void test_one_after_the_other(void **state) {
        struct meeting *meeting = *state;
        unsigned before = descriptors_count();

        for (unsigned i = 0; i < 100; i++) {
                int fd = descriptors_new(i);

                send_away(meeting, "x", &fd, 1);
                assert_int_equal(receive(meeting, sizeof(meeting->data)), 1);
                assert_int_equal(descriptors_number(meeting->fds[0]), i);
                close_received(meeting);
        }
        assert_int_equal(descriptors_count(), before);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_bytes),
                TEST(test_descriptors),
                TEST(test_too_many),
                TEST(test_one_after_the_other),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
