/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Reading ahead: the right bytes, in the order asked for, with a ring and without, up to the last odd one. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/readahead.h"

#define BLOCK ((size_t) 65536)
#define DEPTH 3
#define N_BLOCKS 20
#define TAIL ((size_t) 777)

static int new_file(void) {
        static uint8_t block[BLOCK];
        int fd = memfd_create("readahead", MFD_CLOEXEC);

        assert_true(fd >= 0);
        for (unsigned i = 0; i < N_BLOCKS; i++) {
                memset(block, (int) i + 1, BLOCK);
                assert_int_equal(pwrite(fd, block, BLOCK, (off_t) (i * BLOCK)), BLOCK);
        }
        assert_int_equal(ftruncate(fd, (off_t) ((N_BLOCKS - 1) * BLOCK + TAIL)), 0);
        return fd;
}

static size_t expected_bytes(unsigned block) {
        return block == N_BLOCKS - 1 ? TAIL : BLOCK;
}

static void read_whole(bool may_use_ring) {
        struct readahead *readahead;
        int fd = new_file();
        unsigned queued = 0;
        uint8_t *data;

        assert_int_equal(readahead_new(DEPTH, BLOCK, may_use_ring, &readahead), 0);
        for (unsigned taken = 0; taken < N_BLOCKS; taken++) {
                for (; queued < N_BLOCKS && readahead_has_room(readahead); queued++)
                        readahead_queue(readahead, fd, queued * BLOCK, BLOCK, expected_bytes(queued));
                assert_int_equal(readahead_take(readahead, &data), expected_bytes(taken));
                assert_int_equal((uintptr_t) data % 4096, 0);
                for (size_t i = 0; i < expected_bytes(taken); i++)
                        if (data[i] != taken + 1)
                                fail_msg("block %u has %u at %zu", taken, data[i], i);
        }
        assert_true(readahead_is_empty(readahead));
        readahead_free(readahead);
        close(fd);
}

static void test_with_ring(void **state) {
        read_whole(true);
}

static void test_without_ring(void **state) {
        read_whole(false);
}

static void test_end_of_file(void **state) {
        for (int may_use_ring = 0; may_use_ring < 2; may_use_ring++) {
                struct readahead *readahead;
                int fd = new_file();
                uint8_t *data;

                assert_int_equal(readahead_new(DEPTH, BLOCK, may_use_ring, &readahead), 0);
                readahead_queue(readahead, fd, (N_BLOCKS - 1) * BLOCK, BLOCK, BLOCK);
                readahead_queue(readahead, fd, N_BLOCKS * BLOCK, BLOCK, BLOCK);
                readahead_queue(readahead, -1, 0, BLOCK, BLOCK);
                assert_int_equal(readahead_take(readahead, &data), TAIL);
                assert_int_equal(readahead_take(readahead, &data), 0);
                assert_int_equal(readahead_take(readahead, &data), -EBADF);
                readahead_free(readahead);
                close(fd);
        }
}

static void test_free_in_flight(void **state) {
        struct readahead *readahead;
        int fd = new_file();

        assert_int_equal(readahead_new(DEPTH, BLOCK, true, &readahead), 0);
        for (unsigned i = 0; i < DEPTH; i++)
                readahead_queue(readahead, fd, i * BLOCK, BLOCK, BLOCK);
        assert_false(readahead_has_room(readahead));
        readahead_free(readahead);
        readahead_free(NULL);
        close(fd);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_with_ring),
                cmocka_unit_test(test_without_ring),
                cmocka_unit_test(test_end_of_file),
                cmocka_unit_test(test_free_in_flight),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
