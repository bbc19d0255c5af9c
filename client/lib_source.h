/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_SOURCE_H
#define LIVESNAP_CLIENT_LIB_SOURCE_H

/* One region of a published snapshot and of what it builds on, opened by the daemon and read by this process. */

#include "client/lib_connection.h"
#include "client/lib_sink.h"
#include "common/chain.h"
#include "common/manifest.h"

/** struct source_layer - owns its descriptors and the manifest */
struct source_layer {
        struct manifest *manifest;
        unsigned region; /* index into the manifest's */
        int image;       /* of a delta: its pages */
        int sums;        /* of a delta: its map */
};

struct source {
        uint64_t bytes; /* of the region */
        unsigned n_layers;
        struct source_layer layers[CHAIN_LAYERS_MAX]; /* newest first; the last is whole */
};

/** struct restore_progress - counts over all regions of a restore */
struct restore_progress {
        const struct livesnap_restore_callback *callback; /* may be NULL */
        uint64_t bytes_done;
        uint64_t bytes_total;
        uint64_t bytes_data;
};

/** source_open() - have the daemon open a region of a snapshot. Return: 0, or -1 and *ret may be closed all the same.
 */
int source_open(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                struct source *ret);

/** source_close() - one that is all zero is allowed */
void source_close(struct source *source);

/** source_show() - what the daemon says of a snapshot. Return: 0, or -1 with the error of this thread set. */
int source_show(struct livesnap *livesnap, const char *domain, const char *name, struct livesnap_snapshot **ret);

/** source_read() - start to read the region through all layers; @only_sums: no data. Return: 0 or -1. */
int source_read(const struct source *source, bool only_sums, struct chain_reader **ret);

/**
 * source_copy() - read all of the region, and give it to a sink
 *
 * The sink is given nothing that does not match its checksum; but that the checksums are all the right ones is known
 * only when this returns 0.
 */
int source_copy(const struct source *source, struct sink *sink, struct restore_progress *progress);

#endif
