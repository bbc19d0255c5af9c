/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Putting snapshots back: byte for byte, all or nothing, and never what does not match its checksum. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "livesnap/livesnap.h"
#include "tests/unit/descriptors.h"
#include "tests/unit/fake_peer.h"
#include "tests/unit/snapshot_fixture.h"

#define MIXED_BYTES ((UINT64_C(9) << 20) + 4096 + 123)

static bool page_sparse(uint64_t index, uint8_t *page) {
        if (index != 5 && index != 1024)
                return false;
        memset(page, (int) index, 4096);
        return true;
}

static const struct fixture_region mixed = { .name = "mixed", .bytes = MIXED_BYTES, .page = page_mixed };
static const struct fixture_region sparse = { .name = "sparse", .bytes = UINT64_C(8) << 20, .page = page_sparse };

/* A published snapshot d/n of two regions, and a peer that answers one restore of it. */
struct fixture {
        unsigned n_descriptors;
        char *directory;
        char output[256];
        json_t *snapshot;
        struct fake_step steps[8];
        char *texts[8];
        size_t n_steps;
        struct fake_peer *peer;
        struct livesnap *livesnap;
};

static int setup(void **state) {
        const struct fixture_region regions[] = { mixed, sparse };
        struct fixture *fixture = calloc(1, sizeof(*fixture));
        struct error error = { 0 };
        struct store *store;

        assert_non_null(fixture);
        fixture->n_descriptors = descriptors_count();
        fixture->directory = fixture_directory();
        store = fixture_store(fixture->directory);
        if (fixture_write(store, "d", "n", regions, 2, 0, &fixture->snapshot, &error) < 0)
                fail_msg("%s", error.message);
        store_free(store);
        snprintf(fixture->output, sizeof(fixture->output), "%s/output", fixture->directory);
        *state = fixture;
        return 0;
}

static int teardown(void **state) {
        struct fixture *fixture = *state;

        livesnap_close(fixture->livesnap);
        if (fixture->peer)
                fake_peer_stop(fixture->peer);
        for (size_t i = 0; i < fixture->n_steps; i++) {
                for (unsigned k = 0; k < fixture->steps[i].n; k++)
                        close(fixture->steps[i].fds[k]);
                free(fixture->texts[i]);
        }
        json_decref(fixture->snapshot);
        fixture_remove(fixture->directory);
        assert_int_equal(descriptors_count(), fixture->n_descriptors);
        free(fixture);
        return 0;
}

static void add_step(struct fixture *fixture, struct fake_step step, char *text) {
        fixture->texts[fixture->n_steps] = text;
        fixture->steps[fixture->n_steps++] = step;
}

static char *snapshot_path(const struct fixture *fixture, const char *file, const char *suffix) {
        char *path;

        assert_true(asprintf(&path, "%s/d/n/%s%s", fixture->directory, file, suffix) > 0);
        return path;
}

static int open_file(const struct fixture *fixture, const char *file, const char *suffix) {
        char *path = snapshot_path(fixture, file, suffix);
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        free(path);
        return fd;
}

static void will_show(struct fixture *fixture) {
        json_t *reply = json_pack("{s:{s:O}}", "parameters", "snapshot", fixture->snapshot);
        char *text = json_dumps(reply, 0);

        json_decref(reply);
        add_step(fixture, (struct fake_step) EXPECT("ShowSnapshot"), NULL);
        add_step(fixture, (struct fake_step) SAY(text), text);
}

static void will_open(struct fixture *fixture, const char *region) {
        struct fake_step say = {
                .kind = FAKE_SAY,
                .text = "{\"parameters\":{\"manifest\":0,\"regions\":[{\"name\":\"x\",\"bytes\":1,\"image\":1,\"sums\":"
                        "2}]}}",
                .n = 3,
                .fds = { open_file(fixture, "manifest.json", ""), open_file(fixture, region, ".mem"),
                         open_file(fixture, region, ".sum") },
        };

        add_step(fixture, (struct fake_step) EXPECT("OpenSnapshot"), NULL);
        add_step(fixture, say, NULL);
}

static struct livesnap *connect_to(struct fixture *fixture) {
        fixture->peer = fake_peer_start(fixture->steps, fixture->n_steps);
        fixture->livesnap = livesnap_connect(fake_peer_path(fixture->peer));
        assert_non_null(fixture->livesnap);
        return fixture->livesnap;
}

static void flip(struct fixture *fixture, const char *file, const char *suffix, off_t offset) {
        char *path = snapshot_path(fixture, file, suffix);
        int fd;
        uint8_t byte;

        chmod(path, 0600);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(pread(fd, &byte, 1, offset), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
        close(fd);
        free(path);
}

static void test_to_files(void **state) {
        struct fixture *fixture = *state;
        struct livesnap_restored *restored;
        struct stat status;

        will_show(fixture);
        will_open(fixture, "mixed");
        will_open(fixture, "sparse");
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", NULL, fixture->output, NULL, &restored), 0);
        assert_int_equal(restored->n_regions, 2);
        assert_int_equal(restored->bytes, mixed.bytes + sparse.bytes);
        fixture_compare(restored->regions[0].path, &mixed);
        fixture_compare(restored->regions[1].path, &sparse);
        assert_int_equal(stat(restored->regions[1].path, &status), 0);
        assert_true(status.st_blocks * 512 <= 16384); /* sparse stays sparse */
        assert_int_equal(status.st_mode & 0777, 0600);
        assert_int_equal(fixture_entries("%s", fixture->output), 2);
        livesnap_restored_free(restored);
}

static void test_one_region(void **state) {
        struct fixture *fixture = *state;

        will_show(fixture);
        will_open(fixture, "sparse");
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", "sparse", fixture->output, NULL, NULL), 0);
        assert_int_equal(fixture_entries("%s", fixture->output), 1);
}

static void test_unknown_region(void **state) {
        struct fixture *fixture = *state;

        will_show(fixture);
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", "other", fixture->output, NULL, NULL), -1);
        assert_string_equal(livesnap_get_error_name(), "io.livesnap.NoSuchRegion");
        assert_int_equal(access(fixture->output, F_OK), -1);
}

static void test_no_overwrite(void **state) {
        struct fixture *fixture = *state;
        char path[300];
        int fd;

        assert_int_equal(mkdir(fixture->output, 0700), 0);
        snprintf(path, sizeof(path), "%s/sparse.mem", fixture->output);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "mine", 4), 4);
        close(fd);
        will_show(fixture);
        will_open(fixture, "mixed");
        will_open(fixture, "sparse");
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", NULL, fixture->output, NULL, NULL), -1);
        assert_int_equal(livesnap_get_errno(), EEXIST);
        /* Neither touched nor joined by the other one. */
        assert_int_equal(fixture_entries("%s", fixture->output), 1);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(read(fd, path, sizeof(path)), 4);
        close(fd);
}

static void assert_refused_and_nothing_left(struct fixture *fixture) {
        will_show(fixture);
        will_open(fixture, "mixed");
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", "mixed", fixture->output, NULL, NULL), -1);
        assert_string_equal(livesnap_get_error_name(), "io.livesnap.SnapshotCorrupt");
        assert_int_equal(livesnap_get_errno(), EBADMSG);
        assert_int_equal(access(fixture->output, F_OK), -1);
}

static void test_flipped_image(void **state) {
        flip(*state, "mixed", ".mem", (off_t) MIXED_BYTES - 1);
        assert_refused_and_nothing_left(*state);
}

static void test_flipped_sums(void **state) {
        flip(*state, "mixed", ".sum", 4096 + 4096);
        assert_refused_and_nothing_left(*state);
}

static void test_flipped_manifest(void **state) {
        flip(*state, "manifest.json", "", 40);
        assert_refused_and_nothing_left(*state);
}

static void test_evil_name(void **state) {
        struct fixture *fixture = *state;
        json_t *region = json_array_get(json_object_get(fixture->snapshot, "regions"), 0);

        json_object_set_new(region, "name", json_string("../../evil"));
        will_show(fixture);
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", NULL, fixture->output, NULL, NULL), -1);
        assert_string_equal(livesnap_get_error_name(), "io.livesnap.InvalidName");
        assert_int_equal(access(fixture->output, F_OK), -1);
}

static int stop_at_once(void *data, uint64_t bytes_done, uint64_t bytes_total) {
        return 1;
}

static void test_cancel(void **state) {
        struct fixture *fixture = *state;
        struct livesnap_restore_callback callback = { .function = stop_at_once };

        will_show(fixture);
        will_open(fixture, "mixed");
        assert_int_equal(livesnap_restore(connect_to(fixture), "d", "n", "mixed", fixture->output, &callback, NULL),
                         -1);
        assert_string_equal(livesnap_get_error_name(), "io.livesnap.Cancelled");
        assert_int_equal(access(fixture->output, F_OK), -1);
}

/* Old content everywhere: what the snapshot has as zero must become zero. */
static int dirty_memfd(uint64_t bytes) {
        int fd = memfd_create("target", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        uint8_t page[4096];

        memset(page, 0x5a, sizeof(page));
        for (uint64_t offset = 0; offset < bytes; offset += sizeof(page))
                assert_int_equal(pwrite(fd, page, sizeof(page), (off_t) offset), sizeof(page));
        return fd;
}

static void compare_fd(int fd, const struct fixture_region *region) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        assert_int_equal(ftruncate(fd, (off_t) region->bytes), 0);
        assert_int_equal(fchmod(fd, 0600), 0); /* as the images of a store are */
        fixture_compare(path, region);
}

static void test_to_fd(void **state) {
        struct fixture *fixture = *state;
        int fd = dirty_memfd(sparse.bytes);

        will_open(fixture, "sparse");
        assert_int_equal(livesnap_restore_to_fd(connect_to(fixture), "d", "n", "sparse", fd, NULL), 0);
        compare_fd(fd, &sparse);
        close(fd);
}

static void test_to_small_fd(void **state) {
        struct fixture *fixture = *state;
        int fd = dirty_memfd(4096);

        will_open(fixture, "mixed");
        assert_int_equal(livesnap_restore_to_fd(connect_to(fixture), "d", "n", "mixed", fd, NULL), 0);
        compare_fd(fd, &mixed);
        close(fd);
}

static void test_to_shared_memory(void **state) {
        struct fixture *fixture = *state;
        int fd = dirty_memfd(MIXED_BYTES + 4096);
        size_t bytes = (MIXED_BYTES + 8191) & ~4095ull;
        uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        assert_ptr_not_equal(memory, MAP_FAILED);
        will_open(fixture, "mixed");
        assert_int_equal(livesnap_restore_to_memory(connect_to(fixture), "d", "n", "mixed", memory, bytes, NULL), 0);
        assert_int_equal(memory[MIXED_BYTES], 0x5a); /* behind the end: left alone */
        munmap(memory, bytes);
        compare_fd(fd, &mixed);
        close(fd);
}

static void test_to_private_memory(void **state) {
        struct fixture *fixture = *state;
        uint8_t *memory = mmap(NULL, sparse.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint8_t expected[4096];

        assert_ptr_not_equal(memory, MAP_FAILED);
        memset(memory, 0x5a, 1 << 20);
        will_open(fixture, "sparse");
        assert_int_equal(
                livesnap_restore_to_memory(connect_to(fixture), "d", "n", "sparse", memory, sparse.bytes, NULL), 0);
        for (uint64_t page = 0; page < sparse.bytes / 4096; page++) {
                memset(expected, 0, sizeof(expected));
                page_sparse(page, expected);
                assert_memory_equal(memory + page * 4096, expected, 4096);
        }
        munmap(memory, sparse.bytes);
}

static void test_to_too_little_memory(void **state) {
        struct fixture *fixture = *state;
        uint8_t *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        will_open(fixture, "sparse");
        assert_int_equal(livesnap_restore_to_memory(connect_to(fixture), "d", "n", "sparse", memory, 4096, NULL), -1);
        assert_string_equal(livesnap_get_error_name(), LIVESNAP_ERROR_BAD_ARGUMENT);
        munmap(memory, 4096);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_to_files),
                TEST(test_one_region),
                TEST(test_unknown_region),
                TEST(test_no_overwrite),
                TEST(test_flipped_image),
                TEST(test_flipped_sums),
                TEST(test_flipped_manifest),
                TEST(test_evil_name),
                TEST(test_cancel),
                TEST(test_to_fd),
                TEST(test_to_small_fd),
                TEST(test_to_shared_memory),
                TEST(test_to_private_memory),
                TEST(test_to_too_little_memory),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
