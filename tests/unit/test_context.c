/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What a context knows of its process's mappings, held against a page table that is as plain as can be. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "daemon/context.h"

#define PAGE 4096ULL

/* A small world: addresses 0 to WORLD pages, regions[0] to regions[N_REGIONS - 1]. */
#define WORLD 24u
#define N_REGIONS 3u

static struct region regions[N_REGIONS];

struct page {
        const struct region *region; /* NULL: nothing is mapped here */
        uint64_t offset;
};

struct table {
        struct page pages[WORLD];
};

/* xorshift64*: the same numbers on every machine */
static uint64_t next_random(uint64_t *state) {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        return *state * 0x2545f4914f6cdd1dULL;
}

static struct context *make_context(void) {
        struct context *context;

        assert_int_equal(context_new(open("/dev/null", O_RDONLY | O_CLOEXEC), false, 7, &context), 0);
        return context;
}

static int add(struct context *context, unsigned page, unsigned n_pages, struct region *region, uint64_t offset_page) {
        return context_add(context, &(struct mapping){ page * PAGE, n_pages * PAGE, offset_page * PAGE, region });
}

static void assert_mapping(const struct context *context, unsigned i, unsigned page, unsigned n_pages,
                           const struct region *region, uint64_t offset_page) {
        assert_true(i < context->n_mappings);
        assert_int_equal(context->mappings[i].address, page * PAGE);
        assert_int_equal(context->mappings[i].length, n_pages * PAGE);
        assert_int_equal(context->mappings[i].offset, offset_page * PAGE);
        assert_ptr_equal(context->mappings[i].region, region);
}

/* Sorted, not overlapping, not empty; and each page is found at every one of its edges, or not at all. */
static void assert_is_table(const struct context *context, const struct table *table) {
        uint64_t end = 0;

        assert_true(context->n_mappings <= context->n_allocated || context->n_mappings == 0);
        for (unsigned i = 0; i < context->n_mappings; i++) {
                assert_true(context->mappings[i].length > 0);
                assert_true(context->mappings[i].address >= end);
                end = context->mappings[i].address + context->mappings[i].length;
        }
        for (unsigned page = 0; page < WORLD; page++) {
                const struct page *expected = &table->pages[page];

                for (unsigned i = 0; i < 3; i++) {
                        uint64_t inside = (uint64_t[]){ 0, PAGE / 2, PAGE - 1 }[i], address = page * PAGE + inside;
                        const struct mapping *m = context_find(context, address);

                        if (!expected->region) {
                                assert_null(m);
                                continue;
                        }
                        assert_non_null(m);
                        assert_ptr_equal(m->region, expected->region);
                        assert_int_equal(m->offset + (address - m->address), expected->offset + inside);
                }
        }
        assert_null(context_find(context, WORLD * PAGE));
        assert_null(context_find(context, UINT64_MAX));
}

static bool table_is_free(const struct table *table, unsigned page, unsigned n_pages) {
        for (unsigned i = page; i < page + n_pages; i++)
                if (table->pages[i].region)
                        return false;
        return true;
}

static void table_move(struct table *table, unsigned from, unsigned to, unsigned n_pages) {
        struct table before = *table;

        for (unsigned i = 0; i < n_pages; i++)
                table->pages[from + i] = (struct page){ 0 };
        for (unsigned i = 0; i < n_pages; i++)
                table->pages[to + i] = before.pages[from + i];
}

static void step(struct context *context, struct table *table, uint64_t *seed) {
        unsigned operation = (unsigned) (next_random(seed) % 16), n_pages = 1 + (unsigned) (next_random(seed) % 8);
        unsigned page = (unsigned) (next_random(seed) % (WORLD - n_pages + 1));
        unsigned other = (unsigned) (next_random(seed) % (WORLD - n_pages + 1));
        struct region *region = &regions[next_random(seed) % N_REGIONS];
        uint64_t offset_page = next_random(seed) % 1000;

        if (operation < 8) {
                bool is_free = table_is_free(table, page, n_pages);

                assert_int_equal(add(context, page, n_pages, region, offset_page), is_free ? 0 : -EEXIST);
                for (unsigned i = 0; i < n_pages && is_free; i++)
                        table->pages[page + i] = (struct page){ region, (offset_page + i) * PAGE };
        } else if (operation < 11) {
                assert_int_equal(context_remove(context, page * PAGE, n_pages * PAGE), 0);
                for (unsigned i = 0; i < n_pages; i++)
                        table->pages[page + i] = (struct page){ 0 };
        } else if (operation < 15) {
                /* mremap() refuses ranges that overlap */
                if (page < other + n_pages && other < page + n_pages)
                        return;
                assert_int_equal(context_move(context, page * PAGE, other * PAGE, n_pages * PAGE), 0);
                table_move(table, page, other, n_pages);
        } else {
                context_remove_region(context, region);
                for (unsigned i = 0; i < WORLD; i++)
                        if (table->pages[i].region == region)
                                table->pages[i] = (struct page){ 0 };
        }
}

static void test_random_operations(void **state) {
        uint64_t seed = 20240607;

        for (unsigned world = 0; world < 200; world++) {
                struct context *context = make_context();
                struct table table = { 0 };

                for (unsigned i = 0; i < 200; i++) {
                        step(context, &table, &seed);
                        assert_is_table(context, &table);
                }
                context_unref(context);
        }
}

/* Each range, taken out of each pair of neighbours. */
static void test_every_removal(void **state) {
        const unsigned last = 8;

        for (unsigned middle = 1; middle < last; middle++)
                for (unsigned start = 0; start <= last; start++)
                        for (unsigned end = start + 1; end <= last + 1; end++) {
                                struct context *context = make_context();
                                struct table table = { 0 };

                                assert_int_equal(add(context, 0, middle, &regions[0], 5), 0);
                                assert_int_equal(add(context, middle, last - middle, &regions[1], 50), 0);
                                for (unsigned i = 0; i < last; i++)
                                        if (i < start || i >= end)
                                                table.pages[i] = i < middle
                                                                         ? (struct page){ &regions[0], (5 + i) * PAGE }
                                                                         : (struct page){ &regions[1],
                                                                                          (50 + i - middle) * PAGE };
                                assert_int_equal(context_remove(context, start * PAGE, (end - start) * PAGE), 0);
                                assert_is_table(context, &table);
                                context_unref(context);
                        }
}

static void test_add_refuses_overlaps(void **state) {
        struct context *context = make_context();

        assert_int_equal(add(context, 4, 4, &regions[0], 0), 0);
        assert_int_equal(add(context, 4, 4, &regions[0], 0), -EEXIST);
        assert_int_equal(add(context, 7, 1, &regions[0], 0), -EEXIST);
        assert_int_equal(add(context, 2, 3, &regions[0], 0), -EEXIST);
        assert_int_equal(add(context, 5, 1, &regions[0], 0), -EEXIST);
        assert_int_equal(add(context, 0, 20, &regions[0], 0), -EEXIST);
        assert_int_equal(context->n_mappings, 1);
        /* neighbours are none */
        assert_int_equal(add(context, 8, 1, &regions[0], 0), 0);
        assert_int_equal(add(context, 3, 1, &regions[1], 9), 0);
        assert_mapping(context, 0, 3, 1, &regions[1], 9);
        assert_mapping(context, 1, 4, 4, &regions[0], 0);
        assert_mapping(context, 2, 8, 1, &regions[0], 0);
        context_unref(context);
}

static void test_removal_in_the_middle_splits(void **state) {
        struct context *context = make_context();

        assert_int_equal(add(context, 10, 10, &regions[0], 100), 0);
        assert_int_equal(context_remove(context, 13 * PAGE, 2 * PAGE), 0);
        assert_int_equal(context->n_mappings, 2);
        assert_mapping(context, 0, 10, 3, &regions[0], 100);
        assert_mapping(context, 1, 15, 5, &regions[0], 105);
        context_unref(context);
}

/* A part of a mapping is moved over a part of another one. */
static void test_move_over_another_mapping(void **state) {
        struct context *context = make_context();

        assert_int_equal(add(context, 0, 6, &regions[0], 0), 0);
        assert_int_equal(add(context, 10, 6, &regions[1], 0), 0);
        assert_int_equal(context_move(context, 2 * PAGE, 12 * PAGE, 2 * PAGE), 0);
        assert_int_equal(context->n_mappings, 5);
        assert_mapping(context, 0, 0, 2, &regions[0], 0);
        assert_mapping(context, 1, 4, 2, &regions[0], 4);
        assert_mapping(context, 2, 10, 2, &regions[1], 0);
        assert_mapping(context, 3, 12, 2, &regions[0], 2);
        assert_mapping(context, 4, 14, 2, &regions[1], 4);
        context_unref(context);
}

/* What was mapped where nothing known is moved to is gone all the same. */
static void test_move_of_nothing_clears_the_target(void **state) {
        struct context *context = make_context();

        assert_int_equal(add(context, 10, 4, &regions[1], 0), 0);
        assert_int_equal(context_move(context, 0, 11 * PAGE, PAGE), 0);
        assert_int_equal(context->n_mappings, 2);
        assert_null(context_find(context, 11 * PAGE));
        context_unref(context);
}

static void test_copy_is_independent(void **state) {
        struct context *parent = make_context(), *child = make_context();

        assert_int_equal(context_copy_mappings(child, parent), 0);
        assert_int_equal(child->n_mappings, 0);
        for (unsigned i = 0; i < 9; i++)
                assert_int_equal(add(parent, 2 * i, 1, &regions[i % N_REGIONS], i), 0);
        assert_int_equal(context_copy_mappings(child, parent), 0);
        assert_int_equal(context_remove(parent, 0, 100 * PAGE), 0);
        assert_int_equal(parent->n_mappings, 0);
        assert_int_equal(child->n_mappings, 9);
        for (unsigned i = 0; i < 9; i++)
                assert_mapping(child, i, 2 * i, 1, &regions[i % N_REGIONS], i);
        /* what it had before is dropped */
        assert_int_equal(add(parent, 5, 1, &regions[0], 77), 0);
        assert_int_equal(context_copy_mappings(child, parent), 0);
        assert_int_equal(child->n_mappings, 1);
        assert_mapping(child, 0, 5, 1, &regions[0], 77);
        context_unref(parent);
        context_unref(child);
}

static void test_number_is_limited(void **state) {
        struct context *context = make_context();

        for (unsigned i = 0; i < CONTEXT_MAPPINGS_MAX; i++)
                assert_int_equal(add(context, 4 * i, 3, &regions[0], i), 0);
        assert_int_equal(add(context, 4 * CONTEXT_MAPPINGS_MAX, 1, &regions[0], 0), -E2BIG);
        /* this would leave one more */
        assert_int_equal(context_remove(context, PAGE, PAGE), -E2BIG);
        assert_int_equal(context->n_mappings, CONTEXT_MAPPINGS_MAX);
        context_remove_region(context, &regions[0]);
        assert_int_equal(context->n_mappings, 0);
        context_unref(context);
}

/* The highest addresses that a process can have, and offsets beyond any object. */
static void test_high_addresses(void **state) {
        const uint64_t top = 1ULL << 56;
        struct context *context = make_context();
        struct mapping mapping = { top - 2 * PAGE, 2 * PAGE, (1ULL << 62) - 2 * PAGE, &regions[0] };

        assert_int_equal(context_add(context, &mapping), 0);
        assert_null(context_find(context, top));
        assert_null(context_find(context, top - 2 * PAGE - 1));
        assert_non_null(context_find(context, top - 1));
        assert_int_equal(context_remove(context, top - PAGE, PAGE), 0);
        assert_null(context_find(context, top - PAGE));
        assert_int_equal(context->mappings[0].length, PAGE);
        context_unref(context);
}

/* The descriptor is closed with the last reference, not before. */
static void test_last_reference_closes(void **state) {
        struct context *context = make_context(), *other = context_ref(context);
        int fd = context->uffd;

        context_unref(context);
        assert_true(fcntl(fd, F_GETFD) >= 0);
        context_unref(other);
        assert_int_equal(fcntl(fd, F_GETFD), -1);
        context_unref(NULL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_add_refuses_overlaps),
                cmocka_unit_test(test_removal_in_the_middle_splits),
                cmocka_unit_test(test_every_removal),
                cmocka_unit_test(test_move_over_another_mapping),
                cmocka_unit_test(test_move_of_nothing_clears_the_target),
                cmocka_unit_test(test_copy_is_independent),
                cmocka_unit_test(test_number_is_limited),
                cmocka_unit_test(test_high_addresses),
                cmocka_unit_test(test_last_reference_closes),
                cmocka_unit_test(test_random_operations),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
