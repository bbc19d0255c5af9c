/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Huge pages: those that the kernel makes of shared memory by itself, and those of hugetlbfs. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_BYTES (2u << 20)
#define HUGE_PAGES 2
#define PAGES (HUGE_PAGES * HUGE_BYTES / PAGE_BYTES)
/* Around the border of two huge pages. */
#define SERVED_PAGES 64

/* The kB that smaps has on a line of the mapping at this address. */
static long read_smaps(const void *address, const char *key) {
        FILE *file = fopen("/proc/self/smaps", "re");
        char line[256];
        bool is_ours = false;
        long value = 0;

        assert_non_null(file);
        while (fgets(line, sizeof(line), file)) {
                unsigned long start, end;

                if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
                        is_ours = start <= (uintptr_t) address && (uintptr_t) address < end;
                else if (is_ours && strncmp(line, key, strlen(key)) == 0)
                        value = strtol(line + strlen(key), NULL, 10);
        }
        fclose(file);
        return value;
}

static bool is_huge(const void *memory) {
        return read_smaps(memory, "ShmemPmdMapped:") > 0;
}

/* Where huge pages can be mapped. */
static uint8_t *map_aligned(int fd, size_t bytes) {
        uint8_t *reserved = mmap(NULL, bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint8_t *aligned = (uint8_t *) (((uintptr_t) reserved + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);

        assert_ptr_not_equal(reserved, MAP_FAILED);
        assert_ptr_equal(mmap(aligned, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), aligned);
        return aligned;
}

/* As from arena_make(), but in huge pages, and neither registered nor armed. */
static struct arena make_huge(void) {
        struct arena arena = { .fd = memfd_create("huge", MFD_CLOEXEC), .bytes = HUGE_PAGES * HUGE_BYTES };

        assert_true(arena.fd >= 0);
        assert_int_equal(ftruncate(arena.fd, arena.bytes), 0);
        arena.memory = map_aligned(arena.fd, arena.bytes);
        madvise(arena.memory, arena.bytes, MADV_HUGEPAGE);
        for (size_t i = 0; i < PAGES; i++)
                arena.memory[i * PAGE_BYTES] = 1 + i % 100;
        if (!is_huge(arena.memory))
                madvise(arena.memory, arena.bytes, MADV_COLLAPSE);
        arena.uffd = uffd_new(-1);
        assert_true(arena.uffd >= 0);
        assert_int_equal(uffd_handshake(arena.uffd, PLAIN_FEATURES, NULL), 0);
        if (!is_huge(arena.memory)) {
                arena_free(&arena);
                platform_skip(
                        "the kernel makes no huge pages of shared memory here (transparent_hugepage/shmem_enabled)");
        }
        return arena;
}

static void register_all(const struct arena *arena) {
        assert_int_equal(uffd_register_wp(arena->uffd, arena_address(arena, 0), arena->bytes), 0);
}

static void test_huge_page_is_split_by_its_protection(void **state) {
        struct arena arena = make_huge();

        register_all(&arena);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 1), PAGE_BYTES), 0);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), 1);
        touch(arena.memory);
        arena.memory[0] = 1;
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        platform_found("the mapping is %s afterwards, each page a %s",
                       is_huge(arena.memory) ? "huge" : "of small pages", arena_mechanism(&arena, 0));
        serve_writes(&arena, PAGES / 2 - SERVED_PAGES / 2, SERVED_PAGES);
        arena_free(&arena);
}

static void test_no_collapse_while_registered(void **state) {
        struct arena arena = make_huge();
        int r;

        register_all(&arena);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        r = madvise(arena.memory, arena.bytes, MADV_COLLAPSE);
        platform_found("MADV_COLLAPSE: %s", r < 0 ? strerror(errno) : "accepted");
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, PAGES / 2 - SERVED_PAGES / 2, SERVED_PAGES);
        arena_free(&arena);
}

/* Somebody who shares the memory and is not registered makes huge pages of it: ours must not lose their protection. */
static void test_collapse_through_another_mapping(void **state) {
        struct arena arena = make_huge();
        uint8_t *other = map_aligned(arena.fd, arena.bytes);
        int r;

        register_all(&arena);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        for (size_t i = 0; i < PAGES; i++)
                assert_int_equal(*(volatile uint8_t *) (other + i * PAGE_BYTES), 1 + i % 100);
        r = madvise(other, arena.bytes, MADV_COLLAPSE);
        platform_found("MADV_COLLAPSE there: %s; ours: %zu of %u protected, by a %s", r < 0 ? strerror(errno) : "done",
                       arena_count_armed(&arena, 0, PAGES), PAGES, arena_mechanism(&arena, 0));
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, PAGES / 2 - SERVED_PAGES / 2, SERVED_PAGES);
        munmap(other, arena.bytes);
        arena_free(&arena);
}

static void test_collapse_after_detach(void **state) {
        struct arena arena = make_huge();

        register_all(&arena);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_unregister(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        if (madvise(arena.memory, arena.bytes, MADV_COLLAPSE) < 0 && errno == EINVAL) {
                arena_free(&arena);
                platform_skip("this kernel has no MADV_COLLAPSE for shared memory");
        }
        assert_true(is_huge(arena.memory));
        for (size_t i = 0; i < PAGES; i++)
                assert_int_equal(arena.memory[i * PAGE_BYTES], 1 + i % 100);
        arena_free(&arena);
}

static struct arena make_hugetlb(void) {
        struct arena arena = { .fd = memfd_create("hugetlb", MFD_CLOEXEC | MFD_HUGETLB),
                               .bytes = HUGE_PAGES * HUGE_BYTES };

        if (arena.fd < 0 || ftruncate(arena.fd, arena.bytes) < 0)
                platform_skip("this kernel has no huge pages of 2 MiB");
        arena.memory = mmap(NULL, arena.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0);
        if (arena.memory == MAP_FAILED) {
                close(arena.fd);
                platform_skip("no huge pages are reserved (vm.nr_hugepages)");
        }
        for (size_t i = 0; i < PAGES; i++)
                arena.memory[i * PAGE_BYTES] = 1 + i % 100;
        arena.uffd = uffd_new(-1);
        assert_true(arena.uffd >= 0);
        assert_int_equal(uffd_handshake(arena.uffd, PLAIN_FEATURES, NULL), 0);
        register_all(&arena);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        return arena;
}

static void assert_huge_write_is_caught(const struct arena *arena, size_t huge_page) {
        size_t page = huge_page * HUGE_BYTES / PAGE_BYTES + 3;
        struct actor writer;
        uint8_t byte;

        actor_start(&writer, touch, arena->memory + page * PAGE_BYTES);
        next_message(arena->uffd, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(pread(arena->fd, &byte, 1, page * PAGE_BYTES), 1);
        assert_int_not_equal(byte, 0xee);
        assert_int_equal(
                uffd_disarm(arena->uffd, arena_address(arena, huge_page * HUGE_BYTES / PAGE_BYTES), HUGE_BYTES), 0);
        assert_int_equal(actor_join(&writer), 0);
        assert_int_equal(arena->memory[page * PAGE_BYTES], 0xee);
}

static void test_hugetlb_faults_once_for_each_huge_page(void **state) {
        struct arena arena = make_hugetlb();

        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 1), PAGE_BYTES), -EINVAL);
        platform_found("protected by a %s", arena_mechanism(&arena, 0));
        for (size_t i = 0; i < HUGE_PAGES; i++)
                assert_huge_write_is_caught(&arena, i);
        for (size_t i = 0; i < PAGES; i++)
                touch(arena.memory + i * PAGE_BYTES);
        assert_no_message(arena.uffd);
        arena_free(&arena);
}

static void test_hugetlb_dontneed(void **state) {
        struct arena arena = make_hugetlb();

        if (madvise(arena.memory, arena.bytes, MADV_DONTNEED) < 0) {
                arena_free(&arena);
                platform_skip("MADV_DONTNEED is refused on huge pages");
        }
        platform_found("kept as a %s", arena_mechanism(&arena, 0));
        for (size_t i = 0; i < HUGE_PAGES; i++)
                assert_huge_write_is_caught(&arena, i);
        arena_free(&arena);
}

/* The rule lets protection go with the content. */
static void test_hugetlb_truncate(void **state) {
        struct arena arena = make_hugetlb();

        assert_int_equal(ftruncate(arena.fd, HUGE_BYTES), 0);
        assert_int_equal(ftruncate(arena.fd, arena.bytes), 0);
        assert_huge_write_is_caught(&arena, 0);
        platform_found("what was cut off: %s", arena_mechanism(&arena, PAGES / 2));
        assert_int_equal(arena.memory[HUGE_BYTES], 0);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_huge_page_is_split_by_its_protection),
                cmocka_unit_test(test_no_collapse_while_registered),
                cmocka_unit_test(test_collapse_through_another_mapping),
                cmocka_unit_test(test_collapse_after_detach),
                cmocka_unit_test(test_hugetlb_faults_once_for_each_huge_page),
                cmocka_unit_test(test_hugetlb_dontneed),
                cmocka_unit_test(test_hugetlb_truncate),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
