/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_CHECKSUM_H
#define LIVESNAP_COMMON_CHECKSUM_H

/*
 * Sums of pages and digests of sums, as <livesnap/format.h> defines them. A sum also says whether its page is zero, so
 * that both questions are answered by one pass over the page.
 *
 * Sums are kept in the byte order of the file wherever they are; 0 is 0 in any.
 */

#include <stddef.h>
#include <stdint.h>

#include "livesnap/format.h"

/** checksum_page() - the sum of the 4096 bytes at @page; 0 where they are all zero */
uint64_t checksum_page(const uint8_t *page);

/**
 * checksum_chunk() - the sums of up to 512 pages: one block of REGION.sum
 * @data: of @pages * 4096 bytes
 * @pages: at most LIVESNAP_SUMS_PER_BLOCK; the rest of the block becomes 0
 *
 * Return: how many of the pages are not zero.
 */
unsigned checksum_chunk(const uint8_t *data, unsigned pages, uint64_t ret_sums[LIVESNAP_SUMS_PER_BLOCK]);

/**
 * checksum_block() - what a block of sums adds to the digest of its region
 * @index: of the block, from 0
 *
 * Return: 0 for a block of zeros.
 */
uint64_t checksum_block(const uint64_t sums[LIVESNAP_SUMS_PER_BLOCK], uint64_t index);

/** checksum_bytes() - plain XXH3-64, for headers and manifests */
uint64_t checksum_bytes(const void *data, size_t bytes);

#endif
