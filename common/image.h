/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_IMAGE_H
#define LIVESNAP_COMMON_IMAGE_H

/*
 * Reads a region of a snapshot back, chunk by chunk, and hands out no byte that does not match its checksum. Works on
 * descriptors alone, so that the daemon (verify) and a client (restore) use the same code.
 *
 * Holes cost nothing: a chunk is read where the image or the sums have data.
 */

#include <stdint.h>

#include "common/error.h"
#include "common/manifest.h"

struct image_reader;

/* What image_reader_next() hands out. Valid until the next call. */
struct image_chunk {
        uint64_t offset;      /* in the region; a multiple of LIVESNAP_SUMS_BLOCK_COVERS */
        uint32_t bytes;       /* of the region in this chunk; less than LIVESNAP_SUMS_BLOCK_COVERS only in the last */
        uint32_t pages;       /* bytes / 4096, rounded up; what is behind the last byte is zero */
        const uint8_t *data;  /* aligned to 4096 */
        const uint64_t *sums; /* sums[i] == 0: page i is zero; else it is not */
};

/**
 * image_reader_new() - start to read a region
 * @manifest: borrowed until image_reader_free()
 * @region: index into manifest->regions
 * @image: descriptor of its REGION.mem, @sums: of its REGION.sum; borrowed likewise. O_DIRECT is fine for @image. An
 *         @image of -1: only the sums are read, and chunks have no data.
 *
 * Looks at the sizes of both files and at the header of the sums. Return: 0, or -1 with *error set and *ret untouched:
 * ERROR_SNAPSHOT_CORRUPT for what does not match, ERROR_STORE_FAILED where reading failed.
 */
int image_reader_new(const struct manifest *manifest, unsigned region, int image, int sums, struct image_reader **ret,
                     struct error *error);

/**
 * image_reader_next() - the next chunk that is not a hole
 *
 * Everything that is not handed out is zero. The end is reached only when all sums match the digest in the manifest
 * too: until then a chunk is as good as the sums are.
 *
 * Return: 1 with *ret filled in; 0 at the end; -1 with *error set as by image_reader_new().
 */
int image_reader_next(struct image_reader *reader, struct image_chunk *ret, struct error *error);

/** image_reader_free() - NULL is allowed */
void image_reader_free(struct image_reader *reader);

#endif
