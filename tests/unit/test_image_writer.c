/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The image writer on real filesystems: contents, sparseness, failures, and that no chunk is lost. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/image_writer_io.h"
#include "daemon/image_writer_rate.h"
#include "snapshot_fixture.h"

struct state {
        char *directory;
        struct store *store;
};

static int setup(void **state) {
        struct state *fixture = calloc(1, sizeof(*fixture));

        fixture->directory = fixture_directory();
        fixture->store = fixture_store(fixture->directory);
        *state = fixture;
        return 0;
}

static int teardown(void **state) {
        struct state *fixture = *state;

        store_free(fixture->store);
        fixture_remove(fixture->directory);
        free(fixture);
        return 0;
}

static json_int_t number(const json_t *snapshot, const char *member) {
        assert_true(json_is_integer(json_object_get(snapshot, member)));
        return json_integer_value(json_object_get(snapshot, member));
}

static const char *image_path(const json_t *snapshot, unsigned region) {
        return json_string_value(json_object_get(json_array_get(json_object_get(snapshot, "regions"), region), "path"));
}

/* Writes a region, and looks at everything that must then be true. Return: the Snapshot. */
static json_t *write_and_check(struct store *store, const char *name, const struct fixture_region *region) {
        struct error error = { .kind = ERROR_NONE };
        json_t *snapshot;

        if (fixture_write(store, "vm", name, region, 1, 0, &snapshot, &error) < 0)
                fail_msg("%s", error.message);
        fixture_compare(image_path(snapshot, 0), region);
        if (fixture_verify(store, "vm", name, &error) < 0)
                fail_msg("%s", error.message);
        assert_int_equal(fixture_entries("%s/.work", store_path(store)), 0);
        return snapshot;
}

static void test_sizes(void **state) {
        struct state *fixture = *state;
        const struct {
                const char *name;
                uint64_t bytes;
        } sizes[] = {
                { "byte", 1 },
                { "page", 4096 },
                { "page-and-byte", 4097 },
                { "chunk", CHUNK_BYTES },
                { "chunk-and-page", CHUNK_BYTES + 4096 },
                { "chunk-less-byte", CHUNK_BYTES - 1 },
                { "many", 40 * CHUNK_BYTES + 12345 },
                { "nothing", 0 },
        };

        for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
                struct fixture_region region = { .name = "ram", .bytes = sizes[i].bytes, .page = page_random };
                json_t *snapshot = write_and_check(fixture->store, sizes[i].name, &region);

                assert_int_equal(number(snapshot, "bytes_written"), sizes[i].bytes);
                assert_int_equal(number(snapshot, "pages_zero"), 0);
                json_decref(snapshot);
        }
}

static void test_zero(void **state) {
        struct state *fixture = *state;
        struct fixture_region region = { .name = "ram", .bytes = 5 * CHUNK_BYTES + 5000, .page = page_zero };
        json_t *snapshot = write_and_check(fixture->store, "zero", &region);
        struct stat status;

        assert_int_equal(number(snapshot, "bytes_written"), 0);
        assert_int_equal(number(snapshot, "pages_zero"), 5 * CHUNK_PAGES + 2);
        assert_int_equal(stat(image_path(snapshot, 0), &status), 0);
        assert_int_equal(status.st_blocks, 0);
        json_decref(snapshot);
}

static void test_mixed(void **state) {
        struct state *fixture = *state;
        struct fixture_region region = { .name = "ram", .bytes = 20 * CHUNK_BYTES + 777, .page = page_mixed };
        json_t *snapshot = write_and_check(fixture->store, "mixed", &region);
        json_int_t zero = number(snapshot, "pages_zero");

        assert_in_range(zero, 3 * CHUNK_PAGES, 17 * CHUNK_PAGES);
        json_decref(snapshot);
}

/* What patch_release() is given back; the buffers are the test's own. */
static void patch_release(void *data, struct chunk *chunk) {
        atomic_fetch_add((atomic_uint *) data, 1);
}

#define PATCHED_CHUNKS 3
#define PATCHED_BYTES (PATCHED_CHUNKS * CHUNK_BYTES - 100)

/* The plain chunks of a region first, then pages over them, one of them twice, one that becomes zero, and the last. */
static void test_patch(void **state) {
        struct state *fixture = *state;
        static const uint64_t numbers[] = { 1, 5, 511, 512, 513, 1535 };
        const struct image_writer_region region = { "ram", PATCHED_BYTES };
        const struct fixture_region whole = { .name = "ram", .bytes = PATCHED_BYTES };
        uint8_t *expected = aligned_alloc(4096, PATCHED_CHUNKS * CHUNK_BYTES), *got, *data;
        uint64_t pages[2][CHUNK_PAGES] = { 0 };
        struct chunk chunks[PATCHED_CHUNKS + 2] = { 0 };
        struct error error = { .kind = ERROR_NONE };
        struct image_writer *writer;
        atomic_uint released = 0;
        json_t *figures = fixture_figures(1), *snapshot = NULL;
        int fd;

        assert_int_equal(image_writer_new(fixture->store,
                                          &(struct image_writer_spec){ .domain = "vm",
                                                                       .name = "patched",
                                                                       .n_regions = 1,
                                                                       .regions = &region,
                                                                       .release = patch_release,
                                                                       .data = &released },
                                          &writer, &error),
                         0);
        assert_null(image_writer_full_reason(writer));
        for (unsigned i = 0; i < PATCHED_CHUNKS * CHUNK_PAGES; i++)
                if (i == 5 || !page_random(i, expected + (size_t) i * 4096))
                        memset(expected + (size_t) i * 4096, 0, 4096);
        data = aligned_alloc(4096, PATCHED_CHUNKS * CHUNK_BYTES + 2 * CHUNK_BYTES);
        memcpy(data, expected, PATCHED_CHUNKS * CHUNK_BYTES);
        for (unsigned i = 0; i < PATCHED_CHUNKS; i++) {
                chunks[i] = (struct chunk){ .data = data + (size_t) i * CHUNK_BYTES, .bytes = CHUNK_BYTES, .index = i };
                if (i == PATCHED_CHUNKS - 1)
                        chunks[i].bytes -= 100;
                image_writer_submit(writer, &chunks[i]);
        }
        for (unsigned round = 0; round < 2; round++) {
                struct chunk *chunk = &chunks[PATCHED_CHUNKS + round];

                *chunk = (struct chunk){ .data = data + (PATCHED_CHUNKS + round) * (size_t) CHUNK_BYTES,
                                         .n_pages = sizeof(numbers) / sizeof(numbers[0]),
                                         .pages = pages[round] };
                for (unsigned i = 0; i < chunk->n_pages; i++) {
                        pages[round][i] = numbers[i];
                        memset(chunk->data + (size_t) i * 4096, numbers[i] == 512 ? 0 : (int) (i + 1 + 10 * round),
                               4096);
                        memcpy(expected + numbers[i] * 4096, chunk->data + (size_t) i * 4096, 4096);
                }
                image_writer_submit(writer, chunk);
                assert_int_equal(image_writer_flush(writer, &error), 0);
        }
        if (image_writer_publish(writer, figures, 0, &snapshot, &error) < 0)
                fail_msg("%s", error.message);
        image_writer_free(writer);
        assert_int_equal(released, PATCHED_CHUNKS + 2);
        assert_int_equal(number(snapshot, "pages_zero"), 1);

        got = malloc(whole.bytes);
        fd = open(image_path(snapshot, 0), O_RDONLY);
        assert_int_equal(read(fd, got, whole.bytes), whole.bytes);
        assert_memory_equal(got, expected, whole.bytes);
        close(fd);
        if (fixture_verify(fixture->store, "vm", "patched", &error) < 0)
                fail_msg("%s", error.message);
        json_decref(snapshot);
        json_decref(figures);
        free(got);
        free(data);
        free(expected);
}

static void test_sparse_64_gib(void **state) {
        struct state *fixture = *state;
        const uint64_t last = (UINT64_C(64) << 30) / CHUNK_BYTES - 1;
        const uint64_t chunks[] = { 17, 0, last, 9999, UINT64_MAX };
        struct fixture_region region = { "ram", UINT64_C(64) << 30, page_mixed, chunks };
        struct timespec before, after;
        struct stat status;
        json_t *snapshot;
        char *sums;

        clock_gettime(CLOCK_MONOTONIC, &before);
        snapshot = write_and_check(fixture->store, "sparse", &region);
        clock_gettime(CLOCK_MONOTONIC, &after);
        assert_in_range(after.tv_sec - before.tv_sec, 0, 20); /* not the minutes that 64 GiB of zeros would take */
        assert_int_equal(stat(image_path(snapshot, 0), &status), 0);
        assert_in_range(status.st_blocks, 1, 4 * CHUNK_BYTES / 512);
        assert_true(asprintf(&sums, "%s/vm/sparse/ram.sum", fixture->directory) > 0);
        assert_int_equal(stat(sums, &status), 0);
        assert_in_range(status.st_blocks, 1, 64);
        free(sums);
        json_decref(snapshot);
}

static void test_several_regions(void **state) {
        struct state *fixture = *state;
        const uint64_t chunks[] = { 3, 1, UINT64_MAX };
        const struct fixture_region regions[] = {
                { "a", 7 * CHUNK_BYTES + 1, page_random, NULL },
                { "b", 5 * CHUNK_BYTES, page_mixed, chunks },
                { "c", 4096, page_zero, NULL },
        };
        struct error error = { .kind = ERROR_NONE };
        json_t *snapshot;

        assert_int_equal(fixture_write(fixture->store, "vm", "several", regions, 3, 0, &snapshot, &error), 0);
        for (unsigned i = 0; i < 3; i++)
                fixture_compare(image_path(snapshot, i), &regions[i]);
        assert_int_equal(fixture_verify(fixture->store, "vm", "several", &error), 0);
        assert_string_equal(json_string_value(json_object_get(snapshot, "snapshot")), "vm/several");
        assert_int_equal(number(snapshot, "uid"), 1000);
        assert_true(number(snapshot, "duration_us") > 0);
        json_decref(snapshot);
}

static void test_rate(void **state) {
        struct state *fixture = *state;
        struct fixture_region region = { .name = "ram", .bytes = 10 * CHUNK_BYTES, .page = page_random };
        struct error error = { .kind = ERROR_NONE };
        struct timespec before, after;
        double seconds;

        clock_gettime(CLOCK_MONOTONIC, &before);
        assert_int_equal(fixture_write(fixture->store, "vm", "slow", &region, 1, 20 * CHUNK_BYTES, NULL, &error), 0);
        clock_gettime(CLOCK_MONOTONIC, &after);
        seconds = (double) (after.tv_sec - before.tv_sec) + (double) (after.tv_nsec - before.tv_nsec) / 1e9;
        /* 10 chunks at 20 a second, less the 2 that were saved up and the last, which is not waited for */
        assert_true(seconds >= 0.3);
}

static void test_token_bucket(void **state) {
        struct image_rate rate;
        uint64_t now = UINT64_C(5000000000), taken = 0;

        image_rate_init(&rate, 0, now);
        image_rate_take(&rate, UINT64_MAX, now);
        assert_int_equal(image_rate_wait_ns(&rate, now), 0);

        image_rate_init(&rate, 1000000, now);
        for (uint64_t end = now + UINT64_C(10000000000); now < end; now += 1000000)
                if (image_rate_wait_ns(&rate, now) == 0) {
                        image_rate_take(&rate, 50000, now);
                        taken += 50000;
                }
        assert_in_range(taken, 10000000 - 50000, 10000000 + 100000 + 50000);

        now += UINT64_C(3600000000000); /* an hour of nothing saves no more than a tenth of a second */
        image_rate_take(&rate, 100000 + 1000, now);
        assert_int_equal(image_rate_wait_ns(&rate, now), 1000000);
}

static void test_names(void **state) {
        struct state *fixture = *state;
        struct fixture_region region = { .name = "ram", .bytes = 4096, .page = page_random };
        struct error error = { .kind = ERROR_NONE };
        json_t *first, *second;
        const char *name;

        assert_int_equal(fixture_write(fixture->store, "vm", NULL, &region, 1, 0, &first, &error), 0);
        assert_int_equal(fixture_write(fixture->store, "vm", NULL, &region, 1, 0, &second, &error), 0);
        name = json_string_value(json_object_get(first, "snapshot"));
        assert_int_equal(strlen(name), strlen("vm/20261122T204505Z"));
        assert_string_not_equal(name, json_string_value(json_object_get(second, "snapshot")));

        assert_int_equal(fixture_write(fixture->store, "vm", name + 3, &region, 1, 0, NULL, &error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_EXISTS);
        error.kind = ERROR_NONE;
        assert_int_equal(fixture_write(fixture->store, "..", "x", &region, 1, 0, NULL, &error), -1);
        assert_int_equal(error.kind, ERROR_INVALID_NAME);
        error.kind = ERROR_NONE;
        assert_int_equal(fixture_write(fixture->store, "vm", "a/b", &region, 1, 0, NULL, &error), -1);
        assert_int_equal(error.kind, ERROR_INVALID_NAME);
        json_decref(first);
        json_decref(second);
}

static void ignore_release(void *data, struct chunk *chunk) {
        ++*(unsigned *) data;
}

static struct image_writer *start_writer(struct store *store, const char *name, unsigned *released) {
        static const struct image_writer_region region = { "ram", CHUNK_BYTES };
        struct image_writer_spec spec = { .domain = "vm",
                                          .name = name,
                                          .n_regions = 1,
                                          .regions = &region,
                                          .release = ignore_release,
                                          .data = released };
        struct error error = { .kind = ERROR_NONE };
        struct image_writer *writer;

        if (image_writer_new(store, &spec, &writer, &error) < 0)
                fail_msg("%s", error.message);
        return writer;
}

/* Both found the name free at the start: the rename decides. A name that the writer made gives way. */
static void test_rename_collision(void **state) {
        struct state *fixture = *state;
        unsigned released = 0;
        struct image_writer *winner = start_writer(fixture->store, "same", &released);
        struct image_writer *loser = start_writer(fixture->store, "same", &released);
        struct image_writer *flexible = start_writer(fixture->store, NULL, &released);
        struct image_writer *taker = start_writer(fixture->store, image_writer_name(flexible), &released);
        json_t *figures = fixture_figures(1), *snapshot;
        struct error error = { .kind = ERROR_NONE };
        char expected[80];

        assert_int_equal(image_writer_publish(winner, figures, 0, &snapshot, &error), 0);
        json_decref(snapshot);
        assert_int_equal(image_writer_publish(loser, figures, 0, &snapshot, &error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_EXISTS);
        error.kind = ERROR_NONE;
        image_writer_free(winner);
        image_writer_free(loser);
        assert_int_equal(fixture_verify(fixture->store, "vm", "same", &error), 0);

        snprintf(expected, sizeof(expected), "vm/%s-2", image_writer_name(flexible));
        assert_int_equal(image_writer_publish(taker, figures, 0, &snapshot, &error), 0);
        json_decref(snapshot);
        assert_int_equal(image_writer_publish(flexible, figures, 0, &snapshot, &error), 0);
        assert_string_equal(json_string_value(json_object_get(snapshot, "snapshot")), expected);
        json_decref(snapshot);
        image_writer_free(taker);
        image_writer_free(flexible);
        store_dispatch(fixture->store);
        assert_int_equal(fixture_entries("%s/.work", fixture->directory), 0);
        assert_int_equal(fixture_entries("%s/vm", fixture->directory), 3);
        json_decref(figures);
}

/* Given up in the middle: chunks come back, nothing stays. */
static void test_free_without_publish(void **state) {
        struct state *fixture = *state;
        unsigned released = 0;
        struct image_writer *writer = start_writer(fixture->store, "dropped", &released);
        struct chunk chunk = { .bytes = CHUNK_BYTES };

        assert_int_equal(fixture_entries("%s/.work", fixture->directory), 1);
        assert_int_equal(posix_memalign((void **) &chunk.data, 4096, CHUNK_BYTES), 0);
        memset(chunk.data, 7, CHUNK_BYTES);
        image_writer_submit(writer, &chunk);
        image_writer_free(writer);
        assert_int_equal(released, 1);
        store_dispatch(fixture->store);
        free(chunk.data);
        assert_int_equal(fixture_entries("%s/.work", fixture->directory), 0);
        assert_int_equal(fixture_entries("%s/vm", fixture->directory), -1);
}

static void test_missing_figure(void **state) {
        struct state *fixture = *state;
        unsigned released = 0;
        struct image_writer *writer = start_writer(fixture->store, "no-figures", &released);
        json_t *figures = fixture_figures(1), *snapshot;
        struct error error = { .kind = ERROR_NONE };

        json_object_del(figures, "arm_us");
        assert_int_equal(image_writer_publish(writer, figures, 0, &snapshot, &error), -1);
        assert_non_null(strstr(error.message, "arm_us"));
        image_writer_free(writer);
        store_dispatch(fixture->store);
        assert_int_equal(fixture_entries("%s/.work", fixture->directory), 0);
        json_decref(figures);
}

/* A store on a small filesystem of its own. */
static bool mount_small(const char *directory, const char *type, const char *options) {
        return mount(type, directory, type, 0, options) == 0;
}

static void write_on(const char *type, const char *options, uint64_t bytes, int expected) {
        struct fixture_region region = { .name = "ram", .bytes = bytes, .page = page_random };
        struct error error = { .kind = ERROR_NONE };
        char *directory = fixture_directory();
        struct store *store;
        json_t *snapshot = NULL;

        if (!mount_small(directory, type, options)) {
                fixture_remove(directory);
                skip();
        }
        store = fixture_store(directory);
        assert_int_equal(fixture_write(store, "vm", "there", &region, 1, 0, &snapshot, &error), expected);
        if (expected == 0) {
                fixture_compare(image_path(snapshot, 0), &region);
                assert_int_equal(fixture_verify(store, "vm", "there", &error), 0);
        } else {
                assert_int_equal(error.kind, ERROR_STORE_FAILED);
                assert_non_null(strstr(error.message, "No space left"));
                assert_non_null(strstr(error.message, directory));
                assert_int_equal(fixture_entries("%s/vm", directory), -1);

                /* The space is free again, and the next one works. */
                region.bytes = CHUNK_BYTES;
                error.kind = ERROR_NONE;
                assert_int_equal(fixture_write(store, "vm", "next", &region, 1, 0, NULL, &error), 0);
        }
        assert_int_equal(fixture_entries("%s/.work", directory), 0);
        json_decref(snapshot);
        store_free(store);
        assert_int_equal(umount(directory), 0);
        fixture_remove(directory);
}

static void test_no_space(void **state) {
        write_on("tmpfs", "size=8m", 64 * CHUNK_BYTES, -1);
}

static void test_tmpfs(void **state) {
        write_on("tmpfs", "size=64m", 10 * CHUNK_BYTES + 99, 0);
}

/* It has no direct I/O at all: open() with O_DIRECT is refused. */
static void test_o_direct_refused(void **state) {
        write_on("ramfs", "", 10 * CHUNK_BYTES + 99, 0);
}

static void test_read_only(void **state) {
        struct error error = { .kind = ERROR_NONE };
        char *directory = fixture_directory();
        struct store *store;

        if (!mount_small(directory, "tmpfs", "size=8m")) {
                fixture_remove(directory);
                skip();
        }
        store_free(fixture_store(directory));
        assert_int_equal(mount(NULL, directory, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
        assert_int_equal(store_new(directory, &store, &error), -1);
        assert_int_equal(error.kind, ERROR_STORE_FAILED);
        assert_non_null(strstr(error.message, "Read-only file system"));
        assert_non_null(strstr(error.message, "--store"));
        assert_int_equal(umount(directory), 0);
        fixture_remove(directory);
}

/* A limit of the process's that writes run into half-way. */
static void test_write_error(void **state) {
        struct state *fixture = *state;
        struct fixture_region region = { .name = "ram", .bytes = 64 * CHUNK_BYTES, .page = page_random };
        struct rlimit before, limit;
        struct error error = { .kind = ERROR_NONE };

        signal(SIGXFSZ, SIG_IGN);
        getrlimit(RLIMIT_FSIZE, &before);
        limit = before;
        limit.rlim_cur = 10 * CHUNK_BYTES;
        setrlimit(RLIMIT_FSIZE, &limit);
        assert_int_equal(fixture_write(fixture->store, "vm", "big", &region, 1, 0, NULL, &error), -1);
        setrlimit(RLIMIT_FSIZE, &before);
        assert_int_equal(error.kind, ERROR_STORE_FAILED);
        assert_non_null(strstr(error.message, "File too large"));
        assert_int_equal(fixture_entries("%s/.work", fixture->directory), 0);
}

static void test_advance(void **state) {
        static const uint8_t data[16384];
        struct image_io_op op = { .kind = IMAGE_IO_WRITE, .data = data, .bytes = 16384, .offset = 4096 };

        assert_true(image_io_advance(&op, -EAGAIN));
        assert_true(image_io_advance(&op, -EINTR));
        assert_int_equal(op.bytes, 16384);
        assert_true(image_io_advance(&op, 5000)); /* not a whole page more than one: that page again */
        assert_int_equal(op.bytes, 12288);
        assert_int_equal(op.offset, 8192);
        assert_ptr_equal(op.data, data + 4096);
        assert_false(image_io_advance(&op, 12288));
        assert_int_equal(op.result, 0);
        assert_false(image_io_advance(&op, 0));
        assert_int_equal(op.result, -EIO);
        assert_false(image_io_advance(&op, -ENOSPC));
        assert_int_equal(op.result, -ENOSPC);
        /* O_DIRECT is left, once. */
        op.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        assert_true(image_io_advance(&op, -EINVAL));
        assert_false(image_io_advance(&op, -EINVAL));
        assert_int_equal(op.result, -EINVAL);
        close(op.fd);
        op.kind = IMAGE_IO_FSYNC;
        assert_false(image_io_advance(&op, 0));
        assert_int_equal(op.result, 0);
}

static void io_round(bool may_use_ring) {
        struct image_io *io = malloc(sizeof(*io));
        FILE *file = tmpfile();
        struct image_io_op *op;
        unsigned written = 0, done = 0;

        image_io_init(io, may_use_ring);
        while (done < 200) {
                while (written < 200 && (op = image_io_get(io))) {
                        *op = (struct image_io_op){ .kind = written == 100 ? IMAGE_IO_FSYNC : IMAGE_IO_WRITE,
                                                    .fd = fileno(file),
                                                    .data = (const uint8_t *) "abcdefgh",
                                                    .bytes = 8,
                                                    .offset = written * 8 };
                        image_io_queue(io, op);
                        written++;
                }
                op = image_io_wait(io, -1);
                assert_non_null(op);
                assert_int_equal(op->result, 0);
                image_io_put(io, op);
                done++;
        }
        assert_null(image_io_wait(io, 1000000));
        image_io_deinit(io);
        fclose(file);
        free(io);
}

static void test_io_with_and_without_ring(void **state) {
        io_round(true);
        io_round(false);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_token_bucket),
                cmocka_unit_test(test_advance),
                cmocka_unit_test(test_io_with_and_without_ring),
                cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
                cmocka_unit_test_setup_teardown(test_zero, setup, teardown),
                cmocka_unit_test_setup_teardown(test_mixed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_patch, setup, teardown),
                cmocka_unit_test_setup_teardown(test_sparse_64_gib, setup, teardown),
                cmocka_unit_test_setup_teardown(test_several_regions, setup, teardown),
                cmocka_unit_test_setup_teardown(test_rate, setup, teardown),
                cmocka_unit_test_setup_teardown(test_names, setup, teardown),
                cmocka_unit_test_setup_teardown(test_rename_collision, setup, teardown),
                cmocka_unit_test_setup_teardown(test_free_without_publish, setup, teardown),
                cmocka_unit_test_setup_teardown(test_missing_figure, setup, teardown),
                cmocka_unit_test_setup_teardown(test_write_error, setup, teardown),
                cmocka_unit_test(test_no_space),
                cmocka_unit_test(test_tmpfs),
                cmocka_unit_test(test_o_direct_refused),
                cmocka_unit_test(test_read_only),
        };

        return cmocka_run_group_tests_name("image_writer", tests, NULL, NULL);
}
