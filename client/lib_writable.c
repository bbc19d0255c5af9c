/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/lib_error.h"
#include "client/lib_region.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* So much at once: between two calls, others of the program who wait for its memory map have their turn. */
#define PIECE_PAGES 512

/* Holes stay holes: what is not there would be made by the call, and has no protection to lose. */
static int piece_make_writable(uint8_t *address, size_t n_pages, size_t page_bytes) {
        unsigned char there[PIECE_PAGES];

        /* Not lseek(SEEK_DATA): the descriptor's position is the program's. */
        if (mincore(address, n_pages * page_bytes, there) < 0)
                return -errno;
        for (size_t first = 0, end; first < n_pages; first = end + 1) {
                for (end = first; end < n_pages && there[end] & 1;)
                        end++;
                if (end > first &&
                    madvise(address + first * page_bytes, (end - first) * page_bytes, MADV_POPULATE_WRITE) < 0)
                        return -errno;
        }
        return 0;
}

int livesnap_region_make_writable(const struct livesnap_region *region) {
        size_t page_bytes = (size_t) sysconf(_SC_PAGESIZE);

        for (size_t i = 0; i < region->n_mappings; i++) {
                const struct region_mapping *mapping = &region->mappings[i];
                size_t n_pages = mapping->length_bytes / page_bytes;

                for (size_t page = 0; page < n_pages; page += PIECE_PAGES) {
                        size_t n = n_pages - page < PIECE_PAGES ? n_pages - page : PIECE_PAGES;
                        int r = piece_make_writable((uint8_t *) mapping->address + page * page_bytes, n, page_bytes);

                        if (r < 0)
                                return lib_fail_errno(-r, "cannot make the pages of a region writable");
                }
        }
        return 0;
}
