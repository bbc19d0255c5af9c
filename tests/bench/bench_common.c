/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/bench/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FILL_BYTES (8u << 20)

void bench_fail(const char *what) {
        fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
        exit(1);
}

void bench_fill(uint8_t *address, uint64_t bytes) {
        uint64_t random = 88172645463325252;

        for (uint64_t start = 0; start < bytes; start += FILL_BYTES) {
                uint64_t length = bytes - start < FILL_BYTES ? bytes - start : FILL_BYTES;
                uint64_t *words = (uint64_t *) (address + start);

                /* One call instead of a fault a page, where the kernel has it (5.14) */
                (void) madvise(address + start, length, MADV_POPULATE_WRITE);
                for (uint64_t i = 0; i < length / sizeof(*words); i++)
                        words[i] = bench_random(&random);
        }
}

uint64_t bench_parse_bytes(const char *text) {
        char *end;
        uint64_t number;

        errno = 0;
        number = strtoull(text, &end, 10);
        if (errno || end == text || *end) {
                errno = EINVAL;
                bench_fail(text);
        }
        return number;
}
