/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Pages that move in physical memory under a mapping that is armed. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 256
#define ROUNDS 20

/* Frame numbers of all pages; zeros where this user may not see them. */
static void read_frames(const struct arena *arena, uint64_t *frames) {
        int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(
                pread(fd, frames, PAGES * sizeof(*frames), arena_address(arena, 0) / PAGE_BYTES * sizeof(*frames)),
                PAGES * sizeof(*frames));
        close(fd);
        for (size_t i = 0; i < PAGES; i++)
                frames[i] &= (1ULL << 55) - 1;
}

static size_t count_moved(const uint64_t *before, const uint64_t *after) {
        size_t n = 0;

        for (size_t i = 0; i < PAGES; i++)
                n += before[i] != after[i];
        return n;
}

/* Returns how many pages are on the node afterwards. */
static size_t move_to_node(const struct arena *arena, int node) {
        void *pages[PAGES];
        int nodes[PAGES], where[PAGES];
        size_t n = 0;

        for (size_t i = 0; i < PAGES; i++) {
                pages[i] = arena->memory + i * PAGE_BYTES;
                nodes[i] = node;
        }
        if (syscall(SYS_move_pages, 0, (unsigned long) PAGES, pages, nodes, where, MPOL_MF_MOVE) < 0)
                return 0;
        for (size_t i = 0; i < PAGES; i++)
                n += where[i] == node;
        return n;
}

static void require_nodes(void) {
        if (access("/sys/devices/system/node/node1", F_OK) < 0)
                platform_skip("there is one NUMA node only");
}

static void test_migration_keeps_protection(void **state) {
        struct arena arena;
        size_t there, back;

        require_nodes();
        arena = arena_make(PAGES, PLAIN_FEATURES);
        there = move_to_node(&arena, 1);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        back = move_to_node(&arena, 0);
        platform_found("%zu pages moved to another node and %zu back, kept as a %s", there, back,
                       arena_mechanism(&arena, 0));
        assert_true(there > PAGES / 2 && back > PAGES / 2);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
}

static int move_to_and_fro(void *argument) {
        for (int i = 0; i < ROUNDS; i++)
                move_to_node(argument, i % 2);
        return 0;
}

static int write_all(void *argument) {
        struct arena *arena = argument;

        for (size_t i = 0; i < PAGES; i++)
                touch(arena->memory + i * PAGE_BYTES);
        return 0;
}

/*
 * A fault that meets a page on its way waits until it has arrived, and is then caught all the same. It may be told
 * twice, like any fault that is tried again; each is answered, and the first finds the content untouched.
 */
static size_t serve_while_moving(const struct arena *arena, struct actor *writer, size_t *n_repeated) {
        struct pollfd fd = { .fd = arena->uffd, .events = POLLIN };
        bool was_seen[PAGES] = { false };
        struct uffd_msg message;
        size_t n = 0, n_idle = 0;

        while (!writer->done) {
                if (poll(&fd, 1, NEVER_MS) != 1 || uffd_read(fd.fd, &message, 1) != 1) {
                        assert_true(++n_idle < SOON_MS / NEVER_MS);
                        continue;
                }
                n_idle = 0;
                size_t page = (message.arg.pagefault.address - arena_address(arena, 0)) / PAGE_BYTES;
                uint8_t byte;

                assert_int_equal(message.event, UFFD_EVENT_PAGEFAULT);
                assert_true(page < PAGES);
                assert_int_equal(pread(arena->fd, &byte, 1, page * PAGE_BYTES), 1);
                if (!was_seen[page])
                        assert_int_equal(byte, 1 + page % 100);
                n += !was_seen[page];
                *n_repeated += was_seen[page];
                was_seen[page] = true;
                assert_int_equal(uffd_disarm(arena->uffd, arena_address(arena, page), PAGE_BYTES), 0);
        }
        return n;
}

static void test_migration_races_with_faults(void **state) {
        struct arena arena;
        struct actor mover, writer;
        size_t n_repeated = 0;

        require_nodes();
        arena = arena_make(PAGES, PLAIN_FEATURES);
        actor_start(&mover, move_to_and_fro, &arena);
        actor_start(&writer, write_all, &arena);
        assert_int_equal(serve_while_moving(&arena, &writer, &n_repeated), PAGES);
        assert_int_equal(actor_join(&writer), 0);
        assert_true(actor_is_done(&mover, 4 * SOON_MS));
        assert_int_equal(actor_join(&mover), 0);
        platform_found("each of %d writes caught, %zu told twice", PAGES, n_repeated);
        arena_free(&arena);
}

/* An arena whose pages lie scattered between free ones: every other page was somebody else's. */
static struct arena make_scattered(void) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        uint8_t *filler = mmap(NULL, 16 * arena.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_ptr_not_equal(filler, MAP_FAILED);
        madvise(filler, 16 * arena.bytes, MADV_NOHUGEPAGE);
        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, arena.bytes), 0);
        for (size_t i = 0; i < PAGES; i++) {
                memset(filler + 16 * i * PAGE_BYTES, 1, 16 * PAGE_BYTES);
                arena.memory[i * PAGE_BYTES] = 1 + i % 100;
        }
        munmap(filler, 16 * arena.bytes);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        return arena;
}

static void test_compaction_keeps_protection(void **state) {
        int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
        uint64_t before[PAGES], after[PAGES];
        struct arena arena;

        if (fd < 0)
                platform_skip("this user may not ask for compaction, or the kernel has none");
        arena = make_scattered();
        read_frames(&arena, before);
        assert_int_equal(write(fd, "1", 1), 1);
        close(fd);
        read_frames(&arena, after);
        platform_found("%zu of %d pages moved", count_moved(before, after), PAGES);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_migration_keeps_protection),
                cmocka_unit_test(test_migration_races_with_faults),
                cmocka_unit_test(test_compaction_keeps_protection),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
