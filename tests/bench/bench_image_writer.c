/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast does the image writer get chunks to the disk, with nothing in front of it that could be slow?
 *
 *     bench_image_writer DIRECTORY BYTES
 *
 * Prints one JSON object. To be compared with fio on the same filesystem in the same run: compare-store does
 * that.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/image_writer.h"
#include "daemon/store.h"

#define CHUNKS 32

struct pool {
        pthread_mutex_t lock;
        pthread_cond_t released;
        struct chunk chunks[CHUNKS];
        struct chunk_list free;
};

static void pool_put(void *data, struct chunk *chunk) {
        struct pool *pool = data;

        pthread_mutex_lock(&pool->lock);
        STAILQ_INSERT_HEAD(&pool->free, chunk, link);
        pthread_cond_signal(&pool->released);
        pthread_mutex_unlock(&pool->lock);
}

static struct chunk *pool_get(struct pool *pool) {
        struct chunk *chunk;

        pthread_mutex_lock(&pool->lock);
        while (STAILQ_EMPTY(&pool->free))
                pthread_cond_wait(&pool->released, &pool->lock);
        chunk = STAILQ_FIRST(&pool->free);
        STAILQ_REMOVE_HEAD(&pool->free, link);
        pthread_mutex_unlock(&pool->lock);
        return chunk;
}

static void pool_init(struct pool *pool) {
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->released, NULL);
        STAILQ_INIT(&pool->free);
        for (unsigned i = 0; i < CHUNKS; i++) {
                struct chunk *chunk = &pool->chunks[i];

                if (posix_memalign((void **) &chunk->data, CHUNK_BYTES, CHUNK_BYTES))
                        abort();
                for (size_t at = 0; at < CHUNK_BYTES; at++)
                        chunk->data[at] = (uint8_t) ((at * 2654435761u) >> 13 | 1);
                STAILQ_INSERT_TAIL(&pool->free, chunk, link);
        }
}

static double seconds(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static int die(const struct error *error) {
        fprintf(stderr, "bench_image_writer: %s\n", error->message);
        return 1;
}

int main(int argc, char **argv) {
        static struct pool pool;
        struct image_writer_region region = { "ram", argc > 2 ? strtoull(argv[2], NULL, 0) : 0 };
        struct image_writer_spec spec = {
                .domain = "bench", .n_regions = 1, .regions = &region, .release = pool_put, .data = &pool
        };
        struct error error = { .kind = ERROR_NONE };
        double start, flushed, published;
        struct image_writer *writer;
        json_t *figures, *snapshot;
        struct store *store;

        if (argc < 3) {
                fprintf(stderr, "usage: bench_image_writer DIRECTORY BYTES\n");
                return 2;
        }
        pool_init(&pool);
        figures = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:{s:f, s:f, s:f, s:f}, s:[], s:[{s:i}]}", "guarantee",
                            "sealed", "arm_us", 0, "hold_us", 0, "pages_fault", 0, "pages_sweep", 0, "throttled_us", 0,
                            "pool_peak_bytes", 0, "fault_us", "p50", 0.0, "p99", 0.0, "p999", 0.0, "max", 0.0,
                            "warnings", "regions", "mappings", 1);
        if (store_new(argv[1], &store, &error) < 0)
                return die(&error);

        start = seconds();
        if (image_writer_new(store, &spec, &writer, &error) < 0)
                return die(&error);
        for (uint64_t offset = 0; offset < region.bytes; offset += CHUNK_BYTES) {
                struct chunk *chunk = pool_get(&pool);

                chunk->index = offset / CHUNK_BYTES;
                chunk->bytes = region.bytes - offset < CHUNK_BYTES ? (uint32_t) (region.bytes - offset) : CHUNK_BYTES;
                image_writer_submit(writer, chunk);
        }
        if (image_writer_flush(writer, &error) < 0)
                return die(&error);
        flushed = seconds();
        if (image_writer_publish(writer, figures, (uint64_t) (start * 1e9), &snapshot, &error) < 0)
                return die(&error);
        published = seconds();
        printf("{\"bytes\": %llu, \"write_s\": %.3f, \"publish_s\": %.3f, \"mib_per_s\": %.0f}\n",
               (unsigned long long) region.bytes, flushed - start, published - flushed,
               (double) region.bytes / (published - start) / 1048576);

        image_writer_free(writer);
        json_decref(snapshot);
        json_decref(figures);
        store_free(store);
        for (unsigned i = 0; i < CHUNKS; i++)
                free(pool.chunks[i].data);
        return 0;
}
