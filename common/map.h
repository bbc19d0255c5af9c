/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_MAP_H
#define LIVESNAP_COMMON_MAP_H

/*
 * REGION.map (<livesnap/format.h>): which pages a delta has, where, and their sums. Read from a file that may hold
 * anything; entries come out one by one, in ascending order, so that a map of any size takes little memory.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/manifest.h"
#include "livesnap/format.h"

/**
 * map_header_init() - fill in a header
 * @region: of the manifest that is to come: name, bytes, n_pages and pages_stored
 */
void map_header_init(struct livesnap_map_header *header, const struct manifest_region *region, const uint8_t uuid[16]);

/** map_header_check() - is it the header of the region that the manifest describes? -1 with *error set, as for sums */
int map_header_check(const struct livesnap_map_header *header, const struct manifest_region *region,
                     const uint8_t uuid[16], struct error *error);

/**
 * map_arrange() - bring entries into the order of the file, and into its byte order
 * @entries: in the order in which they were saved. Of a page that was saved more than once only the last is kept.
 *
 * Return: how many are left.
 */
size_t map_arrange(struct livesnap_map_entry *entries, size_t n_entries);

/** map_digest() - of arranged entries */
uint64_t map_digest(const struct livesnap_map_entry *entries, size_t n_entries);

struct map_reader;

/**
 * map_reader_new() - start to read a map
 * @region: of the manifest; borrowed until map_reader_free()
 * @map: descriptor of its REGION.map; borrowed likewise
 *
 * Return: 0, or -1 with *error set and *ret untouched: ERROR_SNAPSHOT_CORRUPT for what does not match,
 * ERROR_STORE_FAILED where reading failed.
 */
int map_reader_new(const struct manifest_region *region, const uint8_t uuid[16], int map, struct map_reader **ret,
                   struct error *error);

/**
 * map_reader_peek() - the next entry, in the byte order of this machine but for its sum
 *
 * The end is reached only when all entries match the digest in the manifest.
 *
 * Return: 1 with *ret set, until map_reader_skip(); 0 at the end; -1 with *error set.
 */
int map_reader_peek(struct map_reader *reader, const struct livesnap_map_entry **ret, struct error *error);

/** map_reader_skip() - go on behind the entry that was peeked at */
void map_reader_skip(struct map_reader *reader);

/** map_reader_free() - NULL is allowed */
void map_reader_free(struct map_reader *reader);

#endif
