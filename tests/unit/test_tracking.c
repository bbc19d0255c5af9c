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

        tracking_freeze(tracking);
        tracking_commit(tracking);
        return tracking;
}

static void test_new_region_is_all_dirty(void **state) {
        struct tracking *tracking = make();

        tracking_freeze(tracking);
        assert_int_equal(tracking_count_frozen(tracking), PAGES);
        assert_false(tracking_is_dirty(tracking, 0));
        tracking_free(tracking);
}

static void test_failure_loses_nothing(void **state) {
        struct tracking *tracking = make_clean();

        tracking_mark(tracking, 5);
        tracking_freeze(tracking);
        tracking_mark(tracking, 7);
        assert_true(tracking_is_frozen(tracking, 5) && !tracking_is_frozen(tracking, 7));
        tracking_restore(tracking);
        assert_int_equal(tracking_count_frozen(tracking), 0);
        assert_true(tracking_is_dirty(tracking, 5) && tracking_is_dirty(tracking, 7));
        tracking_freeze(tracking);
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
        tracking_freeze(tracking);
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
                tracking_freeze(tracking);
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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_new_region_is_all_dirty),
                cmocka_unit_test(test_failure_loses_nothing),
                cmocka_unit_test(test_ranges),
                cmocka_unit_test(test_pages_behind_the_end),
                cmocka_unit_test(test_runs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
