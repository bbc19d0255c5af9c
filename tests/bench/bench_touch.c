/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Of an entry of /proc/PID/pagemap: write-protected by userfaultfd. Holds for pages that are not mapped, too. */
#define PAGEMAP_PROTECTED (UINT64_C(1) << 57)
/* After the last page was protected the cut follows, which is not what is measured here. */
#define SETTLE_NS 3000000
#define MISSES_MAX 100000

struct touch {
        volatile uint8_t *address;
        uint64_t n_pages;
        int pagemap;
        uint32_t *ns; /* how long each write took */
        unsigned n;
};

static bool touch_is_protected(const struct touch *touch, uint64_t page) {
        uint64_t entry, index = (uintptr_t) touch->address / BENCH_PAGE_BYTES + page;

        if (pread(touch->pagemap, &entry, sizeof(entry), (off_t) (index * sizeof(entry))) != sizeof(entry))
                bench_fail("pagemap");
        return entry & PAGEMAP_PROTECTED;
}

static bool touch_wait(const struct touch *touch, unsigned wait_ms) {
        uint64_t deadline_ns = bench_now_ns() + (uint64_t) wait_ms * 1000000;

        while (!touch_is_protected(touch, touch->n_pages - 1)) {
                if (bench_now_ns() > deadline_ns)
                        return false;
                usleep(200);
        }
        usleep(SETTLE_NS / 1000);
        return true;
}

static void touch_pages(struct touch *touch, unsigned n_max) {
        uint64_t random = bench_now_ns() | 1;
        unsigned misses = 0;

        while (touch->n < n_max && misses < MISSES_MAX) {
                uint64_t page = bench_random(&random) % (touch->n_pages - 1), start_ns;

                if (!touch_is_protected(touch, page)) {
                        if (misses++ % 16 == 0 && !touch_is_protected(touch, touch->n_pages - 1))
                                return;
                        continue;
                }
                start_ns = bench_now_ns();
                touch->address[page * BENCH_PAGE_BYTES]++;
                touch->ns[touch->n++] = (uint32_t) (bench_now_ns() - start_ns);
        }
}

static int compare_ns(const void *a, const void *b) {
        uint32_t left = *(const uint32_t *) a, right = *(const uint32_t *) b;

        return (left > right) - (left < right);
}

static double touch_quantile_us(const struct touch *touch, double q) {
        return touch->n ? touch->ns[(unsigned) (q * (touch->n - 1))] / 1e3 : 0;
}

void bench_touch_protected(uint8_t *address, uint64_t bytes, unsigned n_max, unsigned wait_ms) {
        struct touch touch = { .address = address, .n_pages = bytes / BENCH_PAGE_BYTES };
        bool was_protected;

        touch.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        touch.ns = malloc(n_max * sizeof(*touch.ns));
        if (touch.pagemap < 0 || !touch.ns)
                bench_fail("pagemap");
        for (unsigned i = 0; i < n_max; i++)
                touch.ns[i] = 0; /* so that no fault on it is measured */
        was_protected = touch_wait(&touch, wait_ms);
        if (was_protected)
                touch_pages(&touch, n_max);
        qsort(touch.ns, touch.n, sizeof(*touch.ns), compare_ns);
        printf("{\"protected\": %s, \"n\": %u, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": "
               "%.1f}\n",
               was_protected ? "true" : "false", touch.n, touch_quantile_us(&touch, 0.5),
               touch_quantile_us(&touch, 0.99), touch_quantile_us(&touch, 0.999), touch_quantile_us(&touch, 1));
        free(touch.ns);
        close(touch.pagemap);
}
