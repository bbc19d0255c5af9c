/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* An eighth of the pool, and no more than keeps a fast disk busy. */
#define POOL_CHUNKS_MAX 16u

struct pool {
        uint8_t *memory; /* slots first, then chunk buffers; huge-page aligned size */
        uint64_t bytes;

        uint32_t n_slots;
        _Atomic uint32_t n_slots_free;
        /*
         * Top of the stack of free slots: index below, a tag above that changes with each pop. Without the tag a slot
         * that is taken and given back between another thread's load and its compare-and-swap would look untouched
         * (ABA).
         */
        _Atomic uint64_t top;
        _Atomic uint32_t *links;
        struct pool_note *notes;

        pthread_mutex_t lock; /* guards all below; never taken by a fault thread */
        pthread_cond_t returned;
        uint32_t n_chunks;
        uint32_t n_shares;
        struct chunk *chunks;
        uint64_t *pages; /* of the chunks, CHUNK_PAGES each */
        struct chunk_list free_chunks;
};

static uint64_t pool_top(uint32_t tag, uint32_t slot) {
        return (uint64_t) tag << 32 | slot;
}

static int pool_map(struct pool *pool, struct error *error) {
        pool->memory = mmap(NULL, pool->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pool->memory == MAP_FAILED) {
                pool->memory = NULL;
                return error_set(error, ERROR_INTERNAL,
                                 "cannot get %llu MiB of memory for the pool (%s): use a smaller --pool-size",
                                 (unsigned long long) (pool->bytes >> 20), strerror(errno));
        }
        (void) madvise(pool->memory, pool->bytes, MADV_DONTDUMP);
        (void) madvise(pool->memory, pool->bytes, MADV_HUGEPAGE);
        if (mlock(pool->memory, pool->bytes) < 0)
                memset(pool->memory, 0, pool->bytes);
        return 0;
}

static int pool_make_tables(struct pool *pool) {
        pool->links = calloc(pool->n_slots, sizeof(*pool->links));
        pool->notes = calloc(pool->n_slots, sizeof(*pool->notes));
        pool->chunks = calloc(pool->n_chunks, sizeof(*pool->chunks));
        pool->pages = calloc((size_t) pool->n_chunks * CHUNK_PAGES, sizeof(*pool->pages));
        if (!pool->links || !pool->notes || !pool->chunks || !pool->pages)
                return -ENOMEM;

        for (uint32_t i = 0; i < pool->n_slots; i++)
                pool->links[i] = i + 1 < pool->n_slots ? i + 1 : POOL_NO_SLOT;
        pool->top = pool_top(0, 0);
        pool->n_slots_free = pool->n_slots;

        for (uint32_t i = 0; i < pool->n_chunks; i++) {
                struct chunk *chunk = &pool->chunks[i];

                chunk->slot = i;
                chunk->pages = pool->pages + (uint64_t) i * CHUNK_PAGES;
                chunk->data = pool->memory + (uint64_t) pool->n_slots * POOL_SLOT_BYTES + (uint64_t) i * CHUNK_BYTES;
                STAILQ_INSERT_TAIL(&pool->free_chunks, chunk, link);
        }
        return 0;
}

int pool_new(uint64_t bytes, struct pool **ret, struct error *error) {
        struct pool *pool;
        uint64_t n_chunks;

        if (bytes < POOL_BYTES_MIN || bytes > POOL_BYTES_MAX)
                return error_set(error, ERROR_BAD_REQUEST, "a pool of %llu bytes is out of range: use 8M to 1T",
                                 (unsigned long long) bytes);
        pool = calloc(1, sizeof(*pool));
        if (!pool)
                return error_set(error, ERROR_INTERNAL, "out of memory");

        pool->bytes = bytes - bytes % CHUNK_BYTES;
        n_chunks = pool->bytes / 8 / CHUNK_BYTES;
        n_chunks = n_chunks > POOL_CHUNKS_MAX ? POOL_CHUNKS_MAX : n_chunks;
        n_chunks = n_chunks < POOL_CHUNKS_MIN ? POOL_CHUNKS_MIN : n_chunks;
        pool->n_chunks = (uint32_t) n_chunks;
        pool->n_slots = (uint32_t) ((pool->bytes - n_chunks * CHUNK_BYTES) / POOL_SLOT_BYTES);
        STAILQ_INIT(&pool->free_chunks);
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->returned, NULL);

        if (pool_map(pool, error) < 0) {
                pool_free(pool);
                return -1;
        }
        if (pool_make_tables(pool) < 0) {
                pool_free(pool);
                return error_set(error, ERROR_INTERNAL, "out of memory");
        }
        *ret = pool;
        return 0;
}

void pool_free(struct pool *pool) {
        if (!pool)
                return;
        if (pool->memory)
                munmap(pool->memory, pool->bytes);
        free(pool->links);
        free(pool->notes);
        free(pool->chunks);
        free(pool->pages);
        pthread_cond_destroy(&pool->returned);
        pthread_mutex_destroy(&pool->lock);
        free(pool);
}

uint64_t pool_bytes(const struct pool *pool) {
        return pool->bytes;
}

uint64_t pool_free_bytes(const struct pool *pool) {
        return (uint64_t) pool_slots_free(pool) * POOL_SLOT_BYTES;
}

uint32_t pool_slots(const struct pool *pool) {
        return pool->n_slots;
}

uint32_t pool_slots_free(const struct pool *pool) {
        return atomic_load_explicit(&pool->n_slots_free, memory_order_relaxed);
}

uint32_t pool_take_slots(struct pool *pool, uint32_t n) {
        uint64_t top = atomic_load_explicit(&pool->top, memory_order_acquire);
        uint32_t first, last;

        assert(n > 0);
        for (;;) {
                first = last = (uint32_t) top;
                /* Another thread may rewrite the links as we walk: what we then read is thrown away, the tag has moved.
                 */
                for (uint32_t i = 1; i < n && last < pool->n_slots; i++)
                        last = atomic_load_explicit(&pool->links[last], memory_order_relaxed);
                if (last >= pool->n_slots)
                        return POOL_NO_SLOT;
                uint32_t next = atomic_load_explicit(&pool->links[last], memory_order_relaxed);
                /* acquire: what the slot's last owner did to it is over before we use it */
                if (atomic_compare_exchange_weak_explicit(&pool->top, &top, pool_top((uint32_t) (top >> 32) + 1, next),
                                                          memory_order_acquire, memory_order_acquire))
                        break;
        }
        atomic_fetch_sub_explicit(&pool->n_slots_free, n, memory_order_relaxed);
        return first;
}

void pool_give_slots(struct pool *pool, uint32_t first, uint32_t n) {
        uint64_t top = atomic_load_explicit(&pool->top, memory_order_relaxed);
        uint32_t last = first;

        for (uint32_t i = 1; i < n; i++)
                last = pool_next_slot(pool, last);
        /* First, since whoever takes them must find them counted. */
        atomic_fetch_add_explicit(&pool->n_slots_free, n, memory_order_relaxed);
        do
                atomic_store_explicit(&pool->links[last], (uint32_t) top, memory_order_relaxed);
        /* release: our use of the slot is over before another thread takes it */
        while (!atomic_compare_exchange_weak_explicit(&pool->top, &top, pool_top((uint32_t) (top >> 32) + 1, first),
                                                      memory_order_release, memory_order_relaxed));
}

uint32_t pool_next_slot(const struct pool *pool, uint32_t slot) {
        return atomic_load_explicit(&pool->links[slot], memory_order_relaxed);
}

uint8_t *pool_slot_data(const struct pool *pool, uint32_t slot) {
        return pool->memory + (uint64_t) slot * POOL_SLOT_BYTES;
}

struct pool_note *pool_slot_note(const struct pool *pool, uint32_t slot) {
        return &pool->notes[slot];
}

bool pool_share_init(struct pool_share *share, struct pool *pool) {
        bool fits;

        pthread_mutex_lock(&pool->lock);
        fits = (pool->n_shares + 1) * POOL_CHUNKS_MIN <= pool->n_chunks;
        if (fits) {
                pool->n_shares++;
                *share = (struct pool_share){ .pool = pool };
        }
        pthread_mutex_unlock(&pool->lock);
        return fits;
}

void pool_share_deinit(struct pool_share *share) {
        struct pool *pool = share->pool;

        if (!pool)
                return;
        pthread_mutex_lock(&pool->lock);
        while (share->held > 0)
                pthread_cond_wait(&pool->returned, &pool->lock);
        pool->n_shares--;
        pthread_cond_broadcast(&pool->returned);
        pthread_mutex_unlock(&pool->lock);
        share->pool = NULL;
}

struct chunk *pool_take_chunk(struct pool_share *share, unsigned timeout_ms) {
        struct pool *pool = share->pool;
        struct chunk *chunk = NULL;
        struct timespec until;
        int r = 0;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long) timeout_ms % 1000 * 1000000;
        until.tv_sec += (time_t) timeout_ms / 1000 + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;

        pthread_mutex_lock(&pool->lock);
        while (r == 0 && (STAILQ_EMPTY(&pool->free_chunks) || share->held >= pool->n_chunks / pool->n_shares))
                r = pthread_cond_clockwait(&pool->returned, &pool->lock, CLOCK_MONOTONIC, &until);
        if (r == 0) {
                chunk = STAILQ_FIRST(&pool->free_chunks);
                STAILQ_REMOVE_HEAD(&pool->free_chunks, link);
                chunk->n_pages = 0;
                share->held++;
        }
        pthread_mutex_unlock(&pool->lock);
        return chunk;
}

void pool_give_chunk(struct pool_share *share, struct chunk *chunk) {
        struct pool *pool = share->pool;

        pthread_mutex_lock(&pool->lock);
        STAILQ_INSERT_HEAD(&pool->free_chunks, chunk, link);
        share->held--;
        pthread_cond_broadcast(&pool->returned);
        pthread_mutex_unlock(&pool->lock);
}
