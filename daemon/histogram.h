/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_HISTOGRAM_H
#define LIVESNAP_DAEMON_HISTOGRAM_H

/*
 * Latencies in buckets that grow with the value: 16 to the octave, so a quantile is right within about 6 %. Fixed size,
 * no allocation: it is filled on the fault path. One writer; not thread-safe.
 */

#include <stdint.h>

#define HISTOGRAM_PER_OCTAVE 16u
#define HISTOGRAM_BUCKETS (HISTOGRAM_PER_OCTAVE * 41u)

struct histogram {
        uint64_t n;
        uint64_t max_ns;
        uint32_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *histogram, uint64_t value_ns);

/** histogram_quantile() - the value in nanoseconds that the share @q (0 to 1) of all values does not pass; 0 if empty
 */
uint64_t histogram_quantile(const struct histogram *histogram, double q);

#endif
