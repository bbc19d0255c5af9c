/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Writes that the kernel does for the program: which are caught, and which no userspace can catch. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 16

struct transfer {
        int fd;
        void *target;
        size_t bytes;
};

static int read_into(void *argument) {
        struct transfer *transfer = argument;
        ssize_t n = read(transfer->fd, transfer->target, transfer->bytes);

        return n < 0 ? -errno : (int) n;
}

static int pipe_with(const char *text) {
        int fds[2];

        assert_int_equal(pipe(fds), 0);
        assert_int_equal(write(fds[1], text, strlen(text)), strlen(text));
        close(fds[1]);
        return fds[0];
}

static void test_read_blocks_and_goes_on(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct transfer transfer = { .fd = pipe_with("hello"), .target = arena.memory, .bytes = 5 };
        struct actor reader;
        struct uffd_msg message;

        actor_start(&reader, read_into, &transfer);
        message = next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(message.arg.pagefault.flags, UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
        assert_int_equal(arena.memory[0], 1);
        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), PAGE_BYTES), 0);
        assert_int_equal(actor_join(&reader), 5);
        assert_memory_equal(arena.memory, "hello", 5);
        close(transfer.fd);
        arena_free(&arena);
}

/* Why a userfaultfd that root has not granted will not do: the program would see EFAULT. */
static void test_user_mode_only_breaks_read(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct transfer transfer = { .fd = pipe_with("hello"), .target = arena.memory, .bytes = 5 };

        close(arena.uffd);
        arena.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
        assert_true(arena.uffd >= 0);
        assert_int_equal(uffd_handshake(arena.uffd, PLAIN_FEATURES, NULL), 0);
        assert_int_equal(uffd_register_wp(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(read_into(&transfer), -EFAULT);
        assert_no_message(arena.uffd);
        assert_int_equal(arena.memory[0], 1);
        close(transfer.fd);
        arena_free(&arena);
}

/* The hole that seals close. */
static void test_pwrite_to_the_object_is_not_caught(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(pwrite(arena.fd, "x", 1, 0), 1);
        assert_no_message(arena.uffd);
        assert_int_equal(arena.memory[0], 'x');
        arena_free(&arena);
}

static void test_another_mapping_is_not_caught(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        uint8_t *other = mmap(NULL, arena.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0);

        assert_ptr_not_equal(other, MAP_FAILED);
        touch(other);
        assert_no_message(arena.uffd);
        assert_int_equal(arena.memory[0], 0xee);
        munmap(other, arena.bytes);
        arena_free(&arena);
}

/* The limit that we state: pages pinned before the cut. */
static void test_registered_buffers_are_not_caught(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct iovec buffer = { .iov_base = arena.memory, .iov_len = arena.bytes };
        struct io_uring ring;
        struct io_uring_sqe *sqe;
        struct io_uring_cqe *cqe;
        int fd = pipe_with("hello");

        assert_int_equal(uffd_disarm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        if (io_uring_queue_init(4, &ring, 0) < 0) {
                arena_free(&arena);
                platform_skip("io_uring is not allowed here");
        }
        assert_int_equal(io_uring_register_buffers(&ring, &buffer, 1), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        sqe = io_uring_get_sqe(&ring);
        io_uring_prep_read_fixed(sqe, fd, arena.memory, 5, 0, 0);
        assert_int_equal(io_uring_submit(&ring), 1);
        assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
        assert_int_equal(cqe->res, 5);
        assert_no_message(arena.uffd);
        assert_memory_equal(arena.memory, "hello", 5);
        io_uring_queue_exit(&ring);
        close(fd);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_read_blocks_and_goes_on),
                cmocka_unit_test(test_user_mode_only_breaks_read),
                cmocka_unit_test(test_pwrite_to_the_object_is_not_caught),
                cmocka_unit_test(test_another_mapping_is_not_caught),
                cmocka_unit_test(test_registered_buffers_are_not_caught),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
