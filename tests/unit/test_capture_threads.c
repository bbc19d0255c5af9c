/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The state machine of a snapshot's pages under real threads: two that write through a mapping each, one that serves
 * their faults, and a sweep. test_capture.c tries every order of steps; this is for what a step is made of, with a
 * sanitizer that looks for races.
 *
 * Memory is a number for each page. The simulated kernel takes no locks of its own, which would hide races: a mapping's
 * page is armed or not, and a writer that finds it armed leaves a message and tries again until it is not.
 */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/capture.h"

#define N_ROUNDS 12
#define N_MAPPINGS 2
#define N_CHUNKS 4
#define N_PAGES (N_CHUNKS * CHUNK_PAGES)
#define N_WRITES 3000

static struct pool *pool;

static struct world {
        struct capture capture;
        _Atomic uint64_t memory[N_PAGES];
        uint64_t truth[N_PAGES]; /* memory at the cut */
        _Atomic uint8_t armed[N_MAPPINGS][N_PAGES];
        _Atomic uint8_t message[N_MAPPINGS][N_PAGES];
        _Atomic unsigned n_writers;
        _Alignas(uint64_t) uint8_t image[CHUNK_BYTES]; /* the sweep's, like those below */
        unsigned long n_laid_over;
        unsigned long n_wrong;
        unsigned long n_saved; /* the fault thread's */
} w;

static void disarm(unsigned mapping, uint64_t page) {
        /* release: what was read of the page was read before somebody writes it; the kernel's page tables do as much */
        atomic_store_explicit(&w.armed[mapping][page], 0, memory_order_release);
}

static void *run_writer(void *data) {
        unsigned mapping = (unsigned) (uintptr_t) data;
        uint64_t random = 88172645463325252ULL + mapping;

        for (unsigned i = 0; i < N_WRITES; i++) {
                uint64_t page;

                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                page = random % N_PAGES;
                while (atomic_load_explicit(&w.armed[mapping][page], memory_order_acquire)) {
                        atomic_store_explicit(&w.message[mapping][page], 1, memory_order_relaxed);
                        sched_yield();
                }
                atomic_fetch_add_explicit(&w.memory[page], 1, memory_order_relaxed);
        }
        atomic_fetch_sub(&w.n_writers, 1);
        return NULL;
}

static int read_page(void *data, const struct iovec *iov, int n_iov, uint64_t offset) {
        uint64_t *page = iov[0].iov_base;

        for (unsigned i = 0; i < CHUNK_PAGE_BYTES / sizeof(*page); i++)
                page[i] = atomic_load_explicit(&w.memory[offset / CHUNK_PAGE_BYTES], memory_order_relaxed);
        return 0;
}

static void serve(unsigned mapping, uint64_t page) {
        switch (capture_fault(&w.capture, 0, page, read_page, NULL)) {
        case CAPTURE_SAVED:
                w.n_saved++;
                break;
        case CAPTURE_NO_SLOT:
                capture_park(&w.capture, 0, page);
                if (capture_ask(&w.capture, 0, page, 1))
                        return;
                break;
        default:
                break;
        }
        disarm(mapping, page);
}

static void *run_faults(void *data) {
        while (atomic_load(&w.n_writers) > 0) {
                for (uint64_t page = 0; page < N_PAGES; page++)
                        for (unsigned mapping = 0; mapping < N_MAPPINGS; mapping++)
                                if (atomic_load_explicit(&w.message[mapping][page], memory_order_relaxed) &&
                                    atomic_exchange_explicit(&w.message[mapping][page], 0, memory_order_relaxed))
                                        serve(mapping, page);
                sched_yield();
        }
        return NULL;
}

static void sweep_chunk(uint64_t chunk) {
        uint64_t first = chunk * CHUNK_PAGES;
        uint32_t n_saved;

        for (uint64_t i = 0; i < CHUNK_PAGES; i++) {
                struct iovec iov = { w.image + i * CHUNK_PAGE_BYTES, CHUNK_PAGE_BYTES };

                read_page(NULL, &iov, 1, (first + i) * CHUNK_PAGE_BYTES);
        }
        sched_yield();
        assert_true(capture_close(&w.capture, 0, chunk, w.image, &n_saved));
        w.n_laid_over += n_saved;
        for (uint64_t i = 0; i < CHUNK_PAGES; i++) {
                const uint64_t *page = (const uint64_t *) (w.image + i * CHUNK_PAGE_BYTES);

                for (unsigned j = 0; j < CHUNK_PAGE_BYTES / sizeof(*page); j++)
                        w.n_wrong += page[j] != w.truth[first + i];
                for (unsigned mapping = 0; mapping < N_MAPPINGS; mapping++)
                        disarm(mapping, first + i);
        }
}

static void *run_sweep(void *data) {
        for (unsigned n = 0; n < N_CHUNKS; n++) {
                unsigned region;
                uint64_t chunk = 0;

                for (unsigned i = 0; i < 100; i++)
                        sched_yield();
                if (!capture_hottest(&w.capture, &region, &chunk))
                        while (capture_is_closed(&w.capture, 0, chunk))
                                chunk++;
                sweep_chunk(chunk);
        }
        return NULL;
}

static void run_round(void) {
        pthread_t threads[N_MAPPINGS + 2];
        unsigned region = 0, n_parked = 0;
        uint64_t page = 0;

        memset(&w, 0, sizeof(w));
        assert_int_equal(capture_init(&w.capture, pool, 1), 0);
        assert_int_equal(capture_add_region(&w.capture, 0, N_CHUNKS * CHUNK_BYTES, CHUNK_PAGE_BYTES, false), 0);
        for (uint64_t i = 0; i < N_PAGES; i++) {
                w.truth[i] = i * 1000003;
                w.memory[i] = w.truth[i];
                for (unsigned mapping = 0; mapping < N_MAPPINGS; mapping++)
                        w.armed[mapping][i] = 1;
        }
        w.n_writers = N_MAPPINGS;
        for (uintptr_t i = 0; i < N_MAPPINGS; i++)
                assert_int_equal(pthread_create(&threads[i], NULL, run_writer, (void *) i), 0);
        assert_int_equal(pthread_create(&threads[N_MAPPINGS], NULL, run_faults, NULL), 0);
        assert_int_equal(pthread_create(&threads[N_MAPPINGS + 1], NULL, run_sweep, NULL), 0);
        for (unsigned i = 0; i < N_MAPPINGS + 2; i++)
                pthread_join(threads[i], NULL);

        for (; capture_unpark(&w.capture, &region, &page); page++)
                n_parked++;
        print_message("%lu pages saved by faults, %u parked\n", w.n_saved, n_parked);
        assert_int_equal(w.n_wrong, 0);
        assert_int_equal(w.n_laid_over, w.n_saved);
        assert_int_equal(w.capture.n_parked, 0);
        capture_deinit(&w.capture);
}

static void test_threads(void **state) {
        uint32_t n_free = pool_slots_free(pool);

        for (unsigned i = 0; i < N_ROUNDS; i++) {
                run_round();
                assert_int_equal(pool_slots_free(pool), n_free);
        }
}

/* A few slots only, so that pages are parked and the sweep is asked to come. */
static void test_threads_with_spent_pool(void **state) {
        uint32_t n_taken = pool_slots_free(pool) - 8, taken = pool_take_slots(pool, n_taken);

        assert_int_not_equal(taken, POOL_NO_SLOT);
        for (unsigned i = 0; i < N_ROUNDS; i++) {
                run_round();
                assert_int_equal(pool_slots_free(pool), 8);
        }
        pool_give_slots(pool, taken, n_taken);
}

static int setup(void **state) {
        struct error error = { .kind = ERROR_NONE };

        return pool_new(POOL_BYTES_MIN, &pool, &error);
}

static int teardown(void **state) {
        pool_free(pool);
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_threads),
                cmocka_unit_test(test_threads_with_spent_pool),
        };

        return cmocka_run_group_tests_name("capture_threads", tests, setup, teardown);
}
