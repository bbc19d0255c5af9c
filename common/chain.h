/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_CHAIN_H
#define LIVESNAP_COMMON_CHAIN_H

/*
 * Reads a region of any snapshot back, also of a delta: each page from the newest layer that has it. The layers are the
 * snapshot itself, its parent, its parent's parent ..., and the last one, which is whole.
 *
 * Hands out no byte that does not match its checksum. Works on descriptors alone, as image.h does for one layer.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/image.h"
#include "common/manifest.h"

#define CHAIN_LAYERS_MAX (LIVESNAP_FORMAT_DEPTH_MAX + 1)

struct chain_layer {
        const struct manifest *manifest; /* borrowed */
        unsigned region;                 /* index into its regions */
        int data;                        /* REGION.mem, or of a delta REGION.pages; borrowed, as the next one */
        int sums;                        /* REGION.sum, or of a delta REGION.map */
};

struct chain_reader;

/**
 * chain_reader_new() - start to read
 * @layers: newest first; what is in them is borrowed until chain_reader_free()
 * @only_sums: look at no data: the chunks have sums and no bytes
 *
 * Sees that the layers belong to each other. Return: 0, or -1 with *error set and *ret untouched: as by
 * image_reader_new().
 */
int chain_reader_new(const struct chain_layer *layers, unsigned n_layers, bool only_sums, struct chain_reader **ret,
                     struct error *error);

/**
 * chain_reader_next() - the next chunk in which any layer has something
 *
 * Everything that is not handed out is zero. Return: 1 with *ret filled in, valid until the next call; 0 at the end; -1
 * with *error set.
 */
int chain_reader_next(struct chain_reader *reader, struct image_chunk *ret, struct error *error);

/** chain_reader_free() - NULL is allowed */
void chain_reader_free(struct chain_reader *reader);

#endif
