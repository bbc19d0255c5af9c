/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_SUMS_H
#define LIVESNAP_COMMON_SUMS_H

/* The header of a REGION.sum (<livesnap/format.h>), and where things are in the file. */

#include <stdint.h>

#include "common/error.h"
#include "livesnap/format.h"

/** sums_pages() - pages of a region of @region_bytes, the last one perhaps filled in part */
static inline uint64_t sums_pages(uint64_t region_bytes) {
        return (region_bytes + LIVESNAP_FORMAT_PAGE_BYTES - 1) / LIVESNAP_FORMAT_PAGE_BYTES;
}

/** sums_blocks() - blocks of sums of a region of @region_bytes; as many as it has chunks */
static inline uint64_t sums_blocks(uint64_t region_bytes) {
        return (region_bytes + LIVESNAP_SUMS_BLOCK_COVERS - 1) / LIVESNAP_SUMS_BLOCK_COVERS;
}

/** sums_block_offset() - where in the file block @index is; with sums_blocks() as @index, the size of the file */
static inline uint64_t sums_block_offset(uint64_t index) {
        return LIVESNAP_SUMS_HEADER_BYTES + index * LIVESNAP_SUMS_BLOCK_BYTES;
}

/**
 * sums_header_init() - fill in a header
 * @region: valid name of the region
 * @region_bytes: at most LIVESNAP_FORMAT_REGION_BYTES_MAX
 */
void sums_header_init(struct livesnap_sums_header *header, const char *region, uint64_t region_bytes,
                      const uint8_t uuid[16]);

/**
 * sums_header_check() - is it the header of the region that the manifest describes?
 * @header: any bytes
 *
 * Return: 0, or -1 with *error set: ERROR_SNAPSHOT_CORRUPT, or ERROR_STORE_FAILED for a version that is too new.
 */
int sums_header_check(const struct livesnap_sums_header *header, const char *region, uint64_t region_bytes,
                      const uint8_t uuid[16], struct error *error);

#endif
