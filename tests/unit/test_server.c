/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The server: calls, what clients do wrong, clients that flood, do not read or go away, limits, and the socket. */

#include <errno.h>
#include <fcntl.h>
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

#include "common/socket.h"
#include "tests/unit/descriptors.h"
#include "tests/unit/serving.h"

#define METHOD(name) "{s:s}", "method", "io.livesnap." name
#define METHOD_NUMBER(name, key, number) "{s:s, s:{s:i}}", "method", "io.livesnap." name, "parameters", key, number
#define METHOD_TEXT(name, text) "{s:s, s:{s:s}}", "method", "io.livesnap." name, "parameters", "text", text
#define OK "{\"parameters\":{}}"

static int setup(void **state) {
        *state = serving_new(NULL);
        return 0;
}

static int teardown(void **state) {
        serving_free(*state);
        return 0;
}

static void test_get_info(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);
        json_t *answer;
        const char *version;

        serving_call(serving, client, "{s:s}", "method", "org.varlink.service.GetInfo");
        answer = serving_answer(serving, client);
        assert_int_equal(json_unpack(answer, "{s:{s:s}}", "parameters", "version", &version), 0);
        assert_string_equal(version, LIVESNAP_VERSION);
        json_decref(answer);
        varlink_free(client);
}

/* What is served is the installed file, to the byte. */
static void test_description(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);
        static char expected[1 << 20];
        FILE *file = fopen(INTERFACE_FILE, "re");
        const char *description;
        json_t *answer;

        assert_non_null(file);
        expected[fread(expected, 1, sizeof(expected) - 1, file)] = 0;
        fclose(file);
        serving_call(serving, client, "{s:s, s:{s:s}}", "method", "org.varlink.service.GetInterfaceDescription",
                     "parameters", "interface", "io.livesnap");
        answer = serving_answer(serving, client);
        assert_int_equal(json_unpack(answer, "{s:{s:s}}", "parameters", "description", &description), 0);
        assert_string_equal(description, expected);
        json_decref(answer);
        serving_call(serving, client, "{s:s, s:{s:s}}", "method", "org.varlink.service.GetInterfaceDescription",
                     "parameters", "interface", "io.livesna");
        serving_expect_error(serving, client, VARLINK_ERROR_INTERFACE_NOT_FOUND);
        serving_call(serving, client, "{s:s}", "method", "org.varlink.service.GetInterfaceDescription");
        serving_expect(
                serving, client,
                "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"interface\"}}");
        varlink_free(client);
}

static void test_unknown(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, "{s:s}", "method", "io.livesnap.Nothing");
        serving_expect(serving, client,
                       "{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"io.livesnap."
                       "Nothing\"}}");
        serving_call(serving, client, "{s:s}", "method", "io.other.Echo");
        serving_expect(
                serving, client,
                "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"io.other\"}}");
        serving_call(serving, client, "{s:s}", "method", "");
        serving_expect_error(serving, client, VARLINK_ERROR_INTERFACE_NOT_FOUND);
        serving_call(serving, client, "{s:s}", "method", "io.livesnap.Echo.");
        serving_expect_error(serving, client, VARLINK_ERROR_INTERFACE_NOT_FOUND);
        serving_call(serving, client, METHOD_TEXT("Echo", "still here"));
        serving_expect(serving, client, "{\"parameters\":{\"text\":\"still here\",\"count\":0,\"flag\":false}}");
        varlink_free(client);
}

static void test_parameters(void **state) {
        static const struct {
                const char *parameters;
                const char *bad; /* NULL: right */
        } cases[] = {
                { "{\"text\":\"a\"}", NULL },
                { "{\"text\":\"a\",\"count\":null,\"flag\":null}", NULL },
                { "{\"text\":\"a\",\"count\":3,\"flag\":true}", NULL },
                { "{}", "text" },
                { "{\"text\":null}", "text" },
                { "{\"text\":7}", "text" },
                { "{\"text\":\"a\",\"count\":-1}", "count" },
                { "{\"text\":\"a\",\"count\":1.5}", "count" },
                { "{\"text\":\"a\",\"count\":\"1\"}", "count" },
                { "{\"text\":\"a\",\"flag\":1}", "flag" },
                { "{\"text\":\"a\",\"other\":1}", "other" },
        };
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                json_t *answer;
                const char *bad = NULL;

                serving_call(serving, client, "{s:s, s:o}", "method", "io.livesnap.Echo", "parameters",
                             json_loads(cases[i].parameters, 0, NULL));
                answer = serving_answer(serving, client);
                json_unpack(answer, "{s:{s?s}}", "parameters", "parameter", &bad);
                assert_int_equal(!json_object_get(answer, "error"), !cases[i].bad);
                if (cases[i].bad)
                        assert_string_equal(bad, cases[i].bad);
                json_decref(answer);
        }
        varlink_free(client);
}

/* What is no call ends the connection, and only that one. */
static void test_not_a_call(void **state) {
        static const char *const texts[] = {
                "",
                "hello",
                "GET / HTTP/1.1\r\n\r\n",
                "[]",
                "{}",
                "{\"method\":7}",
                "{\"method\":null}",
                "{\"method\":\"io.livesnap.Echo\",\"parameters\":[]}",
                "{\"method\":\"io.livesnap.Echo\",\"more\":1}",
                "{\"method\":\"io.livesnap.Echo\",\"more\":true,\"oneway\":true}",
                "{\"method\":\"io.livesnap.Echo\",\"other\":true}",
                "{\"method\":\"io.livesnap.Echo\"",
        };
        struct serving *serving = *state;
        struct varlink *bystander = serving_connect(serving);

        for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
                struct varlink *client = serving_connect(serving);

                descriptors_send(varlink_get_fd(client), texts[i], strlen(texts[i]) + 1, 5);
                serving_expect_end(serving, client);
                varlink_free(client);
        }
        assert_int_equal(serving->n_calls, 0);
        assert_int_equal(server_sessions(serving->server), 1);
        serving_call(serving, bystander, METHOD_TEXT("Echo", "a"));
        serving_expect(serving, bystander, "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
        varlink_free(bystander);
}

static void test_pipelined(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        for (int i = 0; i < 200; i++) {
                serving_call(serving, client, METHOD("Hold"));
                serving_call(serving, client, "{s:s, s:{s:s, s:i}}", "method", "io.livesnap.Echo", "parameters", "text",
                             "", "count", i);
        }
        for (int i = 0; i < 200; i++) {
                json_t *answer;
                int count;

                serving_expect_nothing(serving, client);
                assert_int_equal(serving->n_held, 1); /* the next is not even looked at */
                serving_release(serving);
                serving_expect(serving, client, OK);
                answer = serving_answer(serving, client);
                assert_int_equal(json_unpack(answer, "{s:{s:i}}", "parameters", "count", &count), 0);
                assert_int_equal(count, i);
                json_decref(answer);
        }
        varlink_free(client);
}

static void test_oneway(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, "{s:s, s:{s:s}, s:b}", "method", "io.livesnap.Echo", "parameters", "text", "a",
                     "oneway", 1);
        serving_call(serving, client, "{s:s, s:b}", "method", "io.livesnap.Nothing", "oneway", 1);
        serving_call(serving, client, "{s:s, s:b}", "method", "io.livesnap.Hold", "oneway", 1);
        serving_call(serving, client, METHOD_TEXT("Echo", "b"));
        serving_expect_nothing(serving, client);
        serving_release(serving);
        serving_expect(serving, client, "{\"parameters\":{\"text\":\"b\",\"count\":0,\"flag\":false}}");
        assert_int_equal(serving->n_calls, 3);
        varlink_free(client);
}

/* A call that nobody waits for is done though its sender has gone already. */
static void test_oneway_and_gone(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        for (unsigned i = 0; i < 50; i++)
                serving_call(serving, client, "{s:s, s:{s:s}, s:b}", "method", "io.livesnap.Echo", "parameters", "text",
                             "a", "oneway", 1);
        varlink_free(client);
        serving_turn(serving);
        assert_int_equal(serving->n_calls, 50);
        assert_int_equal(server_sessions(serving->server), 0);
}

static void test_upgrade(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, "{s:s, s:b}", "method", "io.livesnap.Hold", "upgrade", 1);
        serving_expect(
                serving, client,
                "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"upgrade\"}}");
        assert_int_equal(serving->n_held, 0);
        varlink_free(client);
}

static void test_errors(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, METHOD_TEXT("Fail", "no 'a'"));
        serving_expect(serving, client,
                       "{\"error\":\"io.livesnap.NoSuchDomain\",\"parameters\":{\"message\":\"no 'a'\"}}");
        serving_call(serving, client, METHOD_TEXT("Fail", "bytes"));
        serving_expect(serving, client,
                       "{\"error\":\"io.livesnap.NoSuchDomain\",\"parameters\":{\"message\":\"a ? b\"}}");
        serving_call(serving, client, METHOD_TEXT("Fail", ""));
        serving_expect_error(serving, client, "io.livesnap.Internal");
        varlink_free(client);
}

static void test_descriptors(void **state) {
        static const char good[] = "{\"method\":\"io.livesnap.Swap\",\"parameters\":{\"a\":0,\"b\":2}}";
        static const char *const bad[] = {
                "{\"method\":\"io.livesnap.Swap\",\"parameters\":{\"a\":0,\"b\":3}}",
                "{\"method\":\"io.livesnap.Swap\",\"parameters\":{\"a\":1,\"b\":1}}",
                "{\"method\":\"io.livesnap.Swap\",\"parameters\":{\"a\":9223372036854775807,\"b\":1}}",
                "{\"method\":\"io.livesnap.Swap\",\"parameters\":{\"a\":-1,\"b\":1}}",
        };
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);
        struct varlink_message message;

        descriptors_send(varlink_get_fd(client), good, sizeof(good), 3);
        serving_turn(serving);
        assert_int_equal(varlink_receive(client, &message), 1);
        assert_int_equal(message.n_fds, 2);
        assert_int_equal(descriptors_number(message.fds[0]), 2);
        assert_int_equal(descriptors_number(message.fds[1]), 0);
        varlink_message_deinit(&message);
        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
                descriptors_send(varlink_get_fd(client), bad[i], strlen(bad[i]) + 1, 3);
                serving_expect_error(serving, client, VARLINK_ERROR_INVALID_PARAMETER);
        }
        /* An answer with descriptors to nobody. */
        descriptors_send(varlink_get_fd(client), good, sizeof(good), 3);
        varlink_free(client);
        serving_turn(serving);
}

static void test_progress(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, METHOD_NUMBER("Count", "to", 3));
        serving_expect(serving, client, "{\"parameters\":{\"n\":3}}");
        serving_call(serving, client, "{s:s, s:{s:i}, s:b}", "method", "io.livesnap.Count", "parameters", "to", 2,
                     "more", 1);
        serving_expect(serving, client, "{\"parameters\":{\"n\":1},\"continues\":true}");
        serving_expect(serving, client, "{\"parameters\":{\"n\":2},\"continues\":true}");
        serving_expect(serving, client, "{\"parameters\":{\"n\":2}}");
        varlink_free(client);
}

/* To a client that does not read, progress is not queued: what is sent later is the newest. */
static void test_progress_to_slow_reader(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);
        json_int_t n, before = 0;
        unsigned n_progress = 0;
        int continues;

        serving_call(serving, client, "{s:s, s:b}", "method", "io.livesnap.Hold", "more", 1);
        serving_turn(serving);
        for (unsigned i = 1; i <= 100000; i++)
                call_reply_continues(serving->held[0], json_pack("{s:i}", "n", (int) i));
        for (;;) {
                json_t *answer;

                answer = serving_answer(serving, client);
                assert_int_equal(json_unpack(answer, "{s:{s:I}, s:b}", "parameters", "n", &n, "continues", &continues),
                                 0);
                assert_true(n > before);
                before = n;
                n_progress++;
                json_decref(answer);
                if (n == 100000)
                        break;
        }
        assert_true(n_progress < 50000);
        serving_release(serving);
        serving_expect(serving, client, OK);
        varlink_free(client);
}

/* A client that asks and does not read is left with what its socket holds and one answer. */
static void test_slow_reader(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        for (unsigned i = 0; i < 30; i++)
                serving_call(serving, client, METHOD_NUMBER("Large", "bytes", 1 << 20));
        serving_turn_for(serving, 50);
        assert_true(serving->n_calls <= 2);
        for (unsigned i = 0; i < 30; i++)
                json_decref(serving_answer(serving, client));
        assert_int_equal(serving->n_calls, 30);
        varlink_free(client);
}

static void test_answer_too_large(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, METHOD_NUMBER("Large", "bytes", (int) VARLINK_REPLY_BYTES_MAX));
        serving_expect_error(serving, client, "io.livesnap.LimitExceeded");
        serving_call(serving, client, METHOD_NUMBER("Large", "bytes", (int) VARLINK_REPLY_BYTES_MAX - 100));
        json_decref(serving_answer(serving, client));
        varlink_free(client);
}

/* One who floods with calls does not keep others waiting. */
static void test_flood(void **state) {
        struct serving *serving = *state;
        struct varlink *flooder = serving_connect(serving), *client = serving_connect(serving);
        unsigned n;

        for (n = 0; varlink_queued_bytes(flooder) == 0; n++)
                serving_call(serving, flooder, "{s:s, s:{s:s}, s:b}", "method", "io.livesnap.Echo", "parameters",
                             "text", "", "oneway", 1);
        serving_call(serving, client, METHOD("Hold"));
        for (unsigned i = 0; i < 3 && serving->n_held == 0; i++)
                event_base_loop(serving->base, EVLOOP_ONCE);
        assert_int_equal(serving->n_held, 1);
        assert_true(serving->n_calls < 100);
        while (varlink_queued_bytes(flooder) > 0) {
                serving_turn(serving);
                assert_int_equal(varlink_flush(flooder), 0);
        }
        varlink_free(flooder);
        varlink_free(client);
        serving_turn_for(serving, 50);
        assert_true(n > 150);
        assert_int_equal(serving->n_calls, n + 1);
}

static void test_gone(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving), *unread = serving_connect(serving);

        serving_call(serving, client, METHOD("Hold"));
        serving_turn(serving);
        assert_int_equal(serving->n_gone, 0);
        varlink_free(client);
        serving_turn(serving);
        assert_int_equal(serving->n_gone, 1);

        /* One who leaves an answer unread goes with ECONNRESET, which looks different. */
        serving_call(serving, unread, METHOD_TEXT("Echo", "a"));
        serving_call(serving, unread, METHOD("Hold"));
        serving_turn(serving);
        assert_int_equal(serving->n_held, 2);
        varlink_free(unread);
        serving_turn(serving);
        assert_int_equal(serving->n_gone, 2);
        assert_int_equal(server_sessions(serving->server), 0);
        call_reply_continues(serving->held[0], json_object());
        serving_release(serving);
        serving_release(serving);
}

/* A method may answer when it is told that nobody will hear it. */
static void test_gone_and_answered(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, METHOD("Quit"));
        serving_turn(serving);
        varlink_free(client);
        serving_turn(serving);
        assert_int_equal(serving->n_gone, 1);
}

/* One who closes only its writing side waits for the answer. Its calls are not given up; but see what comes then. */
static void test_half_closed(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving), *other = serving_connect(serving);

        serving_call(serving, client, METHOD("Hold"));
        serving_call(serving, client, METHOD_TEXT("Echo", "a"));
        shutdown(varlink_get_fd(client), SHUT_WR);
        serving_turn_for(serving, 20);
        assert_int_equal(serving->n_gone, 0);
        serving_release(serving);
        serving_expect(serving, client, OK);
        serving_expect(serving, client, "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
        serving_expect_end(serving, client);
        varlink_free(client);

        serving_call(serving, other, METHOD("Hold"));
        shutdown(varlink_get_fd(other), SHUT_WR);
        serving_turn(serving);
        varlink_free(other);
        serving_turn(serving);
        assert_int_equal(serving->n_gone, 1);
}

/* Waiting for a client that is half closed must not keep the processor busy. */
static void test_half_closed_is_quiet(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);
        const struct timeval moment = { .tv_usec = 100 * 1000 };
        struct rusage before, after;

        serving_call(serving, client, METHOD("Hold"));
        shutdown(varlink_get_fd(client), SHUT_WR);
        serving_turn(serving);
        event_base_loopexit(serving->base, &moment);
        getrusage(RUSAGE_SELF, &before);
        event_base_dispatch(serving->base);
        getrusage(RUSAGE_SELF, &after);
        assert_true(after.ru_nvcsw - before.ru_nvcsw < 20);
        assert_true((after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 + after.ru_utime.tv_usec -
                            before.ru_utime.tv_usec <
                    50000);
        varlink_free(client);
}

/* Ends with calls in progress: teardown answers them after the server has gone. */
static void test_free_with_calls(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);

        serving_call(serving, client, METHOD("Hold"));
        serving_turn(serving);
        server_free(serving->server);
        serving->server = NULL;
        assert_int_equal(serving->n_gone, 1);
        serving_expect_end(serving, client);
        varlink_free(client);
}

/* No more calls, but answers to those that are in progress. */
static void test_stopped(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving), *other = serving_connect(serving);
        struct stat status;

        serving_call(serving, client, METHOD("Hold"));
        serving_turn(serving);
        server_stop(serving->server);
        assert_int_equal(stat(serving->path, &status), -1);
        assert_int_equal(socket_connect(serving->path), -ENOENT);
        serving_call(serving, other, METHOD_TEXT("Echo", "a"));
        serving_expect_error(serving, other, "io.livesnap.Busy");
        serving_release(serving);
        serving_expect(serving, client, OK);
        varlink_free(client);
        varlink_free(other);
}

/* The tests run as one user, root or not; so the limits for all and for each are set to the same. */
static struct quota_limits limits_with(enum quota_resource resource, size_t n) {
        struct quota_limits limits = quota_limits_default;

        for (int i = 0; i < QUOTA_RESOURCE_MAX; i++)
                limits.all[i] = limits.user[i] = (size_t) 1 << 40;
        limits.all[resource] = limits.user[resource] = n;
        return limits;
}

static void test_many_connections(void **state) {
        const struct quota_limits limits = limits_with(QUOTA_SESSIONS, 40);
        struct serving *serving = serving_new(&limits);
        struct varlink *clients[40];

        for (unsigned i = 0; i < 40; i++)
                clients[i] = serving_connect(serving);
        for (unsigned i = 0; i < 3000; i++) {
                struct varlink *client = serving_connect(serving);

                if (i % 100 == 0) {
                        serving_expect_error(serving, client, "io.livesnap.LimitExceeded");
                        serving_expect_end(serving, client);
                }
                varlink_free(client);
        }
        assert_int_equal(server_sessions(serving->server), 40);
        varlink_free(clients[7]);
        serving_turn(serving);
        clients[7] = serving_connect(serving);
        for (unsigned i = 0; i < 40; i++) {
                serving_call(serving, clients[i], METHOD_TEXT("Echo", "a"));
                serving_expect(serving, clients[i], "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
                varlink_free(clients[i]);
        }
        serving_free(serving);
}

static void test_many_calls(void **state) {
        const struct quota_limits limits = limits_with(QUOTA_CALLS, 4);
        struct serving *serving = serving_new(&limits);
        struct varlink *client;

        /* Calls whose callers have gone count until they are answered. */
        for (unsigned i = 0; i < 4; i++) {
                client = serving_connect(serving);
                serving_call(serving, client, METHOD("Hold"));
                serving_turn(serving);
                varlink_free(client);
        }
        client = serving_connect(serving);
        serving_call(serving, client, METHOD_TEXT("Echo", "a"));
        serving_expect_error(serving, client, "io.livesnap.LimitExceeded");
        serving_release(serving);
        serving_call(serving, client, METHOD_TEXT("Echo", "a"));
        serving_expect(serving, client, "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
        varlink_free(client);
        serving_free(serving);
}

static void test_much_memory(void **state) {
        const struct quota_limits limits = limits_with(QUOTA_BYTES, 2 << 20);
        struct serving *serving = serving_new(&limits);
        struct varlink *clients[8];
        unsigned n_open = 0;
        char *text = malloc(100000);

        assert_non_null(text);
        memset(text, ' ', 100000);
        for (unsigned i = 0; i < 8; i++)
                clients[i] = serving_connect(serving);
        for (unsigned round = 0; round < 7; round++) {
                for (unsigned i = 0; i < 8; i++)
                        send(varlink_get_fd(clients[i]), text, 100000, MSG_DONTWAIT | MSG_NOSIGNAL);
                serving_turn(serving);
        }
        n_open = server_sessions(serving->server);
        assert_true(n_open >= 1 && n_open <= 3);
        for (unsigned i = 0; i < 8; i++)
                varlink_free(clients[i]);
        serving_turn(serving);
        clients[0] = serving_connect(serving);
        serving_call(serving, clients[0], METHOD_TEXT("Echo", "a"));
        serving_expect(serving, clients[0], "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
        varlink_free(clients[0]);
        free(text);
        serving_free(serving);
}

static void test_many_descriptors(void **state) {
        const struct quota_limits limits = limits_with(QUOTA_FDS, 100);
        struct serving *serving = serving_new(&limits);
        struct varlink *one = serving_connect(serving), *two = serving_connect(serving);

        descriptors_send(varlink_get_fd(one), " ", 1, 60);
        descriptors_send(varlink_get_fd(two), " ", 1, 40);
        serving_turn(serving);
        assert_int_equal(server_sessions(serving->server), 2);
        descriptors_send(varlink_get_fd(two), " ", 1, 1);
        serving_expect_end(serving, two);
        assert_int_equal(server_sessions(serving->server), 1);
        varlink_free(one);
        varlink_free(two);
        serving_free(serving);
}

/* While there is no descriptor for a connection it waits, and the loop does not spin; then it is served. */
static void test_no_descriptor_free(void **state) {
        struct serving *serving = *state;
        struct rlimit before, low;
        struct varlink *client;
        int fd = socket_connect(serving->path);

        assert_true(fd >= 0);
        assert_int_equal(varlink_new(fd, VARLINK_CLIENT, &client), 0);
        fd = dup(fd);
        close(fd);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        low = before;
        low.rlim_cur = (rlim_t) fd; /* the lowest that was free */
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        serving_turn(serving);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        assert_int_equal(server_sessions(serving->server), 0);
        serving_turn_for(serving, 200);
        assert_int_equal(server_sessions(serving->server), 1);
        serving_call(serving, client, METHOD_TEXT("Echo", "a"));
        serving_expect(serving, client, "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
        varlink_free(client);
}

static void test_quota(void **state) {
        const struct quota_limits limits = { .all = { 10, 10, 10, 10 }, .user = { 6, 6, 6, 6 } };
        struct quota_user *root, *one, *two, *again;
        struct quota *quota;
        size_t held = 0;

        assert_int_equal(quota_new(&limits, &quota), 0);
        assert_int_equal(quota_get_user(quota, 0, &root), 0);
        assert_int_equal(quota_get_user(quota, 1, &one), 0);
        assert_int_equal(quota_get_user(quota, 2, &two), 0);
        assert_int_equal(quota_get_user(quota, 1, &again), 0);
        assert_ptr_equal(one, again);
        assert_int_equal(quota_charge(one, QUOTA_CALLS, 7), -EDQUOT);
        assert_int_equal(quota_charge(one, QUOTA_CALLS, SIZE_MAX), -EDQUOT);
        assert_int_equal(quota_charge(one, QUOTA_CALLS, 6), 0);
        assert_int_equal(quota_charge(two, QUOTA_CALLS, 5), -EDQUOT); /* over the limit for all */
        assert_int_equal(quota_charge(two, QUOTA_CALLS, 4), 0);
        assert_int_equal(quota_charge(root, QUOTA_CALLS, 10), 0); /* whatever the others have */
        assert_int_equal(quota_charge(root, QUOTA_CALLS, 1), -EDQUOT);
        assert_int_equal(quota_recharge(two, QUOTA_BYTES, &held, 5), 0);
        assert_int_equal(quota_recharge(two, QUOTA_BYTES, &held, 7), -EDQUOT);
        assert_int_equal(held, 5);
        assert_int_equal(quota_recharge(two, QUOTA_BYTES, &held, 0), 0);
        quota_discharge(one, QUOTA_CALLS, 6);
        quota_discharge(two, QUOTA_CALLS, 4);
        quota_discharge(root, QUOTA_CALLS, 10);
        quota_user_unref(root);
        quota_user_unref(again);
        quota_free(quota);
        quota_user_unref(two);
        quota_user_unref(one);
}

/* A second server where one is, or something else is, or nothing can be. */
static enum error_kind try_server(struct serving *serving, const char *path, int listen_fd) {
        const struct server_config config = { .socket_path = path, .listen_fd = listen_fd };
        static const struct server_method none[] = { {} };
        struct server *server = NULL;
        struct error error = {};

        if (server_new(serving->base, &config, none, NULL, &server, &error) == 0)
                server_free(server);
        else
                assert_true(strlen(error.message) > 0);
        return error.kind;
}

static void test_socket_in_use(void **state) {
        struct serving *serving = *state;
        struct varlink *client = serving_connect(serving);
        struct stat status;

        assert_int_equal(try_server(serving, serving->path, -1), ERROR_BUSY);
        assert_int_equal(stat(serving->path, &status), 0);
        serving_call(serving, client, METHOD_TEXT("Echo", "a"));
        serving_expect(serving, client, "{\"parameters\":{\"text\":\"a\",\"count\":0,\"flag\":false}}");
        varlink_free(client);
}

static void test_socket_names(void **state) {
        struct serving *serving = *state;
        char path[512], directory[400];
        struct stat status;
        int fd, stale;

        snprintf(path, sizeof(path), "%s/nowhere/socket", serving->directory);
        assert_int_equal(try_server(serving, path, -1), ERROR_BAD_REQUEST);
        assert_int_equal(try_server(serving, serving->directory, -1), ERROR_BAD_REQUEST);
        assert_int_equal(try_server(serving, "/tmp/", -1), ERROR_INTERNAL);

        snprintf(path, sizeof(path), "%s/file", serving->directory);
        fd = creat(path, 0600);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(try_server(serving, path, -1), ERROR_BAD_REQUEST);
        assert_int_equal(unlink(path), 0);

        /* What a daemon left that was killed. */
        snprintf(path, sizeof(path), "%s/stale", serving->directory);
        stale = socket_listen(path, 0600, 1);
        assert_true(stale >= 0);
        close(stale);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(try_server(serving, path, -1), ERROR_NONE);
        assert_int_equal(stat(path, &status), -1);

        /* Longer than an address can be. */
        snprintf(directory, sizeof(directory), "%s/%0200d", serving->directory, 0);
        assert_int_equal(mkdir(directory, 0700), 0);
        snprintf(path, sizeof(path), "%s/socket", directory);
        stale = socket_listen(path, 0660, 1);
        assert_true(stale >= 0);
        fd = socket_connect(path);
        assert_true(fd >= 0);
        assert_int_equal(try_server(serving, path, -1), ERROR_BUSY);
        close(fd);
        close(stale);
        assert_int_equal(try_server(serving, path, -1), ERROR_NONE);
        assert_int_equal(rmdir(directory), 0);
}

/* Whatever the umask, nobody but owner and group gets in, at no time. */
static void test_socket_mode(void **state) {
        static const mode_t umasks[] = { 0, 022, 0777 };
        struct serving *serving = *state;
        char path[64];

        snprintf(path, sizeof(path), "%s/mode", serving->directory);
        for (unsigned i = 0; i < 3; i++) {
                mode_t before = umask(umasks[i]);
                struct stat status;
                int fd = socket_listen(path, 0660, 1);

                umask(before);
                assert_true(fd >= 0);
                assert_int_equal(stat(path, &status), 0);
                assert_int_equal(status.st_mode & 07777, 0660);
                close(fd);
                assert_int_equal(unlink(path), 0);
        }
}

/* A name that is another daemon's by now is not removed. */
static void test_socket_replaced(void **state) {
        struct serving *serving = *state;
        struct stat status;
        int fd;

        assert_int_equal(unlink(serving->path), 0);
        fd = socket_listen(serving->path, 0600, 1);
        assert_true(fd >= 0);
        server_stop(serving->server);
        assert_int_equal(stat(serving->path, &status), 0);
        close(fd);
        assert_int_equal(unlink(serving->path), 0);
}

static void test_socket_passed(void **state) {
        struct serving *serving = *state;
        char path[64];
        struct stat status;
        int fd;

        snprintf(path, sizeof(path), "%s/passed", serving->directory);
        fd = socket_listen(path, 0600, 1);
        assert_true(fd >= 0);
        assert_int_equal(try_server(serving, NULL, fd), ERROR_NONE);
        assert_int_equal(stat(path, &status), 0); /* it is not ours to remove */
        assert_int_equal(unlink(path), 0);

        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(try_server(serving, NULL, fd), ERROR_BAD_REQUEST);
        assert_int_equal(close(fd), 0);
        fd = descriptors_new(0);
        assert_int_equal(try_server(serving, NULL, fd), ERROR_BAD_REQUEST);
        assert_int_equal(close(fd), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_get_info),
                TEST(test_description),
                TEST(test_unknown),
                TEST(test_parameters),
                TEST(test_not_a_call),
                TEST(test_pipelined),
                TEST(test_oneway),
                TEST(test_oneway_and_gone),
                TEST(test_upgrade),
                TEST(test_errors),
                TEST(test_descriptors),
                TEST(test_progress),
                TEST(test_progress_to_slow_reader),
                TEST(test_slow_reader),
                TEST(test_answer_too_large),
                TEST(test_flood),
                TEST(test_gone),
                TEST(test_gone_and_answered),
                TEST(test_half_closed),
                TEST(test_half_closed_is_quiet),
                TEST(test_free_with_calls),
                TEST(test_stopped),
                cmocka_unit_test(test_many_connections),
                cmocka_unit_test(test_many_calls),
                cmocka_unit_test(test_much_memory),
                cmocka_unit_test(test_many_descriptors),
                TEST(test_no_descriptor_free),
                cmocka_unit_test(test_quota),
                TEST(test_socket_in_use),
                TEST(test_socket_names),
                TEST(test_socket_mode),
                TEST(test_socket_replaced),
                TEST(test_socket_passed),
        };

        return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
