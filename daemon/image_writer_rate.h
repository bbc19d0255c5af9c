/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_RATE_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_RATE_H

/* A token bucket: at most so many bytes a second, with no more than a tenth of a second saved up. */

#include <stdint.h>

struct image_rate {
        uint64_t bytes_per_second; /* 0: no limit */
        uint64_t ready_ns;         /* the bucket is not empty from then on */
};

/** image_rate_init() - with a full bucket at @now_ns (of any clock that does not go back) */
void image_rate_init(struct image_rate *rate, uint64_t bytes_per_second, uint64_t now_ns);

/** image_rate_wait_ns() - how long nothing more may be taken; 0: go on */
uint64_t image_rate_wait_ns(const struct image_rate *rate, uint64_t now_ns);

/** image_rate_take() - take @bytes, into debt if there are not so many, so that any amount can be taken at once */
void image_rate_take(struct image_rate *rate, uint64_t bytes, uint64_t now_ns);

#endif
