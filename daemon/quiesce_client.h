/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_QUIESCE_CLIENT_H
#define LIVESNAP_DAEMON_QUIESCE_CLIENT_H

/*
 * Programs that stop writing when they are asked to. Each has a call of AwaitQuiesce in progress; it is answered when
 * the program is to stop. Once it has stopped it calls Quiesced, which is answered when it may go on.
 *
 * Two sides: the calls, on the main thread, and the stop, on a snapshot's.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "daemon/call.h"

struct quiesce_client;

/** quiesce_client_new() - @wake: has the main thread call quiesce_client_check(); any thread. 0 or -ENOMEM. */
int quiesce_client_new(void (*wake)(void *data), void *data, struct quiesce_client **ret);

/** quiesce_client_free() - answers the calls that are in progress with an error; NULL is allowed */
void quiesce_client_free(struct quiesce_client *client);

/* Main thread. */

/** quiesce_client_await() - takes over a call of AwaitQuiesce; refuses it where there are too many */
void quiesce_client_await(struct quiesce_client *client, struct call *call);

/** quiesce_client_stopped() - takes over a call of Quiesced; refuses it where @id is not that of a stop in progress */
void quiesce_client_stopped(struct quiesce_client *client, struct call *call, uint64_t id);

/** quiesce_client_check() - do what the other side asks for */
void quiesce_client_check(struct quiesce_client *client);

/* A snapshot's thread; one stop at a time. */

/**
 * quiesce_client_stop() - ask all, and wait until each has answered
 *
 * quiesce_client_resume() is due in any case. Return: 1 all have stopped; 0 not in time; -1 there is nobody to ask, or
 * one went away. *error says which where it is not 1.
 */
int quiesce_client_stop(struct quiesce_client *client, uint64_t deadline_ns, struct error *error);

/** quiesce_client_is_intact() - has none gone away that had stopped? */
bool quiesce_client_is_intact(struct quiesce_client *client);
void quiesce_client_resume(struct quiesce_client *client);

#endif
