/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * livesnapd: puts the parts together, in this order, and takes them apart in the reverse one.
 *
 * 1. Privileges and limits, while there is one thread; and the guardian, which is to have neither threads nor
 *    descriptors of ours.
 * 2. The store, whose threads must have been made before the process has the first userfaultfd (daemon/store.h).
 * 3. The API, with the pool.
 * 4. The server. Only now can clients hand us anything.
 *
 * At the end no more calls are taken, then the API lets go of every region, so that no thread of a client waits for
 * us, and only then what may wait for a disk is ended.
 */

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include <event2/event.h>

#include "common/cleanup.h"
#include "daemon/api.h"
#include "daemon/guardian.h"
#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/privileges.h"
#include "daemon/server.h"
#include "daemon/store.h"
#include "daemon/watchdog.h"

struct parts {
        int argc;
        char **argv;
        struct options options; /* owned */
        struct event_base *base;
        struct event *sigterm;
        struct event *sigint;
        struct event *sighup;
        struct event *store_event;
        struct guardian *guardian;
        struct store *store;
        struct api *api;
        struct server *server;
        struct watchdog *watchdog;
        bool passed_socket;
};

static void on_signal(evutil_socket_t number, short events, void *data) {
        struct parts *parts = data;

        event_base_loopbreak(parts->base);
}

static struct api_config make_api_config(const struct parts *parts, const struct options *options) {
        return (struct api_config){
                .guardian = parts->guardian,
                .pool_bytes = options->pool_bytes,
                .pool_abort = options->pool_abort,
                .max_hold_ms = options->max_hold_ms,
        };
}

/* What was made of these at the start stays as it is. */
static void warn_of_unchanged(const struct options *old, const struct options *new) {
        const struct {
                const char *name;
                bool differs;
        } fixed[] = {
                { "socket", strcmp(old->socket, new->socket) != 0 },
                { "store", strcmp(old->store, new->store) != 0 },
                { "pool-size", old->pool_bytes != new->pool_bytes },
        };

        for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
                if (fixed[i].differs)
                        log_warning("a new value of %s takes effect when livesnapd is started anew", fixed[i].name);
}

static void tell_supervisor_of_reload(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=Reading options again.",
                   (long long) now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

/* So that the difference is told as often as the options are read. */
static void keep_unchanged(struct options *old, struct options *new) {
        char *socket = new->socket, *store = new->store;

        new->socket = old->socket;
        new->store = old->store;
        new->pool_bytes = old->pool_bytes;
        old->socket = socket;
        old->store = store;
}

/*
 * Options that are wrong change nothing: snapshots are being taken, and clients rely on us. The file is the only one
 * that this thread reads, and it does so when it is told to by who has written it.
 */
static void on_reload(evutil_socket_t number, short events, void *data) {
        struct parts *parts = data;
        struct options options;
        struct api_config config;

        tell_supervisor_of_reload();
        if (options_read(parts->argc, parts->argv, &options) == OPTIONS_RUN) {
                warn_of_unchanged(&parts->options, &options);
                keep_unchanged(&parts->options, &options);
                config = make_api_config(parts, &options);
                api_set_config(parts->api, &config);
                log_set_level(options.log_level);
                log_info("has read its options again");
                options_deinit(&parts->options);
                parts->options = options;
        } else {
                log_error("goes on with the options that it had");
        }
        sd_notify(0, "READY=1\nSTATUS=Serving.");
}

/* The sessions need edges and to be told early of peers that have gone; of Linux's methods only epoll has both. */
static int make_base(struct parts *parts, struct error *error) {
        struct event_config *config = event_config_new();

        if (config &&
            event_config_require_features(config, EV_FEATURE_ET | EV_FEATURE_EARLY_CLOSE | EV_FEATURE_O1) == 0)
                parts->base = event_base_new_with_config(config);
        if (config)
                event_config_free(config);
        if (!parts->base)
                return error_set(error, ERROR_INTERNAL, "cannot make an event loop with epoll");
        parts->sigterm = evsignal_new(parts->base, SIGTERM, on_signal, parts);
        parts->sigint = evsignal_new(parts->base, SIGINT, on_signal, parts);
        parts->sighup = evsignal_new(parts->base, SIGHUP, on_reload, parts);
        if (!parts->sigterm || !parts->sigint || !parts->sighup || evsignal_add(parts->sigterm, NULL) < 0 ||
            evsignal_add(parts->sigint, NULL) < 0 || evsignal_add(parts->sighup, NULL) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot watch signals");
        return 0;
}

static void on_store(evutil_socket_t fd, short events, void *data) {
        store_dispatch(data);
}

static int watch_store(struct parts *parts, struct error *error) {
        parts->store_event =
                event_new(parts->base, store_get_fd(parts->store), EV_READ | EV_PERSIST, on_store, parts->store);
        if (!parts->store_event || event_add(parts->store_event, NULL) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot watch the store: out of memory");
        return 0;
}

/* The one socket that systemd may have passed. Return: 0, or -1 with *error set; *ret is -1 where there is none. */
static int take_passed_socket(int *ret, struct error *error) {
        int n = sd_listen_fds(1);

        if (n > 1)
                return error_set(error, ERROR_BAD_REQUEST,
                                 "livesnapd was started with %d sockets, but it serves one; check livesnapd.socket", n);
        *ret = n == 1 ? SD_LISTEN_FDS_START : -1;
        return 0;
}

static bool answers(void *data) {
        return api_answers(data);
}

static int start(struct parts *parts, const struct options *options, struct error *error) {
        struct api_config api_config;
        struct server_config server_config = { .socket_path = options->socket, .listen_fd = -1 };
        bool can_trace;

        if (take_passed_socket(&server_config.listen_fd, error) < 0 || privileges_reduce(&can_trace, error) < 0)
                return -1;
        if (!can_trace)
                log_warning("no CAP_SYS_PTRACE: nothing can be attached, since the kernel would not tell of forks; run "
                            "livesnapd as root or by its systemd unit");
        parts->passed_socket = server_config.listen_fd >= 0;
        privileges_raise_limits();
        if (guardian_new(&parts->guardian, error) < 0)
                return -1;
        api_config = make_api_config(parts, options);
        if (store_new(options->store, &parts->store, error) < 0 || make_base(parts, error) < 0 ||
            watch_store(parts, error) < 0)
                return -1;
        if (api_new(&api_config, parts->store, parts->base, &parts->api, error) < 0)
                return -1;
        if (!privileges_lock_memory())
                log_info("may not lock all of its memory (RLIMIT_MEMLOCK): when memory is short, clients may have to "
                         "wait "
                         "until a page of the daemon has been read back");
        if (server_new(parts->base, &server_config, api_methods(), parts->api, &parts->server, error) < 0)
                return -1;
        return watchdog_new(parts->base, answers, parts->api, &parts->watchdog, error);
}

static void stop(struct parts *parts) {
        watchdog_free(parts->watchdog);
        if (parts->server)
                server_stop(parts->server);
        if (parts->sighup)
                event_free(parts->sighup);
        api_free(parts->api);
        /* Nobody waits for us any more. From here on a second signal ends the process, whatever the disk does. */
        if (parts->sigint)
                event_free(parts->sigint);
        if (parts->sigterm)
                event_free(parts->sigterm);
        store_free(parts->store);
        server_free(parts->server);
        if (parts->store_event)
                event_free(parts->store_event);
        if (parts->base)
                event_base_free(parts->base);
        guardian_free(parts->guardian);
}

static int run(struct parts *parts, const struct options *options) {
        sd_notify(0, "READY=1\nSTATUS=Serving.");
        log_info("listening on %s, store %s", parts->passed_socket ? "the socket that systemd passed" : options->socket,
                 store_path(parts->store));
        if (event_base_dispatch(parts->base) < 0) {
                log_error("the event loop failed");
                return EXIT_FAILURE;
        }
        sd_notify(0, "STOPPING=1\nSTATUS=Letting go of all regions.");
        return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
        struct parts parts = { .argc = argc, .argv = argv };
        struct error error = {};
        int status = EXIT_FAILURE;

        switch (options_read(argc, argv, &parts.options)) {
        case OPTIONS_DONE:
                return EXIT_SUCCESS;
        case OPTIONS_BAD:
                return 2;
        case OPTIONS_RUN:
                break;
        }
        /* Sockets are written to with MSG_NOSIGNAL; this is for stderr. */
        signal(SIGPIPE, SIG_IGN);
        log_set_level(parts.options.log_level);
        if (start(&parts, &parts.options, &error) < 0)
                log_error("%s", error.message);
        else
                status = run(&parts, &parts.options);
        stop(&parts);
        options_deinit(&parts.options);
        return status;
}
