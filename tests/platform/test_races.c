/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Content that is removed while faults bring it back. The kernel unmaps such pages twice, and a fault in between may
 * replace a marker that the second pass then takes away. What must hold: a page whose protection is gone has lost its
 * content too, so that no write to what was there at the cut can go unseen.
 */

#include "tests/platform/platform.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 256
#define KEPT_PAGES (PAGES / 2)
#define ROUNDS 200

static _Thread_local sigjmp_buf after_sigbus;

static void on_sigbus(int number) {
        siglongjmp(after_sigbus, 1);
}

struct reader {
        const struct arena *arena;
        _Atomic bool stop;
};

/* Faults in what can be had: behind the end of the object there is SIGBUS. */
static int read_all_the_time(void *argument) {
        struct reader *reader = argument;
        volatile size_t page = 0;

        sigsetjmp(after_sigbus, 1);
        while (!reader->stop) {
                page = (page + 1) % PAGES;
                (void) *(volatile uint8_t *) (reader->arena->memory + page * PAGE_BYTES);
        }
        return 0;
}

static void remove_while_reading(struct arena *arena, int (*remove)(const struct arena *arena)) {
        struct sigaction action = { .sa_handler = on_sigbus }, before;
        struct reader readers[2] = { { .arena = arena }, { .arena = arena } };
        struct actor actors[2];

        sigaction(SIGBUS, &action, &before);
        for (size_t i = 0; i < 2; i++)
                actor_start(&actors[i], read_all_the_time, &readers[i]);
        for (size_t i = 0; i < ROUNDS; i++)
                assert_int_equal(remove(arena), 0);
        for (size_t i = 0; i < 2; i++)
                readers[i].stop = true;
        for (size_t i = 0; i < 2; i++)
                assert_int_equal(actor_join(&actors[i]), 0);
        sigaction(SIGBUS, &before, NULL);
}

static void assert_lost_only_with_content(struct arena *arena) {
        size_t n_lost = 0;

        for (size_t i = KEPT_PAGES; i < PAGES; i++) {
                assert_int_equal(*(volatile uint8_t *) (arena->memory + i * PAGE_BYTES), 0);
                n_lost += !arena_is_armed(arena, i);
        }
        platform_found("%zu of %d pages lost their protection, all with their content", n_lost, PAGES - KEPT_PAGES);
        assert_int_equal(arena_count_armed(arena, 0, KEPT_PAGES), KEPT_PAGES);
        serve_writes(arena, 0, KEPT_PAGES);
}

static int truncate_down_and_up(const struct arena *arena) {
        return ftruncate(arena->fd, KEPT_PAGES * PAGE_BYTES) || ftruncate(arena->fd, arena->bytes);
}

static void test_truncation_races_with_faults(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        remove_while_reading(&arena, truncate_down_and_up);
        assert_lost_only_with_content(&arena);
        arena_free(&arena);
}

static int punch_end(const struct arena *arena) {
        return fallocate(arena->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, KEPT_PAGES * PAGE_BYTES,
                         arena->bytes - KEPT_PAGES * PAGE_BYTES);
}

static void test_punch_races_with_faults(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        remove_while_reading(&arena, punch_end);
        assert_lost_only_with_content(&arena);
        arena_free(&arena);
}

static int zap_all(const struct arena *arena) {
        return madvise(arena->memory, arena->bytes, MADV_DONTNEED);
}

/* Nothing is removed here, so nothing may be lost. */
static void test_dontneed_races_with_faults(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        remove_while_reading(&arena, zap_all);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_truncation_races_with_faults),
                cmocka_unit_test(test_punch_races_with_faults),
                cmocka_unit_test(test_dontneed_races_with_faults),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
