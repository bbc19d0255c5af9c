/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/checksum.h"

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <string.h>

#include <xxhash.h>

/* Compares the bytes with themselves, 64 further on. Nearly every page that is not zero is told by its first 64. */
static bool checksum_is_zero(const void *data, size_t bytes) {
        static const uint8_t zeros[64];

        return !memcmp(data, zeros, sizeof(zeros)) &&
               !memcmp(data, (const uint8_t *) data + sizeof(zeros), bytes - sizeof(zeros));
}

uint64_t checksum_page(const uint8_t *page) {
        uint64_t hash;

        if (checksum_is_zero(page, LIVESNAP_FORMAT_PAGE_BYTES))
                return 0;
        hash = XXH3_64bits(page, LIVESNAP_FORMAT_PAGE_BYTES);
        return htole64(hash ? hash : 1);
}

unsigned checksum_chunk(const uint8_t *data, unsigned pages, uint64_t ret_sums[LIVESNAP_SUMS_PER_BLOCK]) {
        unsigned not_zero = 0;

        assert(pages <= LIVESNAP_SUMS_PER_BLOCK);
        for (unsigned i = 0; i < pages; i++) {
                ret_sums[i] = checksum_page(data + (size_t) i * LIVESNAP_FORMAT_PAGE_BYTES);
                not_zero += ret_sums[i] != 0;
        }
        memset(ret_sums + pages, 0, (LIVESNAP_SUMS_PER_BLOCK - pages) * sizeof(*ret_sums));
        return not_zero;
}

uint64_t checksum_block(const uint64_t sums[LIVESNAP_SUMS_PER_BLOCK], uint64_t index) {
        if (checksum_is_zero(sums, LIVESNAP_SUMS_BLOCK_BYTES))
                return 0;
        return XXH3_64bits_withSeed(sums, LIVESNAP_SUMS_BLOCK_BYTES, index);
}

uint64_t checksum_bytes(const void *data, size_t bytes) {
        return XXH3_64bits(data, bytes);
}
