/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_pages.h"

#include <stdlib.h>
#include <string.h>

static int reserve(struct image_region *region, size_t n, struct error *error) {
        size_t n_allocated = region->n_allocated ? region->n_allocated : CHUNK_PAGES;
        struct livesnap_map_entry *entries;

        if (region->n_entries + n <= region->n_allocated)
                return 0;
        while (n_allocated < region->n_entries + n)
                n_allocated *= 2;
        entries = reallocarray(region->entries, n_allocated, sizeof(*entries));
        if (!entries)
                return error_set(error, ERROR_INTERNAL, "out of memory for the map of region %s", region->name);
        region->entries = entries;
        region->n_allocated = n_allocated;
        return 0;
}

static int place_in_delta(struct image_files *files, const struct chunk *chunk, const uint64_t *sums, uint64_t *places,
                          struct error *error) {
        struct image_region *region = &files->regions[chunk->region];

        if (reserve(region, chunk->n_pages, error) < 0)
                return -1;
        for (uint32_t i = 0; i < chunk->n_pages; i++) {
                places[i] = region->pages_stored;
                region->entries[region->n_entries++] = (struct livesnap_map_entry){
                        .page = chunk->pages[i],
                        .sum = sums[i],
                        .position = region->pages_stored,
                };
                region->pages_stored += sums[i] != 0;
                files->pages_zero += sums[i] == 0;
        }
        return 0;
}

/* The pages from @first on that lie in the same block of sums. */
static uint32_t count_in_block(const struct chunk *chunk, uint32_t first) {
        uint64_t block = chunk->pages[first] / LIVESNAP_SUMS_PER_BLOCK;
        uint32_t n = 0;

        while (first + n < chunk->n_pages && chunk->pages[first + n] / LIVESNAP_SUMS_PER_BLOCK == block)
                n++;
        return n;
}

static int place_in_image(struct image_files *files, const struct chunk *chunk, const uint64_t *sums, uint64_t *places,
                          struct error *error) {
        uint64_t old[LIVESNAP_SUMS_PER_BLOCK], new[LIVESNAP_SUMS_PER_BLOCK];

        for (uint32_t first = 0, n; first < chunk->n_pages; first += n) {
                uint64_t block = chunk->pages[first] / LIVESNAP_SUMS_PER_BLOCK;

                n = count_in_block(chunk, first);
                if (image_files_read_sums(files, chunk->region, block, old, error) < 0)
                        return -1;
                memcpy(new, old, sizeof(new));
                for (uint32_t i = first; i < first + n; i++) {
                        uint64_t *sum = &new[chunk->pages[i] % LIVESNAP_SUMS_PER_BLOCK];

                        places[i] = chunk->pages[i];
                        if (!sums[i] && *sum && image_files_punch(files, chunk->region, chunk->pages[i], error) < 0)
                                return -1;
                        files->pages_zero += !sums[i];
                        files->pages_zero -= !*sum;
                        *sum = sums[i];
                }
                if (image_files_replace_sums(files, chunk->region, block, old, new, error) < 0)
                        return -1;
        }
        return 0;
}

int image_pages_place(struct image_files *files, const struct chunk *chunk, const uint64_t *sums,
                      uint64_t ret_places[CHUNK_PAGES], struct error *error) {
        return (files->delta ? place_in_delta : place_in_image)(files, chunk, sums, ret_places, error);
}
