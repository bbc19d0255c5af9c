/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * oracle-check IMAGE...: is this the memory of an oracle-writer after exactly N writes, for one N?
 *
 * The images are those of the writer's regions, in its order. N is the largest sequence number in them. Exit status: 0
 * and "N" on stdout, or 1 and what is wrong.
 *
 * Writers that run with --order ticket do not exclude each other: each of them may have one number that it took and had
 * not stored yet. --in-flight K allows K such numbers to be missing, and nothing else.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "tests/programs/oracle.h"

/* Of a hopeless image the first few pages tell enough. */
#define REPORTED_MAX 5
#define IN_FLIGHT_MAX 64
/* No test writes longer than this: a larger number in an image is rubbish, not a sequence number. */
#define SEQUENCE_MAX (UINT64_C(1) << 36)

struct image {
        const char *path;
        int fd;
        uint64_t bytes;
        const uint64_t *words; /* all of it, mapped */
};

struct missing {
        struct oracle_place place;
        uint64_t found;
};

struct check {
        struct oracle_layout layout;
        struct oracle_state state;
        struct image images[ORACLE_REGIONS_MAX];
        uint64_t data_pages; /* of each region; 0 for all */
        uint64_t at_least;
        uint64_t at_most;
        unsigned in_flight;
        unsigned n_missing;
        struct missing missing[IN_FLIGHT_MAX];
        uint64_t bad_pages;
};

static int check_open(struct check *check, const char *path) {
        struct image *image = &check->images[check->layout.n_regions];
        struct stat st;

        image->path = path;
        image->fd = open(path, O_RDONLY | O_CLOEXEC);
        if (image->fd < 0 || fstat(image->fd, &st) < 0) {
                fprintf(stderr, "oracle-check: cannot open %s: %s\n", path, strerror(errno));
                return -1;
        }
        image->bytes = st.st_size;
        if (image->bytes % ORACLE_PAGE_BYTES ||
            oracle_layout_add(&check->layout, image->bytes / ORACLE_PAGE_BYTES, check->data_pages) < 0) {
                fprintf(stderr, "oracle-check: %s: a size of %ju bytes is not a region's\n", path,
                        (uintmax_t) image->bytes);
                return -1;
        }
        image->words = mmap(NULL, image->bytes, PROT_READ, MAP_PRIVATE, image->fd, 0);
        if (image->words == MAP_FAILED) {
                fprintf(stderr, "oracle-check: cannot map %s: %s\n", path, strerror(errno));
                return -1;
        }
        return 0;
}

static const uint64_t *check_page(const struct check *check, unsigned region, uint64_t data_page) {
        return check->images[region].words + data_page * check->layout.regions[region].stride * ORACLE_PAGE_WORDS;
}

static uint64_t check_last_sequence(const struct check *check) {
        uint64_t last = 0;

        for (unsigned r = 0; r < check->layout.n_regions; r++) {
                for (uint64_t p = 0; p < check->layout.regions[r].data_pages; p++) {
                        const uint64_t *page = check_page(check, r, p);

                        for (unsigned w = 0; w < ORACLE_PAGE_WORDS; w++)
                                if (oracle_is_sequence(page[w]) && page[w] > last)
                                        last = page[w];
                }
        }
        return last;
}

static const char *describe(uint64_t value, char buffer[static 40]) {
        if (value == 0)
                return "zero";
        if (oracle_is_sequence(value))
                snprintf(buffer, 40, "write %ju", (uintmax_t) value);
        else
                snprintf(buffer, 40, "pattern %#jx", (uintmax_t) value);
        return buffer;
}

static void check_report_word(struct check *check, struct oracle_place place, uint64_t expected, uint64_t found) {
        char buffers[2][40];

        if (check->bad_pages >= REPORTED_MAX)
                return;
        fprintf(stderr, "oracle-check: %s: page %ju word %u: expected %s, found %s\n", check->images[place.region].path,
                (uintmax_t) (place.data_page * check->layout.regions[place.region].stride), place.word,
                describe(expected, buffers[0]), describe(found, buffers[1]));
}

/* A word that is behind may be a number in flight; it is decided when all of them are known. */
static bool check_may_be_in_flight(struct check *check, struct oracle_place place, uint64_t expected, uint64_t found) {
        bool is_older = oracle_is_sequence(expected) && (found == oracle_layout_initial(&check->layout, place) ||
                                                         (oracle_is_sequence(found) && found < expected));

        if (!is_older || check->n_missing >= check->in_flight)
                return false;
        check->missing[check->n_missing++] = (struct missing){ .place = place, .found = found };
        return true;
}

static void check_one_page(struct check *check, unsigned region, uint64_t data_page) {
        const uint64_t *found = check_page(check, region, data_page);
        const uint64_t *expected = oracle_state_page(&check->state, region, data_page);
        bool is_bad = false;

        if (memcmp(found, expected, ORACLE_PAGE_BYTES) == 0)
                return;
        for (unsigned w = 0; w < ORACLE_PAGE_WORDS; w++) {
                struct oracle_place place = { .region = region, .data_page = data_page, .word = w };

                if (found[w] == expected[w] || check_may_be_in_flight(check, place, expected[w], found[w]))
                        continue;
                if (!is_bad)
                        check_report_word(check, place, expected[w], found[w]);
                is_bad = true;
        }
        check->bad_pages += is_bad;
}

/* Whether the words that are behind lack no more numbers in all than may be in flight. */
static void check_in_flight(struct check *check) {
        unsigned lacking = 0;

        for (unsigned i = 0; i < check->n_missing; i++) {
                struct missing *missing = &check->missing[i];
                uint64_t first = oracle_is_sequence(missing->found) ? missing->found : 0;

                for (uint64_t s = first + 1; s <= check->state.sequence; s++) {
                        struct oracle_place place = oracle_layout_place(&check->layout, s);

                        lacking += place.region == missing->place.region &&
                                   place.data_page == missing->place.data_page && place.word == missing->place.word;
                }
        }
        if (lacking > check->in_flight) {
                fprintf(stderr, "oracle-check: %u writes are missing, and only %u can have been in flight\n", lacking,
                        check->in_flight);
                check->bad_pages++;
        }
}

/* Everything between the data pages must be zero. Holes are, so only what has blocks is looked at. */
static void check_holes(struct check *check, unsigned region) {
        static const uint64_t zeros[ORACLE_PAGE_WORDS];
        const struct oracle_region *r = &check->layout.regions[region];
        const struct image *image = &check->images[region];
        off_t end = 0;

        if (r->stride == 1 && r->data_pages == r->pages)
                return;
        for (off_t start; (start = lseek(image->fd, end, SEEK_DATA)) >= 0;) {
                end = lseek(image->fd, start, SEEK_HOLE);
                for (uint64_t p = start / ORACLE_PAGE_BYTES; p * ORACLE_PAGE_BYTES < (uint64_t) end; p++) {
                        bool is_data = p % r->stride == 0 && p / r->stride < r->data_pages;

                        if (is_data || memcmp(image->words + p * ORACLE_PAGE_WORDS, zeros, ORACLE_PAGE_BYTES) == 0)
                                continue;
                        if (check->bad_pages++ < REPORTED_MAX)
                                fprintf(stderr, "oracle-check: %s: page %ju: expected a hole, found data\n",
                                        image->path, (uintmax_t) p);
                }
        }
}

static int check_run(struct check *check) {
        uint64_t sequence = check_last_sequence(check);

        if (sequence > SEQUENCE_MAX) {
                fprintf(stderr, "oracle-check: %#jx is no sequence number\n", (uintmax_t) sequence);
                return -1;
        }
        if (oracle_state_init(&check->state, &check->layout) < 0) {
                fprintf(stderr, "oracle-check: out of memory\n");
                return -1;
        }
        oracle_state_advance(&check->state, sequence);
        for (unsigned r = 0; r < check->layout.n_regions; r++) {
                for (uint64_t p = 0; p < check->layout.regions[r].data_pages; p++)
                        check_one_page(check, r, p);
                check_holes(check, r);
        }
        if (check->n_missing > 0)
                check_in_flight(check);
        oracle_state_deinit(&check->state);

        if (check->bad_pages > 0) {
                fprintf(stderr, "oracle-check: %ju pages differ from the state after %ju writes\n",
                        (uintmax_t) check->bad_pages, (uintmax_t) sequence);
                return -1;
        }
        if (sequence < check->at_least || sequence > check->at_most) {
                fprintf(stderr, "oracle-check: the state after %ju writes, not one of %ju to %ju\n",
                        (uintmax_t) sequence, (uintmax_t) check->at_least, (uintmax_t) check->at_most);
                return -1;
        }
        printf("%ju\n", (uintmax_t) sequence);
        return 0;
}

static void usage(FILE *stream) {
        fputs("usage: oracle-check [--seed N] [--data-pages N] [--fill pattern|zero] [--in-flight N]\n"
              "                    [--at-least N] [--at-most N] IMAGE...\n",
              stream);
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "seed", required_argument, NULL, 's' },     { "data-pages", required_argument, NULL, 'd' },
                { "fill", required_argument, NULL, 'f' },     { "in-flight", required_argument, NULL, 'i' },
                { "at-least", required_argument, NULL, 'a' }, { "at-most", required_argument, NULL, 'b' },
                { "help", no_argument, NULL, 'h' },           { NULL, 0, NULL, 0 },
        };
        static struct check check = { .at_most = SEQUENCE_MAX };

        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
                switch (c) {
                case 's':
                        check.layout.seed = strtoull(optarg, NULL, 0);
                        break;
                case 'd':
                        check.data_pages = strtoull(optarg, NULL, 0);
                        break;
                case 'f':
                        check.layout.fill = strcmp(optarg, "zero") == 0 ? ORACLE_FILL_ZERO : ORACLE_FILL_PATTERN;
                        break;
                case 'i':
                        check.in_flight = strtoul(optarg, NULL, 0);
                        break;
                case 'a':
                        check.at_least = strtoull(optarg, NULL, 0);
                        break;
                case 'b':
                        check.at_most = strtoull(optarg, NULL, 0);
                        break;
                case 'h':
                        usage(stdout);
                        return 0;
                default:
                        usage(stderr);
                        return 2;
                }
        }
        if (optind == argc || argc - optind > ORACLE_REGIONS_MAX || check.in_flight > IN_FLIGHT_MAX) {
                usage(stderr);
                return 2;
        }
        for (int i = optind; i < argc; i++)
                if (check_open(&check, argv[i]) < 0)
                        return 1;
        return check_run(&check) < 0;
}
