/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Images and their sums: header, blocks, digest. A right snapshot of one region is made of the input, then damaged as
 * the input says, and read back.
 *
 *   bytes 0, 1, 2   size of the region, little-endian, up to SIZE_MAX_BYTES
 *   byte 3          bit 0: put the checksum of the header right after the damage
 *   byte 4          n, how many pages of the region are not zero
 *   n times 2       which page, little-endian, modulo their number
 *   then            damages of 5 bytes: 0 image, 1 sums, 2 image's length, 3 sums' length, (4: nothing);
 *                   where, 3 bytes, little-endian; what to do it with: XOR, or, for a length, the number of bytes cut
 *
 * What differs in one byte from what was written must be refused; what does not must be read as it was written.
 */

#include <endian.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/image.h"
#include "common/sums.h"
#include "tests/fuzz/fuzz.h"

#define SIZE_MAX_BYTES (5u << 20) /* three chunks, the last one not full */
#define SUMS_MAX_BYTES (4u * LIVESNAP_SUMS_BLOCK_BYTES)
#define REGION "ram"

static uint8_t image[SIZE_MAX_BYTES + LIVESNAP_FORMAT_PAGE_BYTES];
static _Alignas(uint64_t) uint8_t sums[SUMS_MAX_BYTES];
static uint8_t damaged_image[sizeof(image)];
static _Alignas(uint64_t) uint8_t damaged_sums[sizeof(sums)];

struct input {
        const uint8_t *data;
        size_t size;
};

/* Zeros, once the input is used up. */
static uint32_t take(struct input *input, unsigned bytes) {
        uint32_t value = 0;

        for (unsigned i = 0; i < bytes && input->size > 0; i++, input->data++, input->size--)
                value |= (uint32_t) *input->data << 8 * i;
        return value;
}

static void make_pages(struct input *input, uint32_t region_bytes) {
        uint32_t n_pages = (uint32_t) sums_pages(region_bytes), n = take(input, 1);

        memset(image, 0, n_pages * LIVESNAP_FORMAT_PAGE_BYTES);
        for (uint32_t i = 0; i < n; i++) {
                uint32_t page = take(input, 2) % n_pages;

                memset(image + page * LIVESNAP_FORMAT_PAGE_BYTES, (int) (i % 255 + 1), LIVESNAP_FORMAT_PAGE_BYTES);
        }
        memset(image + region_bytes, 0, n_pages * LIVESNAP_FORMAT_PAGE_BYTES - region_bytes);
}

/* Return: the digest. */
static uint64_t make_sums(uint32_t region_bytes) {
        static const uint8_t uuid[16] = { 7 };
        uint64_t block[LIVESNAP_SUMS_PER_BLOCK], digest = 0, n_pages = sums_pages(region_bytes);

        memset(sums, 0, sizeof(sums));
        sums_header_init((struct livesnap_sums_header *) sums, REGION, region_bytes, uuid);
        for (uint64_t i = 0; i < sums_blocks(region_bytes); i++) {
                uint64_t first = i * LIVESNAP_SUMS_PER_BLOCK, n = n_pages - first;

                checksum_chunk(image + i * LIVESNAP_SUMS_BLOCK_COVERS,
                               n < LIVESNAP_SUMS_PER_BLOCK ? (unsigned) n : LIVESNAP_SUMS_PER_BLOCK, block);
                memcpy(sums + sums_block_offset(i), block, sizeof(block));
                digest += checksum_block(block, i);
        }
        return digest;
}

static void damage(struct input *input, uint32_t *image_bytes, uint32_t *sums_bytes) {
        memcpy(damaged_image, image, *image_bytes);
        memcpy(damaged_sums, sums, sizeof(sums));
        while (input->size >= 5) {
                uint32_t what = take(input, 1) % 5, where = take(input, 3), how = take(input, 1);

                if (what == 0)
                        damaged_image[where % *image_bytes] ^= (uint8_t) how;
                else if (what == 1)
                        damaged_sums[where % *sums_bytes] ^= (uint8_t) how;
                else if (what == 2 && how < *image_bytes)
                        *image_bytes -= how;
                else if (what == 3 && how < *sums_bytes)
                        *sums_bytes -= how;
        }
}

/* A memfd with holes where there is nothing but zeros, as the image writer leaves them. */
static int make_file(const uint8_t *data, uint32_t bytes) {
        static const uint8_t zeros[LIVESNAP_FORMAT_PAGE_BYTES];
        int fd = memfd_create("fuzz", MFD_CLOEXEC);

        FUZZ_REQUIRE(fd >= 0 && ftruncate(fd, bytes) == 0);
        for (uint32_t i = 0; i < bytes; i += LIVESNAP_FORMAT_PAGE_BYTES) {
                uint32_t n = bytes - i < LIVESNAP_FORMAT_PAGE_BYTES ? bytes - i : LIVESNAP_FORMAT_PAGE_BYTES;

                if (memcmp(data + i, zeros, n) != 0)
                        FUZZ_REQUIRE(pwrite(fd, data + i, n, i) == (ssize_t) n);
        }
        return fd;
}

/* Is all of it there, and is it what was written? All that is handed out before the end has to be right as well. */
static bool read_back(uint32_t region_bytes, uint64_t digest, int image_fd, int sums_fd) {
        struct manifest_region region = { .name = REGION, .bytes = region_bytes, .sums_digest = digest };
        const struct manifest manifest = { .uuid = { 7 }, .n_regions = 1, .regions = &region };
        struct error error = { .kind = ERROR_NONE };
        struct image_reader *reader;
        struct image_chunk chunk;
        uint64_t n_data = 0;
        int r = image_reader_new(&manifest, 0, image_fd, sums_fd, &reader, &error);

        if (r == 0) {
                while ((r = image_reader_next(reader, &chunk, &error)) == 1) {
                        FUZZ_REQUIRE(chunk.offset % LIVESNAP_SUMS_BLOCK_COVERS == 0 && chunk.offset < region_bytes);
                        FUZZ_REQUIRE(chunk.bytes <= region_bytes - chunk.offset);
                        n_data += chunk.bytes;
                        FUZZ_REQUIRE(!memcmp(chunk.data, image + chunk.offset, chunk.bytes));
                }
                image_reader_free(reader);
        }
        FUZZ_REQUIRE((r < 0) == (error.kind != ERROR_NONE));
        FUZZ_REQUIRE(n_data <= region_bytes);
        return r == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        struct livesnap_sums_header *header = (struct livesnap_sums_header *) damaged_sums;
        uint32_t region_bytes, image_bytes, sums_bytes;
        bool repair, same;
        uint64_t digest;
        int image_fd, sums_fd;

        if (size < 5)
                return 0;
        region_bytes = take(&input, 3) % SIZE_MAX_BYTES + 1;
        repair = take(&input, 1) & 1;
        make_pages(&input, region_bytes);
        digest = make_sums(region_bytes);
        image_bytes = region_bytes;
        sums_bytes = (uint32_t) sums_block_offset(sums_blocks(region_bytes));
        damage(&input, &image_bytes, &sums_bytes);
        same = image_bytes == region_bytes && sums_bytes == sums_block_offset(sums_blocks(region_bytes)) &&
               !memcmp(image, damaged_image, image_bytes) && !memcmp(sums, damaged_sums, sums_bytes);
        if (repair)
                header->checksum = htole64(checksum_bytes(header, offsetof(struct livesnap_sums_header, checksum)));

        image_fd = make_file(damaged_image, image_bytes);
        sums_fd = make_file(damaged_sums, sums_bytes);
        if (repair) {
                /* A newer writer may have changed what is zero today, so that this is no damage. */
                bool read = read_back(region_bytes, digest, image_fd, sums_fd);

                FUZZ_REQUIRE(read || !same);
        } else {
                FUZZ_REQUIRE(read_back(region_bytes, digest, image_fd, sums_fd) == same);
        }
        close(image_fd);
        close(sums_fd);
        return 0;
}
