/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Arming what the program has cut into pieces, what is left over of old protection, and mappings of other kinds. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 16
#define MANY_PAGES 8192

/* Why the daemon arms a mapping in parts where the whole is refused. */
static void test_arming_across_vmas(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        int r;

        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(mprotect(arena.memory + 5 * PAGE_BYTES, 3 * PAGE_BYTES, PROT_READ), 0);
        r = uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes);
        platform_found("the range over three VMAs: %s, %zu of %d pages armed", r ? strerror(-r) : "accepted",
                       arena_count_armed(&arena, 0, PAGES), PAGES);
        assert_true(r == 0 || r == -ENOENT);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), 5 * PAGE_BYTES), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 5), 3 * PAGE_BYTES), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 8), 8 * PAGE_BYTES), 0);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        assert_int_equal(mprotect(arena.memory, arena.bytes, PROT_READ | PROT_WRITE), 0);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
}

/* An arm that succeeds has armed: pages that are mapped, pages that are not, and holes. */
static void test_every_page_is_armed(void **state) {
        struct arena arena = arena_make(MANY_PAGES, PLAIN_FEATURES);

        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(madvise(arena.memory, arena.bytes / 4, MADV_DONTNEED), 0);
        assert_int_equal(
                fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, arena.bytes / 4, arena.bytes / 4), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(arena_count_armed(&arena, 0, MANY_PAGES), MANY_PAGES);
        platform_found("unmapped: %s, hole: %s, mapped: %s", arena_mechanism(&arena, 0),
                       arena_mechanism(&arena, MANY_PAGES / 4), arena_mechanism(&arena, MANY_PAGES / 2));
        arena_free(&arena);
}

/* Writes on a mapping that is registered but not armed must not be stopped by what was armed in an earlier life. */
static void write_unarmed(struct arena *arena) {
        struct actor writer;

        assert_int_equal(uffd_register_wp(arena->uffd, arena_address(arena, 0), arena->bytes), 0);
        platform_found("%zu of %d pages still protected when registered again", arena_count_armed(arena, 0, PAGES),
                       PAGES);
        actor_start(&writer, touch, arena->memory);
        assert_int_equal(actor_join(&writer), 0);
        assert_no_message(arena->uffd);
        assert_int_equal(uffd_arm(arena->uffd, arena_address(arena, 0), arena->bytes), 0);
        assert_int_equal(arena_count_armed(arena, 0, PAGES), PAGES);
        serve_writes(arena, 1, PAGES - 1);
        arena_free(arena);
}

static void test_markers_do_not_outlive_unregistering(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        assert_int_equal(uffd_unregister(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        write_unarmed(&arena);
}

static void test_markers_do_not_outlive_the_descriptor(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_DONTNEED), 0);
        close(arena.uffd);
        arena.uffd = uffd_new(-1);
        assert_true(arena.uffd >= 0);
        assert_int_equal(uffd_handshake(arena.uffd, PLAIN_FEATURES, NULL), 0);
        write_unarmed(&arena);
}

/* Protection belongs to the mapping: a private one guards its own copy and says nothing of the object. */
static void test_private_mapping_guards_its_own_copy(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        uint8_t *shared = arena.memory;

        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        arena.memory = mmap(NULL, arena.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, arena.fd, 0);
        assert_ptr_not_equal(arena.memory, MAP_FAILED);
        memset(arena.memory, 0x33, 4 * PAGE_BYTES);
        assert_int_equal(uffd_register_wp(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        platform_found("own copy: %s, page of the object: %s", arena_mechanism(&arena, 0), arena_mechanism(&arena, 8));
        assert_write_is_caught(&arena, 0);
        touch(shared + PAGE_BYTES);
        assert_no_message(arena.uffd);
        assert_int_equal(arena.memory[PAGE_BYTES], 0x33);
        munmap(shared, arena.bytes);
        arena_free(&arena);
}

static void test_shared_mapping_of_a_read_only_descriptor_is_refused(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        char path[] = "/dev/shm/livesnap-platform-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC), read_only = open(path, O_RDONLY | O_CLOEXEC);
        void *memory;

        if (fd < 0 || read_only < 0)
                platform_skip("there is no tmpfs at /dev/shm");
        unlink(path);
        assert_int_equal(ftruncate(fd, PAGE_BYTES), 0);
        memory = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, read_only, 0);
        assert_ptr_not_equal(memory, MAP_FAILED);
        assert_int_equal(uffd_register_wp(arena.uffd, (uintptr_t) memory, PAGE_BYTES), -EPERM);
        assert_int_equal(mprotect(memory, PAGE_BYTES, PROT_READ | PROT_WRITE), -1);
        munmap(memory, PAGE_BYTES);
        close(fd);
        close(read_only);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_arming_across_vmas),
                cmocka_unit_test(test_every_page_is_armed),
                cmocka_unit_test(test_markers_do_not_outlive_unregistering),
                cmocka_unit_test(test_markers_do_not_outlive_the_descriptor),
                cmocka_unit_test(test_private_mapping_guards_its_own_copy),
                cmocka_unit_test(test_shared_mapping_of_a_read_only_descriptor_is_refused),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
