/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/serving.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/socket.h"
#include "tests/unit/descriptors.h"

/* test.Echo(text: string, count: ?int, flag: ?bool) -> (text, count, flag) */
static void method_echo(struct call *call, void *context) {
        struct serving *serving = context;
        const char *text;
        uint64_t count = 0;
        bool flag = false;
        const struct parameter parameters[] = {
                { "text", .required = true, .string = &text },
                { "count", .number = &count },
                { "flag", .boolean = &flag },
                {},
        };

        serving->n_calls++;
        if (call_read(call, parameters) < 0)
                return;
        call_reply(call, json_pack("{s:s, s:I, s:b}", "text", text, "count", (json_int_t) count, "flag", flag), NULL,
                   0);
}

static void hold_gone(struct call *call, void *data) {
        struct serving *serving = data;

        serving->n_gone++;
}

/* test.Hold() -> (): answered when the test says so. */
static void method_hold(struct call *call, void *context) {
        struct serving *serving = context;

        serving->n_calls++;
        assert_true(serving->n_held < SERVING_HELD_MAX);
        serving->held[serving->n_held++] = call;
        call_on_gone(call, hold_gone, serving);
}

static void quit_gone(struct call *call, void *data) {
        struct serving *serving = data;
        struct error error = {};

        serving->n_gone++;
        error_set(&error, ERROR_CANCELLED, "the caller is gone");
        call_fail(call, &error);
}

/* test.Quit() -> (): answered when the caller goes away. */
static void method_quit(struct call *call, void *context) {
        call_on_gone(call, quit_gone, context);
}

/* test.Large(bytes: int) -> (text: string) */
static void method_large(struct call *call, void *context) {
        struct serving *serving = context;
        uint64_t bytes;
        const struct parameter parameters[] = {
                { "bytes", .required = true, .number = &bytes },
                {},
        };
        char *text;

        serving->n_calls++;
        if (call_read(call, parameters) < 0)
                return;
        text = calloc(1, bytes + 1);
        assert_non_null(text);
        memset(text, 'x', bytes);
        call_reply(call, json_pack("{s:s}", "text", text), NULL, 0);
        free(text);
}

/* test.Count(to: int) -> (n: int): 1, 2, 3 ... as progress, and then the last once more as the answer. */
static void method_count(struct call *call, void *context) {
        uint64_t to;
        const struct parameter parameters[] = {
                { "to", .required = true, .number = &to },
                {},
        };

        if (call_read(call, parameters) < 0)
                return;
        for (uint64_t i = 1; i <= to; i++)
                call_reply_continues(call, json_pack("{s:I}", "n", (json_int_t) i));
        call_reply(call, json_pack("{s:I}", "n", (json_int_t) to), NULL, 0);
}

/* test.Swap(a: int, b: int) -> (a: int, b: int): gives two descriptors back the other way round. */
static void method_swap(struct call *call, void *context) {
        uint64_t a, b;
        const struct parameter parameters[] = {
                { "a", .required = true, .number = &a },
                { "b", .required = true, .number = &b },
                {},
        };
        int fds[2];

        if (call_read(call, parameters) < 0)
                return;
        fds[0] = call_take_fd(call, b);
        fds[1] = call_take_fd(call, a);
        if (fds[0] < 0 || fds[1] < 0) {
                for (unsigned i = 0; i < 2; i++)
                        if (fds[i] >= 0)
                                close(fds[i]);
                call_fail_parameter(call, "%s", fds[0] < 0 ? "b" : "a");
                return;
        }
        call_reply(call, json_pack("{s:i, s:i}", "a", 0, "b", 1), fds, 2);
}

/* test.Fail(text: string) */
static void method_fail(struct call *call, void *context) {
        const char *text;
        const struct parameter parameters[] = {
                { "text", .required = true, .string = &text },
                {},
        };
        struct error error = {};

        if (call_read(call, parameters) < 0)
                return;
        if (!strcmp(text, "bytes"))
                text = "a \xff b";
        if (*text)
                error_set(&error, ERROR_NO_SUCH_DOMAIN, "%s", text);
        call_fail(call, &error);
}

static const struct server_method methods[] = {
        { "io.livesnap.Echo", method_echo },   { "io.livesnap.Hold", method_hold },
        { "io.livesnap.Quit", method_quit },   { "io.livesnap.Large", method_large },
        { "io.livesnap.Count", method_count }, { "io.livesnap.Swap", method_swap },
        { "io.livesnap.Fail", method_fail },   {},
};

struct serving *serving_new(const struct quota_limits *limits) {
        struct serving *serving = calloc(1, sizeof(*serving));
        struct server_config config = { .listen_fd = -1, .limits = limits };
        struct error error = {};

        assert_non_null(serving);
        serving->n_descriptors = descriptors_count();
        strcpy(serving->directory, "/tmp/livesnap-test-XXXXXX");
        assert_non_null(mkdtemp(serving->directory));
        snprintf(serving->path, sizeof(serving->path), "%s/socket", serving->directory);
        config.socket_path = serving->path;
        serving->base = event_base_new();
        assert_non_null(serving->base);
        if (server_new(serving->base, &config, methods, serving, &serving->server, &error) < 0)
                fail_msg("%s", error.message);
        return serving;
}

void serving_free(struct serving *serving) {
        server_free(serving->server);
        while (serving->n_held > 0)
                call_reply(serving->held[--serving->n_held], NULL, NULL, 0);
        event_base_free(serving->base);
        assert_int_equal(rmdir(serving->directory), 0);
        assert_int_equal(descriptors_count(), serving->n_descriptors);
        free(serving);
}

void serving_turn(struct serving *serving) {
        for (unsigned i = 0; i < 8; i++)
                event_base_loop(serving->base, EVLOOP_NONBLOCK);
}

void serving_turn_for(struct serving *serving, unsigned ms) {
        const struct timespec step = { .tv_nsec = 5 * 1000 * 1000 };

        for (unsigned i = 0; i < ms; i += 5) {
                serving_turn(serving);
                nanosleep(&step, NULL);
        }
        serving_turn(serving);
}

struct varlink *serving_connect(struct serving *serving) {
        struct varlink *client;
        int fd = socket_connect(serving->path);

        assert_true(fd >= 0);
        assert_int_equal(varlink_new(fd, VARLINK_CLIENT, &client), 0);
        serving_turn(serving);
        return client;
}

void serving_call(struct serving *serving, struct varlink *client, const char *format, ...) {
        va_list arguments;
        json_t *call;
        int r;

        va_start(arguments, format);
        call = json_vpack_ex(NULL, 0, format, arguments);
        va_end(arguments);
        assert_non_null(call);
        assert_int_equal(varlink_send(client, call, NULL, 0), 0);
        json_decref(call);
        r = varlink_flush(client);
        assert_true(r == 0 || r == -EPIPE);
}

/* Return: as varlink_receive(), but 0 only after the server has had all the time that it can need. */
static int receive(struct serving *serving, struct varlink *client, struct varlink_message *ret) {
        int r = 0;

        for (unsigned i = 0; i < 200 && r == 0; i++) {
                varlink_flush(client);
                serving_turn(serving);
                r = varlink_receive(client, ret);
        }
        return r;
}

json_t *serving_answer(struct serving *serving, struct varlink *client) {
        struct varlink_message message;
        json_t *json;
        int r = receive(serving, client, &message);

        if (r == -EPIPE || r == -ECONNRESET)
                return NULL;
        assert_int_equal(r, 1);
        json = json_incref(message.json);
        varlink_message_deinit(&message);
        return json;
}

void serving_expect(struct serving *serving, struct varlink *client, const char *text) {
        json_t *answer = serving_answer(serving, client), *expected = json_loads(text, 0, NULL);

        assert_non_null(expected);
        if (!json_equal(answer, expected)) {
                char *got = json_dumps(answer, JSON_COMPACT);

                fail_msg("%s instead of %s", got, text);
        }
        json_decref(answer);
        json_decref(expected);
}

void serving_expect_error(struct serving *serving, struct varlink *client, const char *name) {
        json_t *answer = serving_answer(serving, client);

        assert_non_null(answer);
        assert_non_null(json_object_get(answer, "error"));
        assert_string_equal(json_string_value(json_object_get(answer, "error")), name);
        assert_true(json_is_object(json_object_get(answer, "parameters")));
        json_decref(answer);
}

void serving_expect_nothing(struct serving *serving, struct varlink *client) {
        struct varlink_message message;

        assert_int_equal(receive(serving, client, &message), 0);
}

void serving_expect_end(struct serving *serving, struct varlink *client) {
        assert_null(serving_answer(serving, client));
}

void serving_release(struct serving *serving) {
        struct call *call = serving->held[0];

        assert_true(serving->n_held > 0);
        serving->n_held--;
        memmove(serving->held, serving->held + 1, serving->n_held * sizeof(call));
        call_reply(call, NULL, NULL, 0);
}
