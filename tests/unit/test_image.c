/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every flipped bit of a published snapshot is found, whatever file it is in, and so is every other change. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/image.h"
#include "common/sums.h"
#include "snapshot_fixture.h"

#define REGION_BYTES (3 * CHUNK_BYTES + 5000)

/* The second chunk is a hole, and the others have holes. */
static const uint64_t written_chunks[] = { 0, 2, 3, UINT64_MAX };
static const struct fixture_region region = { "ram", REGION_BYTES, page_mixed, written_chunks };

static char *directory;
static int manifest_fd, image_fd, sums_fd;

static int open_file(const char *name) {
        char path[4096];
        int fd;

        snprintf(path, sizeof(path), "%s/vm/one/%s", directory, name);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        return fd;
}

static int setup(void **state) {
        struct error error = { .kind = ERROR_NONE };
        struct store *store;

        directory = fixture_directory();
        store = fixture_store(directory);
        if (fixture_write(store, "vm", "one", &region, 1, 0, NULL, &error) < 0)
                fail_msg("%s", error.message);
        store_free(store);
        manifest_fd = open_file("manifest.json");
        image_fd = open_file("ram.mem");
        sums_fd = open_file("ram.sum");
        return 0;
}

static int teardown(void **state) {
        close(manifest_fd);
        close(image_fd);
        close(sums_fd);
        fixture_remove(directory);
        return 0;
}

static void reader_free_p(struct image_reader **reader) {
        image_reader_free(*reader);
}

static void manifest_free_p(struct manifest **manifest) {
        manifest_free(*manifest);
}

static int check(struct error *error) {
        CLEANUP(manifest_free_p) struct manifest *manifest = NULL;
        CLEANUP(reader_free_p) struct image_reader *reader = NULL;
        struct image_chunk chunk;
        int r;

        if (manifest_read(manifest_fd, &manifest, error) < 0 ||
            image_reader_new(manifest, 0, image_fd, sums_fd, &reader, error) < 0)
                return -1;
        while ((r = image_reader_next(reader, &chunk, error)) > 0)
                for (unsigned i = 0; i < chunk.pages; i++) {
                        uint8_t expected[CHUNK_PAGE_BYTES] = { 0 };
                        bool has_data = page_mixed(chunk.offset / CHUNK_PAGE_BYTES + i, expected);

                        /* What is handed out is right, also in a snapshot that turns out to be damaged further on. */
                        if ((chunk.offset + i * CHUNK_PAGE_BYTES) / CHUNK_BYTES == 1)
                                has_data = false;
                        assert_int_equal(chunk.sums[i] != 0, has_data);
                }
        return r;
}

static void flip(int fd, off_t bit) {
        uint8_t byte;

        assert_int_equal(pread(fd, &byte, 1, bit / 8), 1);
        byte = (uint8_t) (byte ^ (1 << bit % 8));
        assert_int_equal(pwrite(fd, &byte, 1, bit / 8), 1);
}

static void flip_is_found(int fd, off_t bit) {
        struct error error = { .kind = ERROR_NONE };

        flip(fd, bit);
        if (check(&error) != -1)
                fail_msg("flipped bit %jd is not found", (intmax_t) bit);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
        flip(fd, bit);
}

static off_t size_of(int fd) {
        struct stat status;

        assert_int_equal(fstat(fd, &status), 0);
        return status.st_size;
}

static void test_undamaged(void **state) {
        struct error error = { .kind = ERROR_NONE };

        if (check(&error) < 0)
                fail_msg("%s", error.message);
}

static void test_manifest_flips(void **state) {
        off_t bits = 8 * size_of(manifest_fd);

        for (off_t bit = 0; bit < bits; bit += 7) /* test_manifest does all */
                flip_is_found(manifest_fd, bit);
}

/* All of them in memory, for the sake of time, and some of them in the file. */
static void test_header_flips(void **state) {
        struct livesnap_sums_header header;
        uint8_t *bytes = (uint8_t *) &header;
        const uint8_t uuid[16] = { 1, 2, 3 };

        sums_header_init(&header, "ram", REGION_BYTES, uuid);
        assert_int_equal(sums_header_check(&header, "ram", REGION_BYTES, uuid, NULL), 0);
        for (unsigned bit = 0; bit < 8 * sizeof(header); bit++) {
                struct error error = { .kind = ERROR_NONE };

                bytes[bit / 8] = (uint8_t) (bytes[bit / 8] ^ (1 << bit % 8));
                assert_int_equal(sums_header_check(&header, "ram", REGION_BYTES, uuid, &error), -1);
                assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
                bytes[bit / 8] = (uint8_t) (bytes[bit / 8] ^ (1 << bit % 8));
        }
        for (off_t bit = 0; bit < 8 * LIVESNAP_SUMS_HEADER_BYTES; bit += 331)
                flip_is_found(sums_fd, bit);
}

static void test_sums_flips(void **state) {
        off_t bits = 8 * size_of(sums_fd);

        for (off_t bit = 8 * LIVESNAP_SUMS_HEADER_BYTES; bit < bits; bit += 997)
                flip_is_found(sums_fd, bit);
        flip_is_found(sums_fd, bits - 1); /* behind the last page */
}

static void test_image_flips(void **state) {
        off_t bits = 8 * size_of(image_fd);

        for (off_t bit = 0; bit < bits; bit += 8 * 32749 + 5)
                flip_is_found(image_fd, bit);
        flip_is_found(image_fd, bits - 1);
        flip_is_found(image_fd, 8 * (CHUNK_BYTES + 12345)); /* in the hole, and only its end is data afterwards */
}

static void resize_is_found(int fd, off_t size) {
        struct error error = { .kind = ERROR_NONE };
        off_t before = size_of(fd);
        uint8_t cut[16384];
        off_t from = size < before ? size : before;
        ssize_t n = pread(fd, cut, sizeof(cut), from);

        assert_int_equal(ftruncate(fd, size), 0);
        assert_int_equal(check(&error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
        assert_int_equal(ftruncate(fd, before), 0);
        assert_int_equal(pwrite(fd, cut, (size_t) n, from), n);
}

static void test_sizes(void **state) {
        const int fds[] = { manifest_fd, image_fd, sums_fd };

        for (unsigned i = 0; i < 3; i++) {
                off_t size = size_of(fds[i]);

                resize_is_found(fds[i], size - 1);
                resize_is_found(fds[i], size + 1);
                resize_is_found(fds[i], size + 4096);
                if (size < 16384)
                        resize_is_found(fds[i], 0);
        }
        test_undamaged(state);
}

/* Two changes that fit each other: only the manifest can tell. */
static void test_page_with_its_sum_replaced(void **state) {
        struct error error = { .kind = ERROR_NONE };
        uint8_t page[4096], other[4096];
        uint64_t sum, other_sum;
        off_t sum_at = LIVESNAP_SUMS_HEADER_BYTES,
              other_at = LIVESNAP_SUMS_HEADER_BYTES + 2 * LIVESNAP_SUMS_BLOCK_BYTES;
        unsigned i = 0, j = 0;

        while (!page_mixed(i, page))
                i++;
        while (!page_mixed(2 * CHUNK_PAGES + j, other))
                j++;
        assert_int_equal(pread(sums_fd, &sum, 8, sum_at + i * 8), 8);
        assert_int_equal(pread(sums_fd, &other_sum, 8, other_at + j * 8), 8);
        assert_int_equal(pwrite(sums_fd, &other_sum, 8, sum_at + i * 8), 8);
        assert_int_equal(pwrite(image_fd, other, 4096, i * 4096), 4096);
        assert_int_equal(check(&error), -1);
        assert_non_null(strstr(error.message, "digest"));
        assert_int_equal(pwrite(sums_fd, &sum, 8, sum_at + i * 8), 8);
        assert_int_equal(pwrite(image_fd, page, 4096, i * 4096), 4096);
        test_undamaged(state);
}

static void test_header_of_another(void **state) {
        struct livesnap_sums_header header;
        const uint8_t uuid[16] = { 1 }, other[16] = { 2 };
        struct error error = { .kind = ERROR_NONE };

        sums_header_init(&header, "ram", 8192, uuid);
        assert_int_equal(sums_header_check(&header, "ram", 8192, uuid, NULL), 0);
        assert_int_equal(sums_header_check(&header, "rom", 8192, uuid, NULL), -1);
        assert_int_equal(sums_header_check(&header, "ram", 8193, uuid, NULL), -1);
        assert_int_equal(sums_header_check(&header, "ram", 8192, other, &error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
}

static void test_not_regular(void **state) {
        struct error error = { .kind = ERROR_NONE };
        int saved = image_fd;

        image_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        assert_int_equal(check(&error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
        close(image_fd);
        image_fd = saved;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_undamaged),
                cmocka_unit_test(test_manifest_flips),
                cmocka_unit_test(test_header_flips),
                cmocka_unit_test(test_sums_flips),
                cmocka_unit_test(test_image_flips),
                cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_page_with_its_sum_replaced),
                cmocka_unit_test(test_header_of_another),
                cmocka_unit_test(test_not_regular),
        };

        return cmocka_run_group_tests_name("image", tests, setup, teardown);
}
