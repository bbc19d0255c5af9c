/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The pool: what one thread sees of it, and that two that hammer it never get the same slot. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/pool.h"

#define SLOTS_PER_HUGE_PAGE (CHUNK_BYTES / POOL_SLOT_BYTES)

static int make_pool(void **state) {
        struct error error = { 0 };
        struct pool *pool;

        if (pool_new(POOL_BYTES_MIN, &pool, &error) < 0)
                return -1;
        *state = pool;
        return 0;
}

static int free_pool(void **state) {
        pool_free(*state);
        return 0;
}

static void test_size(void **state) {
        struct error error = { 0 };
        struct pool *pool = *state;

        assert_int_equal(pool_bytes(pool), POOL_BYTES_MIN);
        assert_int_equal(pool_slots(pool), (POOL_BYTES_MIN - POOL_CHUNKS_MIN * CHUNK_BYTES) / POOL_SLOT_BYTES);
        assert_int_equal(pool_slots_free(pool), pool_slots(pool));
        assert_int_equal(pool_free_bytes(pool), (uint64_t) pool_slots(pool) * POOL_SLOT_BYTES);

        assert_int_equal(pool_new(POOL_BYTES_MIN - 1, &pool, &error), -1);
        assert_int_equal(error.kind, ERROR_BAD_REQUEST);
        assert_int_equal(pool_new(POOL_BYTES_MAX + 1, &pool, &error), -1);
        assert_ptr_equal(pool, *state);
        pool_free(NULL);
}

/* All that there are, each once, each with memory of its own; then none; then all again. */
static void test_every_slot_once(void **state) {
        struct pool *pool = *state;
        uint32_t n = pool_slots(pool);

        for (unsigned round = 0; round < 2; round++) {
                bool *taken = calloc(n, sizeof(*taken));

                assert_non_null(taken);
                for (uint32_t i = 0; i < n; i++) {
                        uint32_t slot = pool_take_slots(pool, 1);

                        assert_true(slot < n && !taken[slot]);
                        taken[slot] = true;
                        memset(pool_slot_data(pool, slot), (int) (slot % 251), POOL_SLOT_BYTES);
                        pool_slot_note(pool, slot)->page = slot;
                        assert_int_equal(pool_slots_free(pool), n - i - 1);
                }
                assert_int_equal(pool_take_slots(pool, 1), POOL_NO_SLOT);
                for (uint32_t slot = 0; slot < n; slot++) {
                        assert_int_equal(pool_slot_data(pool, slot)[0], slot % 251);
                        assert_int_equal(pool_slot_data(pool, slot)[POOL_SLOT_BYTES - 1], slot % 251);
                        assert_int_equal(pool_slot_note(pool, slot)->page, slot);
                        pool_give_slots(pool, slot, 1);
                }
                assert_int_equal(pool_slots_free(pool), n);
                free(taken);
        }
}

static void test_chains(void **state) {
        struct pool *pool = *state;
        uint32_t n = pool_slots(pool), n_chains = n / SLOTS_PER_HUGE_PAGE, rest = n % SLOTS_PER_HUGE_PAGE;
        bool *taken = calloc(n, sizeof(*taken));
        uint32_t *chains = calloc(n_chains, sizeof(*chains));

        assert_non_null(taken);
        assert_non_null(chains);
        for (uint32_t i = 0; i < n_chains; i++) {
                uint32_t slot = chains[i] = pool_take_slots(pool, SLOTS_PER_HUGE_PAGE);

                for (uint32_t j = 0; j < SLOTS_PER_HUGE_PAGE; j++, slot = pool_next_slot(pool, slot)) {
                        assert_true(slot < n && !taken[slot]);
                        taken[slot] = true;
                }
        }
        /* All or nothing: a chain that is too long takes none. */
        assert_int_equal(pool_slots_free(pool), rest);
        assert_int_equal(pool_take_slots(pool, rest + 1), POOL_NO_SLOT);
        assert_int_equal(pool_slots_free(pool), rest);

        /* A chain that was given back serves single slots, and single slots serve a chain. */
        pool_give_slots(pool, chains[0], SLOTS_PER_HUGE_PAGE);
        memset(taken, 0, n * sizeof(*taken));
        for (uint32_t i = 0; i < SLOTS_PER_HUGE_PAGE; i++) {
                uint32_t slot = pool_take_slots(pool, 1);

                assert_true(slot < n && !taken[slot]);
                taken[slot] = true;
        }
        for (uint32_t slot = 0; slot < n; slot++)
                if (taken[slot])
                        pool_give_slots(pool, slot, 1);
        chains[0] = pool_take_slots(pool, SLOTS_PER_HUGE_PAGE);
        assert_true(chains[0] < n);

        for (uint32_t i = 0; i < n_chains; i++)
                pool_give_slots(pool, chains[i], SLOTS_PER_HUGE_PAGE);
        assert_int_equal(pool_slots_free(pool), n);
        free(chains);
        free(taken);
}

static void test_chain_longer_than_the_pool(void **state) {
        struct pool *pool = *state;
        uint32_t n = pool_slots(pool), first;

        assert_int_equal(pool_take_slots(pool, n + 1), POOL_NO_SLOT);
        first = pool_take_slots(pool, n);
        assert_int_not_equal(first, POOL_NO_SLOT);
        assert_int_equal(pool_slots_free(pool), 0);
        pool_give_slots(pool, first, n);
        assert_int_equal(pool_slots_free(pool), n);
}

#define HAMMER_NS (300 * NSEC_PER_MSEC)
#define HAMMER_HELD 48u

struct hammer {
        struct pool *pool;
        _Atomic uint32_t *owners; /* of each slot: 0, or who has it */
        uint32_t id;
        uint64_t until_ns;
        uint64_t n_taken;
        bool failed; /* cmocka's assertions are for the main thread */
};

struct held {
        uint32_t first;
        uint32_t n;
};

static void hammer_mark(struct hammer *hammer, const struct held *held, uint32_t from, uint32_t to) {
        uint32_t slot = held->first;

        for (uint32_t i = 0; i < held->n; i++, slot = pool_next_slot(hammer->pool, slot)) {
                uint32_t expected = from;

                if (slot >= pool_slots(hammer->pool) ||
                    !atomic_compare_exchange_strong_explicit(&hammer->owners[slot], &expected, to, memory_order_relaxed,
                                                             memory_order_relaxed)) {
                        hammer->failed = true;
                        return;
                }
                /* What is written is for the thread sanitizer too: nobody else may touch it now. */
                if (to)
                        memcpy(pool_slot_data(hammer->pool, slot), &hammer->id, sizeof(hammer->id));
                else if (memcmp(pool_slot_data(hammer->pool, slot), &hammer->id, sizeof(hammer->id)) != 0)
                        hammer->failed = true;
        }
}

static void *hammer_main(void *data) {
        struct hammer *hammer = data;
        struct held held[HAMMER_HELD] = { 0 };
        uint64_t random = hammer->id * 0x9e3779b97f4a7c15ULL;

        for (uint64_t i = 0; !hammer->failed && (i % 64 || clock_now_ns() < hammer->until_ns); i++) {
                struct held *place;

                random = random * 6364136223846793005ULL + 1442695040888963407ULL;
                place = &held[(random >> 33) % HAMMER_HELD];
                if (place->n) {
                        hammer_mark(hammer, place, hammer->id, 0);
                        pool_give_slots(hammer->pool, place->first, place->n);
                        place->n = 0;
                        continue;
                }
                /* Now and then far more than one, so that the pool runs dry and chains of old links are walked. */
                place->n = (random >> 60) == 0 ? SLOTS_PER_HUGE_PAGE / 4 : 1 + (uint32_t) (random >> 50) % 3;
                place->first = pool_take_slots(hammer->pool, place->n);
                if (place->first == POOL_NO_SLOT) {
                        place->n = 0;
                        continue;
                }
                hammer->n_taken++;
                hammer_mark(hammer, place, 0, hammer->id);
        }
        for (unsigned i = 0; i < HAMMER_HELD && !hammer->failed; i++)
                if (held[i].n) {
                        hammer_mark(hammer, &held[i], hammer->id, 0);
                        pool_give_slots(hammer->pool, held[i].first, held[i].n);
                }
        return NULL;
}

/* @n_left: slots that the two have for themselves; few make them meet at the same ones */
static void hammer_pool(struct pool *pool, uint32_t n_left) {
        uint32_t n = pool_slots(pool), n_away = n - n_left, away = POOL_NO_SLOT;
        _Atomic uint32_t *owners = calloc(n, sizeof(*owners));
        struct hammer hammers[2] = { 0 };
        pthread_t threads[2];

        assert_non_null(owners);
        if (n_away)
                away = pool_take_slots(pool, n_away);
        for (unsigned i = 0; i < 2; i++) {
                hammers[i] = (struct hammer){ pool, owners, i + 1, clock_now_ns() + HAMMER_NS, 0, false };
                assert_int_equal(pthread_create(&threads[i], NULL, hammer_main, &hammers[i]), 0);
        }
        for (unsigned i = 0; i < 2; i++)
                pthread_join(threads[i], NULL);
        for (unsigned i = 0; i < 2; i++) {
                assert_false(hammers[i].failed);
                assert_true(hammers[i].n_taken > 0);
        }
        if (n_away)
                pool_give_slots(pool, away, n_away);
        /* None was lost either. */
        assert_int_equal(pool_slots_free(pool), n);
        away = pool_take_slots(pool, n);
        assert_int_not_equal(away, POOL_NO_SLOT);
        pool_give_slots(pool, away, n);
        free((void *) owners);
}

static void test_two_threads(void **state) {
        hammer_pool(*state, pool_slots(*state));
}

static void test_two_threads_with_few_slots(void **state) {
        hammer_pool(*state, 8);
}

static uint64_t take_chunk_ms(struct pool_share *share, unsigned timeout_ms, struct chunk **ret) {
        uint64_t start_ns = clock_now_ns();

        *ret = pool_take_chunk(share, timeout_ms);
        return (clock_now_ns() - start_ns) / NSEC_PER_MSEC;
}

static void test_chunk_timeout(void **state) {
        struct pool_share share;
        struct chunk *chunks[POOL_CHUNKS_MIN], *none;

        assert_true(pool_share_init(&share, *state));
        for (unsigned i = 0; i < POOL_CHUNKS_MIN; i++) {
                assert_true(take_chunk_ms(&share, 10000, &chunks[i]) < 5000);
                assert_non_null(chunks[i]);
                assert_int_equal((uintptr_t) chunks[i]->data % POOL_SLOT_BYTES, 0);
                memset(chunks[i]->data, (int) i + 1, CHUNK_BYTES);
        }
        for (unsigned i = 0; i < POOL_CHUNKS_MIN; i++) {
                assert_int_equal(chunks[i]->data[0], i + 1);
                assert_int_equal(chunks[i]->data[CHUNK_BYTES - 1], i + 1);
        }
        assert_true(take_chunk_ms(&share, 30, &none) >= 29);
        assert_null(none);
        (void) take_chunk_ms(&share, 0, &none);
        assert_null(none);
        /* across the end of a second too */
        assert_true(take_chunk_ms(&share, 1001, &none) >= 1000);
        assert_null(none);

        pool_give_chunk(&share, chunks[1]);
        assert_ptr_equal(pool_take_chunk(&share, 10000), chunks[1]);
        for (unsigned i = 0; i < POOL_CHUNKS_MIN; i++)
                pool_give_chunk(&share, chunks[i]);
        pool_share_deinit(&share);
        pool_share_deinit(&share); /* of one that has left, nothing */
}

/* No more shares than POOL_CHUNKS_MIN buffers for each allow. */
static void test_shares_are_limited(void **state) {
        struct pool_share shares[2];

        assert_true(pool_share_init(&shares[0], *state));
        assert_false(pool_share_init(&shares[1], *state));
        pool_share_deinit(&shares[0]);
        assert_true(pool_share_init(&shares[1], *state));
        pool_share_deinit(&shares[1]);
}

/* Who was alone and has more than half gives the rest up as it comes back, and gets it again afterwards. */
static void test_buffers_are_shared_out_evenly(void **state) {
        struct error error = { 0 };
        struct pool_share first, second;
        struct chunk *of_first[4], *of_second[2];
        struct pool *pool;

        assert_int_equal(pool_new(4 * 8ULL * CHUNK_BYTES, &pool, &error), 0);
        assert_true(pool_share_init(&first, pool));
        for (unsigned i = 0; i < 4; i++)
                assert_non_null(of_first[i] = pool_take_chunk(&first, 10000));
        assert_true(pool_share_init(&second, pool));
        assert_null(pool_take_chunk(&second, 1));

        pool_give_chunk(&first, of_first[3]);
        pool_give_chunk(&first, of_first[2]);
        assert_null(pool_take_chunk(&first, 1)); /* two are free, but not for it */
        for (unsigned i = 0; i < 2; i++)
                assert_non_null(of_second[i] = pool_take_chunk(&second, 10000));
        assert_null(pool_take_chunk(&second, 1));

        for (unsigned i = 0; i < 2; i++)
                pool_give_chunk(&second, of_second[i]);
        pool_share_deinit(&second);
        for (unsigned i = 2; i < 4; i++)
                assert_non_null(of_first[i] = pool_take_chunk(&first, 10000));
        for (unsigned i = 0; i < 4; i++)
                pool_give_chunk(&first, of_first[i]);
        pool_share_deinit(&first);
        pool_free(pool);
}

struct late_return {
        struct pool_share *share;
        struct chunk *chunk;
        _Atomic bool returned;
};

static void *return_late(void *data) {
        struct late_return *late = data;

        usleep(20000);
        atomic_store(&late->returned, true);
        pool_give_chunk(late->share, late->chunk);
        return NULL;
}

static void test_taker_is_woken(void **state) {
        struct pool_share share;
        struct chunk *chunks[POOL_CHUNKS_MIN];
        struct late_return late = { .share = &share };
        pthread_t thread;

        assert_true(pool_share_init(&share, *state));
        for (unsigned i = 0; i < POOL_CHUNKS_MIN; i++)
                assert_non_null(chunks[i] = pool_take_chunk(&share, 10000));
        late.chunk = chunks[0];
        assert_int_equal(pthread_create(&thread, NULL, return_late, &late), 0);
        assert_ptr_equal(pool_take_chunk(&share, 30000), chunks[0]);
        pthread_join(thread, NULL);
        for (unsigned i = 0; i < POOL_CHUNKS_MIN; i++)
                pool_give_chunk(&share, chunks[i]);
        pool_share_deinit(&share);
}

/* The image writer may still have a buffer when its snapshot leaves. */
static void test_leaving_waits_for_the_last_buffer(void **state) {
        struct pool_share share;
        struct late_return late = { .share = &share };
        pthread_t thread;

        assert_true(pool_share_init(&share, *state));
        assert_non_null(late.chunk = pool_take_chunk(&share, 10000));
        assert_int_equal(pthread_create(&thread, NULL, return_late, &late), 0);
        pool_share_deinit(&share);
        assert_true(atomic_load(&late.returned));
        pthread_join(thread, NULL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_size, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_every_slot_once, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_chains, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_chain_longer_than_the_pool, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_two_threads, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_two_threads_with_few_slots, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_chunk_timeout, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_shares_are_limited, make_pool, free_pool),
                cmocka_unit_test(test_buffers_are_shared_out_evenly),
                cmocka_unit_test_setup_teardown(test_taker_is_woken, make_pool, free_pool),
                cmocka_unit_test_setup_teardown(test_leaving_waits_for_the_last_buffer, make_pool, free_pool),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
