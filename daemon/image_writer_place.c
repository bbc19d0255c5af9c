/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_place.h"

#include <assert.h>
#include <string.h>

#include "common/checksum.h"
#include "common/sums.h"

/* What the region has not of its last page is zero in the file's sums, whatever is behind it in the buffer. */
static void zero_behind_region(const struct image_region *region, struct chunk *chunk) {
        unsigned pages = image_chunk_pages(chunk);
        size_t end = (size_t) pages * CHUNK_PAGE_BYTES, used = chunk->bytes;

        if (chunk->n_pages) {
                uint64_t last = (chunk->pages[pages - 1] + 1) * CHUNK_PAGE_BYTES;

                used = last > region->bytes ? end - (size_t) (last - region->bytes) : end;
        }
        memset(chunk->data + used, 0, end - used);
}

static int place_plain(struct image_files *files, const struct chunk *chunk, const uint64_t *sums, uint64_t *ret_places,
                       struct error *error) {
        bool any = false;

        assert(chunk->index * CHUNK_BYTES + chunk->bytes <= files->regions[chunk->region].bytes);
        for (unsigned i = 0; i < image_chunk_pages(chunk); i++) {
                ret_places[i] = sums[i] ? chunk->index * CHUNK_PAGES + i : IMAGE_NO_PLACE;
                any |= sums[i] != 0;
                files->regions[chunk->region].pages_written += sums[i] != 0;
        }
        return any ? image_files_write_sums(files, chunk->region, chunk->index, sums, error) : 0;
}

/* Pages of one block of sums. A page that was zero and still is needs no write. */
static int patch_block(struct image_files *files, const struct chunk *chunk, unsigned first, unsigned end,
                       const uint64_t *sums, uint64_t *ret_places, struct error *error) {
        struct image_region *region = &files->regions[chunk->region];
        uint64_t block[LIVESNAP_SUMS_PER_BLOCK], index = chunk->pages[first] / LIVESNAP_SUMS_PER_BLOCK;

        if (image_files_read_sums(files, chunk->region, index, block, error) < 0)
                return -1;
        region->sums_digest -= checksum_block(block, index);
        for (unsigned i = first; i < end; i++) {
                uint64_t *sum = &block[chunk->pages[i] % LIVESNAP_SUMS_PER_BLOCK];

                ret_places[i] = *sum || sums[i] ? chunk->pages[i] : IMAGE_NO_PLACE;
                region->pages_written -= *sum != 0;
                region->pages_written += sums[i] != 0;
                *sum = sums[i];
        }
        return image_files_write_sums(files, chunk->region, index, block, error);
}

static int place_patch(struct image_files *files, const struct chunk *chunk, const uint64_t *sums, uint64_t *ret_places,
                       struct error *error) {
        for (unsigned first = 0, end; first < chunk->n_pages; first = end) {
                uint64_t index = chunk->pages[first] / LIVESNAP_SUMS_PER_BLOCK;

                for (end = first + 1; end < chunk->n_pages && chunk->pages[end] / LIVESNAP_SUMS_PER_BLOCK == index;) {
                        assert(chunk->pages[end] > chunk->pages[end - 1]);
                        end++;
                }
                if (patch_block(files, chunk, first, end, sums, ret_places, error) < 0)
                        return -1;
        }
        return 0;
}

int image_place_chunk(struct image_files *files, struct chunk *chunk, uint64_t ret_sums[CHUNK_PAGES],
                      uint64_t ret_places[CHUNK_PAGES], unsigned *ret_to_write, struct error *error) {
        const struct image_region *region = &files->regions[chunk->region];
        unsigned pages = image_chunk_pages(chunk), to_write = 0;
        int r;

        assert(chunk->bytes <= CHUNK_BYTES && chunk->n_pages <= CHUNK_PAGES);
        assert(!chunk->n_pages || chunk->pages[pages - 1] < sums_pages(region->bytes));
        zero_behind_region(region, chunk);
        checksum_chunk(chunk->data, pages, ret_sums);
        r = chunk->n_pages ? place_patch(files, chunk, ret_sums, ret_places, error)
                           : place_plain(files, chunk, ret_sums, ret_places, error);
        for (unsigned i = 0; i < pages && r == 0; i++)
                to_write += ret_places[i] != IMAGE_NO_PLACE;
        *ret_to_write = to_write;
        return r;
}
