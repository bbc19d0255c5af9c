/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_API_H
#define LIVESNAP_DAEMON_API_H

/* The interface io.livesnap: what its methods act on, and the table of them. Main thread only. */

#include <stdbool.h>
#include <stdint.h>

#include <event2/event.h>

#include "common/error.h"
#include "daemon/guardian.h"
#include "daemon/server.h"
#include "daemon/store.h"

struct api;

struct api_config {
        uint64_t pool_bytes;
        bool pool_abort; /* fail the snapshot, rather than make faulting threads wait, when the pool is spent */
        unsigned max_hold_ms;
        struct guardian *guardian; /* borrowed */
};

/**
 * api_new() - make what the methods act on
 * @config: copied
 * @store, @base: borrowed until api_free()
 *
 * Return: 0, or -1 with *error set.
 */
int api_new(const struct api_config *config, struct store *store, struct event_base *base, struct api **ret,
            struct error *error);

/** api_set_config() - for snapshots from now on; the size of the pool stays */
void api_set_config(struct api *api, const struct api_config *config);

/**
 * api_free() - end all work and take the protection off every region; NULL is allowed
 *
 * Calls in progress are answered. Returns when no thread of a client can wait for us any more.
 */
void api_free(struct api *api);

/** api_answers() - has every thread that clients may wait for come round since this was last called? Does not block. */
bool api_answers(struct api *api);

/** api_methods() - the table for server_new(), whose context is the struct api */
const struct server_method *api_methods(void);

#endif
