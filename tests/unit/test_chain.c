/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Chains of increments: each member reads back as what it was, a flipped bit is found, and parents stay. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/delta.h"
#include "daemon/image_writer.h"
#include "daemon/store_layers.h"
#include "snapshot_fixture.h"

#define PAGES (3 * CHUNK_PAGES + 2)
#define BYTES (PAGES * 4096ULL - 1000)
#define MEMBERS 12
#define MEMBERS_MAX (LIVESNAP_FORMAT_DEPTH_MAX + 2)

/* What memory holds: of each page the version that was written last; 0: it is zero. */
struct model {
        uint32_t pages[PAGES];
};

struct state {
        char *directory;
        struct store *store;
        struct model now;
        struct model members[MEMBERS_MAX];
        uint8_t uuids[MEMBERS_MAX][16];
        uint32_t version;
};

static void fill_page(uint8_t *page, uint64_t index, uint32_t version) {
        memset(page, 0, CHUNK_PAGE_BYTES);
        for (unsigned i = 0; version && i < CHUNK_PAGE_BYTES; i++)
                page[i] = (uint8_t) (index * 7 + version * 13 + i * (version | 1));
        if (version)
                page[0] = (uint8_t) version | 1;
        /* What the region has not of its last page. */
        if (index == PAGES - 1)
                memset(page + CHUNK_PAGE_BYTES - 1000, 0, 1000);
}

static int setup(void **state) {
        struct state *s = calloc(1, sizeof(*s));

        s->directory = fixture_directory();
        s->store = fixture_store(s->directory);
        *state = s;
        return 0;
}

static int teardown(void **state) {
        struct state *s = *state;

        store_free(s->store);
        fixture_remove(s->directory);
        free(s);
        return 0;
}

static void release(void *data, struct chunk *chunk) {
        free(chunk->data);
        free(chunk->pages);
        free(chunk);
}

static struct chunk *new_chunk(void) {
        struct chunk *chunk = calloc(1, sizeof(*chunk));

        chunk->data = aligned_alloc(4096, CHUNK_BYTES);
        chunk->pages = calloc(CHUNK_PAGES, sizeof(*chunk->pages));
        assert_true(chunk->data && chunk->pages);
        return chunk;
}

static struct image_writer *open_writer(struct state *s, const char *name, const char *parent, const uint8_t *uuid) {
        const struct image_writer_region region = { "ram", BYTES };
        const struct image_writer_spec spec = {
                .domain = "vm",
                .name = name,
                .parent = parent,
                .parent_uuid = uuid,
                .n_regions = 1,
                .regions = &region,
                .release = release,
        };
        struct error error = { 0 };
        struct image_writer *writer;

        if (image_writer_new(s->store, &spec, &writer, &error) < 0)
                fail_msg("%s", error.message);
        return writer;
}

static void submit_all(struct image_writer *writer, const struct model *model) {
        for (uint64_t at = 0; at < PAGES; at += CHUNK_PAGES) {
                struct chunk *chunk = new_chunk();

                chunk->index = at / CHUNK_PAGES;
                chunk->bytes = (uint32_t) (BYTES - at * 4096 < CHUNK_BYTES ? BYTES - at * 4096 : CHUNK_BYTES);
                for (unsigned i = 0; i < CHUNK_PAGES && at + i < PAGES; i++)
                        fill_page(chunk->data + (size_t) i * 4096, at + i, model->pages[at + i]);
                image_writer_submit(writer, chunk);
        }
}

static void submit_pages(struct image_writer *writer, const struct model *model, const bool *wanted) {
        struct chunk *chunk = new_chunk();

        for (uint64_t page = 0; page < PAGES; page++) {
                if (!wanted[page])
                        continue;
                fill_page(chunk->data + (size_t) chunk->n_pages * 4096, page, model->pages[page]);
                /* What is behind the end of the region is the writer's to make zero. */
                if (page == PAGES - 1)
                        memset(chunk->data + (size_t) (chunk->n_pages + 1) * 4096 - 1000, 0xee, 1000);
                chunk->pages[chunk->n_pages++] = page;
                if (chunk->n_pages == CHUNK_PAGES) {
                        image_writer_submit(writer, chunk);
                        chunk = new_chunk();
                }
        }
        if (chunk->n_pages)
                image_writer_submit(writer, chunk);
        else
                release(NULL, chunk);
}

static json_t *publish(struct image_writer *writer) {
        json_t *figures = fixture_figures(1), *snapshot = NULL;
        struct error error = { 0 };

        if (image_writer_flush(writer, &error) < 0 || image_writer_publish(writer, figures, 0, &snapshot, &error) < 0)
                fail_msg("%s", error.message);
        json_decref(figures);
        image_writer_free(writer);
        return snapshot;
}

/* Write some pages anew, some of them as zero, and note which. */
static void scribble(struct state *s, bool *wanted, unsigned n) {
        for (; n > 0; n--) {
                unsigned page = (unsigned) rand() % PAGES;

                wanted[page] = true;
                s->now.pages[page] = rand() % 4 ? ++s->version : 0;
        }
        wanted[PAGES - 1] = true;
        s->now.pages[PAGES - 1] = ++s->version;
}

/* @again: some pages come twice, as they do where a snapshot is taken in rounds. */
static void take(struct state *s, unsigned member, bool again) {
        char name[16], parent[16];
        bool wanted[PAGES] = { 0 };
        struct image_writer *writer;
        json_t *snapshot;

        snprintf(name, sizeof(name), "m%u", member);
        snprintf(parent, sizeof(parent), "m%u", member - 1);
        scribble(s, wanted, member == 0 ? 800 : 100);
        writer = open_writer(s, name, member ? parent : NULL, member ? s->uuids[member - 1] : NULL);
        assert_null(image_writer_full_reason(writer));
        image_writer_get_uuid(writer, s->uuids[member]);
        if (member == 0) {
                submit_all(writer, &s->now);
        } else {
                submit_pages(writer, &s->now, wanted);
        }
        if (member && again) {
                struct error error = { 0 };

                assert_int_equal(image_writer_flush(writer, &error), 0);
                memset(wanted, 0, sizeof(wanted));
                scribble(s, wanted, 20);
                submit_pages(writer, &s->now, wanted);
        }
        snapshot = publish(writer);
        assert_string_equal(json_string_value(json_object_get(snapshot, "kind")), member ? "increment" : "full");
        json_decref(snapshot);
        s->members[member] = s->now;
}

struct reading {
        struct state *s;
        unsigned member;
        bool only_sums;
        struct error error;
        int result;
};

static void check_chunk(const struct reading *reading, const struct image_chunk *chunk, bool *seen) {
        const struct model *model = &reading->s->members[reading->member];
        uint8_t expected[CHUNK_PAGE_BYTES];

        for (unsigned i = 0; i < chunk->pages; i++) {
                uint64_t page = chunk->offset / 4096 + i;

                fill_page(expected, page, model->pages[page]);
                assert_int_equal(chunk->sums[i], checksum_page(expected));
                if (!reading->only_sums)
                        assert_memory_equal(chunk->data + (size_t) i * 4096, expected, 4096);
                seen[page] = true;
        }
}

static void read_member(struct store *store, void *data) {
        CLEANUP(store_layers_close) struct store_layers layers = { 0 };
        struct reading *reading = data;
        struct chain_reader *reader = NULL;
        int fds[2 * CHAIN_LAYERS_MAX];
        struct image_chunk chunk;
        bool seen[PAGES] = { 0 };
        char name[16];

        snprintf(name, sizeof(name), "m%u", reading->member);
        reading->result = store_layers_open(store, "vm", name, 0, "read", &layers, &reading->error);
        if (reading->result < 0)
                return;
        reading->result = store_layers_read(store, &layers, 0, reading->only_sums, fds, &reader, &reading->error);
        while (reading->result >= 0 && (reading->result = chain_reader_next(reader, &chunk, &reading->error)) > 0)
                check_chunk(reading, &chunk, seen);
        chain_reader_free(reader);
        store_layers_close_fds(fds);
        for (unsigned page = 0; reading->result == 0 && page < PAGES; page++)
                assert_true(seen[page] || !reading->s->members[reading->member].pages[page]);
}

static void test_each_member_is_what_it_was(void **state) {
        struct state *s = *state;

        for (unsigned i = 0; i < MEMBERS; i++)
                take(s, i, i % 2);
        for (unsigned i = 0; i < 2 * MEMBERS; i++) {
                struct reading reading = { .s = s, .member = i / 2, .only_sums = i % 2 };
                struct error error = { 0 };
                char name[16];

                fixture_on_store(s->store, read_member, &reading);
                if (reading.result < 0)
                        fail_msg("member %u: %s", i / 2, reading.error.message);
                snprintf(name, sizeof(name), "m%u", i / 2);
                if (fixture_verify(s->store, "vm", name, &error) < 0)
                        fail_msg("%s", error.message);
        }
}

static void flip(const char *path, off_t offset, uint8_t mask) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        uint8_t byte;

        assert_true(fd >= 0);
        assert_int_equal(pread(fd, &byte, 1, offset), 1);
        byte ^= mask;
        assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
        close(fd);
}

/* In each file of a delta, and in those of what it builds on. */
static void test_flipped_bits_are_found(void **state) {
        static const char *const files[] = { "m2/ram.pages", "m2/ram.map", "m2/manifest.json", "m1/ram.pages",
                                             "m1/ram.map",   "m0/ram.mem", "m0/ram.sum",       "m1/manifest.json" };
        struct state *s = *state;
        struct error error = { 0 };

        for (unsigned i = 0; i < 3; i++)
                take(s, i, false);
        for (unsigned i = 0; i < 400; i++) {
                char *path;
                struct stat status;
                off_t offset;
                uint8_t mask = (uint8_t) (1 << rand() % 8);

                assert_true(asprintf(&path, "%s/vm/%s", s->directory, files[i % 8]) > 0);
                if (stat(path, &status) < 0) { /* the filesystem shares, so there are no deltas */
                        free(path);
                        skip();
                }
                offset = (off_t) ((uint64_t) rand() % (uint64_t) status.st_size);
                flip(path, offset, mask);
                if (fixture_verify(s->store, "vm", "m2", &error) == 0)
                        fail_msg("bit %#x at %lld of %s", mask, (long long) offset, files[i % 8]);
                flip(path, offset, mask);
                free(path);
        }
        assert_int_equal(fixture_verify(s->store, "vm", "m2", &error), 0);
}

/* A copy of a file of the store in memory, where it takes no time to be changed; -1: there is none. */
static int copy_file(const struct state *s, const char *name) {
        char *path;
        int from, to = memfd_create(name, MFD_CLOEXEC);
        struct stat status;

        assert_true(asprintf(&path, "%s/vm/%s", s->directory, name) > 0);
        from = open(path, O_RDONLY | O_CLOEXEC);
        free(path);
        if (from < 0) {
                close(to);
                return -1;
        }
        assert_int_equal(fstat(from, &status), 0);
        assert_int_equal(sendfile(to, from, NULL, (size_t) status.st_size), status.st_size);
        close(from);
        return to;
}

static void flip_copy(int fd, uint64_t bit) {
        uint8_t byte;

        assert_int_equal(pread(fd, &byte, 1, (off_t) (bit / 8)), 1);
        byte ^= (uint8_t) (1 << bit % 8);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t) (bit / 8)), 1);
}

static bool go_on(void *data, uint64_t offset) {
        return true;
}

/* Each bit of @file from the first on, @step apart, is missed by nobody. */
static void flip_each(const struct manifest *manifest, int pages, int map, int file, uint64_t step) {
        struct error error = { 0 };
        struct stat status;

        assert_int_equal(fstat(file, &status), 0);
        assert_int_equal(delta_verify(manifest, 0, pages, map, go_on, NULL, &error), 0);
        for (uint64_t bit = 0; bit < (uint64_t) status.st_size * 8; bit += step) {
                flip_copy(file, bit);
                if (delta_verify(manifest, 0, pages, map, go_on, NULL, &error) == 0)
                        fail_msg("bit %llu of the %s", (unsigned long long) bit, file == map ? "map" : "pages");
                flip_copy(file, bit);
        }
        assert_int_equal(delta_verify(manifest, 0, pages, map, go_on, NULL, &error), 0);
}

/* A sanitizer looks at memory, of which each flip uses the same: with one every bit would take minutes. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FLIPS_LEFT_OUT 31
#else
#define FLIPS_LEFT_OUT 1
#endif

/* Every bit of a map, and of its pages every 61st, which is each bit of a byte in turn, and bytes of all places. */
static void test_every_flipped_bit_of_a_delta_is_found(void **state) {
        struct state *s = *state;
        struct manifest *manifest = NULL;
        struct error error = { 0 };
        int pages, map, file;

        take(s, 0, false);
        take(s, 1, false);
        pages = copy_file(s, "m1/ram.pages");
        map = copy_file(s, "m1/ram.map");
        file = copy_file(s, "m1/manifest.json");
        if (pages < 0 || map < 0) /* the filesystem shares, so there are no deltas */
                skip();
        assert_int_equal(manifest_read(file, &manifest, &error), 0);
        flip_each(manifest, pages, map, map, FLIPS_LEFT_OUT);
        flip_each(manifest, pages, map, pages, 61 * FLIPS_LEFT_OUT);
        manifest_free(manifest);
        close(pages);
        close(map);
        close(file);
}

static void test_unfit_parents(void **state) {
        struct state *s = *state;
        uint8_t other[16] = { 1 };
        struct image_writer *writer;

        take(s, 0, false);
        writer = open_writer(s, "x", "m0", other);
        assert_non_null(strstr(image_writer_full_reason(writer), "not the one"));
        image_writer_free(writer);
        writer = open_writer(s, "x", "gone", other);
        assert_non_null(strstr(image_writer_full_reason(writer), "was deleted"));
        image_writer_free(writer);
}

struct deletion {
        const char *name;
        struct error error;
        int result;
};

static void delete_one(struct store *store, void *data) {
        struct deletion *deletion = data;

        deletion->result = store_delete(store, "vm", deletion->name, 0, &deletion->error);
}

/* The parent goes while its child is in the making. */
static void test_parent_that_vanishes(void **state) {
        struct deletion deletion = { .name = "m0" };
        struct state *s = *state;
        bool wanted[PAGES] = { true };
        struct image_writer *writer;
        struct error error = { 0 };
        json_t *figures = fixture_figures(1), *snapshot = NULL;

        take(s, 0, false);
        writer = open_writer(s, "x", "m0", s->uuids[0]);
        submit_pages(writer, &s->now, wanted);
        fixture_on_store(s->store, delete_one, &deletion);
        assert_int_equal(deletion.result, 0);
        if (image_writer_publish(writer, figures, 0, &snapshot, &error) == 0)
                json_decref(snapshot); /* it shares the parent's data, and needs the parent no more */
        else
                assert_non_null(strstr(error.message, "was deleted while"));
        json_decref(figures);
        image_writer_free(writer);
        assert_int_equal(fixture_entries("%s/.work", s->directory), 0);
}

static bool note_progress(void *data, uint64_t done, uint64_t total) {
        uint64_t *last = data;

        assert_true(done <= total && done >= *last);
        *last = done;
        return true;
}

struct folding {
        const char *name;
        struct store_progress progress;
        bool folded;
        struct error error;
        int result;
};

static void compact_one(struct store *store, void *data) {
        struct folding *folding = data;

        folding->result =
                store_compact(store, "vm", folding->name, 0, &folding->progress, &folding->folded, &folding->error);
}

/* Return: was it a delta? */
static bool compact(struct state *s, unsigned member) {
        uint64_t last = 0;
        char name[16];
        struct folding folding = { .name = name, .progress = { note_progress, &last } };

        snprintf(name, sizeof(name), "m%u", member);
        fixture_on_store(s->store, compact_one, &folding);
        if (folding.result < 0)
                fail_msg("m%u: %s", member, folding.error.message);
        assert_int_equal(last, folding.folded ? BYTES : 0);
        return folding.folded;
}

static void check_member(struct state *s, unsigned member) {
        struct reading reading = { .s = s, .member = member };
        struct error error = { 0 };
        char name[16];

        fixture_on_store(s->store, read_member, &reading);
        if (reading.result < 0)
                fail_msg("m%u: %s", member, reading.error.message);
        snprintf(name, sizeof(name), "m%u", member);
        if (fixture_verify(s->store, "vm", name, &error) < 0)
                fail_msg("%s", error.message);
}

static bool has_deltas(struct state *s) {
        char *path;
        bool has;

        assert_true(asprintf(&path, "%s/vm/m1/ram.map", s->directory) > 0);
        has = access(path, F_OK) == 0;
        free(path);
        return has;
}

/* From the middle of a chain outwards: all others stay what they were, and still build on what was made whole. */
static void test_members_are_made_whole(void **state) {
        static const unsigned order[] = { 5, 1, 11, 6, 2 };
        struct deletion deletion = { .name = "m4" };
        struct state *s = *state;

        for (unsigned i = 0; i < MEMBERS; i++)
                take(s, i, i % 2);
        if (!has_deltas(s))
                skip();
        assert_false(compact(s, 0));
        for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
                assert_true(compact(s, order[i]));
                assert_false(compact(s, order[i]));
                for (unsigned j = 0; j < MEMBERS; j++)
                        check_member(s, j);
                assert_int_equal(fixture_entries("%s/.work", s->directory), 0);
        }
        assert_int_equal(fixture_entries("%s/vm/m5", s->directory), 3);
        fixture_on_store(s->store, delete_one, &deletion);
        assert_int_equal(deletion.result, 0);
        deletion.name = "m6";
        fixture_on_store(s->store, delete_one, &deletion);
        assert_int_equal(deletion.result, -1);
        assert_non_null(strstr(deletion.error.message, "'livesnap compact vm/m7'"));
        check_member(s, 5);
        check_member(s, 7);
}

/* A snapshot that was opened before is read to its end from what it was then. */
static void make_whole_under_readers(struct store *store, void *data) {
        CLEANUP(store_layers_close) struct store_layers layers = { 0 };
        struct reading *reading = data;
        struct store_reader guard = { 0 };
        const struct store_progress progress = { note_progress, &(uint64_t){ 0 } };
        struct chain_reader *reader = NULL;
        int fds[2 * CHAIN_LAYERS_MAX];
        struct image_chunk chunk;
        bool seen[PAGES] = { 0 }, folded;

        store_reader_begin(store, "vm", &guard);
        reading->result = store_layers_open(store, "vm", "m2", 0, "read", &layers, &reading->error);
        if (reading->result == 0)
                reading->result = store_compact(store, "vm", "m1", 0, &progress, &folded, &reading->error);
        *(uint64_t *) progress.data = 0;
        if (reading->result == 0)
                reading->result = store_compact(store, "vm", "m2", 0, &progress, &folded, &reading->error);
        if (reading->result == 0)
                reading->result = store_delete(store, "vm", "m0", 0, &reading->error);
        if (reading->result == 0)
                reading->result = store_layers_read(store, &layers, 0, false, fds, &reader, &reading->error);
        while (reading->result == 0 && (reading->result = chain_reader_next(reader, &chunk, &reading->error)) > 0) {
                check_chunk(reading, &chunk, seen);
                reading->result = 0;
        }
        chain_reader_free(reader);
        store_layers_close_fds(fds);
        store_reader_end(&guard);
}

static void test_readers_are_not_disturbed(void **state) {
        struct reading reading = { .s = *state, .member = 2 };
        struct state *s = *state;

        for (unsigned i = 0; i < 4; i++)
                take(s, i, false);
        if (!has_deltas(s))
                skip();
        fixture_on_store(s->store, make_whole_under_readers, &reading);
        if (reading.result < 0)
                fail_msg("%s", reading.error.message);
        assert_int_equal(fixture_entries("%s/.work", s->directory), 0);
        for (unsigned i = 1; i < 4; i++)
                check_member(s, i);
}

static bool give_up(void *data, uint64_t done, uint64_t total) {
        unsigned *left = data;

        return (*left)-- > 0;
}

/* Damage anywhere in the chain, or a wish to end, and all is as before. */
static void test_folding_that_fails_changes_nothing(void **state) {
        static const struct {
                const char *file;
                off_t offset;
        } damages[] = { { "m0/ram.mem", 0 },    { "m0/ram.sum", 5000 }, { "m1/ram.pages", 100 },
                        { "m1/ram.map", 4100 }, { "m2/ram.map", 9 },    { "m2/ram.pages", 4096 } };
        struct state *s = *state;
        unsigned left = 0;
        struct folding folding = { .name = "m2", .progress = { give_up, &left } };

        for (unsigned i = 0; i < PAGES; i++) /* so that the byte that is damaged is one that counts */
                s->now.pages[i] = ++s->version;
        for (unsigned i = 0; i < 3; i++)
                take(s, i, false);
        if (!has_deltas(s))
                skip();
        for (unsigned i = 0; i < 4; i++) {
                left = i;
                folding.error.kind = ERROR_NONE;
                fixture_on_store(s->store, compact_one, &folding);
                assert_int_equal(folding.result, -1);
                assert_int_equal(folding.error.kind, ERROR_CANCELLED);
                assert_int_equal(fixture_entries("%s/.work", s->directory), 0);
        }
        for (unsigned i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
                char *path;

                assert_true(asprintf(&path, "%s/vm/%s", s->directory, damages[i].file) > 0);
                flip(path, damages[i].offset, 1);
                left = 1000;
                folding.error.kind = ERROR_NONE;
                fixture_on_store(s->store, compact_one, &folding);
                assert_int_equal(folding.result, -1);
                assert_int_equal(folding.error.kind, ERROR_SNAPSHOT_CORRUPT);
                assert_int_equal(fixture_entries("%s/.work", s->directory), 0);
                flip(path, damages[i].offset, 1);
                free(path);
        }
        for (unsigned i = 0; i < 3; i++)
                check_member(s, i);
        assert_true(compact(s, 2));
}

/* The depth that was recorded is of no matter once something below was made whole. */
static void test_depth_is_counted(void **state) {
        struct state *s = *state;
        struct image_writer *writer;
        unsigned last = LIVESNAP_FORMAT_DEPTH_MAX;
        char name[16];

        for (unsigned i = 0; i <= last; i++)
                take(s, i, false);
        if (!has_deltas(s))
                skip();
        snprintf(name, sizeof(name), "m%u", last);
        writer = open_writer(s, "x", name, s->uuids[last]);
        assert_non_null(strstr(image_writer_full_reason(writer), "build on one another already"));
        image_writer_free(writer);
        assert_true(compact(s, 1));
        take(s, last + 1, false);
        check_member(s, last + 1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_depth_is_counted, setup, teardown),
                cmocka_unit_test_setup_teardown(test_members_are_made_whole, setup, teardown),
                cmocka_unit_test_setup_teardown(test_readers_are_not_disturbed, setup, teardown),
                cmocka_unit_test_setup_teardown(test_folding_that_fails_changes_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_each_member_is_what_it_was, setup, teardown),
                cmocka_unit_test_setup_teardown(test_flipped_bits_are_found, setup, teardown),
                cmocka_unit_test_setup_teardown(test_every_flipped_bit_of_a_delta_is_found, setup, teardown),
                cmocka_unit_test_setup_teardown(test_unfit_parents, setup, teardown),
                cmocka_unit_test_setup_teardown(test_parent_that_vanishes, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
