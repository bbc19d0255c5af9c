/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/watchdog.h"

#include <stdint.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>

/*
 * How often to look within the time that the supervisor waits. An answer is seen one look after it was asked for, so
 * there is time left for a thread that is late by two.
 */
#define WATCHDOG_LOOKS 4
#define WATCHDOG_USEC_PER_SEC 1000000

struct watchdog {
        struct event *tick; /* owned */
        bool (*answers)(void *data);
        void *data;
};

static void watchdog_on_tick(evutil_socket_t fd, short events, void *data) {
        struct watchdog *watchdog = data;

        if (watchdog->answers(watchdog->data))
                sd_notify(0, "WATCHDOG=1");
}

int watchdog_new(struct event_base *base, bool (*answers)(void *data), void *data, struct watchdog **ret,
                 struct error *error) {
        struct watchdog *watchdog;
        struct timeval interval;
        uint64_t patience_us;

        if (sd_watchdog_enabled(0, &patience_us) <= 0) {
                *ret = NULL;
                return 0;
        }
        watchdog = calloc(1, sizeof(*watchdog));
        if (!watchdog)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        watchdog->answers = answers;
        watchdog->data = data;
        watchdog->tick = event_new(base, -1, EV_PERSIST, watchdog_on_tick, watchdog);
        interval.tv_sec = (time_t) (patience_us / WATCHDOG_LOOKS / WATCHDOG_USEC_PER_SEC);
        interval.tv_usec = (suseconds_t) (patience_us / WATCHDOG_LOOKS % WATCHDOG_USEC_PER_SEC);
        if (!watchdog->tick || event_add(watchdog->tick, &interval) < 0) {
                watchdog_free(watchdog);
                return error_set(error, ERROR_INTERNAL, "cannot start the watchdog: out of memory");
        }
        *ret = watchdog;
        return 0;
}

void watchdog_free(struct watchdog *watchdog) {
        if (!watchdog)
                return;
        if (watchdog->tick)
                event_free(watchdog->tick);
        free(watchdog);
}
