// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check-ram IMAGE: does a raw image of the guest's RAM hold one cut of what the guest wrote (pattern.h)?
 *
 * Finds the guest's pages wherever its kernel has put them, takes from them how many writes were complete, and then
 * compares every word of every page with what it must be after exactly that many writes. Prints one JSON object; exit
 * status 0 if the image is a cut, 1 if not, 2 if it could not be read or holds no guest at all.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pattern.h"

#define CHECK_ERRORS_SHOWN 10u

struct area {
        const uint64_t **pages; /* where in the image each page is; NULL: not found */
        uint64_t writes;        /* complete ones */
        uint64_t saw;           /* the most that any page of it saw of the next area */
        unsigned torn_stamps;   /* how many stamps of the next write are there already */
};

static struct area areas[PATTERN_AREAS_MAX];
static uint32_t n_areas, n_pages;
static uint64_t n_errors, n_found;

static void report(uint32_t area, uint32_t page, const char *what, uint64_t expected, uint64_t found) {
        if (n_errors++ < CHECK_ERRORS_SHOWN)
                fprintf(stderr, "check-ram: area %u page %u: %s: expected %#jx, found %#jx\n", area, page, what,
                        (uintmax_t) expected, (uintmax_t) found);
}

/* The first page with the mark tells the sizes; a page that contradicts it is an error. */
static bool learn_sizes(const uint64_t *words) {
        n_areas = (uint32_t) (words[PATTERN_WORD_SIZE] >> 32);
        n_pages = (uint32_t) words[PATTERN_WORD_SIZE];
        if (n_areas == 0 || n_areas > PATTERN_AREAS_MAX || n_pages == 0 || n_pages > 1u << 30)
                return false;
        for (uint32_t i = 0; i < n_areas; i++) {
                areas[i].pages = calloc(n_pages, sizeof(*areas[i].pages));
                if (areas[i].pages == NULL)
                        return false;
        }
        return true;
}

static void find_pages(const uint64_t *image, uint64_t bytes) {
        for (uint64_t offset = 0; offset + PATTERN_PAGE_BYTES <= bytes; offset += PATTERN_PAGE_BYTES) {
                const uint64_t *words = image + offset / sizeof(*words);
                uint32_t area = (uint32_t) (words[PATTERN_WORD_PAGE] >> 32), page = (uint32_t) words[PATTERN_WORD_PAGE];

                if (words[PATTERN_WORD_MAGIC] != PATTERN_MAGIC)
                        continue;
                if (n_areas == 0 && !learn_sizes(words)) {
                        report(area, page, "sizes", 1, words[PATTERN_WORD_SIZE]);
                        return;
                }
                if (area >= n_areas || page >= n_pages) {
                        report(area, page, "a page that does not exist", 0, offset);
                        continue;
                }
                if (areas[area].pages[page] != NULL) {
                        report(area, page, "found twice, again at offset", 0, offset);
                        continue;
                }
                areas[area].pages[page] = words;
                n_found++;
        }
}

static void count_writes(struct area *area) {
        for (uint32_t page = 0; page < n_pages; page++) {
                const uint64_t *words = area->pages[page];
                uint64_t last;

                if (words == NULL)
                        continue;
                last = words[(PATTERN_STAMPS - 1) * PATTERN_STAMP_STRIDE] / PATTERN_STAMPS;
                if (last > area->writes)
                        area->writes = last;
                if (words[PATTERN_WORD_SAW] > area->saw)
                        area->saw = words[PATTERN_WORD_SAW];
        }
}

/* How many stamps of this write are at the front of the page. */
static unsigned stamps_of(const uint64_t *words, uint64_t write) {
        unsigned n = 0;

        while (n < PATTERN_STAMPS && words[n * PATTERN_STAMP_STRIDE] == pattern_stamp(write, n))
                n++;
        return n;
}

static void check_page(uint32_t area, uint32_t page, uint64_t write, unsigned torn_stamps) {
        const uint64_t *words = areas[area].pages[page];

        if (words == NULL) {
                report(area, page, "not in the image; its last write was", write, 0);
                return;
        }
        for (unsigned word = 0; word < PATTERN_PAGE_WORDS; word++) {
                unsigned stamp = word / PATTERN_STAMP_STRIDE;
                uint64_t expected;

                if (word == PATTERN_WORD_SAW)
                        continue;
                if (word % PATTERN_STAMP_STRIDE == 0)
                        expected = stamp < torn_stamps ? pattern_stamp(areas[area].writes + 1, stamp)
                                                       : pattern_stamp(write, stamp);
                else
                        expected = pattern_constant(n_areas, n_pages, area, page, word);
                if (words[word] != expected) {
                        report(area, page, word % PATTERN_STAMP_STRIDE == 0 ? "stamp" : "constant", expected,
                               words[word]);
                        return;
                }
        }
}

static void check_area(uint32_t number) {
        struct area *area = &areas[number];
        struct pattern_round now, before, next;
        uint64_t round = area->writes > 0 ? (area->writes - 1) / n_pages : 0;
        uint64_t done = area->writes - round * n_pages; /* writes of this round */
        uint64_t next_round = area->writes / n_pages;
        uint32_t next_page;

        pattern_round_init(&now, n_pages, number, round);
        pattern_round_init(&before, n_pages, number, round - 1);
        pattern_round_init(&next, n_pages, number, next_round);
        next_page = pattern_page(&next, (uint32_t) (area->writes - next_round * n_pages));
        if (area->pages[next_page] != NULL)
                area->torn_stamps = stamps_of(area->pages[next_page], area->writes + 1);

        for (uint32_t index = 0; index < n_pages; index++) {
                uint32_t page = pattern_page(&now, index);
                uint64_t write = 0;

                if (index < done)
                        write = round * n_pages + index + 1;
                else if (round > 0)
                        write = (round - 1) * n_pages + pattern_index(&before, page) + 1;
                check_page(number, page, write, page == next_page ? area->torn_stamps : 0);
        }
}

static void print_result(void) {
        uint64_t writes = 0;

        for (uint32_t i = 0; i < n_areas; i++)
                writes += areas[i].writes;
        printf("{\"cut\": %s, \"areas\": %u, \"pages\": %ju, \"writes\": %ju, \"errors\": %ju, \"of_each_area\": [",
               n_errors == 0 ? "true" : "false", n_areas, (uintmax_t) n_found, (uintmax_t) writes,
               (uintmax_t) n_errors);
        for (uint32_t i = 0; i < n_areas; i++)
                printf("%s{\"writes\": %ju, \"half_written_stamps\": %u, \"saw_of_next\": %ju}", i > 0 ? ", " : "",
                       (uintmax_t) areas[i].writes, areas[i].torn_stamps, (uintmax_t) areas[i].saw);
        printf("]}\n");
}

int main(int argc, char **argv) {
        struct stat status;
        void *image;
        int fd;

        if (argc != 2) {
                fprintf(stderr, "usage: check-ram IMAGE\n");
                return 2;
        }
        fd = open(argv[1], O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &status) < 0 || status.st_size == 0) {
                fprintf(stderr, "check-ram: cannot read %s: %s\n", argv[1], strerror(errno));
                return 2;
        }
        image = mmap(NULL, (size_t) status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (image == MAP_FAILED) {
                fprintf(stderr, "check-ram: cannot map %s: %s\n", argv[1], strerror(errno));
                return 2;
        }

        find_pages(image, (uint64_t) status.st_size);
        if (n_found == 0) {
                fprintf(stderr, "check-ram: %s holds no page of the test guest\n", argv[1]);
                return 2;
        }
        for (uint32_t i = 0; i < n_areas; i++)
                count_writes(&areas[i]);
        for (uint32_t i = 0; i < n_areas; i++) {
                check_area(i);
                if (areas[i].saw > areas[(i + 1) % n_areas].writes)
                        report(i, 0, "saw a write of the next area that is not in the image",
                               areas[(i + 1) % n_areas].writes, areas[i].saw);
        }
        print_result();
        return n_errors == 0 ? 0 : 1;
}
