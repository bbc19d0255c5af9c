/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_GUEST_PATTERN_H
#define LIVESNAP_TESTS_GUEST_PATTERN_H

/*
 * What the guest writes, so that a raw image of its RAM proves by itself that it is one cut.
 *
 * Each vCPU has an area of its own and makes writes 1, 2, 3, ... to it. Write n goes to a page that follows from n
 * alone: the writes come in rounds, and in each round every page of the area is written once, in an order that is a
 * keyed permutation. So after N writes the content of every page is known exactly, and needs no record outside the
 * image.
 *
 * A page, in 64-bit words:
 *
 *      word   0, 64, 128, ..., 448     stamps: the write's number * 8 + which stamp it is (0 to 7)
 *      word   1                        PATTERN_MAGIC
 *      word   2                        area << 32 | page in the area
 *      word   3                        areas << 32 | pages in each area
 *      word   4                        saw: how many writes of the next area this writer knew to be complete
 *      others                          pattern_fill(): never change
 *
 * A write stores stamp 0, saw, stamp 1, ..., stamp 7, in this order, and then says that it is complete. So in a cut
 * at most one page of each area is half written, with new words in front, and no page has seen a write that is not
 * there.
 */

#include <stdint.h>

#define PATTERN_PAGE_BYTES 4096u
#define PATTERN_PAGE_WORDS 512u
#define PATTERN_STAMPS 8u
#define PATTERN_STAMP_STRIDE 64u
#define PATTERN_MAGIC UINT64_C(0x6c69766573706167) /* "livespag" */
#define PATTERN_AREAS_MAX 8u

enum {
        PATTERN_WORD_MAGIC = 1,
        PATTERN_WORD_PAGE = 2,
        PATTERN_WORD_SIZE = 3,
        PATTERN_WORD_SAW = 4,
};

static inline uint64_t pattern_mix(uint64_t x) {
        x += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

static inline uint64_t pattern_stamp(uint64_t write, unsigned which) {
        return write * PATTERN_STAMPS + which;
}

static inline uint64_t pattern_fill(uint32_t area, uint32_t page, unsigned word) {
        return (((uint64_t) area << 32 | page) + word * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd6e8feb86659fd93);
}

/** pattern_constant() - what a word that no write changes holds */
static inline uint64_t pattern_constant(uint32_t areas, uint32_t pages, uint32_t area, uint32_t page, unsigned word) {
        switch (word) {
        case PATTERN_WORD_MAGIC:
                return PATTERN_MAGIC;
        case PATTERN_WORD_PAGE:
                return (uint64_t) area << 32 | page;
        case PATTERN_WORD_SIZE:
                return (uint64_t) areas << 32 | pages;
        default:
                return pattern_fill(area, page, word);
        }
}

/** struct pattern_round - the order in which one round writes the pages of one area */
struct pattern_round {
        uint32_t pages;
        unsigned bits; /* of the smallest power of two that is not below pages */
        uint64_t key;
        uint64_t factor; /* odd */
        uint64_t factor_inverse;
};

static inline void pattern_round_init(struct pattern_round *round, uint32_t pages, uint32_t area, uint64_t number) {
        uint64_t seed = pattern_mix((number << 3 | area) + 1);

        round->pages = pages;
        for (round->bits = 1; (UINT64_C(1) << round->bits) < pages;)
                round->bits++;
        round->key = pattern_mix(seed);
        round->factor = seed | 1;
        /* Newton's iteration modulo 2^64: each step doubles the number of right bits, and 3 are right at the start. */
        round->factor_inverse = round->factor;
        for (int i = 0; i < 5; i++)
                round->factor_inverse *= 2 - round->factor * round->factor_inverse;
}

/** pattern_page() - which page the write with this index in its round goes to */
static inline uint32_t pattern_page(const struct pattern_round *round, uint32_t index) {
        uint64_t mask = (UINT64_C(1) << round->bits) - 1, x = index;
        unsigned half = (round->bits + 1) / 2;

        /* A permutation of all numbers of `bits` bits; walked on until it is back among the pages, one of those. */
        do {
                x = ((x ^ round->key) * round->factor) & mask;
                x ^= x >> half;
                x = (x * round->factor) & mask;
                x ^= x >> half;
        } while (x >= round->pages);
        return (uint32_t) x;
}

/** pattern_index() - the reverse of pattern_page() */
static inline uint32_t pattern_index(const struct pattern_round *round, uint32_t page) {
        uint64_t mask = (UINT64_C(1) << round->bits) - 1, x = page;
        unsigned half = (round->bits + 1) / 2;

        do {
                x ^= x >> half;
                x = (x * round->factor_inverse) & mask;
                x ^= x >> half;
                x = ((x * round->factor_inverse) ^ round->key) & mask;
        } while (x >= round->pages);
        return (uint32_t) x;
}

#endif
