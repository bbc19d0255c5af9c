/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_rate.h"

#define SAVED_NS_MAX UINT64_C(100000000)

/* The bucket as an instant: its content is the time since ready_ns, but for what does not fit, times the rate. */
static uint64_t without_overflow(const struct image_rate *rate, uint64_t now_ns) {
        uint64_t full_ns = now_ns > SAVED_NS_MAX ? now_ns - SAVED_NS_MAX : 0;

        return rate->ready_ns > full_ns ? rate->ready_ns : full_ns;
}

void image_rate_init(struct image_rate *rate, uint64_t bytes_per_second, uint64_t now_ns) {
        *rate = (struct image_rate){ .bytes_per_second = bytes_per_second };
        rate->ready_ns = without_overflow(rate, now_ns);
}

uint64_t image_rate_wait_ns(const struct image_rate *rate, uint64_t now_ns) {
        return rate->bytes_per_second == 0 || rate->ready_ns <= now_ns ? 0 : rate->ready_ns - now_ns;
}

void image_rate_take(struct image_rate *rate, uint64_t bytes, uint64_t now_ns) {
        if (rate->bytes_per_second == 0)
                return;
        rate->ready_ns =
                without_overflow(rate, now_ns) + (uint64_t) ((double) bytes / (double) rate->bytes_per_second * 1e9);
}
