/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CHUNK_H
#define LIVESNAP_DAEMON_CHUNK_H

/*
 * A chunk is the unit in which a region is swept and written: 2 MiB, aligned to its own size in the region, so that it
 * is one huge page where the region has those. Buffers are aligned for O_DIRECT. For an increment, which has few pages
 * of each part of a region, a buffer holds pages of many parts.
 *
 * Owners: the chunk pool, then the sweep that fills it, then the image writer until its bytes are on disk (or the write
 * has failed), then the chunk pool again.
 */

#include <stdint.h>
#include <sys/queue.h>

#define CHUNK_BYTES (2u << 20)
#define CHUNK_PAGE_BYTES 4096u
#define CHUNK_PAGES (CHUNK_BYTES / CHUNK_PAGE_BYTES)

struct chunk {
        uint8_t *data;   /* CHUNK_BYTES, aligned to 4 KiB, registered with no ring; borrowed from the chunk pool */
        uint32_t region; /* index of the region in the snapshot */

        /* A part of the region as it lies there, or, where n_pages is not 0, single pages of it. */
        uint32_t bytes;   /* of the region that lie in this chunk; less than CHUNK_BYTES only in the last one */
        uint64_t index;   /* offset in the region / CHUNK_BYTES */
        uint32_t n_pages; /* pages of CHUNK_PAGE_BYTES that lie in `data` one behind the other */
        uint64_t *pages;  /* their numbers in the region, ascending; CHUNK_PAGES; borrowed from the chunk pool */

        uint32_t slot;            /* the pool's own: which buffer this is */
        STAILQ_ENTRY(chunk) link; /* in the list of whoever owns it */
};

STAILQ_HEAD(chunk_list, chunk);

#endif
