/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What seals forbid, what inotify tells, and which objects take part at all. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define PAGES 16
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

static void test_sealed_memory_is_tracked_and_cannot_lose_content(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        char path[64];
        int again;

        assert_int_equal(fcntl(arena.fd, F_ADD_SEALS, SEALS), 0);
        assert_write_is_caught(&arena, 0);

        assert_int_equal(fallocate(arena.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(madvise(arena.memory, PAGE_BYTES, MADV_REMOVE), -1);
        assert_int_equal(pwrite(arena.fd, "x", 1, 0), -1);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(arena.fd, 0), -1);
        assert_int_equal(errno, EPERM);
        assert_ptr_equal(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0), MAP_FAILED);

        snprintf(path, sizeof(path), "/proc/self/fd/%d", arena.fd);
        again = open(path, O_RDWR | O_CLOEXEC);
        assert_true(again >= 0);
        assert_ptr_equal(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
        close(again);
        arena_free(&arena);
}

static void test_sealed_memory_can_be_mapped_for_reading_only(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        void *mapping;

        assert_int_equal(fcntl(arena.fd, F_ADD_SEALS, SEALS), 0);
        mapping = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, arena.fd, 0);
        assert_ptr_not_equal(mapping, MAP_FAILED);
        assert_int_equal(mprotect(mapping, PAGE_BYTES, PROT_READ | PROT_WRITE), -1);
        munmap(mapping, PAGE_BYTES);
        arena_free(&arena);
}

struct watched {
        int fd;
        int watch;
        uint8_t *memory;
};

/* A file on tmpfs, since a memfd has no path to watch. */
static struct watched watched_make(void) {
        char path[] = "/dev/shm/livesnap-platform-XXXXXX";
        struct watched watched = { .fd = mkostemp(path, O_CLOEXEC) };

        if (watched.fd < 0)
                platform_skip("there is no tmpfs at /dev/shm");
        assert_int_equal(ftruncate(watched.fd, PAGES * PAGE_BYTES), 0);
        watched.memory = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, watched.fd, 0);
        assert_ptr_not_equal(watched.memory, MAP_FAILED);
        watched.memory[0] = 1;
        watched.watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        assert_true(inotify_add_watch(watched.watch, path, IN_MODIFY) >= 0);
        unlink(path);
        return watched;
}

static void watched_free(struct watched *watched) {
        munmap(watched->memory, PAGES * PAGE_BYTES);
        close(watched->watch);
        close(watched->fd);
}

static bool watched_is_told(const struct watched *watched) {
        struct pollfd fd = { .fd = watched->watch, .events = POLLIN };
        char buffer[4096];
        bool told = poll(&fd, 1, NEVER_MS) == 1;

        while (read(watched->watch, buffer, sizeof(buffer)) > 0)
                ;
        return told;
}

static void test_inotify_tells_of_what_removes_or_writes(void **state) {
        struct watched watched = watched_make();

        assert_int_equal(fallocate(watched.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES), 0);
        assert_true(watched_is_told(&watched));
        assert_int_equal(madvise(watched.memory, PAGE_BYTES, MADV_REMOVE), 0);
        assert_true(watched_is_told(&watched));
        assert_int_equal(pwrite(watched.fd, "x", 1, 0), 1);
        assert_true(watched_is_told(&watched));
        assert_int_equal(ftruncate(watched.fd, PAGE_BYTES), 0);
        assert_true(watched_is_told(&watched));
        watched_free(&watched);
}

static void test_inotify_is_silent_about_mapped_writes_and_zaps(void **state) {
        struct watched watched = watched_make();

        touch(watched.memory + PAGE_BYTES);
        assert_int_equal(madvise(watched.memory, PAGE_BYTES, MADV_DONTNEED), 0);
        assert_false(watched_is_told(&watched));
        watched_free(&watched);
}

static int register_mapping(void *memory) {
        int uffd = uffd_new(-1);
        int r = uffd_handshake(uffd, PLAIN_FEATURES, NULL);

        if (r == 0)
                r = uffd_register_wp(uffd, (uintptr_t) memory, PAGE_BYTES);
        close(uffd);
        return r;
}

static void test_shared_anonymous_memory_registers(void **state) {
        void *memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

        assert_int_equal(register_mapping(memory), 0);
        munmap(memory, PAGE_BYTES);
}

/* Its mappings have operations of their own, in which the kernel does not recognise shared memory. */
static void test_sysv_memory_does_not_register(void **state) {
        int id = shmget(IPC_PRIVATE, PAGE_BYTES, IPC_CREAT | 0600);
        void *memory = shmat(id, NULL, 0);

        shmctl(id, IPC_RMID, NULL);
        assert_ptr_not_equal(memory, (void *) -1);
        assert_int_equal(register_mapping(memory), -EINVAL);
        shmdt(memory);
}

static void test_file_on_a_disk_does_not_register(void **state) {
        char path[] = "/var/tmp/livesnap-platform-XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);
        void *memory;

        assert_true(fd >= 0);
        unlink(path);
        assert_int_equal(ftruncate(fd, PAGE_BYTES), 0);
        memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(memory, MAP_FAILED);
        assert_int_equal(register_mapping(memory), -EINVAL);
        munmap(memory, PAGE_BYTES);
        close(fd);
}

static void test_mapping_of_another_userfaultfd_is_busy(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(register_mapping(arena.memory), -EBUSY);
        arena_free(&arena);
}

/* A reader that may become a writer by mprotect can be tracked while it is a reader. */
static void test_read_only_mapping_is_tracked_when_it_becomes_writable(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        uint8_t *first = arena.memory;

        arena.memory = mmap(NULL, arena.bytes, PROT_READ, MAP_SHARED, arena.fd, 0);
        assert_ptr_not_equal(arena.memory, MAP_FAILED);
        assert_int_equal(uffd_register_wp(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(mprotect(arena.memory, arena.bytes, PROT_READ | PROT_WRITE), 0);
        assert_write_is_caught(&arena, 2);
        munmap(first, arena.bytes);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_sealed_memory_is_tracked_and_cannot_lose_content),
                cmocka_unit_test(test_sealed_memory_can_be_mapped_for_reading_only),
                cmocka_unit_test(test_inotify_tells_of_what_removes_or_writes),
                cmocka_unit_test(test_inotify_is_silent_about_mapped_writes_and_zaps),
                cmocka_unit_test(test_shared_anonymous_memory_registers),
                cmocka_unit_test(test_sysv_memory_does_not_register),
                cmocka_unit_test(test_file_on_a_disk_does_not_register),
                cmocka_unit_test(test_mapping_of_another_userfaultfd_is_busy),
                cmocka_unit_test(test_read_only_mapping_is_tracked_when_it_becomes_writable),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
