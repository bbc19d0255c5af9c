/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <string.h>

#include "client/lib_error.h"
#include "client/lib_source.h"
#include "common/error.h"
#include "common/sums.h"

/*
 * Two snapshots compared by their checksums, which are read through all layers as a restore reads the data. No image is
 * read: the sums are 0.2% of it, and those of a delta are in its map.
 */

/* One of the two, in one region. */
struct side {
        struct source source;
        struct chain_reader *reader; /* owned */
        struct image_chunk chunk;    /* read, and not compared yet */
        bool has_chunk;
        bool ended;
};

struct diff {
        struct livesnap *livesnap;
        const char *domain;
        const char *names[2];
        bool has_uuids;
        uint8_t uuids[2][16];
        const struct livesnap_diff_callback *callback;
        struct livesnap_difference range; /* that is not told yet; bytes 0: none */
        bool differ;
};

static int tell(struct diff *diff, const struct livesnap_difference *difference) {
        diff->differ = true;
        if (diff->callback && diff->callback->function(diff->callback->data, difference))
                return lib_fail(error_name(ERROR_CANCELLED), "the comparison was cancelled");
        return 0;
}

static int tell_range(struct diff *diff) {
        struct livesnap_difference range = diff->range;

        diff->range.bytes = 0;
        return range.bytes ? tell(diff, &range) : 0;
}

/* Ranges come in order; those that touch are one. */
static int add_range(struct diff *diff, const char *region, uint64_t start, uint64_t end) {
        struct livesnap_difference *range = &diff->range;

        if (start >= end)
                return 0;
        if (range->bytes && range->offset + range->bytes == start) {
                range->bytes += end - start;
                return 0;
        }
        if (tell_range(diff) < 0)
                return -1;
        *range = (struct livesnap_difference){ region, LIVESNAP_DIFFERENCE_CHANGED, start, end - start };
        return 0;
}

static int side_open(struct diff *diff, unsigned index, const char *region, struct side *side) {
        if (source_open(diff->livesnap, diff->domain, diff->names[index], region, &side->source) < 0)
                return -1;
        if (diff->has_uuids && memcmp(diff->uuids[index], side->source.layers[0].manifest->uuid, 16) != 0)
                return lib_fail(error_name(ERROR_BUSY),
                                "snapshot '%s/%s' was replaced by another while it was compared", diff->domain,
                                diff->names[index]);
        memcpy(diff->uuids[index], side->source.layers[0].manifest->uuid, 16);
        return source_read(&side->source, true, &side->reader);
}

static void side_close(struct side *side) {
        chain_reader_free(side->reader);
        source_close(&side->source);
}

static int side_fill(struct side *side) {
        struct error error = { 0 };
        int r;

        if (side->has_chunk || side->ended)
                return 0;
        r = chain_reader_next(side->reader, &side->chunk, &error);
        side->has_chunk = r > 0;
        side->ended = r == 0;
        return r < 0 ? lib_fail_error(&error) : 0;
}

/* The sums of the block at @offset, if this side has any there; what is not handed out is zero. */
static const uint64_t *side_take(struct side *side, uint64_t offset) {
        static const uint64_t zero[LIVESNAP_SUMS_PER_BLOCK];

        if (!side->has_chunk || side->chunk.offset != offset)
                return zero;
        side->has_chunk = false;
        return side->chunk.sums;
}

static int compare_block(struct diff *diff, const char *region, struct side sides[2], uint64_t common_bytes) {
        uint64_t offset = UINT64_MAX;
        const uint64_t *sums[2];

        for (unsigned i = 0; i < 2; i++)
                if (sides[i].has_chunk && sides[i].chunk.offset < offset)
                        offset = sides[i].chunk.offset;
        for (unsigned i = 0; i < 2; i++)
                sums[i] = side_take(&sides[i], offset);
        for (unsigned page = 0; page < LIVESNAP_SUMS_PER_BLOCK; page++) {
                uint64_t start = offset + (uint64_t) page * LIVESNAP_FORMAT_PAGE_BYTES;
                uint64_t end = start + LIVESNAP_FORMAT_PAGE_BYTES;

                if (sums[0][page] != sums[1][page] &&
                    add_range(diff, region, start, end < common_bytes ? end : common_bytes) < 0)
                        return -1;
        }
        return 0;
}

static int compare_sides(struct diff *diff, const char *region, struct side sides[2]) {
        uint64_t a = sides[0].source.bytes, b = sides[1].source.bytes, common = a < b ? a : b;

        for (;;) {
                if (side_fill(&sides[0]) < 0 || side_fill(&sides[1]) < 0)
                        return -1;
                if (!sides[0].has_chunk && !sides[1].has_chunk)
                        break;
                if (compare_block(diff, region, sides, common) < 0)
                        return -1;
        }
        if (add_range(diff, region, common, a > b ? a : b) < 0)
                return -1;
        return tell_range(diff);
}

static int compare_region(struct diff *diff, const char *region) {
        struct side sides[2] = { 0 };
        int r = 0;

        for (unsigned i = 0; i < 2 && r == 0; i++)
                r = side_open(diff, i, region, &sides[i]);
        if (r == 0) {
                diff->has_uuids = true;
                r = compare_sides(diff, region, sides);
        }
        side_close(&sides[0]);
        side_close(&sides[1]);
        return r;
}

static const struct livesnap_snapshot_region *find_region(const struct livesnap_snapshot *snapshot, const char *name) {
        for (size_t i = 0; i < snapshot->n_regions; i++)
                if (!strcmp(snapshot->regions[i].name, name))
                        return &snapshot->regions[i];
        return NULL;
}

/* Those of the first one, with the second's where it has the same one. */
static int compare_regions(struct diff *diff, struct livesnap_snapshot *const snapshots[2], const char *only) {
        for (unsigned side = 0; side < 2; side++)
                for (size_t i = 0; i < snapshots[side]->n_regions; i++) {
                        const struct livesnap_snapshot_region *region = &snapshots[side]->regions[i];
                        bool in_both = find_region(snapshots[!side], region->name) != NULL;
                        const struct livesnap_difference alone = {
                                region->name,
                                side ? LIVESNAP_DIFFERENCE_ONLY_IN_SECOND : LIVESNAP_DIFFERENCE_ONLY_IN_FIRST,
                                0,
                                region->bytes,
                        };

                        if (only && strcmp(region->name, only) != 0)
                                continue;
                        if (!in_both && tell(diff, &alone) < 0)
                                return -1;
                        if (in_both && side == 0 && compare_region(diff, region->name) < 0)
                                return -1;
                }
        return diff->differ;
}

int livesnap_diff(struct livesnap *livesnap, const char *domain, const char *first, const char *second,
                  const char *region, const struct livesnap_diff_callback *callback) {
        struct diff diff = { .livesnap = livesnap, .domain = domain, .names = { first, second }, .callback = callback };
        struct livesnap_snapshot *snapshots[2] = { NULL, NULL };
        int r = source_show(livesnap, domain, first, &snapshots[0]);

        if (r == 0)
                r = source_show(livesnap, domain, second, &snapshots[1]);
        if (r == 0 && region && !find_region(snapshots[0], region) && !find_region(snapshots[1], region))
                r = lib_fail(error_name(ERROR_NO_SUCH_REGION), "neither '%s/%s' nor '%s/%s' has a region '%s'", domain,
                             first, domain, second, region);
        if (r == 0)
                r = compare_regions(&diff, snapshots, region);
        livesnap_snapshot_free(snapshots[0]);
        livesnap_snapshot_free(snapshots[1]);
        return r;
}
