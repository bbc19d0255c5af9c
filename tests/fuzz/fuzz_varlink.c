/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Framing and parsing of messages: what a peer sends on a socket, in pieces and with descriptors.
 *
 * The first byte says which end we are ('c' a client, else a server). The rest is the stream. JSON has no byte 0xff, so
 * it marks a border: what follows goes into another sendmsg(), and the byte after it says with how many descriptors.
 *
 * Whatever comes, no descriptor is lost and no limit is passed; a message that was understood is understood the same
 * when it is sent on.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/varlink.h"
#include "tests/fuzz/fuzz.h"

#define BORDER 0xff
#define FDS_MAX 70u /* more than one message may have */
/* A pair's buffer; what does not fit is not sent, since the other end is on this thread. */
#define STREAM_BYTES_MAX 65536u

static int null_fd = -1;

static void make_pair(int fds[2]) {
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
}

/* The number that the next descriptor would get: a lost one shows, since the lowest free one is always taken. */
static int next_fd(void) {
        int fd = dup(null_fd);

        FUZZ_REQUIRE(fd >= 0);
        close(fd);
        return fd;
}

static void send_piece(int socket, const uint8_t *data, size_t size, unsigned n_fds) {
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        } control = {};
        struct iovec vector = { .iov_base = (void *) data, .iov_len = size };
        struct msghdr header = { .msg_iov = &vector, .msg_iovlen = 1 };
        int fds[FDS_MAX];

        if (size == 0)
                return;
        for (unsigned i = 0; i < n_fds; i++)
                fds[i] = null_fd;
        if (n_fds > 0) {
                header.msg_control = &control;
                header.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
        }
        (void) !sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* What was received goes over a connection of the same kind once more, and must be the same. */
static void send_on(const struct varlink_message *message, enum varlink_role role) {
        enum varlink_role other_role = role == VARLINK_SERVER ? VARLINK_CLIENT : VARLINK_SERVER;
        struct varlink *sender, *receiver;
        struct varlink_message again = {};
        int fds[2], r;

        make_pair(fds);
        FUZZ_REQUIRE(varlink_new(fds[0], other_role, &sender) == 0 && varlink_new(fds[1], role, &receiver) == 0);
        r = varlink_send(sender, message->json, NULL, 0);
        /* Its text can become longer: "\b" is one byte in a string that we got, and "\u0008" on its way out. */
        FUZZ_REQUIRE(r == 0 || r == -EMSGSIZE);
        if (r == 0 && varlink_queued_bytes(sender) <= STREAM_BYTES_MAX) {
                FUZZ_REQUIRE(varlink_flush(sender) == 0);
                FUZZ_REQUIRE(varlink_receive(receiver, &again) == 1);
                FUZZ_REQUIRE(json_equal(message->json, again.json));
                varlink_message_deinit(&again);
        }
        varlink_free(sender);
        varlink_free(receiver);
}

static void receive_all(struct varlink *varlink, enum varlink_role role) {
        struct varlink_message message = {};
        int r;

        while ((r = varlink_receive(varlink, &message)) == 1) {
                FUZZ_REQUIRE(json_is_object(message.json) && message.n_fds <= VARLINK_FDS_MAX);
                FUZZ_REQUIRE(varlink_memory_bytes(varlink) <= 2 * VARLINK_REPLY_BYTES_MAX);
                for (unsigned i = 0; i < message.n_fds; i += 2) {
                        int fd = varlink_message_take_fd(&message, i);

                        FUZZ_REQUIRE(fd >= 0 && varlink_message_take_fd(&message, i) == -1);
                        close(fd);
                }
                FUZZ_REQUIRE(varlink_message_take_fd(&message, message.n_fds) == -1);
                send_on(&message, role);
                varlink_message_deinit(&message);
        }
        FUZZ_REQUIRE(r < 0 || varlink_held_fds(varlink) <= 2 * VARLINK_FDS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        enum varlink_role role;
        struct varlink *varlink;
        unsigned n_fds = 0;
        int fds[2], first_free;

        if (size < 1 || size > STREAM_BYTES_MAX)
                return 0;
        if (null_fd < 0)
                null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        first_free = next_fd();
        role = data[0] == 'c' ? VARLINK_CLIENT : VARLINK_SERVER;
        data++;
        size--;

        make_pair(fds);
        FUZZ_REQUIRE(varlink_new(fds[1], role, &varlink) == 0);
        while (size > 0) {
                const uint8_t *border = memchr(data, BORDER, size);
                size_t bytes = border ? (size_t) (border - data) : size;

                send_piece(fds[0], data, bytes, n_fds);
                receive_all(varlink, role);
                data += bytes;
                size -= bytes;
                if (size < 2)
                        break;
                n_fds = data[1] % FDS_MAX;
                data += 2;
                size -= 2;
        }
        close(fds[0]);
        receive_all(varlink, role);
        varlink_free(varlink);
        FUZZ_REQUIRE(next_fd() == first_free);
        return 0;
}
