/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/tracking.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The kernel tells of a removal before it does it, at once as soon as it was told. So much later it is done for
 * certain. */
#define TRACKING_REMOVAL_NS UINT64_C(1000000000)

static uint64_t tracking_words(const struct tracking *tracking) {
        return tracking->n_pages / 64 + 1;
}

static void tracking_set(uint64_t *bits, uint64_t page) {
        bits[page / 64] |= 1ULL << page % 64;
}

static bool tracking_test(const struct tracking *tracking, const uint64_t *bits, uint64_t page) {
        return page < tracking->n_pages && (bits[page / 64] >> page % 64 & 1);
}

int tracking_new(uint64_t bytes, uint32_t page_bytes, struct tracking **ret) {
        struct tracking *tracking = calloc(1, sizeof(*tracking));

        if (!tracking)
                return -ENOMEM;
        tracking->page_bytes = page_bytes;
        tracking->n_pages = (bytes + page_bytes - 1) / page_bytes;
        tracking->dirty = calloc(tracking_words(tracking), sizeof(uint64_t));
        tracking->frozen = calloc(tracking_words(tracking), sizeof(uint64_t));
        tracking->removing = calloc(tracking_words(tracking), sizeof(uint64_t));
        tracking->round = calloc(tracking_words(tracking), sizeof(uint64_t));
        tracking->data = calloc(tracking_words(tracking), sizeof(uint64_t));
        if (!tracking->dirty || !tracking->frozen || !tracking->removing || !tracking->round || !tracking->data) {
                tracking_free(tracking);
                return -ENOMEM;
        }
        tracking_mark_all(tracking);
        *ret = tracking;
        return 0;
}

void tracking_free(struct tracking *tracking) {
        if (!tracking)
                return;
        free(tracking->dirty);
        free(tracking->frozen);
        free(tracking->removing);
        free(tracking->round);
        free(tracking->data);
        free(tracking);
}

void tracking_mark(struct tracking *tracking, uint64_t page) {
        if (page < tracking->n_pages)
                tracking_set(tracking->dirty, page);
}

static void tracking_set_range(const struct tracking *tracking, uint64_t *bits, uint64_t offset, uint64_t length) {
        uint64_t page = offset / tracking->page_bytes, end;

        if (length == 0)
                return;
        end = (offset + length - 1) / tracking->page_bytes + 1;
        if (end > tracking->n_pages)
                end = tracking->n_pages;
        for (; page < end && page % 64; page++)
                tracking_set(bits, page);
        for (; page + 64 <= end; page += 64)
                bits[page / 64] = UINT64_MAX;
        for (; page < end; page++)
                tracking_set(bits, page);
}

void tracking_mark_range(struct tracking *tracking, uint64_t offset, uint64_t length) {
        tracking_set_range(tracking, tracking->dirty, offset, length);
}

void tracking_mark_removed(struct tracking *tracking, uint64_t offset, uint64_t length, uint64_t now_ns) {
        tracking_mark_range(tracking, offset, length);
        tracking_set_range(tracking, tracking->removing, offset, length);
        tracking->removed_ns = now_ns;
}

/* After what was dirty is frozen: what is being removed may change once more. */
static void tracking_keep_removing(struct tracking *tracking, uint64_t now_ns) {
        if (!tracking->removed_ns)
                return;
        if (now_ns - tracking->removed_ns < TRACKING_REMOVAL_NS) {
                for (uint64_t i = 0; i < tracking_words(tracking); i++)
                        tracking->dirty[i] |= tracking->removing[i];
                return;
        }
        memset(tracking->removing, 0, tracking_words(tracking) * sizeof(uint64_t));
        tracking->removed_ns = 0;
}

void tracking_mark_all(struct tracking *tracking) {
        tracking_mark_range(tracking, 0, tracking->n_pages * tracking->page_bytes);
}

bool tracking_is_dirty(const struct tracking *tracking, uint64_t page) {
        return tracking_test(tracking, tracking->dirty, page);
}

bool tracking_is_frozen(const struct tracking *tracking, uint64_t page) {
        return tracking_test(tracking, tracking->frozen, page);
}

void tracking_freeze(struct tracking *tracking, uint64_t now_ns) {
        uint64_t *empty = tracking->frozen;

        memset(empty, 0, tracking_words(tracking) * sizeof(uint64_t));
        tracking->frozen = tracking->dirty;
        tracking->dirty = empty;
        tracking_keep_removing(tracking, now_ns);
}

void tracking_freeze_more(struct tracking *tracking, uint64_t page) {
        if (page < tracking->n_pages)
                tracking_set(tracking->frozen, page);
}

void tracking_freeze_round(struct tracking *tracking, uint64_t now_ns) {
        for (uint64_t i = 0; i < tracking_words(tracking); i++) {
                tracking->round[i] = tracking->dirty[i];
                tracking->frozen[i] |= tracking->dirty[i];
                tracking->dirty[i] = 0;
        }
        tracking_keep_removing(tracking, now_ns);
}

void tracking_thaw_round(struct tracking *tracking) {
        for (uint64_t i = 0; i < tracking_words(tracking); i++)
                tracking->dirty[i] |= tracking->round[i];
}

void tracking_commit(struct tracking *tracking) {
        memset(tracking->frozen, 0, tracking_words(tracking) * sizeof(uint64_t));
}

void tracking_restore(struct tracking *tracking) {
        for (uint64_t i = 0; i < tracking_words(tracking); i++)
                tracking->dirty[i] |= tracking->frozen[i];
        tracking_commit(tracking);
}

void tracking_keep_data(struct tracking *tracking, const uint64_t *data) {
        tracking->has_data = data != NULL;
        if (data)
                memcpy(tracking->data, data, tracking_words(tracking) * sizeof(uint64_t));
}

void tracking_note_holes(struct tracking *tracking, const uint64_t *data) {
        for (uint64_t i = 0; i < tracking_words(tracking); i++) {
                if (tracking->has_data)
                        tracking->dirty[i] |= tracking->data[i] & ~data[i];
                tracking->data[i] = data[i];
        }
        tracking->has_data = true;
}

static uint64_t tracking_count(const struct tracking *tracking, const uint64_t *bits) {
        uint64_t count = 0;

        for (uint64_t i = 0; i < tracking_words(tracking); i++)
                count += (uint64_t) __builtin_popcountll(bits[i]);
        return count;
}

uint64_t tracking_count_frozen(const struct tracking *tracking) {
        return tracking_count(tracking, tracking->frozen);
}

uint64_t tracking_count_dirty(const struct tracking *tracking) {
        return tracking_count(tracking, tracking->dirty);
}

/* The first page at or after @page whose bit is @value, or n_pages. */
static uint64_t tracking_find(const struct tracking *tracking, uint64_t page, bool value) {
        while (page < tracking->n_pages) {
                uint64_t word = value ? tracking->frozen[page / 64] : ~tracking->frozen[page / 64];

                word >>= page % 64;
                if (word) {
                        page += (uint64_t) __builtin_ctzll(word);
                        break;
                }
                page = (page / 64 + 1) * 64;
        }
        return page < tracking->n_pages ? page : tracking->n_pages;
}

bool tracking_next_run(const struct tracking *tracking, uint64_t page, uint64_t gap, uint64_t *ret_start,
                       uint64_t *ret_end) {
        uint64_t start = tracking_find(tracking, page, true), end, next;

        if (start == tracking->n_pages)
                return false;
        end = tracking_find(tracking, start, false);
        while ((next = tracking_find(tracking, end, true)) < tracking->n_pages && next - end <= gap)
                end = tracking_find(tracking, next, false);
        *ret_start = start;
        *ret_end = end;
        return true;
}

const char *tracking_mode_name(enum tracking_mode mode) {
        static const char *const names[] = { "off", "sync", "async" };

        return names[mode];
}
