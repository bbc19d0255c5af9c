/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/chain.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/map.h"
#include "common/sums.h"

/* Where a page of the chunk is. */
struct place {
        bool known;
        unsigned layer;
        uint64_t position; /* in REGION.pages; meaningless for a page that is zero */
};

struct chain_reader {
        bool only_sums;
        unsigned n_maps;
        struct chain_layer layers[CHAIN_LAYERS_MAX];
        struct map_reader *maps[CHAIN_LAYERS_MAX]; /* of all layers but the last; owned */
        struct image_reader *base;                 /* owned */
        struct image_chunk chunk;                  /* of the base: read, and not handed out yet */
        bool has_chunk;
        bool base_ended;

        uint8_t *data; /* owned, as the next one */
        uint64_t *sums;
        struct place places[LIVESNAP_SUMS_PER_BLOCK];
};

static const struct manifest_region *layer_region(const struct chain_layer *layer) {
        return &layer->manifest->regions[layer->region];
}

static int layers_check(const struct chain_layer *layers, unsigned n_layers, struct error *error) {
        const struct manifest_region *first = layer_region(&layers[0]);

        for (unsigned i = 0; i < n_layers; i++) {
                const struct manifest *manifest = layers[i].manifest, *next;

                if (strcmp(layer_region(&layers[i])->name, first->name) ||
                    layer_region(&layers[i])->bytes != first->bytes)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "an increment and what it builds on have different regions");
                if (manifest->delta != (i + 1 < n_layers))
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "%s: what the increment builds on is not all there", first->name);
                if (!manifest->delta)
                        continue;
                next = layers[i + 1].manifest;
                if (memcmp(manifest->parent.uuid, next->uuid, sizeof(next->uuid)) ||
                    manifest->parent.content != next->content)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "%s: an increment builds on snapshot %s, and that is another one now",
                                         first->name, manifest->parent.name);
        }
        return 0;
}

static void chain_reader_free_p(struct chain_reader **reader) {
        chain_reader_free(*reader);
}

int chain_reader_new(const struct chain_layer *layers, unsigned n_layers, bool only_sums, struct chain_reader **ret,
                     struct error *error) {
        CLEANUP(chain_reader_free_p) struct chain_reader *reader = NULL;
        const struct chain_layer *base = &layers[n_layers - 1];

        assert(n_layers > 0 && n_layers <= CHAIN_LAYERS_MAX);
        if (layers_check(layers, n_layers, error) < 0)
                return -1;
        reader = calloc(1, sizeof(*reader));
        if (!reader)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        reader->only_sums = only_sums;
        memcpy(reader->layers, layers, n_layers * sizeof(*layers));
        for (; reader->n_maps < n_layers - 1; reader->n_maps++) {
                const struct chain_layer *layer = &layers[reader->n_maps];

                if (map_reader_new(layer_region(layer), layer->manifest->uuid, layer->sums,
                                   &reader->maps[reader->n_maps], error) < 0)
                        return -1;
        }
        reader->data = aligned_alloc(LIVESNAP_FORMAT_PAGE_BYTES, LIVESNAP_SUMS_BLOCK_COVERS);
        reader->sums = malloc(LIVESNAP_SUMS_BLOCK_BYTES);
        if (!reader->data || !reader->sums)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (image_reader_new(base->manifest, base->region, only_sums ? -1 : base->data, base->sums, &reader->base,
                             error) < 0)
                return -1;
        *ret = STEAL_PTR(reader);
        return 0;
}

/* Which chunk comes next? Return: 1, 0 when there is none, -1 with *error set. */
static int find_next(struct chain_reader *reader, uint64_t *ret_block, struct error *error) {
        uint64_t block = UINT64_MAX;

        if (!reader->has_chunk && !reader->base_ended) {
                int r = image_reader_next(reader->base, &reader->chunk, error);

                if (r < 0)
                        return -1;
                reader->has_chunk = r > 0;
                reader->base_ended = r == 0;
        }
        if (reader->has_chunk)
                block = reader->chunk.offset / LIVESNAP_SUMS_BLOCK_COVERS;
        for (unsigned i = 0; i < reader->n_maps; i++) {
                const struct livesnap_map_entry *entry;
                int r = map_reader_peek(reader->maps[i], &entry, error);

                if (r < 0)
                        return -1;
                if (r > 0 && entry->page / LIVESNAP_SUMS_PER_BLOCK < block)
                        block = entry->page / LIVESNAP_SUMS_PER_BLOCK;
        }
        *ret_block = block;
        return block != UINT64_MAX;
}

/* Take the entries of a chunk out of the maps: of each page the newest counts. */
static int take_entries(struct chain_reader *reader, uint64_t block, struct error *error) {
        const struct livesnap_map_entry *entry;
        int r;

        memset(reader->places, 0, sizeof(reader->places));
        for (unsigned i = 0; i < reader->n_maps; i++) {
                while ((r = map_reader_peek(reader->maps[i], &entry, error)) > 0 &&
                       entry->page / LIVESNAP_SUMS_PER_BLOCK == block) {
                        unsigned page = entry->page % LIVESNAP_SUMS_PER_BLOCK;

                        if (!reader->places[page].known) {
                                reader->places[page] = (struct place){ true, i, entry->position };
                                reader->sums[page] = entry->sum;
                        }
                        map_reader_skip(reader->maps[i]);
                }
                if (r < 0)
                        return -1;
        }
        return 0;
}

static int read_run(struct chain_reader *reader, const struct place *place, uint8_t *data, size_t bytes,
                    struct error *error) {
        const struct chain_layer *layer = &reader->layers[place->layer];
        uint64_t offset = place->position * LIVESNAP_FORMAT_PAGE_BYTES;
        size_t done = 0;

        while (done < bytes) {
                ssize_t got = pread(layer->data, data + done, bytes - done, (off_t) (offset + done));

                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return error_set(error, ERROR_STORE_FAILED, "cannot read %s%s at %" PRIu64 ": %s",
                                         layer_region(layer)->name, LIVESNAP_PAGES_SUFFIX, offset + done,
                                         strerror(errno));
                if (got == 0)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it ends at %" PRIu64,
                                         layer_region(layer)->name, LIVESNAP_PAGES_SUFFIX, offset + done);
                done += (size_t) got;
        }
        return 0;
}

static int check_page(const struct chain_reader *reader, unsigned page, uint64_t block, struct error *error) {
        const struct chain_layer *layer = &reader->layers[reader->places[page].layer];

        if (checksum_page(reader->data + (size_t) page * LIVESNAP_FORMAT_PAGE_BYTES) == reader->sums[page])
                return 0;
        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                         "%s%s is damaged: the page at offset %" PRIu64 " of the region does not match its checksum",
                         layer_region(layer)->name, LIVESNAP_PAGES_SUFFIX,
                         (block * LIVESNAP_SUMS_PER_BLOCK + page) * LIVESNAP_FORMAT_PAGE_BYTES);
}

static bool needs_reading(const struct chain_reader *reader, unsigned page) {
        return reader->places[page].known && reader->sums[page];
}

/* Lay the pages of the deltas over what the base has. */
static int lay_over(struct chain_reader *reader, uint64_t block, struct error *error) {
        for (unsigned page = 0, next; page < LIVESNAP_SUMS_PER_BLOCK; page = next) {
                const struct place *place = &reader->places[page];
                uint8_t *data = reader->data + (size_t) page * LIVESNAP_FORMAT_PAGE_BYTES;

                next = page + 1;
                if (place->known && !reader->sums[page])
                        memset(data, 0, LIVESNAP_FORMAT_PAGE_BYTES);
                if (!needs_reading(reader, page))
                        continue;
                while (next < LIVESNAP_SUMS_PER_BLOCK && needs_reading(reader, next) &&
                       reader->places[next].layer == place->layer &&
                       reader->places[next].position == place->position + (next - page))
                        next++;
                if (read_run(reader, place, data, (size_t) (next - page) * LIVESNAP_FORMAT_PAGE_BYTES, error) < 0)
                        return -1;
                for (unsigned i = page; i < next; i++)
                        if (check_page(reader, i, block, error) < 0)
                                return -1;
        }
        return 0;
}

int chain_reader_next(struct chain_reader *reader, struct image_chunk *ret, struct error *error) {
        uint64_t bytes = layer_region(&reader->layers[0])->bytes, block;
        struct image_chunk chunk = { .data = reader->data, .sums = reader->sums };
        bool in_base;
        int r;

        if (reader->n_maps == 0)
                return image_reader_next(reader->base, ret, error);
        r = find_next(reader, &block, error);
        if (r <= 0)
                return r;
        chunk.offset = block * LIVESNAP_SUMS_BLOCK_COVERS;
        chunk.bytes = bytes - chunk.offset < LIVESNAP_SUMS_BLOCK_COVERS ? (uint32_t) (bytes - chunk.offset)
                                                                        : LIVESNAP_SUMS_BLOCK_COVERS;
        chunk.pages = (uint32_t) sums_pages(chunk.bytes);
        in_base = reader->has_chunk && reader->chunk.offset == chunk.offset;
        if (in_base) {
                memcpy(reader->sums, reader->chunk.sums, LIVESNAP_SUMS_BLOCK_BYTES);
                if (!reader->only_sums)
                        memcpy(reader->data, reader->chunk.data, (size_t) chunk.pages * LIVESNAP_FORMAT_PAGE_BYTES);
                reader->has_chunk = false;
        } else {
                memset(reader->sums, 0, LIVESNAP_SUMS_BLOCK_BYTES);
                if (!reader->only_sums)
                        memset(reader->data, 0, (size_t) chunk.pages * LIVESNAP_FORMAT_PAGE_BYTES);
        }
        if (take_entries(reader, block, error) < 0 || (!reader->only_sums && lay_over(reader, block, error) < 0))
                return -1;
        *ret = chunk;
        return 1;
}

void chain_reader_free(struct chain_reader *reader) {
        if (!reader)
                return;
        for (unsigned i = 0; i < reader->n_maps; i++)
                map_reader_free(reader->maps[i]);
        image_reader_free(reader->base);
        free(reader->data);
        free(reader->sums);
        free(reader);
}
