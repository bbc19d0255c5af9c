/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_BENCH_BENCH_H
#define LIVESNAP_TESTS_BENCH_BENCH_H

/*
 * What the programs of the benchmark share. They are driven line by line over standard input and answer each line with
 * one line of JSON. All times are CLOCK_MONOTONIC, which the driver's clock is too.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "common/uffd.h"

#define BENCH_PAGE_BYTES 4096u

static inline uint64_t bench_now_ns(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

/* xorshift64*: fast enough not to count, and the same for everybody who starts from the same seed (which is not 0). */
static inline uint64_t bench_random(uint64_t *state) {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        return *state * UINT64_C(2685821657736338717);
}

/** bench_fail() - say what failed, with errno, and end the program */
void bench_fail(const char *what) __attribute__((noreturn));

/** bench_fill() - populate a range and fill it with random content, so that no page is zero or like another */
void bench_fill(uint8_t *address, uint64_t bytes);

/** bench_parse_bytes() - a decimal number from the command line; ends the program where it is none */
uint64_t bench_parse_bytes(const char *text);

/**
 * bench_touch_protected() - write to random pages that are write-protected now, and time each write
 * @address, @bytes: the range; its last page is not touched, and shows whether the protection stands
 * @n_max: stop after so many
 * @wait_ms: how long to wait for the range to become protected
 *
 * Whether a page is protected is looked up in /proc/self/pagemap just before it is written: other pages are left alone.
 * Prints the quantiles as JSON.
 */
void bench_touch_protected(uint8_t *address, uint64_t bytes, unsigned n_max, unsigned wait_ms);

/**
 * bench_save() - fork, and have the child write memory to a file as fast as it can: io_uring, O_DIRECT, fsync
 *
 * The child writes straight from the memory that it got from the parent. Returns in the parent right after fork().
 * Return: the child's pid; ends the program where it cannot be made. @ret_fork_ns: how long fork() took.
 */
int bench_save(const char *path, const uint8_t *address, uint64_t bytes, uint64_t *ret_fork_ns);

#endif
