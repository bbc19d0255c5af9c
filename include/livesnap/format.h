/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_FORMAT_H
#define LIVESNAP_FORMAT_H

/*
 * What a snapshot is on disk, version 1.
 *
 *     STORE/DOMAIN/NAME/manifest.json      who, when, which regions, figures; a checksum of itself
 *                       REGION.mem         the region's bytes at their own offsets
 *                       REGION.sum         a checksum of each of its pages
 *
 * DOMAIN, NAME and REGION are 1 to 128 characters of A-Z a-z 0-9 . _ : @ + - and do not start with '.' or '-'.
 * All integers in REGION.sum are little-endian.
 *
 * REGION.mem
 *
 *     Exactly as long as the region. Pages that are all zero are not written: where a region is zero the file has holes
 *     (a copy that does not keep holes is as good).
 *
 * REGION.sum
 *
 *     0         +-----------------------------------------------+
 *               | struct livesnap_sums_header, 4096 bytes       |
 *     4096      +-----------------------------------------------+
 *               | block 0: u64 sum of page 0 ... page 511       |
 *     8192      +-----------------------------------------------+
 *               | block 1: u64 sum of page 512 ... page 1023    |
 *               :                                               :
 *               +-----------------------------------------------+
 *     4096 * (1 + number of blocks)
 *
 *     A sum is the XXH3-64 (seed 0) of the 4096 bytes of a page, with two exceptions: 0 says that the page is all zero,
 *     and a page that is not zero but whose hash is 0 has the sum 1. A last page that the region fills only in part is
 *     hashed with zeros after it. Sums beyond the last page are 0. A block belongs to one chunk of 2 MiB of the image;
 *     blocks that are all zero are holes.
 *
 *     The digest of a REGION.sum is the sum, modulo 2^64, of XXH3-64(the block's 4096 bytes, seed = the block's index)
 *     over all blocks that are not all zero. It does not depend on the order in which blocks are written, and it is
 * kept in the manifest, which so vouches for the sums as they do for the image.
 *
 * manifest.json
 *
 *     One JSON object. Readers ignore members that they do not know.
 *
 *     format          "livesnap-snapshot"
 *     version         1; the version of the writer's format
 *     compatible      1; the oldest version whose readers understand this snapshot
 *     uuid            as in the headers of its REGION.sum
 *     hash            "xxh3-64"
 *     page_bytes      4096; what a sum covers
 *     kernel          release of the kernel that it was taken on
 *     regions         an array; each with name, bytes, mappings, and sums_digest (16 hexadecimal digits)
 *     snapshot, created, uid, guarantee, arm_us, hold_us, duration_us, pages_fault, pages_sweep, pages_zero,
 *     bytes_written, fault_us, throttled_us, pool_peak_bytes, warnings
 *                     as in the type Snapshot of io.livesnap, livesnap-api(7); duration_us ends where the images were
 *                     durable, before the manifest itself was written
 *     checksum        the last member: 16 lower-case hexadecimal digits, the XXH3-64 (seed 0) of the whole file with
 *                     these digits replaced by zeros. The file ends with these bytes: LIVESNAP_MANIFEST_TAIL
 */

#include <stdint.h>

#define LIVESNAP_FORMAT_VERSION 1
#define LIVESNAP_FORMAT_COMPATIBLE 1

#define LIVESNAP_FORMAT_HASH "xxh3-64"
#define LIVESNAP_FORMAT_PAGE_BYTES 4096
#define LIVESNAP_FORMAT_NAME_MAX 128
#define LIVESNAP_FORMAT_REGIONS_MAX 1024
#define LIVESNAP_FORMAT_REGION_BYTES_MAX (UINT64_C(1) << 56)

#define LIVESNAP_IMAGE_SUFFIX ".mem"
#define LIVESNAP_SUMS_SUFFIX ".sum"
#define LIVESNAP_MANIFEST_NAME "manifest.json"

#define LIVESNAP_MANIFEST_FORMAT "livesnap-snapshot"
#define LIVESNAP_MANIFEST_BYTES_MAX (4 << 20)
#define LIVESNAP_MANIFEST_TAIL ",\n \"checksum\": \"0000000000000000\"\n}\n"

#define LIVESNAP_SUMS_MAGIC "LSNAPSUM"
#define LIVESNAP_SUMS_HEADER_BYTES 4096
#define LIVESNAP_SUMS_BLOCK_BYTES 4096
#define LIVESNAP_SUMS_PER_BLOCK 512
#define LIVESNAP_SUMS_BLOCK_COVERS (LIVESNAP_SUMS_PER_BLOCK * LIVESNAP_FORMAT_PAGE_BYTES)

struct livesnap_sums_header {
        char magic[8];            /*    0 LIVESNAP_SUMS_MAGIC, no terminator */
        uint32_t version;         /*    8 LIVESNAP_FORMAT_VERSION of the writer */
        uint32_t compatible;      /*   12 the oldest version whose readers understand it */
        uint32_t header_bytes;    /*   16 LIVESNAP_SUMS_HEADER_BYTES */
        uint32_t page_bytes;      /*   20 LIVESNAP_FORMAT_PAGE_BYTES */
        uint64_t pages;           /*   24 region_bytes / page_bytes, rounded up */
        uint64_t region_bytes;    /*   32 exact size of the region and of its image */
        uint8_t uuid[16];         /*   40 of the snapshot, as in the manifest */
        char hash[16];            /*   56 LIVESNAP_FORMAT_HASH, the rest zero */
        char region[128];         /*   72 name of the region, the rest zero */
        uint8_t zero[4096 - 208]; /*  200 */
        uint64_t checksum;        /* 4088 XXH3-64 (seed 0) of the 4088 bytes before it */
};

_Static_assert(sizeof(struct livesnap_sums_header) == LIVESNAP_SUMS_HEADER_BYTES, "the header is one block");

#endif
