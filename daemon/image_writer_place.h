/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_PLACE_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_PLACE_H

/* Where the pages of a chunk go, and the sums that go with them. On the writer's thread only. */

#include "daemon/image_writer_files.h"

#define IMAGE_NO_PLACE UINT64_MAX

/** image_chunk_pages() - pages of 4 KiB that are in the buffer of a chunk, the last one perhaps in part */
static inline unsigned image_chunk_pages(const struct chunk *chunk) {
        return chunk->n_pages ? chunk->n_pages : (chunk->bytes + CHUNK_PAGE_BYTES - 1) / CHUNK_PAGE_BYTES;
}

/**
 * image_place_chunk() - compute sums, note them down, and say what is to be written where
 * @chunk: what its region does not have of the last page is zeroed in the buffer
 * @ret_sums: of its pages
 * @ret_places: for each page of the buffer its page in the region's file, or IMAGE_NO_PLACE: nothing to be written
 * @ret_to_write: how many have a place
 *
 * Return: 0, or -1 with *error set.
 */
int image_place_chunk(struct image_files *files, struct chunk *chunk, uint64_t ret_sums[CHUNK_PAGES],
                      uint64_t ret_places[CHUNK_PAGES], unsigned *ret_to_write, struct error *error);

#endif
