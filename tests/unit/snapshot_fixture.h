/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_SNAPSHOT_FIXTURE_H
#define LIVESNAP_TESTS_SNAPSHOT_FIXTURE_H

/* A store in a directory of its own, and snapshots in it whose content is known. For cmocka: failures end the test. */

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "daemon/image_writer.h"
#include "daemon/store.h"

/** fixture_directory() - a new directory on a real disk (TMPDIR or /var/tmp); freed by fixture_remove() */
char *fixture_directory(void);

/** fixture_remove() - remove the directory with all that is in it */
void fixture_remove(char *directory);

/** fixture_store() - a store in @directory; ends the test if there is none */
struct store *fixture_store(const char *directory);

/** fixture_figures() - what a capture of @n_regions tells the writer */
json_t *fixture_figures(unsigned n_regions);

/*
 * What is in a region: @page fills in a page and says whether it has done so; where it has not the page is zero. The
 * chunks handed over are all, or those in @chunks.
 */
struct fixture_region {
        const char *name;
        uint64_t bytes;
        bool (*page)(uint64_t index, uint8_t *page);
        const uint64_t *chunks; /* or these alone, ended by UINT64_MAX */
};

bool page_random(uint64_t index, uint8_t *page); /* every page; the same bytes each time */
bool page_zero(uint64_t index, uint8_t *page);   /* none */
bool page_mixed(uint64_t index, uint8_t *page);  /* runs of zero pages between others */

/**
 * fixture_write() - write regions and publish them
 * @name: NULL for one that the writer makes
 * @ret: what was published; may be NULL
 *
 * Every chunk is checked to be released exactly once. Return: 0, or -1 with *error set.
 */
int fixture_write(struct store *store, const char *domain, const char *name, const struct fixture_region *regions,
                  unsigned n_regions, uint64_t max_rate, json_t **ret, struct error *error);

/** fixture_on_store() - run a function on one of the store's threads, and wait for it */
void fixture_on_store(struct store *store, void (*function)(struct store *store, void *data), void *data);

/** fixture_verify() - store_verify() there, as root */
int fixture_verify(struct store *store, const char *domain, const char *name, struct error *error);

/** fixture_compare() - is the image at @path what the region is, byte for byte? Ends the test where it is not. */
void fixture_compare(const char *path, const struct fixture_region *region);

/** fixture_entries() - how many entries a directory has; -1 if it is none */
int fixture_entries(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
