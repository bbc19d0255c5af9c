// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The only program of the test guest: its /init. It fills most of the guest's RAM with the pattern of pattern.h, then
 * writes to it as fast as it can, one thread for each vCPU, and checks each page before it is written again. On the
 * serial console it reports, every report_ms (a word of the kernel's command line, which the kernel hands to us in the
 * environment):
 *
 *      livesnap-guest report t_ms=TIME writes=TOTAL rate=WRITES_A_SECOND errors=TOTAL stall_us=LONGEST_GAP
 *
 * errors counts pages that did not hold what was last written to them. stall_us is the longest time between two writes
 * of one thread since the last report: what one write had to wait.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "pattern.h"

/* What stays free for the guest's kernel: without it the program dies of its out-of-memory killer. */
#define INIT_SPARE_BYTES (40u << 20)
#define INIT_ERRORS_SHOWN 10u

struct area {
        volatile uint64_t *words;
        _Atomic uint64_t complete; /* writes that are in memory in whole */
        _Atomic uint64_t errors;
        _Atomic uint64_t longest_gap; /* in ticks of the TSC; reset by the reporter */
} __attribute__((aligned(64)));

static struct area areas[PATTERN_AREAS_MAX];
static uint32_t n_areas, n_pages;

static void fill_page(uint32_t area, uint32_t page) {
        volatile uint64_t *words = areas[area].words + (size_t) page * PATTERN_PAGE_WORDS;

        for (unsigned word = 0; word < PATTERN_PAGE_WORDS; word++) {
                if (word % PATTERN_STAMP_STRIDE == 0)
                        words[word] = pattern_stamp(0, word / PATTERN_STAMP_STRIDE);
                else if (word == PATTERN_WORD_SAW)
                        words[word] = 0;
                else
                        words[word] = pattern_constant(n_areas, n_pages, area, page, word);
        }
}

static bool check_word(uint32_t area, uint32_t page, unsigned word, uint64_t expected) {
        uint64_t found = areas[area].words[(size_t) page * PATTERN_PAGE_WORDS + word];

        if (found == expected)
                return true;
        if (areas[area].errors < INIT_ERRORS_SHOWN)
                printf("livesnap-guest error area=%u page=%u word=%u expected=%#jx found=%#jx\n", area, page, word,
                       (uintmax_t) expected, (uintmax_t) found);
        return false;
}

/* All stamps, and eight of the words that never change: other ones in each round, so that 64 rounds see them all. */
static void check_page(uint32_t area, uint32_t page, uint64_t last_write, uint64_t round) {
        unsigned base = round % (PATTERN_PAGE_WORDS / 8) * 8;
        bool good = true;

        for (unsigned i = 0; i < PATTERN_STAMPS; i++)
                good = check_word(area, page, i * PATTERN_STAMP_STRIDE, pattern_stamp(last_write, i)) && good;
        for (unsigned word = base; word < base + 8; word++)
                if (word % PATTERN_STAMP_STRIDE != 0 && word != PATTERN_WORD_SAW)
                        good = check_word(area, page, word, pattern_constant(n_areas, n_pages, area, page, word)) &&
                               good;
        if (!good)
                areas[area].errors++;
}

static void write_page(uint32_t area, uint32_t page, uint64_t write) {
        volatile uint64_t *words = areas[area].words + (size_t) page * PATTERN_PAGE_WORDS;
        /* Pairs with the release below: what the next area said to be complete is in memory before our stores. */
        uint64_t saw = atomic_load_explicit(&areas[(area + 1) % n_areas].complete, memory_order_acquire);

        words[0] = pattern_stamp(write, 0);
        words[PATTERN_WORD_SAW] = saw;
        for (unsigned i = 1; i < PATTERN_STAMPS; i++)
                words[i * PATTERN_STAMP_STRIDE] = pattern_stamp(write, i);
        atomic_store_explicit(&areas[area].complete, write, memory_order_release);
}

static void *write_for_ever(void *argument) {
        uint32_t area = (uint32_t) (uintptr_t) argument;
        struct pattern_round before = { 0 }, now;
        uint64_t last_ticks = __rdtsc();

        for (uint64_t round = 0;; round++) {
                pattern_round_init(&now, n_pages, area, round);
                for (uint32_t index = 0; index < n_pages; index++) {
                        uint32_t page = pattern_page(&now, index);
                        uint64_t last_write = 0, ticks;

                        if (round > 0)
                                last_write = (round - 1) * n_pages + pattern_index(&before, page) + 1;
                        check_page(area, page, last_write, round);
                        write_page(area, page, round * n_pages + index + 1);

                        ticks = __rdtsc();
                        if (ticks - last_ticks > areas[area].longest_gap)
                                areas[area].longest_gap = ticks - last_ticks;
                        last_ticks = ticks;
                }
                before = now;
        }
        return NULL;
}

static uint64_t now_us(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

static void report_for_ever(uint64_t interval_us) {
        uint64_t start_us = now_us(), start_ticks = __rdtsc(), last_us = start_us, last_writes = 0;

        for (;;) {
                uint64_t writes = 0, errors = 0, gap = 0, us;
                double ticks_per_us;

                usleep((useconds_t) interval_us);
                us = now_us();
                ticks_per_us = (double) (__rdtsc() - start_ticks) / (double) (us - start_us);
                for (uint32_t i = 0; i < n_areas; i++) {
                        uint64_t area_gap = atomic_exchange(&areas[i].longest_gap, 0);

                        writes += areas[i].complete;
                        errors += areas[i].errors;
                        if (area_gap > gap)
                                gap = area_gap;
                }
                printf("livesnap-guest report t_ms=%ju writes=%ju rate=%.0f errors=%ju stall_us=%.0f\n",
                       (uintmax_t) (us / 1000), (uintmax_t) writes,
                       (double) (writes - last_writes) * 1e6 / (double) (us - last_us), (uintmax_t) errors,
                       (double) gap / ticks_per_us);
                last_us = us;
                last_writes = writes;
        }
}

/* A page that the kernel moves leaves its old content behind in a free page, where the checker would find it too. */
static void forbid_page_moves(void) {
        FILE *file;

        mkdir("/proc", 0755);
        if (mount("proc", "/proc", "proc", 0, NULL) < 0)
                return;
        file = fopen("/proc/sys/vm/compaction_proactiveness", "we");
        if (file != NULL) {
                fputs("0\n", file);
                fclose(file);
        }
}

static void die(const char *what) {
        printf("livesnap-guest failed: %s: %m\n", what);
        sleep(3600); /* /init must not end: the kernel would panic and hide the line */
        exit(1);
}

int main(void) {
        const char *report_ms = getenv("report_ms");
        uint64_t interval_us = (report_ms != NULL ? strtoull(report_ms, NULL, 10) : 1000) * 1000;
        struct sysinfo info;
        size_t area_bytes;

        setvbuf(stdout, NULL, _IOLBF, 0);
        forbid_page_moves();

        n_areas = (uint32_t) sysconf(_SC_NPROCESSORS_ONLN);
        if (n_areas > PATTERN_AREAS_MAX)
                n_areas = PATTERN_AREAS_MAX;
        if (sysinfo(&info) < 0)
                die("sysinfo");
        if (info.freeram < 2 * INIT_SPARE_BYTES)
                die("this guest has too little RAM");
        n_pages = (uint32_t) ((info.freeram - INIT_SPARE_BYTES) / PATTERN_PAGE_BYTES / n_areas);
        area_bytes = (size_t) n_pages * PATTERN_PAGE_BYTES;

        for (uint32_t i = 0; i < n_areas; i++) {
                void *memory = mmap(NULL, area_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

                if (memory == MAP_FAILED)
                        die("mmap");
                areas[i].words = memory;
                for (uint32_t page = 0; page < n_pages; page++)
                        fill_page(i, page);
        }
        printf("livesnap-guest ready areas=%u pages=%u bytes=%zu\n", n_areas, n_pages, n_areas * area_bytes);

        for (uint32_t i = 0; i < n_areas; i++) {
                pthread_t thread;

                if (pthread_create(&thread, NULL, write_for_ever, (void *) (uintptr_t) i) != 0)
                        die("pthread_create");
        }
        report_for_ever(interval_us > 0 ? interval_us : 1000000);
        return 0;
}
