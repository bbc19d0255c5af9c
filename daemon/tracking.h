/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_TRACKING_H
#define LIVESNAP_DAEMON_TRACKING_H

/*
 * Which pages of a region were written since the last snapshot that was published: the parent of the next increment.
 * Knows nothing of userfaultfd, so that it runs in a unit test.
 *
 *   dirty    written, or perhaps written, since the last cut
 *   frozen   dirty at the last cut: what the snapshot that is being taken has to save
 *   data     not a hole at the parent's cut: what is a hole now and was not then has become zero
 *   removing content may have been about to go lately: told before it goes, so that it may go after the page was saved
 *   round    of the frozen pages those that are to be read next, where that is done in rounds (rounds.h)
 *
 * At the cut what is dirty is frozen, and writes from then on are noted anew. Once the image is durable the frozen
 * pages are forgotten; if it comes to nothing they are dirty again. So no failure costs more than time. In rounds each
 * freezes what has become dirty since the one before. A page that is
 * noted as dirty and was not written costs its copy; one that was written and is not noted would be a wrong image, so
 * in doubt a page is dirty.
 *
 * Not thread-safe. All of it belongs to the fault thread; while a snapshot is taken its thread reads `frozen` and
 * `round`, which nobody changes between the cut, or the beginning of a round, and its end.
 */

#include <stdbool.h>
#include <stdint.h>

enum tracking_mode {
        TRACKING_OFF,
        TRACKING_SYNC,  /* pages stay armed between snapshots, and the first write to each comes to us */
        TRACKING_ASYNC, /* the kernel notes the first write by itself (WP_ASYNC); asked by PAGEMAP_SCAN */
};

struct tracking {
        uint32_t page_bytes;
        uint64_t n_pages;
        uint64_t *dirty;
        uint64_t *frozen;
        uint64_t *removing;
        uint64_t removed_ns; /* when such was told last; 0: no bit is set */
        uint64_t *round;
        uint64_t *data; /* meaningless unless has_data */
        bool has_data;
};

/** tracking_new() - for a region of @bytes, all of it dirty. Return: 0 or -ENOMEM; free with tracking_free(). */
int tracking_new(uint64_t bytes, uint32_t page_bytes, struct tracking **ret);
void tracking_free(struct tracking *tracking);

/** tracking_mark() - a page is dirty; pages beyond the end are ignored. Safe on the fault path. */
void tracking_mark(struct tracking *tracking, uint64_t page);

/** tracking_mark_range() - all pages that touch this range are dirty */
void tracking_mark_range(struct tracking *tracking, uint64_t offset, uint64_t length);
void tracking_mark_all(struct tracking *tracking);

/**
 * tracking_mark_removed() - all pages that touch this range are dirty; what was in them is about to be removed
 *
 * They stay so, whatever is saved, until that is over for certain: a page that is saved first, is removed and then read
 * is zero, without a sign.
 */
void tracking_mark_removed(struct tracking *tracking, uint64_t offset, uint64_t length, uint64_t now_ns);

/** tracking_is_dirty(), tracking_is_frozen() - false beyond the end */
bool tracking_is_dirty(const struct tracking *tracking, uint64_t page);
bool tracking_is_frozen(const struct tracking *tracking, uint64_t page);

/** tracking_freeze() - at the cut: what is dirty is to be saved, and nothing is dirty any more but what is being
 * removed */
void tracking_freeze(struct tracking *tracking, uint64_t now_ns);

/** tracking_freeze_more() - this page is to be saved, too */
void tracking_freeze_more(struct tracking *tracking, uint64_t page);

/** tracking_freeze_round() - what is dirty is to be saved, too, and is all that is to be read in this round; as above
 */
void tracking_freeze_round(struct tracking *tracking, uint64_t now_ns);

/** tracking_thaw_round() - what this round was to save is dirty again */
void tracking_thaw_round(struct tracking *tracking);

/** tracking_count_dirty() - how many pages are dirty */
uint64_t tracking_count_dirty(const struct tracking *tracking);

/**
 * tracking_note_holes() - in a round: which pages are not holes now
 * @data: a bit for each page
 *
 * A page that was none at the parent's cut, or in a round before this one, and is a hole now has become zero: it is
 * dirty.
 */
void tracking_note_holes(struct tracking *tracking, const uint64_t *data);

/** tracking_commit() - the image that has the frozen pages is durable */
void tracking_commit(struct tracking *tracking);

/** tracking_restore() - it came to nothing: the frozen pages are dirty again */
void tracking_restore(struct tracking *tracking);

/**
 * tracking_keep_data() - remember which pages were not holes at the parent's cut
 * @data: a bit for each page, copied; NULL: it cannot matter, since the region is sealed
 */
void tracking_keep_data(struct tracking *tracking, const uint64_t *data);

/** tracking_count_frozen() - how many pages are to be saved */
uint64_t tracking_count_frozen(const struct tracking *tracking);

/**
 * tracking_next_run() - the next pages that are to be saved, as a run
 * @page: from where on
 * @gap: runs that lie no more than so many pages apart count as one
 *
 * Return: false if there is none.
 */
bool tracking_next_run(const struct tracking *tracking, uint64_t page, uint64_t gap, uint64_t *ret_start,
                       uint64_t *ret_end);

const char *tracking_mode_name(enum tracking_mode mode);

#endif
