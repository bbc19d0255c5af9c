/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages were written since the parent: nothing that was noted gets lost, whatever comes of a snapshot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/tracking.h"

#define PAGES 1000u

static struct tracking *make(void) {
        struct tracking *tracking;

        assert_int_equal(tracking_new(PAGES * 4096ULL - 1, 4096, &tracking), 0);
        assert_int_equal(tracking->n_pages, PAGES);
        return tracking;
}

/* As after a first full snapshot. */
static struct tracking *make_clean(void) {
        struct tracking *tracking = make();

        tracking_freeze(tracking, 0);
        tracking_commit(tracking);
        return tracking;
}

static void test_new_region_is_all_dirty(void **state) {
        struct tracking *tracking = make();

        tracking_freeze(tracking, 0);
        assert_int_equal(tracking_count_frozen(tracking), PAGES);
        assert_false(tracking_is_dirty(tracking, 0));
        tracking_free(tracking);
}

static void test_failure_loses_nothing(void **state) {
        struct tracking *tracking = make_clean();

        tracking_mark(tracking, 5);
        tracking_freeze(tracking, 0);
        tracking_mark(tracking, 7);
        assert_true(tracking_is_frozen(tracking, 5) && !tracking_is_frozen(tracking, 7));
        tracking_restore(tracking);
        assert_int_equal(tracking_count_frozen(tracking), 0);
        assert_true(tracking_is_dirty(tracking, 5) && tracking_is_dirty(tracking, 7));
        tracking_freeze(tracking, 0);
        assert_int_equal(tracking_count_frozen(tracking), 2);
        tracking_mark(tracking, 5);
        tracking_commit(tracking);
        assert_true(tracking_is_dirty(tracking, 5));
        assert_false(tracking_is_dirty(tracking, 7));
        tracking_free(tracking);
}

/* Ranges against bits that are set one by one. */
static void test_ranges(void **state) {
        for (unsigned i = 0; i < 2000; i++) {
                struct tracking *tracking = make_clean();
                uint64_t offset = (uint64_t) rand() % (PAGES * 4096ULL), length = (uint64_t) rand() % (300 * 4096ULL);

                tracking_mark_range(tracking, offset, length);
                for (uint64_t page = 0; page < PAGES; page++) {
                        bool touched = length && page * 4096 < offset + length && (page + 1) * 4096 > offset;

                        assert_int_equal(tracking_is_dirty(tracking, page), touched);
                }
                tracking_free(tracking);
        }
}

static void test_pages_behind_the_end(void **state) {
        struct tracking *tracking = make_clean();

        tracking_mark(tracking, PAGES);
        tracking_mark(tracking, UINT64_MAX);
        tracking_mark_range(tracking, PAGES * 4096ULL, 4096);
        tracking_freeze(tracking, 0);
        assert_int_equal(tracking_count_frozen(tracking), 0);
        assert_false(tracking_is_frozen(tracking, PAGES));
        tracking_free(tracking);
}

/* Runs cover what is frozen, do not overlap, and lie further apart than the gap. */
static void test_runs(void **state) {
        for (unsigned i = 0; i < 500; i++) {
                struct tracking *tracking = make_clean();
                uint64_t gap = (uint64_t) rand() % 40, page = 0, start, end, covered = 0;

                for (unsigned n = (unsigned) rand() % 100; n > 0; n--)
                        tracking_mark(tracking, (uint64_t) rand() % PAGES);
                tracking_freeze(tracking, 0);
                while (tracking_next_run(tracking, page, gap, &start, &end)) {
                        assert_true(start >= page && end > start && end <= PAGES);
                        assert_true(page == 0 || start - page > gap);
                        assert_true(tracking_is_frozen(tracking, start) && tracking_is_frozen(tracking, end - 1));
                        for (page = start; page < end; page++)
                                covered += tracking_is_frozen(tracking, page);
                }
                assert_int_equal(covered, tracking_count_frozen(tracking));
                tracking_free(tracking);
        }
}

/* Each round has what was written since the one before it, and in the end all that any of them had counts. */
static void test_rounds(void **state) {
        struct tracking *tracking = make_clean();

        tracking_mark(tracking, 1);
        tracking_mark(tracking, 2);
        tracking_freeze_round(tracking, 0);
        assert_true(tracking->round[0] == 0x6 && !tracking_is_dirty(tracking, 1));
        tracking_mark(tracking, 2);
        tracking_mark(tracking, 3);
        assert_int_equal(tracking_count_dirty(tracking), 2);
        tracking_freeze_round(tracking, 0);
        assert_int_equal(tracking->round[0], 0xc);
        assert_int_equal(tracking_count_frozen(tracking), 3);
        /* The last one came to nothing. */
        tracking_thaw_round(tracking);
        assert_true(tracking_is_dirty(tracking, 2) && tracking_is_dirty(tracking, 3) &&
                    !tracking_is_dirty(tracking, 1));
        /* And then all of it. */
        tracking_restore(tracking);
        assert_int_equal(tracking_count_dirty(tracking), 3);
        tracking_free(tracking);
}

/* What was data, in the parent or in any round, and is a hole now is dirty, once. */
static void test_holes_between_rounds(void **state) {
        struct tracking *tracking = make_clean();
        uint64_t data[PAGES / 64 + 1] = { 0x7 };

        tracking_keep_data(tracking, data);
        data[0] = 0x3 | 0x10; /* page 2 went, page 4 came */
        tracking_note_holes(tracking, data);
        assert_true(tracking_is_dirty(tracking, 2) && tracking_count_dirty(tracking) == 1);
        tracking_freeze_round(tracking, 0);
        tracking_note_holes(tracking, data);
        assert_int_equal(tracking_count_dirty(tracking), 0);
        data[0] = 0x3; /* and went again */
        tracking_note_holes(tracking, data);
        assert_true(tracking_is_dirty(tracking, 4) && tracking_count_dirty(tracking) == 1);
        tracking_free(tracking);
}

/* Told before it happens: a page may be saved in between. */
static void test_removal_outlives_a_cut(void **state) {
        struct tracking *tracking = make_clean();

        tracking_mark_removed(tracking, 5 * 4096, 4096, 1000);
        tracking_freeze(tracking, 2000);
        assert_true(tracking_is_frozen(tracking, 5) && tracking_is_dirty(tracking, 5));
        tracking_commit(tracking);
        /* Long after that it has happened, and what was saved since is right. */
        tracking_freeze(tracking, 1000 + 2000000000);
        assert_true(tracking_is_frozen(tracking, 5) && !tracking_is_dirty(tracking, 5));
        tracking_commit(tracking);
        tracking_freeze(tracking, 1000 + 2000000001);
        assert_int_equal(tracking_count_frozen(tracking), 0);
        tracking_free(tracking);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_new_region_is_all_dirty),
                cmocka_unit_test(test_failure_loses_nothing),
                cmocka_unit_test(test_ranges),
                cmocka_unit_test(test_pages_behind_the_end),
                cmocka_unit_test(test_runs),
                cmocka_unit_test(test_rounds),
                cmocka_unit_test(test_holes_between_rounds),
                cmocka_unit_test(test_removal_outlives_a_cut),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
