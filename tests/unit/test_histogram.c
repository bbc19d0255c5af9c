/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The histogram of fault latencies, held against all the values in order. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/histogram.h"

#define N_VALUES 20000u

static const double quantiles[] = { 0.0, 0.001, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0 };

#define N_QUANTILES (sizeof(quantiles) / sizeof(*quantiles))

/* xorshift64*: the same numbers on every machine */
static uint64_t next_random(uint64_t *state) {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        return *state * 0x2545f4914f6cdd1dULL;
}

static int compare_values(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

        return (x > y) - (x < y);
}

static struct histogram *histogram_of(const uint64_t *values, size_t n) {
        struct histogram *histogram = calloc(1, sizeof(*histogram));

        assert_non_null(histogram);
        for (size_t i = 0; i < n; i++)
                histogram_add(histogram, values[i]);
        return histogram;
}

/* Never too small, and too large by no more than a sixteenth: what the four bits below the leading one leave open. */
static void assert_close(uint64_t answer, uint64_t exact) {
        assert_true(answer >= exact);
        assert_true(answer - exact <= exact / HISTOGRAM_PER_OCTAVE);
}

static void check_quantiles(uint64_t *values, size_t n) {
        struct histogram *histogram = histogram_of(values, n);

        qsort(values, n, sizeof(*values), compare_values);
        for (size_t i = 0; i < N_QUANTILES; i++) {
                size_t rank = (size_t) (quantiles[i] * (double) n + 0.5);

                assert_close(histogram_quantile(histogram, quantiles[i]), values[rank < 1 ? 0 : rank - 1]);
        }
        assert_int_equal(histogram_quantile(histogram, 1.0), values[n - 1]);
        assert_int_equal(histogram->max_ns, values[n - 1]);
        assert_int_equal(histogram->n, n);
        free(histogram);
}

static void test_nothing(void **state) {
        struct histogram *histogram = histogram_of(NULL, 0);

        for (size_t i = 0; i < N_QUANTILES; i++)
                assert_int_equal(histogram_quantile(histogram, quantiles[i]), 0);
        free(histogram);
}

/* No value may be put where its end is smaller, or much larger, than itself: each power of two and its neighbours. */
static void test_edges_of_buckets(void **state) {
        for (unsigned bits = 0; bits < 40; bits++)
                for (unsigned part = 0; part < HISTOGRAM_PER_OCTAVE; part++)
                        for (int around = -1; around <= 1; around++) {
                                uint64_t base = 1ULL << bits;
                                uint64_t value = base + base / HISTOGRAM_PER_OCTAVE * part + (uint64_t) around;
                                uint64_t pair[] = { value, UINT64_C(1) << 41 };
                                struct histogram *histogram = histogram_of(pair, 2);

                                assert_close(histogram_quantile(histogram, 0.5), value);
                                free(histogram);
                        }
}

static void test_small_values_are_exact(void **state) {
        for (uint64_t value = 0; value < HISTOGRAM_PER_OCTAVE; value++) {
                uint64_t pair[] = { value, 1000 };
                struct histogram *histogram = histogram_of(pair, 2);

                assert_int_equal(histogram_quantile(histogram, 0.5), value);
                free(histogram);
        }
}

/* What is longer than all buckets is kept in the last one, and the maximum stays exact. */
static void test_enormous_values(void **state) {
        uint64_t values[] = { 1, UINT64_MAX, UINT64_MAX - 1 };
        struct histogram *histogram = histogram_of(values, 3);

        assert_int_equal(histogram->max_ns, UINT64_MAX);
        assert_int_equal(histogram_quantile(histogram, 0.1), 1);
        assert_int_equal(histogram->n, 3);
        free(histogram);
}

static void test_random_values(void **state) {
        uint64_t *values = calloc(N_VALUES, sizeof(*values)), seed = 42;

        assert_non_null(values);
        for (unsigned bits = 1; bits <= 36; bits += 5) {
                /* as many values in each octave, as latencies have */
                for (size_t i = 0; i < N_VALUES; i++)
                        values[i] = next_random(&seed) >> (64 - bits) >> next_random(&seed) % bits;
                check_quantiles(values, N_VALUES);
        }
        free(values);
}

static void test_one_value_many_times(void **state) {
        uint64_t values[100];

        for (size_t i = 0; i < 100; i++)
                values[i] = 37123;
        check_quantiles(values, 100);
        /* the end of its bucket is larger, but nothing was */
        struct histogram *histogram = histogram_of(values, 100);

        assert_int_equal(histogram_quantile(histogram, 0.5), 37123);
        free(histogram);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_nothing),          cmocka_unit_test(test_small_values_are_exact),
                cmocka_unit_test(test_edges_of_buckets), cmocka_unit_test(test_enormous_values),
                cmocka_unit_test(test_random_values),    cmocka_unit_test(test_one_value_many_times),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
