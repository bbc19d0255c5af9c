/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/sums.h"

#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "common/checksum.h"
#include "common/name.h"

static uint64_t header_checksum(const struct livesnap_sums_header *header) {
        return htole64(checksum_bytes(header, offsetof(struct livesnap_sums_header, checksum)));
}

void sums_header_init(struct livesnap_sums_header *header, const char *region, uint64_t region_bytes,
                      const uint8_t uuid[16]) {
        assert(name_is_valid(region) && region_bytes <= LIVESNAP_FORMAT_REGION_BYTES_MAX);

        memset(header, 0, sizeof(*header));
        memcpy(header->magic, LIVESNAP_SUMS_MAGIC, sizeof(header->magic));
        header->version = htole32(LIVESNAP_FORMAT_VERSION);
        header->compatible = htole32(LIVESNAP_FORMAT_COMPATIBLE);
        header->header_bytes = htole32(LIVESNAP_SUMS_HEADER_BYTES);
        header->page_bytes = htole32(LIVESNAP_FORMAT_PAGE_BYTES);
        header->pages = htole64(sums_pages(region_bytes));
        header->region_bytes = htole64(region_bytes);
        memcpy(header->uuid, uuid, sizeof(header->uuid));
        memcpy(header->hash, LIVESNAP_FORMAT_HASH, strlen(LIVESNAP_FORMAT_HASH));
        memcpy(header->region, region, strlen(region));
        header->checksum = header_checksum(header);
}

int sums_header_check(const struct livesnap_sums_header *header, const char *region, uint64_t region_bytes,
                      const uint8_t uuid[16], struct error *error) {
        struct livesnap_sums_header expected;

        if (memcmp(header->magic, LIVESNAP_SUMS_MAGIC, sizeof(header->magic)))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it is not a file of checksums",
                                 region, LIVESNAP_SUMS_SUFFIX);
        if (header->checksum != header_checksum(header))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "%s%s is damaged: its header does not match its checksum", region,
                                 LIVESNAP_SUMS_SUFFIX);
        if (le32toh(header->compatible) > LIVESNAP_FORMAT_VERSION)
                return error_set(error, ERROR_STORE_FAILED,
                                 "%s%s has format version %u and this livesnap knows %d: use a newer livesnap", region,
                                 LIVESNAP_SUMS_SUFFIX, le32toh(header->version), LIVESNAP_FORMAT_VERSION);

        /* Of what a newer writer may have changed, version and the bytes that are zero today do not matter. */
        sums_header_init(&expected, region, region_bytes, uuid);
        if (memcmp(&header->header_bytes, &expected.header_bytes,
                   offsetof(struct livesnap_sums_header, zero) - offsetof(struct livesnap_sums_header, header_bytes)))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "%s%s is not of this snapshot: its header and the manifest differ", region,
                                 LIVESNAP_SUMS_SUFFIX);
        return 0;
}
