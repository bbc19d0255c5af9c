/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Protection survives everything that takes a page out of a page table (PTE markers, Linux 5.19). */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGES 16

static void zap_keeps_protection(int advice) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, advice), 0);
        platform_found("kept as a %s", arena_mechanism(&arena, 0));
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
}

static void test_dontneed(void **state) {
        zap_keeps_protection(MADV_DONTNEED);
}

static void test_pageout(void **state) {
        zap_keeps_protection(MADV_PAGEOUT);
}

static void test_cold(void **state) {
        zap_keeps_protection(MADV_COLD);
}

static int free_advice(void *argument) {
        struct arena *arena = argument;

        return madvise(arena->memory, PAGE_BYTES, MADV_FREE) < 0 ? -errno : 0;
}

/* It is for private memory only. Those who listen for MADV_REMOVE hear of it before it is refused. */
static void test_free_is_refused(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct pollfd fd = { .fd = arena.uffd, .events = POLLIN };
        struct actor adviser;

        actor_start(&adviser, free_advice, &arena);
        if (!actor_is_done(&adviser, NEVER_MS) && poll(&fd, 1, SOON_MS) == 1) {
                next_message(arena.uffd, UFFD_EVENT_REMOVE);
                platform_found("an event for what does not happen");
        }
        assert_int_equal(actor_join(&adviser), -EINVAL);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
}

static void test_dontneed_keeps_content(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        for (size_t i = 0; i < PAGES; i++)
                assert_int_equal(arena.memory[i * PAGE_BYTES], 1 + i % 100);
        arena_free(&arena);
}

/* The page is read in again through the marker: it must come back protected. */
static void test_read_after_zap(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        assert_int_equal(*(volatile uint8_t *) arena.memory, 1);
        assert_true(arena_is_armed(&arena, 0));
        assert_write_is_caught(&arena, 0);
        arena_free(&arena);
}

static void test_punch_keeps_protection_but_not_content(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * PAGE_BYTES, PAGE_BYTES),
                         0);
        assert_true(arena_is_armed(&arena, 3));
        assert_no_message(arena.uffd);
        assert_false(arena_is_resident(&arena, 3));
        /* A mere read makes it data again: SEEK_DATA alone does not tell what was lost. */
        assert_int_equal(*(volatile uint8_t *) (arena.memory + 3 * PAGE_BYTES), 0);
        assert_true(arena_is_resident(&arena, 3));
        assert_write_is_caught(&arena, 3);
        arena_free(&arena);
}

static void test_madv_remove_keeps_protection_but_not_content(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(madvise(arena.memory + 3 * PAGE_BYTES, PAGE_BYTES, MADV_REMOVE), 0);
        platform_found("kept as a %s", arena_mechanism(&arena, 3));
        assert_true(arena_is_armed(&arena, 3));
        assert_false(arena_is_resident(&arena, 3));
        assert_write_is_caught(&arena, 3);
        arena_free(&arena);
}

static void test_punch_by_another_process_is_not_told(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        int status;
        pid_t pid = fork();

        if (pid == 0)
                _exit(fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES) < 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_no_message(arena.uffd);
        assert_true(arena_is_armed(&arena, 0));
        assert_false(arena_is_resident(&arena, 0));
        assert_write_is_caught(&arena, 0);
        arena_free(&arena);
}

static void test_truncate_down_and_up_keeps_protection(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(ftruncate(arena.fd, 0), 0);
        assert_int_equal(ftruncate(arena.fd, arena.bytes), 0);
        assert_true(arena_is_armed(&arena, 5));
        assert_write_is_caught(&arena, 5);
        arena_free(&arena);
}

static void test_mprotect_keeps_protection(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(mprotect(arena.memory, arena.bytes, PROT_READ), 0);
        assert_int_equal(mprotect(arena.memory, arena.bytes, PROT_READ | PROT_WRITE), 0);
        assert_write_is_caught(&arena, 1);
        arena_free(&arena);
}

static void test_holes_are_armed_and_stay_holes(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, arena.bytes), 0);
        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        for (size_t i = 0; i < PAGES; i++) {
                assert_true(arena_is_armed(&arena, i));
                assert_false(arena_is_resident(&arena, i));
        }
        assert_write_is_caught(&arena, 2);
        arena_free(&arena);
}

static void test_pread_does_not_populate(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        uint8_t page[PAGE_BYTES];

        assert_int_equal(fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * PAGE_BYTES, PAGE_BYTES),
                         0);
        assert_int_equal(pread(arena.fd, page, PAGE_BYTES, 4 * PAGE_BYTES), PAGE_BYTES);
        assert_int_equal(page[0], 0);
        assert_false(arena_is_resident(&arena, 4));
        arena_free(&arena);
}

static long minor_faults(void) {
        struct rusage usage;

        getrusage(RUSAGE_THREAD, &usage);
        return usage.ru_minflt;
}

/* Either will do, but a writer pays a fault more for each page on a kernel that leaves entries read-only: it is said.
 */
static void test_disarmed_memory_is_written_without_us(void **state) {
        struct arena arena = arena_make(512, PLAIN_FEATURES);
        long before;

        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        before = minor_faults();
        for (size_t i = 0; i < 512; i++)
                touch(arena.memory + i * PAGE_BYTES);
        platform_found("%s: %ld minor faults for 512 pages",
                       minor_faults() - before < 256 ? "restores write permission" : "leaves the entry read-only",
                       minor_faults() - before);
        assert_no_message(arena.uffd);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_dontneed),
                cmocka_unit_test(test_pageout),
                cmocka_unit_test(test_cold),
                cmocka_unit_test(test_free_is_refused),
                cmocka_unit_test(test_dontneed_keeps_content),
                cmocka_unit_test(test_read_after_zap),
                cmocka_unit_test(test_punch_keeps_protection_but_not_content),
                cmocka_unit_test(test_madv_remove_keeps_protection_but_not_content),
                cmocka_unit_test(test_punch_by_another_process_is_not_told),
                cmocka_unit_test(test_truncate_down_and_up_keeps_protection),
                cmocka_unit_test(test_mprotect_keeps_protection),
                cmocka_unit_test(test_holes_are_armed_and_stay_holes),
                cmocka_unit_test(test_pread_does_not_populate),
                cmocka_unit_test(test_disarmed_memory_is_written_without_us),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
