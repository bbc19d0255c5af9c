/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/fake_peer.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/socket.h"

#define CALL_BYTES_MAX 65536
#define WAIT_MS 10000

struct fake_peer {
        char directory[64];
        char path[96];
        int listener;
        int connection;
        const struct fake_step *steps;
        size_t n_steps;
        pthread_t thread;
        char complaint[1024]; /* "": none; asserts work on the test's own thread only */
};

static bool wait_readable(int fd) {
        struct pollfd pollfd = { .fd = fd, .events = POLLIN };

        return poll(&pollfd, 1, WAIT_MS) > 0;
}

static void receive_call(struct fake_peer *peer, const char *expected) {
        static char call[CALL_BYTES_MAX];
        size_t n = 0;

        do {
                if (!wait_readable(peer->connection) || recv(peer->connection, call + n, 1, 0) <= 0) {
                        snprintf(peer->complaint, sizeof(peer->complaint), "no call with '%s' came", expected);
                        return;
                }
        } while (call[n] && ++n < sizeof(call));
        if (!strstr(call, expected))
                snprintf(peer->complaint, sizeof(peer->complaint), "'%s' is not in '%.800s'", expected, call);
}

static void say(struct fake_peer *peer, const struct fake_step *step) {
        union {
                char buffer[CMSG_SPACE(sizeof(step->fds))];
                struct cmsghdr align;
        } control = { 0 };
        struct iovec iovec = { .iov_base = (void *) step->text, .iov_len = strlen(step->text) + 1 };
        struct msghdr message = { .msg_iov = &iovec, .msg_iovlen = 1 };

        if (step->n) {
                struct cmsghdr *header;

                message.msg_control = control.buffer;
                message.msg_controllen = CMSG_SPACE(step->n * sizeof(int));
                header = CMSG_FIRSTHDR(&message);
                header->cmsg_level = SOL_SOCKET;
                header->cmsg_type = SCM_RIGHTS;
                header->cmsg_len = CMSG_LEN(step->n * sizeof(int));
                memcpy(CMSG_DATA(header), step->fds, step->n * sizeof(int));
        }
        sendmsg(peer->connection, &message, MSG_NOSIGNAL);
}

static void flood(struct fake_peer *peer, unsigned mebibytes) {
        static char spaces[1 << 16];

        memset(spaces, ' ', sizeof(spaces));
        for (size_t i = 0; i < mebibytes * ((1u << 20) / sizeof(spaces)); i++)
                if (send(peer->connection, spaces, sizeof(spaces), MSG_NOSIGNAL) < 0)
                        return;
}

static void hang_up(struct fake_peer *peer) {
        if (peer->connection >= 0)
                close(peer->connection);
        peer->connection = -1;
}

static void *fake_peer_run(void *data) {
        struct fake_peer *peer = data;

        for (size_t i = 0; i < peer->n_steps && !*peer->complaint; i++) {
                const struct fake_step *step = &peer->steps[i];

                if (peer->connection < 0) {
                        if (!wait_readable(peer->listener)) {
                                snprintf(peer->complaint, sizeof(peer->complaint), "step %zu: nobody connected", i);
                                break;
                        }
                        peer->connection = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
                }
                switch (step->kind) {
                case FAKE_EXPECT:
                        receive_call(peer, step->text);
                        break;
                case FAKE_SAY:
                        say(peer, step);
                        break;
                case FAKE_FLOOD:
                        flood(peer, step->n);
                        break;
                case FAKE_HANG_UP:
                        hang_up(peer);
                        break;
                }
        }
        hang_up(peer);
        return NULL;
}

struct fake_peer *fake_peer_start(const struct fake_step *steps, size_t n_steps) {
        struct fake_peer *peer = calloc(1, sizeof(*peer));

        assert_non_null(peer);
        strcpy(peer->directory, "/tmp/livesnap-test.XXXXXX");
        assert_non_null(mkdtemp(peer->directory));
        snprintf(peer->path, sizeof(peer->path), "%s/socket", peer->directory);
        peer->listener = socket_listen(peer->path, 0600, 8);
        assert_true(peer->listener >= 0);
        peer->connection = -1;
        peer->steps = steps;
        peer->n_steps = n_steps;
        assert_int_equal(pthread_create(&peer->thread, NULL, fake_peer_run, peer), 0);
        return peer;
}

const char *fake_peer_path(const struct fake_peer *peer) {
        return peer->path;
}

void fake_peer_stop(struct fake_peer *peer) {
        pthread_join(peer->thread, NULL);
        close(peer->listener);
        unlink(peer->path);
        rmdir(peer->directory);
        if (*peer->complaint)
                fail_msg("%s", peer->complaint);
        free(peer);
}
