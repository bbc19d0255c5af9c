/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_FORMAT_H
#define LIVESNAP_FORMAT_H

/*
 * What a snapshot is on disk, version 2.
 *
 *     STORE/DOMAIN/NAME/manifest.json      who, when, which regions, figures; a checksum of itself
 *                       REGION.mem         the region's bytes at their own offsets
 *                       REGION.sum         a checksum of each of its pages
 *
 * An increment has the same files where its filesystem can share them with those of its parent (reflink). Elsewhere it
 * is a delta, which has instead only the pages that were written since its parent:
 *
 *                       REGION.pages       these pages, one behind the other
 *                       REGION.map         which they are, and a checksum of each
 *
 * To read a delta take each page from the newest of the snapshot, its parent, its parent's parent ... that has it. The
 * last of them is whole.
 *
 * DOMAIN, NAME and REGION are 1 to 128 characters of A-Z a-z 0-9 . _ : @ + - and do not start with '.' or '-'.
 * All integers in REGION.sum and REGION.map are little-endian.
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
 * REGION.pages, REGION.map
 *
 *     0         +-----------------------------------------------+
 *               | struct livesnap_map_header, 4096 bytes        |
 *     4096      +-----------------------------------------------+
 *               | struct livesnap_map_entry, 24 bytes           |
 *               | the next one, of a higher page                |
 *               :                                               :
 *               +-----------------------------------------------+
 *
 *     An entry says where in REGION.pages its page is, counted in pages, and has its sum, as in REGION.sum. A page that
 * is all zero has the sum 0 and is not in REGION.pages. The order in REGION.pages is the one in which they were saved.
 *
 *     The digest of a REGION.map is the XXH3-64 (seed 0) of all its entries.
 *
 * manifest.json
 *
 *     One JSON object. Readers ignore members that they do not know.
 *
 *     format          "livesnap-snapshot"
 *     version         2; the version of the writer's format
 *     compatible      1, of a delta 2; the oldest version whose readers understand this snapshot
 *     uuid            as in the headers of its REGION.sum or REGION.map
 *     content         16 hexadecimal digits that stand for what the snapshot holds: a hash of the digests below and of
 * the parent's. It stays the same when a delta is made whole. delta           true for a delta; may be absent parent of
 * an increment: an object with name (in the same DOMAIN), uuid, content and depth, the number of snapshots that it
 * needs itself at most; may be absent hash            "xxh3-64" page_bytes      4096; what a sum covers kernel release
 * of the kernel that it was taken on regions         an array; each with name, bytes, mappings, and sums_digest (16
 * hexadecimal digits), or in a delta map_digest instead, pages (entries of REGION.map) and pages_stored (pages in
 * REGION.pages) snapshot, created, uid, guarantee, arm_us, hold_us, duration_us, pages_fault, pages_sweep, pages_zero,
 *     bytes_written, fault_us, throttled_us, pool_peak_bytes, warnings
 *                     as in the type Snapshot of io.livesnap, livesnap-api(7); duration_us ends where the images were
 *                     durable, before the manifest itself was written
 *     checksum        the last member: 16 lower-case hexadecimal digits, the XXH3-64 (seed 0) of the whole file with
 *                     these digits replaced by zeros. The file ends with these bytes: LIVESNAP_MANIFEST_TAIL
 */

#include <stdint.h>

#define LIVESNAP_FORMAT_VERSION 2
#define LIVESNAP_FORMAT_COMPATIBLE 1
#define LIVESNAP_FORMAT_COMPATIBLE_DELTA 2
#define LIVESNAP_FORMAT_DEPTH_MAX 100 /* snapshots that a delta needs, at most */

#define LIVESNAP_FORMAT_HASH "xxh3-64"
#define LIVESNAP_FORMAT_PAGE_BYTES 4096
#define LIVESNAP_FORMAT_NAME_MAX 128
#define LIVESNAP_FORMAT_REGIONS_MAX 1024
#define LIVESNAP_FORMAT_REGION_BYTES_MAX (UINT64_C(1) << 56)

#define LIVESNAP_IMAGE_SUFFIX ".mem"
#define LIVESNAP_SUMS_SUFFIX ".sum"
#define LIVESNAP_PAGES_SUFFIX ".pages"
#define LIVESNAP_MAP_SUFFIX ".map"
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

#define LIVESNAP_MAP_MAGIC "LSNAPMAP"
#define LIVESNAP_MAP_HEADER_BYTES 4096

struct livesnap_map_header {
        char magic[8];            /*    0 LIVESNAP_MAP_MAGIC, no terminator */
        uint32_t version;         /*    8 LIVESNAP_FORMAT_VERSION of the writer */
        uint32_t compatible;      /*   12 the oldest version whose readers understand it */
        uint32_t header_bytes;    /*   16 LIVESNAP_MAP_HEADER_BYTES */
        uint32_t page_bytes;      /*   20 LIVESNAP_FORMAT_PAGE_BYTES */
        uint64_t pages;           /*   24 entries that follow */
        uint64_t region_bytes;    /*   32 exact size of the region */
        uint8_t uuid[16];         /*   40 of the snapshot, as in the manifest */
        char hash[16];            /*   56 LIVESNAP_FORMAT_HASH, the rest zero */
        char region[128];         /*   72 name of the region, the rest zero */
        uint64_t pages_stored;    /*  200 pages in REGION.pages */
        uint8_t zero[4096 - 216]; /*  208 */
        uint64_t checksum;        /* 4088 XXH3-64 (seed 0) of the 4088 bytes before it */
};

_Static_assert(sizeof(struct livesnap_map_header) == LIVESNAP_MAP_HEADER_BYTES, "the header is one block");

struct livesnap_map_entry {
        uint64_t page;     /*  0 number of the page in the region */
        uint64_t sum;      /*  8 as in REGION.sum; 0: the page is all zero */
        uint64_t position; /* 16 where in REGION.pages it is, in pages; 0 if it is all zero */
};

_Static_assert(sizeof(struct livesnap_map_entry) == 24, "an entry is as it is in the file");

#endif
