/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_ORACLE_H
#define LIVESNAP_TESTS_ORACLE_H

/*
 * The prefix oracle: what memory must look like after exactly N writes, for any N, without a log.
 *
 * Writers number their writes 1, 2, 3, ... Where a write goes is a pure function of the seed and its number, and what
 * it stores is the number itself, as one aligned 8-byte store. Words that were never written hold a pattern with the
 * top bit set, which no number has. So the largest number in an image is N, and every other byte of it follows from N:
 * an image that lacks one write below N, or holds a page from another instant, is found out.
 *
 * A region may be sparse: of its pages only `data_pages`, evenly spread, ever hold anything; the rest are holes.
 */

#include <stdbool.h>
#include <stdint.h>

#define ORACLE_PAGE_BYTES 4096u
#define ORACLE_PAGE_WORDS (ORACLE_PAGE_BYTES / sizeof(uint64_t))
#define ORACLE_HUGE_BYTES (2u << 20)
#define ORACLE_REGIONS_MAX 8
/* Words of the initial pattern have it, sequence numbers do not. */
#define ORACLE_PATTERN_BIT (UINT64_C(1) << 63)

/**
 * enum oracle_fill - what a data page holds before the first write
 * @ORACLE_FILL_PATTERN: a different non-zero value in every word
 * @ORACLE_FILL_ZERO: zeros; the pages are populated all the same
 */
enum oracle_fill {
        ORACLE_FILL_PATTERN,
        ORACLE_FILL_ZERO,
};

struct oracle_region {
        uint64_t pages;
        uint64_t data_pages;
        uint64_t stride; /* data page i is page i * stride of the region */
};

struct oracle_layout {
        uint64_t seed;
        enum oracle_fill fill;
        unsigned n_regions;
        uint64_t data_pages; /* of all regions */
        struct oracle_region regions[ORACLE_REGIONS_MAX];
};

/* One word in one of the regions. */
struct oracle_place {
        unsigned region;
        uint64_t data_page;
        unsigned word;
};

/**
 * oracle_layout_add() - add a region to a layout that was set to zero and given its seed and fill
 * @pages: its size in pages of 4 KiB, at least 1
 * @data_pages: how many of them hold data; 0 for all
 *
 * Return: 0, or -EINVAL where there are too many regions or more data than pages.
 */
int oracle_layout_add(struct oracle_layout *layout, uint64_t pages, uint64_t data_pages);

/** oracle_layout_place() - where write number @sequence goes */
struct oracle_place oracle_layout_place(const struct oracle_layout *layout, uint64_t sequence);

/** oracle_layout_initial() - what the word at @place holds before any write */
uint64_t oracle_layout_initial(const struct oracle_layout *layout, struct oracle_place place);

/** oracle_layout_fill() - write the initial content of one data page to @page */
void oracle_layout_fill(const struct oracle_layout *layout, unsigned region, uint64_t data_page, uint64_t *page);

/** oracle_place_offset() - offset in bytes of the word in its region */
uint64_t oracle_place_offset(const struct oracle_layout *layout, struct oracle_place place);

/** oracle_is_sequence() - whether a word holds the number of a write */
static inline bool oracle_is_sequence(uint64_t value) {
        return value != 0 && (value & ORACLE_PATTERN_BIT) == 0;
}

/**
 * struct oracle_state - the data pages of all regions as they are after some number of writes
 * @pages: for each region its data pages, one after the other; owned
 */
struct oracle_state {
        const struct oracle_layout *layout; /* borrowed */
        uint64_t sequence;
        uint64_t *pages[ORACLE_REGIONS_MAX];
};

/** oracle_state_init() - the state before the first write; 0 or -ENOMEM. @layout is borrowed until the deinit. */
int oracle_state_init(struct oracle_state *state, const struct oracle_layout *layout);
void oracle_state_deinit(struct oracle_state *state);

/** oracle_state_advance() - go on to the state after exactly @sequence writes, which is not less than it was */
void oracle_state_advance(struct oracle_state *state, uint64_t sequence);

/** oracle_state_page() - one data page of the state, borrowed */
const uint64_t *oracle_state_page(const struct oracle_state *state, unsigned region, uint64_t data_page);

#endif
