/* SPDX-License-Identifier: GPL-2.0-or-later */

/* How threads that wait at a protected page get on again: what the client's safety rests on when the daemon dies. */

#include "tests/platform/platform.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 16

static void test_close_wakes_and_clears(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct actor writers[4];

        for (size_t i = 0; i < 4; i++)
                actor_start(&writers[i], touch, arena.memory + i / 2 * PAGE_BYTES);
        for (size_t i = 0; i < 4; i++)
                next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        close(arena.uffd);
        arena.uffd = -1;
        for (size_t i = 0; i < 4; i++)
                assert_int_equal(actor_join(&writers[i]), 0);
        for (size_t i = 0; i < PAGES; i++)
                assert_false(arena_is_armed(&arena, i));
        assert_int_equal(arena.memory[2 * PAGE_BYTES], 3);
        arena_free(&arena);
}

/* A message that nobody has read yet. */
static void test_close_wakes_who_was_not_heard(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct actor writer;

        actor_start(&writer, touch, arena.memory);
        assert_false(actor_is_done(&writer, NEVER_MS));
        close(arena.uffd);
        arena.uffd = -1;
        assert_int_equal(actor_join(&writer), 0);
        arena_free(&arena);
}

static void test_any_copy_of_the_descriptor_defeats_it(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        int copy = fcntl(arena.uffd, F_DUPFD_CLOEXEC, 0);
        struct actor writer;

        assert_true(copy >= 0);
        actor_start(&writer, touch, arena.memory);
        next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        close(arena.uffd);
        arena.uffd = -1;
        assert_false(actor_is_done(&writer, NEVER_MS));
        close(copy);
        assert_int_equal(actor_join(&writer), 0);
        arena_free(&arena);
}

/* The pipe was made before the userfaultfd, so all that follows it is what must not be kept.
 * A thread with a descriptor table of its own keeps nobody waiting when the others' table goes. */
static int hold_table_of_its_own(void *argument) {
        int *pipe = argument;
        char byte;

        if (unshare(CLONE_FILES) < 0 || close_range(pipe[1], ~0u, 0) < 0)
                return -1;
        return read(pipe[0], &byte, 1) == 1 ? 0 : -1;
}

static void test_table_of_its_own_keeps_nothing(void **state) {
        struct arena arena;
        struct actor holder, writer;
        int fds[2];

        assert_int_equal(pipe(fds), 0);
        arena = arena_make(PAGES, PLAIN_FEATURES);
        actor_start(&holder, hold_table_of_its_own, fds);
        assert_false(actor_is_done(&holder, NEVER_MS));
        actor_start(&writer, touch, arena.memory);
        next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        close(arena.uffd);
        arena.uffd = -1;
        assert_int_equal(actor_join(&writer), 0);
        assert_int_equal(write(fds[1], "x", 1), 1);
        assert_int_equal(actor_join(&holder), 0);
        close(fds[0]);
        close(fds[1]);
        arena_free(&arena);
}

static void test_unregister_wakes_nobody(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct actor writer;

        actor_start(&writer, touch, arena.memory);
        next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(uffd_unregister(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        if (actor_is_done(&writer, NEVER_MS))
                print_message("this kernel's UNREGISTER does wake\n");
        assert_int_equal(uffd_wake(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(actor_join(&writer), 0);
        arena_free(&arena);
}

/* The order that leaves nobody asleep, whoever comes in between. */
static void test_disarm_unregister_wake(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct actor writers[4];

        for (size_t i = 0; i < 4; i++)
                actor_start(&writers[i], touch, arena.memory + i * PAGE_BYTES);
        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_unregister(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_wake(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        for (size_t i = 0; i < 4; i++)
                assert_int_equal(actor_join(&writers[i]), 0);
        for (size_t i = 0; i < PAGES; i++)
                assert_false(arena_is_armed(&arena, i));
        arena_free(&arena);
}

static void test_each_waiting_thread_has_its_message(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct actor writers[3];

        for (size_t i = 0; i < 3; i++)
                actor_start(&writers[i], touch, arena.memory);
        for (size_t i = 0; i < 3; i++)
                next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        assert_no_message(arena.uffd);
        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), PAGE_BYTES), 0);
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(actor_join(&writers[i]), 0);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_close_wakes_and_clears),
                cmocka_unit_test(test_close_wakes_who_was_not_heard),
                cmocka_unit_test(test_any_copy_of_the_descriptor_defeats_it),
                cmocka_unit_test(test_table_of_its_own_keeps_nothing),
                cmocka_unit_test(test_unregister_wakes_nobody),
                cmocka_unit_test(test_disarm_unregister_wake),
                cmocka_unit_test(test_each_waiting_thread_has_its_message),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
