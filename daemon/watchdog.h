/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_WATCHDOG_H
#define LIVESNAP_DAEMON_WATCHDOG_H

/*
 * The watchdog: tells the supervisor (systemd, or whoever set $WATCHDOG_USEC and $NOTIFY_SOCKET) that the daemon
 * serves.
 *
 * A daemon that lives but does not answer faults keeps its clients asleep, and only its death wakes them. So the main
 * loop says WATCHDOG=1 when, since it last did, every thread that a client may wait for has come round; a loop that
 * hangs, this one included, ends in silence, and the supervisor kills us.
 */

#include <stdbool.h>

#include <event2/event.h>

#include "common/error.h"

struct watchdog;

/**
 * watchdog_new() - start to feed the supervisor's watchdog
 * @answers: asks every thread for an answer, and says whether each has answered since it was last called; must not
 * block
 * @ret: NULL where no supervisor asked for it
 *
 * Return: 0, or -1 with *error set.
 */
int watchdog_new(struct event_base *base, bool (*answers)(void *data), void *data, struct watchdog **ret,
                 struct error *error);

/** watchdog_free() - stop to; NULL is allowed */
void watchdog_free(struct watchdog *watchdog);

#endif
