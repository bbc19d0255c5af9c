/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/histogram.h"

/* Values below 16 have a bucket each; above, the four bits below the leading one choose it. */
static unsigned histogram_bucket(uint64_t value) {
        unsigned octave, bucket;

        if (value < HISTOGRAM_PER_OCTAVE)
                return (unsigned) value;
        octave = 63u - (unsigned) __builtin_clzll(value);
        bucket = (octave - 3) * HISTOGRAM_PER_OCTAVE + (unsigned) (value >> (octave - 4)) % HISTOGRAM_PER_OCTAVE;
        return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

/* The largest value that falls into a bucket. */
static uint64_t histogram_bucket_end(unsigned bucket) {
        unsigned octave;

        if (bucket < HISTOGRAM_PER_OCTAVE)
                return bucket;
        octave = bucket / HISTOGRAM_PER_OCTAVE + 3;
        return ((uint64_t) (HISTOGRAM_PER_OCTAVE + bucket % HISTOGRAM_PER_OCTAVE + 1) << (octave - 4)) - 1;
}

void histogram_add(struct histogram *histogram, uint64_t value_ns) {
        histogram->buckets[histogram_bucket(value_ns)]++;
        histogram->n++;
        if (value_ns > histogram->max_ns)
                histogram->max_ns = value_ns;
}

uint64_t histogram_quantile(const struct histogram *histogram, double q) {
        uint64_t rank = (uint64_t) (q * (double) histogram->n + 0.5), seen = 0;

        if (rank < 1)
                rank = 1;
        for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
                seen += histogram->buckets[i];
                if (seen >= rank) {
                        uint64_t end = histogram_bucket_end(i);

                        return end < histogram->max_ns ? end : histogram->max_ns;
                }
        }
        return histogram->max_ns;
}
