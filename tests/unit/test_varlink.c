/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The framing: what arrives, in whatever pieces, and what must not get through. No test may leave a descriptor behind.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/varlink.h"
#include "tests/unit/descriptors.h"

struct fixture {
        struct varlink *varlink; /* the end under test, a server's */
        int peer;                /* the raw other end */
        unsigned n_descriptors;  /* before the test */
};

static void *setup_role(enum varlink_role role) {
        struct fixture *fixture = calloc(1, sizeof(*fixture));
        int pair[2];

        assert_non_null(fixture);
        fixture->n_descriptors = descriptors_count();
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(varlink_new(pair[0], role, &fixture->varlink), 0);
        fixture->peer = pair[1];
        return fixture;
}

static int setup(void **state) {
        *state = setup_role(VARLINK_SERVER);
        return 0;
}

static int teardown(void **state) {
        struct fixture *fixture = *state;

        varlink_free(fixture->varlink);
        if (fixture->peer >= 0)
                close(fixture->peer);
        assert_int_equal(descriptors_count(), fixture->n_descriptors);
        free(fixture);
        return 0;
}

static void peer_send(struct fixture *fixture, const char *data, size_t bytes, unsigned n_fds) {
        descriptors_send(fixture->peer, data, bytes, n_fds);
}

static void expect(struct fixture *fixture, const char *method, unsigned n_fds) {
        struct varlink_message message;

        assert_int_equal(varlink_receive(fixture->varlink, &message), 1);
        assert_string_equal(json_string_value(json_object_get(message.json, "method")), method);
        assert_int_equal(message.n_fds, n_fds);
        varlink_message_deinit(&message);
}

static void expect_code(struct fixture *fixture, int code) {
        struct varlink_message message;

        assert_int_equal(varlink_receive(fixture->varlink, &message), code);
}

/* Three messages; descriptors go with one byte of the second, each in turn; all splits before it are tried. */
static void test_every_split(void **state) {
        static const char text[] = "{\"method\":\"one\"}\0{\"method\":\"two\"}\0{\"method\":\"three\"}";
        const size_t begin = strlen(text) + 1, end = begin + strlen(text + begin) + 1;
        struct fixture *fixture = *state;

        for (size_t at = begin; at < end; at++) {
                for (size_t split = 0; split <= at; split++) {
                        peer_send(fixture, text, split, 0);
                        if (split >= begin)
                                expect(fixture, "one", 0);
                        expect_code(fixture, 0);
                        peer_send(fixture, text + split, at - split, 0);
                        peer_send(fixture, text + at, 1, 3);
                        peer_send(fixture, text + at + 1, sizeof(text) - at - 1, 0);
                        if (split < begin)
                                expect(fixture, "one", 0);
                        expect(fixture, "two", 3);
                        expect(fixture, "three", 0);
                        expect_code(fixture, 0);
                }
        }
}

static void test_byte_by_byte(void **state) {
        static const char text[] = "{\"method\":\"one\",\"parameters\":{\"text\":\"\\u00fc{[\\\\\"}}";
        struct fixture *fixture = *state;

        for (size_t i = 0; i < sizeof(text); i++) {
                expect_code(fixture, 0);
                peer_send(fixture, text + i, 1, 1);
        }
        expect(fixture, "one", sizeof(text));
}

/* A message with descriptors is read together with what was sent before it, and apart from what comes after. */
static void test_descriptors_of_neighbours(void **state) {
        static const char one[] = "{\"method\":\"one\"}", two[] = "{\"method\":\"two\"}";
        struct fixture *fixture = *state;

        for (unsigned i = 0; i < 100; i++) {
                peer_send(fixture, one, sizeof(one), i % 3);
                peer_send(fixture, two, sizeof(two), i % 5);
        }
        for (unsigned i = 0; i < 100; i++) {
                expect(fixture, "one", i % 3);
                expect(fixture, "two", i % 5);
        }
        expect_code(fixture, 0);
}

/* Against the rule, but it has to have one meaning: they are the last message's. */
static void test_descriptors_over_two_messages(void **state) {
        static const char text[] = "{\"method\":\"one\"}\0{\"method\":\"two\"}";
        struct fixture *fixture = *state;

        peer_send(fixture, text, sizeof(text), 2);
        expect(fixture, "one", 0);
        expect(fixture, "two", 2);
}

static void test_descriptors_are_those(void **state) {
        static const char text[] = "{\"method\":\"one\"}";
        struct fixture *fixture = *state;
        struct varlink_message message;
        int fd;

        peer_send(fixture, text, sizeof(text), 2);
        assert_int_equal(varlink_receive(fixture->varlink, &message), 1);
        assert_int_equal(message.n_fds, 2);
        assert_int_equal(varlink_message_take_fd(&message, -1), -1);
        assert_int_equal(varlink_message_take_fd(&message, 2), -1);
        assert_int_equal(varlink_message_take_fd(&message, INT64_MAX), -1);
        fd = varlink_message_take_fd(&message, 1);
        assert_int_equal(descriptors_number(fd), 1);
        assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        assert_int_equal(varlink_message_take_fd(&message, 1), -1);
        close(fd);
        varlink_message_deinit(&message);
}

static void test_many_in_one_read(void **state) {
        static const char one[] = "{\"method\":\"one\"}";
        char text[200 * sizeof(one)];
        struct fixture *fixture = *state;

        for (size_t i = 0; i < 200; i++)
                memcpy(text + i * sizeof(one), one, sizeof(one));
        peer_send(fixture, text, sizeof(text), 1);
        for (size_t i = 0; i < 199; i++)
                expect(fixture, "one", 0);
        expect(fixture, "one", 1);
        expect_code(fixture, 0);
}

static void test_not_json(void **state) {
        static const char *const texts[] = {
                "",      "null",         "[]", "7", "{", "{}}", "{} {}", "\xff", "{\"a\":1,\"a\":2}", "{\"\xff\":1}",
                "{a:1}", "{\"a\":1e999}"
        };
        struct fixture *fixture = *state;

        for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
                peer_send(fixture, texts[i], strlen(texts[i]) + 1, 2);
                expect_code(fixture, -EBADMSG);
                teardown(state);
                setup(state);
                fixture = *state;
        }
}

/* Deep nesting must not reach the parser's stack. */
static void test_nested_deeply(void **state) {
        const size_t depth = VARLINK_REQUEST_VALUES_MAX / 2;
        char *text = malloc(depth + 1);
        struct fixture *fixture = *state;

        assert_non_null(text);
        memset(text, '[', depth);
        text[depth] = 0;
        peer_send(fixture, text, depth + 1, 0);
        expect_code(fixture, -EBADMSG);
        free(text);
}

static void test_too_many_values(void **state) {
        const size_t n = VARLINK_REQUEST_VALUES_MAX;
        char *text = malloc(3 * n + 20);
        struct fixture *fixture = *state;
        size_t bytes;

        assert_non_null(text);
        bytes = (size_t) sprintf(text, "{\"a\":[");
        for (size_t i = 0; i < n; i++)
                bytes += (size_t) sprintf(text + bytes, "[],");
        bytes += (size_t) sprintf(text + bytes - 1, "]}");
        peer_send(fixture, text, bytes, 0);
        expect_code(fixture, -EMSGSIZE);
        free(text);
}

/* Sends what the socket takes and lets the other end read, until that says something else than "not yet". */
static int flood(struct fixture *fixture, const char *piece, size_t bytes, uint64_t *ret_sent) {
        struct varlink_message message;

        *ret_sent = 0;
        for (;;) {
                ssize_t n = send(fixture->peer, piece, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
                int r;

                if (n > 0)
                        *ret_sent += (uint64_t) n;
                r = varlink_receive(fixture->varlink, &message);
                if (r != 0)
                        return r;
        }
}

static void test_unterminated(void **state) {
        struct fixture *fixture = *state;
        char piece[32768];
        uint64_t sent;

        memset(piece, ' ', sizeof(piece));
        assert_int_equal(flood(fixture, piece, sizeof(piece), &sent), -EMSGSIZE);
        assert_true(sent >= VARLINK_REQUEST_BYTES_MAX && sent < VARLINK_REQUEST_BYTES_MAX + (1 << 20));
        assert_true(varlink_memory_bytes(fixture->varlink) <= VARLINK_REQUEST_BYTES_MAX + 8192);
}

/* Exactly the limit gets through, one byte more does not. */
static void test_largest(void **state) {
        static const char head[] = "{\"method\":\"one\",\"a\":\"", tail[] = "\"}";
        struct fixture *fixture = *state;

        for (size_t over = 0; over <= 1; over++) {
                const size_t bytes = VARLINK_REQUEST_BYTES_MAX + over + 1;
                char *text = malloc(bytes);
                struct varlink_message message;
                size_t sent = 0;
                int r = 0;

                assert_non_null(text);
                memset(text, 'x', bytes);
                memcpy(text, head, strlen(head));
                memcpy(text + bytes - sizeof(tail), tail, sizeof(tail));
                while (r == 0) {
                        ssize_t n = send(fixture->peer, text + sent, bytes - sent, MSG_DONTWAIT);

                        if (n > 0)
                                sent += (size_t) n;
                        r = varlink_receive(fixture->varlink, &message);
                }
                assert_int_equal(r, over ? -EMSGSIZE : 1);
                if (r > 0) {
                        varlink_message_deinit(&message);
                        assert_true(varlink_memory_bytes(fixture->varlink) < 8192);
                }
                free(text);
        }
}

static void test_descriptor_flood(void **state) {
        struct fixture *fixture = *state;

        /* Without an end, as many with each byte as are allowed for a message. */
        peer_send(fixture, " ", 1, VARLINK_FDS_MAX);
        expect_code(fixture, 0);
        peer_send(fixture, " ", 1, VARLINK_FDS_MAX);
        expect_code(fixture, -EMSGSIZE);
        assert_true(varlink_held_fds(fixture->varlink) <= 2 * VARLINK_FDS_MAX);
}

static void test_descriptor_limit(void **state) {
        static const char text[] = "{\"method\":\"one\"}";
        struct fixture *fixture = *state;

        peer_send(fixture, text, 3, 1);
        peer_send(fixture, text + 3, sizeof(text) - 3, VARLINK_FDS_MAX - 1);
        expect(fixture, "one", VARLINK_FDS_MAX);
        peer_send(fixture, text, 3, 1);
        peer_send(fixture, text + 3, sizeof(text) - 3, VARLINK_FDS_MAX);
        expect_code(fixture, -EMSGSIZE);
}

static void test_too_many_at_once(void **state) {
        struct fixture *fixture = *state;

        peer_send(fixture, "{}", 3, VARLINK_FDS_MAX + 1);
        expect_code(fixture, -ETOOMANYREFS);
}

static void test_no_descriptor_free(void **state) {
        struct fixture *fixture = *state;
        struct rlimit before, low;

        peer_send(fixture, "{}", 3, 8);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        low = before;
        low.rlim_cur = fixture->n_descriptors + 2 + 4; /* the pair, and four of the eight */
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        expect_code(fixture, -ETOOMANYREFS);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void test_peer_ends(void **state) {
        struct fixture *fixture = *state;

        peer_send(fixture, "{\"method\":\"one\"}\0{", 18, 2);
        shutdown(fixture->peer, SHUT_WR);
        expect(fixture, "one", 0);
        expect_code(fixture, -EPIPE);
}

static void test_send(void **state) {
        struct fixture *fixture = *state;
        json_t *json = json_pack("{s:s}", "method", "one");
        int fds[2] = { descriptors_new(0), descriptors_new(1) };
        struct varlink_message message;
        struct varlink *other;

        assert_int_equal(varlink_get_events(fixture->varlink), POLLIN);
        assert_int_equal(varlink_send(fixture->varlink, json, fds, 2), 0);
        assert_int_equal(varlink_held_fds(fixture->varlink), 2);
        assert_int_equal(varlink_get_events(fixture->varlink), POLLIN | POLLOUT);
        assert_int_equal(varlink_flush(fixture->varlink), 0);
        assert_int_equal(varlink_queued_bytes(fixture->varlink), 0);
        assert_int_equal(varlink_new(fixture->peer, VARLINK_CLIENT, &other), 0);
        fixture->peer = -1;
        assert_int_equal(varlink_receive(other, &message), 1);
        assert_true(json_equal(message.json, json));
        assert_int_equal(message.n_fds, 2);
        assert_int_equal(descriptors_number(message.fds[0]), 0);
        assert_int_equal(descriptors_number(message.fds[1]), 1);
        varlink_message_deinit(&message);
        varlink_free(other);
        assert_int_equal(varlink_send(fixture->varlink, json, NULL, 0), 0);
        assert_int_equal(varlink_flush(fixture->varlink), -EPIPE);
        json_decref(json);
}

/* Messages of all sizes with descriptors through a socket that takes a little at a time. */
static void test_send_in_pieces(void **state) {
        struct fixture *fixture = *state;
        struct varlink *other;
        const int small = 4096;
        unsigned n_received = 0;

        setsockopt(varlink_get_fd(fixture->varlink), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
        assert_int_equal(varlink_new(fixture->peer, VARLINK_CLIENT, &other), 0);
        fixture->peer = -1;
        for (unsigned i = 0; i < 12; i++) {
                char text[4096 + 1];
                json_t *json;
                int fd = descriptors_new(i);

                memset(text, 'x', sizeof(text) - 1);
                text[(size_t) 1 << i] = 0;
                json = json_pack("{s:s, s:i}", "text", text, "i", (int) i);
                assert_int_equal(varlink_send(fixture->varlink, json, &fd, i % 2), 0);
                if (i % 2 == 0)
                        close(fd);
                json_decref(json);
        }
        while (n_received < 12) {
                struct varlink_message message;

                assert_int_equal(varlink_flush(fixture->varlink), 0);
                if (varlink_receive(other, &message) == 0)
                        continue;
                assert_int_equal(json_integer_value(json_object_get(message.json, "i")), n_received);
                assert_int_equal(message.n_fds, n_received % 2);
                if (message.n_fds > 0)
                        assert_int_equal(descriptors_number(message.fds[0]), n_received);
                varlink_message_deinit(&message);
                n_received++;
        }
        varlink_free(other);
}

static void test_send_limits(void **state) {
        struct fixture *fixture = *state;
        json_t *json = json_object();
        json_t *large = json_pack("{s:o}", "a", json_stringn_nocheck("", 0));
        char *text = malloc(VARLINK_REPLY_BYTES_MAX + 1);
        int fds[VARLINK_FDS_MAX + 1];
        unsigned n = 0;
        int r;

        assert_non_null(text);
        memset(text, 'x', VARLINK_REPLY_BYTES_MAX);
        text[VARLINK_REPLY_BYTES_MAX] = 0;
        json_object_set_new(large, "a", json_string(text));
        free(text);
        for (unsigned i = 0; i < VARLINK_FDS_MAX + 1; i++)
                fds[i] = descriptors_new(i);
        assert_int_equal(varlink_send(fixture->varlink, large, fds, 1), -EMSGSIZE);
        json_decref(large);
        fds[0] = descriptors_new(0);
        assert_int_equal(varlink_send(fixture->varlink, json, fds, VARLINK_FDS_MAX + 1), -EMSGSIZE);
        while ((r = varlink_send(fixture->varlink, json, NULL, 0)) == 0)
                n++;
        assert_int_equal(r, -ENOBUFS);
        assert_int_equal(n, VARLINK_QUEUE_MESSAGES_MAX);
        fds[0] = descriptors_new(0);
        assert_int_equal(varlink_send(fixture->varlink, json, fds, 1), -ENOBUFS);
        json_decref(json);
}

/* Messages that are damaged at random must be refused or read, and nothing else happen. */
static void test_damaged(void **state) {
        static const char text[] =
                "{\"method\":\"io.livesnap.Attach\",\"parameters\":{\"domain\":\"a\",\"regions\":"
                "[{\"object\":0,\"name\":null}],\"mappings\":[{\"address\":4096,\"length\":-1.5e3}]},"
                "\"more\":true}";
        uint32_t random = 1;

        for (unsigned round = 0; round < 3000; round++) {
                struct fixture *fixture = *state;
                struct varlink_message message;
                char damaged[sizeof(text)];
                int r;

                memcpy(damaged, text, sizeof(text));
                for (unsigned i = 0; i <= round % 4; i++) {
                        random = random * 1664525 + 1013904223;
                        damaged[(random >> 16) % sizeof(text)] ^= (char) (1 << (random >> 8) % 8);
                }
                peer_send(fixture, damaged, sizeof(damaged), round % 3);
                while ((r = varlink_receive(fixture->varlink, &message)) > 0)
                        varlink_message_deinit(&message);
                assert_true(r == 0 || r == -EBADMSG);
                if (r < 0 || varlink_memory_bytes(fixture->varlink) > 0) {
                        teardown(state);
                        setup(state);
                }
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_every_split, setup, teardown),
                cmocka_unit_test_setup_teardown(test_byte_by_byte, setup, teardown),
                cmocka_unit_test_setup_teardown(test_descriptors_of_neighbours, setup, teardown),
                cmocka_unit_test_setup_teardown(test_descriptors_over_two_messages, setup, teardown),
                cmocka_unit_test_setup_teardown(test_descriptors_are_those, setup, teardown),
                cmocka_unit_test_setup_teardown(test_many_in_one_read, setup, teardown),
                cmocka_unit_test_setup_teardown(test_not_json, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nested_deeply, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_many_values, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unterminated, setup, teardown),
                cmocka_unit_test_setup_teardown(test_largest, setup, teardown),
                cmocka_unit_test_setup_teardown(test_descriptor_flood, setup, teardown),
                cmocka_unit_test_setup_teardown(test_descriptor_limit, setup, teardown),
                cmocka_unit_test_setup_teardown(test_too_many_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_no_descriptor_free, setup, teardown),
                cmocka_unit_test_setup_teardown(test_peer_ends, setup, teardown),
                cmocka_unit_test_setup_teardown(test_send, setup, teardown),
                cmocka_unit_test_setup_teardown(test_send_in_pieces, setup, teardown),
                cmocka_unit_test_setup_teardown(test_send_limits, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        };

        return cmocka_run_group_tests_name("varlink", tests, NULL, NULL);
}
