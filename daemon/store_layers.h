/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_LAYERS_H
#define LIVESNAP_DAEMON_STORE_LAYERS_H

/* A snapshot with all that it builds on, and what builds on it. On the store's threads only. */

#include "common/chain.h"
#include "daemon/store_find.h"

struct store_layers {
        unsigned n;
        struct store_found items[CHAIN_LAYERS_MAX]; /* newest first; the last is whole */
};

/**
 * store_layers_open() - open a snapshot and what it needs to be read, on behalf of @uid
 * @ret: to be closed with store_layers_close() whatever the result
 *
 * Files are opened later, by the directories that were found: between store_reader_begin() and store_reader_end().
 *
 * Return: 0, or -1 with *error set: also where what it builds on is not there, or is another one.
 */
int store_layers_open(struct store *store, const char *domain, const char *name, uint32_t uid, const char *purpose,
                      struct store_layers *ret, struct error *error);
void store_layers_close(struct store_layers *layers);

/**
 * store_layers_read() - start to read a region through all layers
 * @region: index into those of the newest layer
 * @ret_fds: the descriptors that the reader uses, two for each layer; to be closed after it
 *
 * Return: 0, or -1 with *error set.
 */
int store_layers_read(struct store *store, const struct store_layers *layers, unsigned region, bool only_sums,
                      int ret_fds[2 * CHAIN_LAYERS_MAX], struct chain_reader **ret, struct error *error);
void store_layers_close_fds(int fds[2 * CHAIN_LAYERS_MAX]);

/**
 * store_layers_children() - the snapshots that cannot be read without this one
 * @ret: array of their names, a new reference
 *
 * Return: 0, or -1 with *error set.
 */
int store_layers_children(struct store *store, const char *domain, const char *name, json_t **ret, struct error *error);

#endif
