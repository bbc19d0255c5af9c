/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_PAGES_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_PAGES_H

/* Where the single pages of an increment go. On the writer's thread only. */

#include "daemon/chunk.h"
#include "daemon/image_writer_files.h"

/**
 * image_pages_place() - note the pages of a packed chunk, in the map or in the sums, and say where they are written to
 * @sums: of its pages
 * @ret_places: for each page that is not zero, its place in the file, in pages
 *
 * Pages that are zero are made so in an image that they share with the parent. A delta takes 24 bytes of memory for
 * each page until it is published. Return: 0, or -1 with *error set.
 */
int image_pages_place(struct image_files *files, const struct chunk *chunk, const uint64_t *sums,
                      uint64_t ret_places[CHUNK_PAGES], struct error *error);

#endif
