/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "snapshot_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/store_tree.h"

#define CHUNKS 24

char *fixture_directory(void) {
        const char *base = getenv("TMPDIR");
        char *directory;

        assert_true(asprintf(&directory, "%s/livesnap-test-XXXXXX", base ? base : "/var/tmp") > 0);
        assert_non_null(mkdtemp(directory));
        return directory;
}

void fixture_remove(char *directory) {
        assert_int_equal(store_tree_remove(AT_FDCWD, directory), 0);
        free(directory);
}

struct store *fixture_store(const char *directory) {
        struct error error = { .kind = ERROR_NONE };
        struct store *store;

        if (store_new(directory, &store, &error) < 0)
                fail_msg("%s", error.message);
        return store;
}

json_t *fixture_figures(unsigned n_regions) {
        json_t *figures = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:{s:f, s:f, s:f, s:f}, s:[s], s:[]}",
                                    "guarantee", "sealed", "arm_us", 10, "hold_us", 20, "pages_fault", 1, "pages_sweep",
                                    2, "throttled_us", 0, "pool_peak_bytes", 4096, "fault_us", "p50", 1.0, "p99", 2.0,
                                    "p999", 3.0, "max", 4.0, "warnings", "look out", "regions");

        assert_non_null(figures);
        for (unsigned i = 0; i < n_regions; i++)
                json_array_append_new(json_object_get(figures, "regions"), json_pack("{s:i}", "mappings", 3));
        return figures;
}

bool page_random(uint64_t index, uint8_t *page) {
        uint64_t state = index * 0x9e3779b97f4a7c15 + 1;

        for (unsigned i = 0; i < CHUNK_PAGE_BYTES; i += 8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                memcpy(page + i, &state, 8);
        }
        return true;
}

bool page_zero(uint64_t index, uint8_t *page) {
        return false;
}

bool page_mixed(uint64_t index, uint8_t *page) {
        return index * 2654435761 % 7 < 4 && page_random(index, page);
}

/* The chunks' owner. A release may come from another thread, also while one is handed over. */
struct chunks {
        pthread_mutex_t lock;
        pthread_cond_t released;
        struct chunk chunks[CHUNKS];
        bool is_out[CHUNKS];
        unsigned n_out, twice;
};

static void chunks_release(void *data, struct chunk *chunk) {
        struct chunks *chunks = data;

        pthread_mutex_lock(&chunks->lock);
        chunks->twice += !chunks->is_out[chunk->slot];
        chunks->is_out[chunk->slot] = false;
        chunks->n_out--;
        pthread_cond_signal(&chunks->released);
        pthread_mutex_unlock(&chunks->lock);
}

static struct chunk *chunks_get(struct chunks *chunks) {
        unsigned i = 0;

        pthread_mutex_lock(&chunks->lock);
        while (chunks->n_out == CHUNKS)
                pthread_cond_wait(&chunks->released, &chunks->lock);
        while (chunks->is_out[i])
                i++;
        chunks->is_out[i] = true;
        chunks->n_out++;
        pthread_mutex_unlock(&chunks->lock);
        chunks->chunks[i].slot = i;
        return &chunks->chunks[i];
}

static void chunk_fill(struct chunk *chunk, unsigned region_index, const struct fixture_region *region,
                       uint64_t index) {
        uint64_t offset = index * CHUNK_BYTES;
        unsigned pages;

        chunk->region = region_index;
        chunk->index = index;
        chunk->bytes = region->bytes - offset < CHUNK_BYTES ? (uint32_t) (region->bytes - offset) : CHUNK_BYTES;
        memset(chunk->data, 0, chunk->bytes);
        /* What is behind the end is the sweep's rubbish. */
        memset(chunk->data + chunk->bytes, 0xa5, CHUNK_BYTES - chunk->bytes);
        pages = (chunk->bytes + CHUNK_PAGE_BYTES - 1) / CHUNK_PAGE_BYTES;
        for (unsigned i = 0; i < pages; i++)
                region->page(index * CHUNK_PAGES + i, chunk->data + i * CHUNK_PAGE_BYTES);
}

static void submit_all(struct image_writer *writer, struct chunks *chunks, const struct fixture_region *region,
                       unsigned region_index) {
        uint64_t n_chunks = (region->bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;

        for (uint64_t i = 0; !image_writer_failed(writer); i++) {
                uint64_t index = region->chunks ? region->chunks[i] : i;
                struct chunk *chunk;

                if (index >= n_chunks)
                        return;
                chunk = chunks_get(chunks);
                chunk_fill(chunk, region_index, region, index);
                image_writer_submit(writer, chunk);
        }
}

int fixture_write(struct store *store, const char *domain, const char *name, const struct fixture_region *regions,
                  unsigned n_regions, uint64_t max_rate, json_t **ret, struct error *error) {
        struct chunks chunks = { .lock = PTHREAD_MUTEX_INITIALIZER, .released = PTHREAD_COND_INITIALIZER };
        struct image_writer_region spec_regions[16];
        struct image_writer_spec spec = { .domain = domain,
                                          .name = name,
                                          .uid = 1000,
                                          .n_regions = n_regions,
                                          .regions = spec_regions,
                                          .max_rate = max_rate,
                                          .release = chunks_release,
                                          .data = &chunks };
        struct image_writer *writer;
        json_t *figures = fixture_figures(n_regions), *snapshot = NULL;
        struct timespec now;
        int r;

        for (unsigned i = 0; i < CHUNKS; i++)
                assert_int_equal(posix_memalign((void **) &chunks.chunks[i].data, 4096, CHUNK_BYTES), 0);
        for (unsigned i = 0; i < n_regions; i++)
                spec_regions[i] = (struct image_writer_region){ regions[i].name, regions[i].bytes };

        clock_gettime(CLOCK_MONOTONIC, &now);
        r = image_writer_new(store, &spec, &writer, error);
        if (r == 0) {
                for (unsigned i = 0; i < n_regions; i++)
                        submit_all(writer, &chunks, &regions[i], i);
                r = image_writer_flush(writer, error);
                assert_int_equal(chunks.n_out, 0);
                if (r == 0)
                        r = image_writer_publish(writer, figures,
                                                 (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec, &snapshot,
                                                 error);
                image_writer_free(writer);
        }
        assert_int_equal(chunks.n_out, 0);
        assert_int_equal(chunks.twice, 0);
        store_dispatch(store);
        for (unsigned i = 0; i < CHUNKS; i++)
                free(chunks.chunks[i].data);
        json_decref(figures);
        if (ret)
                *ret = snapshot;
        else
                json_decref(snapshot);
        return r;
}

struct on_store {
        struct store_call call;
        void (*function)(struct store *store, void *data);
        void *data;
        bool done;
};

static void on_store_run(struct store *store, struct store_call *call) {
        struct on_store *on_store = (struct on_store *) call;

        on_store->function(store, on_store->data);
}

static void on_store_done(struct store_call *call) {
        ((struct on_store *) call)->done = true;
}

void fixture_on_store(struct store *store, void (*function)(struct store *store, void *data), void *data) {
        struct on_store on_store = { .call = { .run = on_store_run, .done = on_store_done },
                                     .function = function,
                                     .data = data };
        struct pollfd ready = { .fd = store_get_fd(store), .events = POLLIN };

        store_submit(store, &on_store.call);
        while (!on_store.done) {
                poll(&ready, 1, -1);
                store_dispatch(store);
        }
}

struct verification {
        const char *domain, *name;
        struct error *error;
        uint64_t last, total;
        int result;
};

static bool verify_progress(void *data, uint64_t done, uint64_t total) {
        struct verification *verification = data;

        verification->last = done;
        verification->total = total;
        return done <= total;
}

static void verify(struct store *store, void *data) {
        struct verification *verification = data;

        verification->result = store_verify(store, verification->domain, verification->name, 0, verify_progress,
                                            verification, verification->error);
}

int fixture_verify(struct store *store, const char *domain, const char *name, struct error *error) {
        struct verification verification = { .domain = domain, .name = name, .error = error };

        fixture_on_store(store, verify, &verification);
        if (verification.result == 0)
                assert_int_equal(verification.last, verification.total);
        return verification.result;
}

static bool chunk_was_written(const struct fixture_region *region, uint64_t chunk) {
        if (!region->chunks)
                return true;
        for (unsigned i = 0; region->chunks[i] != UINT64_MAX; i++)
                if (region->chunks[i] == chunk)
                        return true;
        return false;
}

/* Goes through data only, and so checks that holes are holes as well as that data is right. */
void fixture_compare(const char *path, const struct fixture_region *region) {
        uint64_t pages = (region->bytes + CHUNK_PAGE_BYTES - 1) / CHUNK_PAGE_BYTES;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        uint8_t expected[CHUNK_PAGE_BYTES], found[CHUNK_PAGE_BYTES];
        struct stat status;

        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &status), 0);
        assert_int_equal(status.st_size, region->bytes);
        assert_int_equal(status.st_mode & 07777, 0600);
        for (uint64_t i = 0; i < pages; i++) {
                uint64_t offset = i * CHUNK_PAGE_BYTES;
                size_t bytes = region->bytes - offset < CHUNK_PAGE_BYTES ? region->bytes - offset : CHUNK_PAGE_BYTES;

                if (region->chunks && !chunk_was_written(region, i / CHUNK_PAGES)) {
                        i += CHUNK_PAGES - 1;
                        continue;
                }
                memset(expected, 0, sizeof(expected));
                region->page(i, expected);
                assert_int_equal(pread(fd, found, sizeof(found), (off_t) offset), bytes);
                assert_memory_equal(found, expected, bytes);
        }
        close(fd);
}

int fixture_entries(const char *format, ...) {
        struct dirent *entry;
        va_list arguments;
        char path[4096];
        int count = 0;
        DIR *stream;

        va_start(arguments, format);
        vsnprintf(path, sizeof(path), format, arguments);
        va_end(arguments);
        stream = opendir(path);
        if (!stream)
                return -1;
        while ((entry = readdir(stream)))
                count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
        closedir(stream);
        return count;
}
