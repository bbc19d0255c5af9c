/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The state machine of a snapshot's pages, run through every order in which writers, fault messages (also duplicate and
 * stale ones) and the sweep can come.
 *
 * A run of the model makes a choice wherever more than one thing can happen next. All runs are made, by counting the
 * choices through like an odometer. In each the image must hold what memory held at the cut, and no writer may be left
 * asleep. A model that disarms a page before its content is saved must be caught.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/capture.h"

#define N_MAPPINGS 2
#define N_PAGES 2
#define N_WRITERS_MAX 3
#define MESSAGES_MAX 16
#define CHOICES_MAX 128
#define RUNS_MAX 20000000UL

static struct {
        unsigned chosen[CHOICES_MAX];
        unsigned limit[CHOICES_MAX];
        unsigned depth;
} choices;

static unsigned choose(unsigned n) {
        unsigned i = choices.depth++;

        assert_true(i < CHOICES_MAX);
        choices.limit[i] = n;
        return choices.chosen[i];
}

/* Go on to the next run. False when all have been made. */
static bool next_run(void) {
        while (choices.depth > 0) {
                unsigned i = --choices.depth;

                if (++choices.chosen[i] < choices.limit[i]) {
                        memset(&choices.chosen[i + 1], 0, sizeof(choices.chosen) - (i + 1) * sizeof(unsigned));
                        choices.depth = 0;
                        return true;
                }
        }
        return false;
}

enum writer_state { READY, ASLEEP, DONE };

struct message {
        unsigned mapping, page;
};

static struct model {
        struct capture capture;
        bool armed[N_MAPPINGS][N_PAGES];
        uint8_t memory[N_PAGES]; /* one byte stands for a page; 1 at the cut */
        struct {
                unsigned mapping, page;
                enum writer_state state;
        } writers[N_WRITERS_MAX];
        unsigned n_writers;
        struct message queue[MESSAGES_MAX];
        unsigned n_queued, n_taken;
        unsigned duplicates_left, stale_left;
        unsigned sweep_step;
        bool disarm_first; /* the mistake that must be caught */
} m;

static struct pool *pool;
static uint8_t image[CHUNK_BYTES];

static void model_disarm(unsigned mapping, unsigned page) {
        m.armed[mapping][page] = false;
        for (unsigned i = 0; i < m.n_writers; i++)
                if (m.writers[i].state == ASLEEP && m.writers[i].mapping == mapping && m.writers[i].page == page)
                        m.writers[i].state = READY;
}

static void model_write(unsigned i) {
        unsigned mapping = m.writers[i].mapping, page = m.writers[i].page;

        if (m.armed[mapping][page]) {
                m.queue[m.n_queued++] = (struct message){ mapping, page };
                m.writers[i].state = ASLEEP;
        } else {
                m.memory[page]++;
                m.writers[i].state = DONE;
        }
}

static void model_sweep(void) {
        uint32_t n_saved;

        switch (m.sweep_step++) {
        case 0:
                for (unsigned page = 0; page < N_PAGES; page++)
                        memset(image + page * CHUNK_PAGE_BYTES, m.memory[page], CHUNK_PAGE_BYTES);
                break;
        case 1:
                assert_true(capture_close(&m.capture, 0, 0, image, &n_saved));
                break;
        default:
                for (unsigned page = 0; page < N_PAGES; page++)
                        model_disarm(m.sweep_step - 3, page);
        }
}

static bool model_sweep_is_done(void) {
        return m.sweep_step == 2 + N_MAPPINGS;
}

/* What writers and the sweep can do next. Returns how many actions there are; does number @pick of them if there is. */
static unsigned model_others(unsigned pick) {
        unsigned n = 0;

        for (unsigned i = 0; i < m.n_writers; i++)
                if (m.writers[i].state == READY && n++ == pick)
                        model_write(i);
        if (!model_sweep_is_done() && n++ == pick)
                model_sweep();
        return n;
}

/* The fault thread reads a page: anything may happen just before and just after. */
static int model_read(void *data, const struct iovec *iov, int n_iov, uint64_t offset) {
        unsigned n, pick;

        while ((n = model_others(UINT32_MAX)) > 0 && (pick = choose(n + 1)) > 0)
                model_others(pick - 1);
        assert_int_equal(n_iov, 1);
        memset(iov[0].iov_base, m.memory[offset / CHUNK_PAGE_BYTES], iov[0].iov_len);
        while ((n = model_others(UINT32_MAX)) > 0 && (pick = choose(n + 1)) > 0)
                model_others(pick - 1);
        return 0;
}

static void model_serve(struct message message) {
        bool answer = true;

        if (m.disarm_first)
                model_disarm(message.mapping, message.page);
        switch (capture_fault(&m.capture, 0, message.page, model_read, NULL)) {
        case CAPTURE_NO_SLOT:
                capture_park(&m.capture, 0, message.page);
                answer = !capture_ask(&m.capture, 0, message.page, 1);
                break;
        case CAPTURE_READ_FAILED:
                fail_msg("the read did not fail");
                break;
        default:
                break;
        }
        if (answer)
                model_disarm(message.mapping, message.page);
}

/* What the fault thread can do next: the oldest message, one that was there before, or one that nobody needs. */
static unsigned model_faults(unsigned pick) {
        unsigned n = 0;

        if (m.n_taken < m.n_queued && n++ == pick)
                model_serve(m.queue[m.n_taken++]);
        if (m.n_taken > 0 && m.duplicates_left > 0 && n++ == pick) {
                m.duplicates_left--;
                model_serve(m.queue[m.n_taken - 1]);
        }
        if (m.stale_left > 0 && n++ == pick) {
                m.stale_left--;
                model_serve((struct message){ N_MAPPINGS - 1, N_PAGES - 1 });
        }
        return n;
}

/* How much there is to explore. */
struct scope {
        unsigned n_writers, n_duplicates, n_stale;
        bool disarm_first;
};

static void model_reset(const struct scope *scope) {
        static const unsigned writers[N_WRITERS_MAX][2] = { { 0, 0 }, { 1, 0 }, { 0, 1 } };

        memset(&m, 0, sizeof(m));
        assert_int_equal(capture_init(&m.capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&m.capture, 0, N_PAGES * CHUNK_PAGE_BYTES, CHUNK_PAGE_BYTES, false), 0);
        memset(m.armed, true, sizeof(m.armed));
        memset(m.memory, 1, sizeof(m.memory));
        m.n_writers = scope->n_writers;
        for (unsigned i = 0; i < m.n_writers; i++) {
                m.writers[i].mapping = writers[i][0];
                m.writers[i].page = writers[i][1];
        }
        m.duplicates_left = scope->n_duplicates;
        m.stale_left = scope->n_stale;
        m.disarm_first = scope->disarm_first;
}

/* One run. Returns whether the image is of the cut; that nobody is left asleep is asserted. */
static bool model_run(void) {
        unsigned n_others, n_faults, pick;

        while ((n_others = model_others(UINT32_MAX)) + (n_faults = model_faults(UINT32_MAX)) > 0) {
                pick = choose(n_others + n_faults);
                if (pick < n_others)
                        model_others(pick);
                else
                        model_faults(pick - n_others);
        }
        for (unsigned i = 0; i < m.n_writers; i++)
                assert_int_equal(m.writers[i].state, DONE);
        for (unsigned page = 0; page < N_PAGES; page++)
                if (image[page * CHUNK_PAGE_BYTES] != 1 || image[(page + 1) * CHUNK_PAGE_BYTES - 1] != 1)
                        return false;
        return true;
}

static unsigned long explore(const struct scope *scope, unsigned long *ret_wrong) {
        unsigned long n_runs = 0;

        memset(&choices, 0, sizeof(choices));
        *ret_wrong = 0;
        do {
                model_reset(scope);
                *ret_wrong += !model_run();
                capture_deinit(&m.capture);
                assert_true(++n_runs < RUNS_MAX);
        } while (!(scope->disarm_first && *ret_wrong) && next_run());
        return n_runs;
}

static int setup(void **state) {
        struct error error = { 0 };

        return pool_new(POOL_BYTES_MIN, &pool, &error);
}

static int teardown(void **state) {
        pool_free(pool);
        return 0;
}

static void test_every_order(const struct scope *scope, const char *what) {
        uint32_t free_before = pool_slots_free(pool);
        unsigned long wrong, runs = explore(scope, &wrong);

        print_message("%lu orders of %s\n", runs, what);
        assert_int_equal(wrong, 0);
        assert_true(runs > 1000);
        assert_int_equal(pool_slots_free(pool), free_before);
}

static void test_two_mappings_of_one_page(void **state) {
        test_every_order(&(struct scope){ .n_writers = 2 }, "two mappings of one page");
}

static void test_three_writers(void **state) {
        test_every_order(&(struct scope){ .n_writers = 3 }, "three writers");
}

static void test_duplicate_message(void **state) {
        test_every_order(&(struct scope){ .n_writers = 2, .n_duplicates = 1 }, "a duplicate message");
}

static void test_stale_message(void **state) {
        test_every_order(&(struct scope){ .n_writers = 2, .n_stale = 1 }, "a stale message");
}

static void test_spent_pool(void **state) {
        uint32_t taken = pool_take_slots(pool, 1), n = 1;

        for (uint32_t slot; (slot = pool_take_slots(pool, 1)) != POOL_NO_SLOT; n++) {
                pool_slot_note(pool, slot)->next_page = taken;
                taken = slot;
        }
        test_every_order(&(struct scope){ .n_writers = 3 }, "three writers and a spent pool");
        for (; n > 0; n--) {
                uint32_t next = pool_slot_note(pool, taken)->next_page;

                pool_give_slots(pool, taken, 1);
                taken = next;
        }
}

static void test_disarm_before_save_is_caught(void **state) {
        unsigned long wrong;

        explore(&(struct scope){ .n_writers = 2, .disarm_first = true }, &wrong);
        assert_true(wrong > 0);
}

static int read_pattern(void *data, const struct iovec *iov, int n_iov, uint64_t offset) {
        for (int i = 0; i < n_iov; i++)
                memset(iov[i].iov_base, i + 1, iov[i].iov_len);
        return 0;
}

static int read_fails(void *data, const struct iovec *iov, int n_iov, uint64_t offset) {
        return -5;
}

static void test_huge_page(void **state) {
        struct capture capture;
        uint32_t n_saved, free_before = pool_slots_free(pool);

        assert_int_equal(capture_init(&capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&capture, 0, 2 * CHUNK_BYTES, CHUNK_BYTES, false), 0);
        assert_int_equal(capture_fault(&capture, 0, 1, read_pattern, NULL), CAPTURE_SAVED);
        assert_int_equal(pool_slots_free(pool), free_before - CHUNK_PAGES);
        memset(image, 0xff, sizeof(image));
        assert_true(capture_close(&capture, 0, 1, image, &n_saved));
        assert_int_equal(n_saved, 1);
        for (unsigned i = 0; i < CHUNK_PAGES; i++)
                assert_int_equal(image[i * CHUNK_PAGE_BYTES + 7], (uint8_t) (i + 1));
        assert_int_equal(pool_slots_free(pool), free_before);
        assert_int_equal(capture_fault(&capture, 0, 1, read_pattern, NULL), CAPTURE_DUPLICATE);
        assert_true(capture_close(&capture, 0, 0, NULL, &n_saved));
        assert_int_equal(capture_fault(&capture, 0, 0, read_pattern, NULL), CAPTURE_LATE);
        capture_deinit(&capture);
}

static void test_failed_read_gives_slot_back(void **state) {
        struct capture capture;
        uint32_t free_before = pool_slots_free(pool);

        assert_int_equal(capture_init(&capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&capture, 0, CHUNK_PAGE_BYTES, CHUNK_PAGE_BYTES, false), 0);
        assert_int_equal(capture_fault(&capture, 0, 0, read_fails, NULL), CAPTURE_READ_FAILED);
        assert_int_equal(pool_slots_free(pool), free_before);
        capture_deinit(&capture);
}

/* A chunk that was a hole, and then a page of it was written: it must not be closed without its buffer. */
static void test_hole_with_saved_page_stays_open(void **state) {
        struct capture capture;
        uint32_t n_saved;

        assert_int_equal(capture_init(&capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&capture, 0, CHUNK_BYTES, CHUNK_PAGE_BYTES, false), 0);
        assert_int_equal(capture_fault(&capture, 0, 3, read_pattern, NULL), CAPTURE_SAVED);
        assert_false(capture_close(&capture, 0, 0, NULL, &n_saved));
        assert_false(capture_is_closed(&capture, 0, 0));
        capture_deinit(&capture);
}

static void test_parked_pages_come_back_once(void **state) {
        static const uint64_t pages[] = { 0, 1, 63, 64, 200, 511 };
        unsigned region = 0, n = 0;
        struct capture capture;
        uint64_t page = 0;

        assert_int_equal(capture_init(&capture, pool, 2), 0);
        assert_int_equal(capture_add_region(&capture, 0, CHUNK_BYTES, CHUNK_PAGE_BYTES, false), 0);
        assert_int_equal(capture_add_region(&capture, 1, CHUNK_PAGE_BYTES, CHUNK_PAGE_BYTES, false), 0);
        for (unsigned i = 0; i < sizeof(pages) / sizeof(*pages); i++) {
                capture_park(&capture, 0, pages[i]);
                capture_park(&capture, 0, pages[i]);
        }
        capture_park(&capture, 1, 0);
        for (; capture_unpark(&capture, &region, &page); page++, n++) {
                assert_int_equal(region, n < 6 ? 0 : 1);
                assert_int_equal(page, n < 6 ? pages[n] : 0);
        }
        assert_int_equal(n, 7);
        assert_int_equal(capture.n_parked, 0);
        capture_deinit(&capture);
}

static void test_hottest_is_who_waits_then_who_has_most(void **state) {
        struct capture capture;
        unsigned region;
        uint64_t chunk;

        assert_int_equal(capture_init(&capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&capture, 0, 4 * CHUNK_BYTES, CHUNK_PAGE_BYTES, false), 0);
        assert_false(capture_hottest(&capture, &region, &chunk));
        capture_fault(&capture, 0, 0, read_pattern, NULL);
        capture_fault(&capture, 0, 2 * CHUNK_PAGES, read_pattern, NULL);
        capture_fault(&capture, 0, 2 * CHUNK_PAGES + 1, read_pattern, NULL);
        assert_true(capture_hottest(&capture, &region, &chunk));
        assert_int_equal(chunk, 2);
        assert_true(capture_ask(&capture, 0, 3 * CHUNK_PAGES, 2000));
        assert_true(capture_ask(&capture, 0, 1 * CHUNK_PAGES, 1000));
        assert_true(capture_hottest(&capture, &region, &chunk));
        assert_int_equal(chunk, 1);
        capture_deinit(&capture);
}

static void test_data_map(void **state) {
        struct capture capture;

        assert_int_equal(capture_init(&capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&capture, 0, 300 * CHUNK_PAGE_BYTES + 1, CHUNK_PAGE_BYTES, true), 0);
        capture_mark_data(&capture, 0, 3 * CHUNK_PAGE_BYTES, 200 * CHUNK_PAGE_BYTES);
        capture_mark_data(&capture, 0, 300 * CHUNK_PAGE_BYTES, 1);
        for (uint64_t page = 0; page < 301; page++)
                assert_int_equal(capture_page_had_data(&capture.regions[0], page),
                                 (page >= 3 && page < 203) || page == 300);
        capture_deinit(&capture);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_two_mappings_of_one_page),
                cmocka_unit_test(test_three_writers),
                cmocka_unit_test(test_duplicate_message),
                cmocka_unit_test(test_stale_message),
                cmocka_unit_test(test_spent_pool),
                cmocka_unit_test(test_disarm_before_save_is_caught),
                cmocka_unit_test(test_huge_page),
                cmocka_unit_test(test_failed_read_gives_slot_back),
                cmocka_unit_test(test_hole_with_saved_page_stays_open),
                cmocka_unit_test(test_parked_pages_come_back_once),
                cmocka_unit_test(test_hottest_is_who_waits_then_who_has_most),
                cmocka_unit_test(test_data_map),
        };

        return cmocka_run_group_tests_name("capture", tests, setup, teardown);
}
