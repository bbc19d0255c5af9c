/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Method calls, with the real methods of io.livesnap on an empty store and no domain.
 *
 * The first byte says how many descriptors come with the call, which are memfds, and who calls (0x80: not root). The
 * rest is the JSON text of the message.
 *
 * Each call must be answered exactly once, with an object, and no descriptor may be lost.
 */

#include <event2/event.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/api_internal.h"
#include "daemon/store_tree.h"
#include "tests/fuzz/fuzz.h"

#define ANSWER_MS_MAX 10000
#define SKIPPED 77
#define NOBODY 65534

static char directory[] = "/tmp/livesnap-fuzz-XXXXXX";
static struct event_base *base;
static struct store *store;
static struct api *api;
static struct quota *quota;

struct caller {
        unsigned n_answers;
        bool is_answered;
};

static int caller_send(void *session, json_t *message, const int *fds, unsigned n_fds) {
        struct caller *caller = session;
        json_t *error = json_object_get(message, "error");

        FUZZ_REQUIRE(json_is_object(json_object_get(message, "parameters")));
        FUZZ_REQUIRE(!error || json_is_string(error));
        if (!json_is_true(json_object_get(message, "continues")))
                caller->n_answers++;
        for (unsigned i = 0; i < n_fds; i++)
                close(fds[i]);
        return 0;
}

static bool caller_is_behind(void *session) {
        return false;
}

static void caller_answered(void *session) {
        struct caller *caller = session;

        FUZZ_REQUIRE(!caller->is_answered);
        caller->is_answered = true;
}

static const struct call_channel channel = { caller_send, caller_is_behind, caller_answered };

static void tear_down(void) {
        api_free(api);
        store_free(store);
        event_base_free(base);
        quota_free(quota);
        (void) store_tree_remove(AT_FDCWD, directory);
}

static void set_up(void) {
        const struct api_config config = { .pool_bytes = POOL_BYTES_MIN, .max_hold_ms = 250 };
        struct error error = { .kind = ERROR_NONE };

        FUZZ_REQUIRE(mkdtemp(directory));
        base = event_base_new();
        FUZZ_REQUIRE(base && quota_new(&quota_limits_default, &quota) == 0);
        if (store_new(directory, &store, &error) < 0 || api_new(&config, store, base, &api, &error) < 0) {
                printf("%s\n", error.message);
                (void) store_tree_remove(AT_FDCWD, directory);
                exit(SKIPPED);
        }
        atexit(tear_down);
}

/* The lowest number that is free. */
static int next_fd(void) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        FUZZ_REQUIRE(fd >= 0);
        close(fd);
        return fd;
}

static void run(struct call *call, struct caller *caller) {
        const struct server_method *method = api_methods();
        struct pollfd ready = { .fd = store_get_fd(store), .events = POLLIN };
        bool oneway = call_oneway(call);

        while (method->name && strcmp(method->name, call_method(call)))
                method++;
        if (method->name)
                method->call(call, api);
        else
                call_fail_with(call, VARLINK_ERROR_METHOD_NOT_FOUND, NULL);
        for (unsigned ms = 0; !caller->is_answered && ms < ANSWER_MS_MAX; ms++) {
                (void) poll(&ready, 1, 1);
                store_dispatch(store);
                event_base_loop(base, EVLOOP_NONBLOCK);
        }
        FUZZ_REQUIRE(caller->is_answered && caller->n_answers == !oneway);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct varlink_message message = {};
        struct caller caller = {};
        struct quota_user *user;
        struct call *call;
        int first_free;
        uid_t uid;

        if (!api)
                set_up();
        if (size < 1 || size > VARLINK_REQUEST_BYTES_MAX)
                return 0;
        message.json = json_loadb((const char *) data + 1, size - 1, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(message.json)) {
                json_decref(message.json);
                return 0;
        }
        first_free = next_fd();
        message.n_fds = data[0] % 8;
        for (unsigned i = 0; i < message.n_fds; i++) {
                message.fds[i] = memfd_create("fuzz", MFD_CLOEXEC);
                FUZZ_REQUIRE(message.fds[i] >= 0 && ftruncate(message.fds[i], 1 << 20) == 0);
        }
        uid = data[0] & 0x80 ? NOBODY : 0;
        FUZZ_REQUIRE(quota_get_user(quota, uid, &user) == 0);
        if (call_new(&message, user, uid, getpid(), &channel, &caller, &call) == 0)
                run(call, &caller);
        quota_user_unref(user);
        FUZZ_REQUIRE(next_fd() == first_free);
        return 0;
}
