/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Asynchronous write protection (WP_ASYNC, 6.7): the kernel answers the faults, and PAGEMAP_SCAN tells of them. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/pagemap.h"

#define PAGES 64
#define ASYNC_FEATURES (DAEMON_FEATURES | UFFD_FEATURE_WP_ASYNC)
/* For what would wait until its event is read. */
#define QUIET_FEATURES (PLAIN_FEATURES | UFFD_FEATURE_WP_ASYNC)
#define HUGE_BYTES (2u << 20)

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

static int require_async(void **state) {
        uint64_t features;
        int uffd;

        platform_require(state);
        uffd = uffd_new(-1);
        assert_int_equal(uffd_handshake(uffd, 0, &features), 0);
        close(uffd);
        if (!(features & UFFD_FEATURE_WP_ASYNC)) {
                print_message("skipped: the kernel has no WP_ASYNC (6.7)\n");
                exit(77);
        }
        return 0;
}

/* Of @n pages from @first on, those that count as written: that are not seen to be protected. */
static size_t count_written(const struct arena *arena, size_t first, size_t n, bool *ret_is_written) {
        uint64_t start = arena_address(arena, first), end = arena_address(arena, first + n), walked;
        struct page_region ranges[PAGES];
        int pagemap = pagemap_open(0);
        size_t n_written = n;
        ssize_t n_ranges;

        assert_true(pagemap >= 0);
        n_ranges = pagemap_scan_protected(pagemap, start, end, ranges, PAGES, &walked);
        close(pagemap);
        assert_true(n_ranges >= 0);
        assert_int_equal(walked, end);
        for (size_t i = 0; ret_is_written && i < n; i++)
                ret_is_written[i] = true;
        for (ssize_t i = 0; i < n_ranges; i++) {
                n_written -= (ranges[i].end - ranges[i].start) / PAGE_BYTES;
                for (uint64_t at = ranges[i].start; ret_is_written && at < ranges[i].end; at += PAGE_BYTES)
                        ret_is_written[(at - start) / PAGE_BYTES] = false;
        }
        return n_written;
}

static void assert_only_written(const struct arena *arena, size_t page) {
        bool is_written[PAGES];

        assert_int_equal(count_written(arena, 0, PAGES, is_written), 1);
        assert_true(is_written[page]);
}

/* What the kernel itself calls written. */
static bool kernel_says_written(const struct arena *arena, size_t page) {
        struct page_region range;
        struct pm_scan_arg scan = {
                .size = sizeof(scan),
                .start = arena_address(arena, page),
                .end = arena_address(arena, page + 1),
                .vec = (uintptr_t) &range,
                .vec_len = 1,
                .category_mask = PAGE_IS_WRITTEN,
                .category_anyof_mask = PAGE_IS_WRITTEN,
                .return_mask = PAGE_IS_WRITTEN,
        };
        int pagemap = pagemap_open(0), n = ioctl(pagemap, PAGEMAP_SCAN, &scan);

        close(pagemap);
        assert_true(n >= 0);
        return n == 1;
}

static void test_write_does_not_wait_and_is_seen(void **state) {
        struct arena arena = arena_make(PAGES, ASYNC_FEATURES);

        assert_int_equal(count_written(&arena, 0, PAGES, NULL), 0);
        touch(arena.memory + 3 * PAGE_BYTES);
        assert_no_message(arena.uffd);
        assert_only_written(&arena, 3);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 3), PAGE_BYTES), 0);
        assert_int_equal(count_written(&arena, 0, PAGES, NULL), 0);
        arena_free(&arena);
}

static void test_reading_is_not_writing(void **state) {
        struct arena arena = arena_make(PAGES, QUIET_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        for (size_t i = 0; i < PAGES; i++)
                assert_int_equal(*(volatile uint8_t *) (arena.memory + i * PAGE_BYTES), 1 + i % 100);
        assert_int_equal(count_written(&arena, 0, PAGES, NULL), 0);
        arena_free(&arena);
}

/* The reason why it is asked what is protected, and not what is written: nothing is left that says so of the latter. */
static void zap_after_write(int advice) {
        struct arena arena = arena_make(PAGES, QUIET_FEATURES);

        touch(arena.memory + 5 * PAGE_BYTES);
        assert_int_equal(madvise(arena.memory, arena.bytes, advice), 0);
        platform_found("the kernel's own PAGE_IS_WRITTEN says %s",
                       kernel_says_written(&arena, 5) ? "so too" : "nothing of it");
        assert_only_written(&arena, 5);
        /* Nor after it was read again. */
        assert_int_equal(*(volatile uint8_t *) (arena.memory + 5 * PAGE_BYTES), 0xee);
        assert_only_written(&arena, 5);
        arena_free(&arena);
}

static void test_written_page_that_is_zapped_stays_written(void **state) {
        zap_after_write(MADV_DONTNEED);
}

static void test_written_page_that_is_paged_out_stays_written(void **state) {
        zap_after_write(MADV_PAGEOUT);
}

/* When all of them were written and zapped, the kernel may free the page tables, too. */
static void test_written_pages_without_a_page_table_stay_written(void **state) {
        size_t pages = 3 * HUGE_BYTES / PAGE_BYTES, n_said = 0;
        struct arena arena = arena_make(pages, QUIET_FEATURES);

        for (size_t i = 0; i < pages; i++)
                touch(arena.memory + i * PAGE_BYTES);
        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        for (size_t i = 0; i < pages; i++)
                n_said += kernel_says_written(&arena, i);
        platform_found("the kernel's own PAGE_IS_WRITTEN says so of %zu of %zu pages", n_said, pages);
        assert_int_equal(count_written(&arena, 0, pages, NULL), pages);
        arena_free(&arena);
}

static void test_protection_outlives_a_zap(void **state) {
        struct arena arena = arena_make(PAGES, QUIET_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        assert_int_equal(count_written(&arena, 0, PAGES, NULL), 0);
        touch(arena.memory + 9 * PAGE_BYTES);
        assert_only_written(&arena, 9);
        arena_free(&arena);
}

/* A hole that was armed is a marker; a write that fills it is seen. */
static void test_filled_hole_is_written(void **state) {
        struct arena arena = arena_make(PAGES, QUIET_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_REMOVE), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(count_written(&arena, 0, PAGES, NULL), 0);
        touch(arena.memory + 2 * PAGE_BYTES);
        assert_only_written(&arena, 2);
        arena_free(&arena);
}

static int remove_all(void *argument) {
        const struct arena *arena = argument;

        return madvise(arena->memory, arena->bytes, MADV_REMOVE);
}

/* So a punched page does not count as written: that is for the hole map to tell. */
static void test_punch_keeps_protection(void **state) {
        struct arena arena = arena_make(PAGES, ASYNC_FEATURES);
        struct actor remover;

        actor_start(&remover, remove_all, &arena);
        next_message(arena.uffd, UFFD_EVENT_REMOVE);
        assert_int_equal(actor_join(&remover), 0);
        platform_found("%zu of %d punched pages count as written", count_written(&arena, 0, PAGES, NULL), PAGES);
        assert_false(arena_is_resident(&arena, 0));
        arena_free(&arena);
}

static int fork_and_touch(void *argument) {
        struct arena *arena = argument;
        int status, result;
        pid_t pid = fork();

        if (pid == 0) {
                bool is_written[PAGES];

                touch(arena->memory + 7 * PAGE_BYTES);
                result = count_written(arena, 0, PAGES, is_written) == 2 && is_written[7] && is_written[1] ? 0 : 1;
                _exit(result);
        }
        return pid < 0 || waitpid(pid, &status, 0) != pid ? -1 : status;
}

/* The child has what its parent had written, and its own writes in its own page table. */
static void test_fork_takes_what_was_written_along(void **state) {
        struct arena arena = arena_make(PAGES, ASYNC_FEATURES);
        struct uffd_msg message;
        struct actor parent;

        touch(arena.memory + 1 * PAGE_BYTES);
        actor_start(&parent, fork_and_touch, &arena);
        message = next_message(arena.uffd, UFFD_EVENT_FORK);
        assert_int_equal(actor_join(&parent), 0);
        close((int) message.arg.fork.ufd);
        assert_only_written(&arena, 1);
        arena_free(&arena);
}

struct move {
        struct arena *arena;
        void *target;
};

static int move_do(void *argument) {
        struct move *move = argument;
        size_t bytes = move->arena->bytes;
        void *moved = mremap(move->arena->memory, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, move->target);

        return moved == move->target ? 0 : -errno;
}

static void test_remap_takes_what_was_written_along(void **state) {
        struct arena arena = arena_make(PAGES, ASYNC_FEATURES);
        struct move move = { &arena, mmap(NULL, arena.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) };
        struct actor mover;

        touch(arena.memory + 4 * PAGE_BYTES);
        actor_start(&mover, move_do, &move);
        next_message(arena.uffd, UFFD_EVENT_REMAP);
        next_message(arena.uffd, UFFD_EVENT_UNMAP);
        assert_int_equal(actor_join(&mover), 0);
        arena.memory = move.target;
        assert_only_written(&arena, 4);
        touch(arena.memory + 8 * PAGE_BYTES);
        assert_int_equal(count_written(&arena, 0, PAGES, NULL), 2);
        arena_free(&arena);
}

/* So that a userfaultfd of another process than the one that is looked at is found out. */
static void test_other_memory_is_refused(void **state) {
        struct arena arena = arena_make(PAGES, ASYNC_FEATURES), sync = arena_make(PAGES, DAEMON_FEATURES);
        int pagemap = pagemap_open(0);
        struct page_region range;
        uint64_t walked;

        assert_int_equal(pagemap_scan_protected(pagemap, arena_address(&sync, 0), arena_address(&sync, PAGES), &range,
                                                1, &walked),
                         -EPERM);
        assert_int_equal(uffd_unregister(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(pagemap_scan_protected(pagemap, arena_address(&arena, 0), arena_address(&arena, PAGES), &range,
                                                1, &walked),
                         -EPERM);
        close(pagemap);
        arena_free(&sync);
        arena_free(&arena);
}

/* From one way of tracking to the other: a mapping can change its userfaultfd, and loses its protection by it. */
static void test_mapping_can_change_its_userfaultfd(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        int sync = arena.uffd, async = uffd_new(-1);

        assert_int_equal(uffd_handshake(async, ASYNC_FEATURES, NULL), 0);
        assert_int_equal(uffd_register_wp(async, arena_address(&arena, 0), arena.bytes), -EBUSY);
        assert_int_equal(uffd_unregister(sync, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_register_wp(async, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(count_written(&arena, 0, PAGES, NULL), PAGES);
        assert_int_equal(uffd_arm(async, arena_address(&arena, 0), arena.bytes), 0);
        touch(arena.memory);
        assert_only_written(&arena, 0);
        assert_int_equal(uffd_unregister(async, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_register_wp(sync, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_arm(sync, arena_address(&arena, 0), arena.bytes), 0);
        assert_write_is_caught(&arena, 1);
        close(async);
        arena_free(&arena);
}

static void test_answer_can_be_cut_short(void **state) {
        struct arena arena = arena_make(PAGES, ASYNC_FEATURES);
        uint64_t start = arena_address(&arena, 0), end = arena_address(&arena, PAGES), walked;
        struct page_region ranges[2];
        int pagemap = pagemap_open(0);

        for (size_t i = 1; i < PAGES; i += 2)
                touch(arena.memory + i * PAGE_BYTES);
        assert_int_equal(pagemap_scan_protected(pagemap, start, end, ranges, 2, &walked), 2);
        assert_int_equal(ranges[1].start, start + 2 * PAGE_BYTES);
        assert_true(walked >= ranges[1].end && walked <= ranges[1].end + PAGE_BYTES);
        close(pagemap);
        arena_free(&arena);
}

static void test_huge_pages(void **state) {
        int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB), uffd, pagemap;
        struct page_region ranges[4];
        uint8_t *memory;
        uint64_t start, walked;

        if (fd < 0 || ftruncate(fd, 2 * HUGE_BYTES) < 0)
                platform_skip("there are no huge pages");
        memory = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
                platform_skip("there are no huge pages free");
        start = (uintptr_t) memory;
        touch(memory);
        uffd = uffd_new(-1);
        pagemap = pagemap_open(0);
        assert_int_equal(uffd_handshake(uffd, QUIET_FEATURES, NULL), 0);
        assert_int_equal(uffd_register_wp(uffd, start, 2 * HUGE_BYTES), 0);
        assert_int_equal(uffd_arm(uffd, start, 2 * HUGE_BYTES), 0);
        assert_int_equal(pagemap_scan_protected(pagemap, start, start + 2 * HUGE_BYTES, ranges, 4, &walked), 1);
        assert_int_equal(ranges[0].end - ranges[0].start, 2 * HUGE_BYTES);
        touch(memory + HUGE_BYTES);
        assert_int_equal(pagemap_scan_protected(pagemap, start, start + 2 * HUGE_BYTES, ranges, 4, &walked), 1);
        assert_int_equal(ranges[0].start, start);
        assert_int_equal(ranges[0].end, start + HUGE_BYTES);
        close(pagemap);
        munmap(memory, 2 * HUGE_BYTES);
        close(uffd);
        close(fd);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_write_does_not_wait_and_is_seen),
                cmocka_unit_test(test_reading_is_not_writing),
                cmocka_unit_test(test_written_page_that_is_zapped_stays_written),
                cmocka_unit_test(test_written_page_that_is_paged_out_stays_written),
                cmocka_unit_test(test_written_pages_without_a_page_table_stay_written),
                cmocka_unit_test(test_protection_outlives_a_zap),
                cmocka_unit_test(test_filled_hole_is_written),
                cmocka_unit_test(test_punch_keeps_protection),
                cmocka_unit_test(test_fork_takes_what_was_written_along),
                cmocka_unit_test(test_remap_takes_what_was_written_along),
                cmocka_unit_test(test_other_memory_is_refused),
                cmocka_unit_test(test_mapping_can_change_its_userfaultfd),
                cmocka_unit_test(test_answer_can_be_cut_short),
                cmocka_unit_test(test_huge_pages),
        };

        return cmocka_run_group_tests(tests, require_async, NULL);
}
