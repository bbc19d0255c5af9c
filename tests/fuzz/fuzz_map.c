/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Deltas: their maps, their pages, and the chain that is read through them. A right chain of one region is made of the
 * input, a whole image and one to three deltas on it, then damaged as the input says, and read back.
 *
 *   bytes 0, 1, 2   size of the region, little-endian, up to SIZE_MAX_BYTES
 *   byte 3          bit 0: put the checksums of the maps' headers right after the damage; bit 1: the manifests', too,
 *                   as if a writer had meant it: then only what the reader itself looks at can find it
 *   byte 4          n, how many pages of the whole image are not zero
 *   n times 2       which page, little-endian, modulo their number
 *   byte            how many deltas, modulo 3, and one more
 *   for each delta, the oldest first
 *           byte    n, how many pages it has; a page may be saved again
 *           n times 2  which page, little-endian; with bit 15 set it is zero
 *   then            damages of 6 bytes: 0 map, 1 pages, 2 map's length, 3 pages' length, 4 the manifest's number of
 *                   entries, 5 its number of pages (6: nothing); which delta; where, 3 bytes, little-endian; what to do
 *                   with it: XOR, or the number of bytes cut, or added where bit 7 is set
 *
 * What is accepted must be what a reader of its own, a few lines down, makes of the same files; what differs from what
 * was written must be found by the verification of its layer, and never be read as something else.
 */

#include <endian.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/chain.h"
#include "common/checksum.h"
#include "common/delta.h"
#include "common/map.h"
#include "common/sums.h"
#include "tests/fuzz/fuzz.h"

#define SIZE_MAX_BYTES ((4u << 20) + 5u * LIVESNAP_FORMAT_PAGE_BYTES) /* three chunks, the last one not full */
#define PAGES_MAX (SIZE_MAX_BYTES / LIVESNAP_FORMAT_PAGE_BYTES)
#define ENTRIES_MAX 255u
#define DELTAS_MAX 3u
#define SPARE_BYTES 128u /* that a damage may add to a file */
#define MAP_BYTES_MAX (LIVESNAP_MAP_HEADER_BYTES + ENTRIES_MAX * sizeof(struct livesnap_map_entry) + SPARE_BYTES)
#define PAGES_BYTES_MAX (ENTRIES_MAX * LIVESNAP_FORMAT_PAGE_BYTES + SPARE_BYTES)
#define REGION "ram"

/* A delta: as it was written, and after the damage. */
struct delta {
        struct livesnap_map_entry entries[ENTRIES_MAX]; /* in the byte order of the file */
        _Alignas(uint64_t) uint8_t map[MAP_BYTES_MAX];
        _Alignas(uint64_t) uint8_t damaged_map[MAP_BYTES_MAX];
        uint8_t pages[PAGES_BYTES_MAX];
        uint8_t damaged_pages[PAGES_BYTES_MAX];
        uint32_t map_bytes, pages_bytes;  /* after the damage */
        struct manifest_region described; /* as it was written */
        struct manifest_region region;    /* as the manifest has it after the damage */
        struct manifest manifest;
        int map_fd, pages_fd;
};

static struct delta deltas[DELTAS_MAX]; /* the oldest first */
static unsigned n_deltas;

static uint8_t base_pages[PAGES_MAX]; /* what each page of the whole image is filled with */
static _Alignas(uint64_t) uint8_t base_sums[4 * LIVESNAP_SUMS_BLOCK_BYTES];
static struct manifest_region base_region;
static struct manifest base_manifest;

static uint32_t region_bytes;
static uint8_t page_buffer[LIVESNAP_FORMAT_PAGE_BYTES];
static uint8_t read_data[SIZE_MAX_BYTES + LIVESNAP_FORMAT_PAGE_BYTES]; /* what came out of the chain */
static uint64_t read_sums[4 * LIVESNAP_SUMS_PER_BLOCK];

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

/* A page filled with a byte, as far as the region has it. */
static void fill_page(uint8_t *page, uint64_t number, uint8_t value) {
        uint64_t left = region_bytes - number * LIVESNAP_FORMAT_PAGE_BYTES;

        memset(page, 0, LIVESNAP_FORMAT_PAGE_BYTES);
        memset(page, value, left < LIVESNAP_FORMAT_PAGE_BYTES ? (size_t) left : LIVESNAP_FORMAT_PAGE_BYTES);
}

static void make_base(struct input *input) {
        uint64_t block[LIVESNAP_SUMS_PER_BLOCK], n_pages = sums_pages(region_bytes);
        uint32_t n = take(input, 1);

        memset(base_pages, 0, sizeof(base_pages));
        for (uint32_t i = 0; i < n; i++)
                base_pages[take(input, 2) % n_pages] = (uint8_t) (i % 255 + 1);
        base_region = (struct manifest_region){ .name = REGION, .bytes = region_bytes };
        base_manifest = (struct manifest){ .uuid = { 1 }, .content = 1, .n_regions = 1, .regions = &base_region };
        memset(base_sums, 0, sizeof(base_sums));
        sums_header_init((struct livesnap_sums_header *) base_sums, REGION, region_bytes, base_manifest.uuid);
        for (uint64_t i = 0; i < sums_blocks(region_bytes); i++) {
                memset(block, 0, sizeof(block));
                for (uint64_t j = 0; j < LIVESNAP_SUMS_PER_BLOCK; j++) {
                        uint64_t page = i * LIVESNAP_SUMS_PER_BLOCK + j;

                        if (page >= n_pages || !base_pages[page])
                                continue;
                        fill_page(page_buffer, page, base_pages[page]);
                        block[j] = checksum_page(page_buffer);
                }
                memcpy(base_sums + sums_block_offset(i), block, sizeof(block));
                base_region.sums_digest += checksum_block(block, i);
        }
}

static void make_delta(struct input *input, unsigned index) {
        const struct manifest *parent = index ? &deltas[index - 1].manifest : &base_manifest;
        struct delta *delta = &deltas[index];
        uint32_t n = take(input, 1), stored = 0;

        for (uint32_t i = 0; i < n; i++) {
                uint32_t which = take(input, 2);
                uint64_t page = (which & 0x7fff) % sums_pages(region_bytes);
                uint8_t *data = delta->pages + (size_t) stored * LIVESNAP_FORMAT_PAGE_BYTES;
                bool zero = which & 0x8000;

                if (!zero)
                        fill_page(data, page, (uint8_t) (80 * index + i % 80 + 1));
                delta->entries[i] = (struct livesnap_map_entry){ page, zero ? 0 : checksum_page(data), stored };
                stored += !zero;
        }
        delta->described = (struct manifest_region){
                .name = REGION,
                .bytes = region_bytes,
                .n_pages = map_arrange(delta->entries, n),
                .pages_stored = stored,
        };
        delta->described.map_digest = map_digest(delta->entries, (size_t) delta->described.n_pages);
        delta->manifest = (struct manifest){
                .uuid = { (uint8_t) (index + 2) },
                .content = index + 2,
                .delta = true,
                .parent = { .name = "parent", .content = parent->content, .depth = index + 1 },
                .n_regions = 1,
                .regions = &delta->region,
        };
        memcpy(delta->manifest.parent.uuid, parent->uuid, sizeof(parent->uuid));
        memset(delta->map, 0, sizeof(delta->map));
        map_header_init((struct livesnap_map_header *) delta->map, &delta->described, delta->manifest.uuid);
        memcpy(delta->map + LIVESNAP_MAP_HEADER_BYTES, delta->entries,
               (size_t) delta->described.n_pages * sizeof(delta->entries[0]));
        memset(delta->pages + (size_t) stored * LIVESNAP_FORMAT_PAGE_BYTES, 0, SPARE_BYTES);

        delta->map_bytes =
                (uint32_t) (LIVESNAP_MAP_HEADER_BYTES + delta->described.n_pages * sizeof(delta->entries[0]));
        delta->pages_bytes = stored * LIVESNAP_FORMAT_PAGE_BYTES;
        delta->region = delta->described;
        memcpy(delta->damaged_map, delta->map, delta->map_bytes + SPARE_BYTES);
        memcpy(delta->damaged_pages, delta->pages, delta->pages_bytes + SPARE_BYTES);
}

/* A length can be cut once or made longer once, but not by more than there is room for. */
static void change_length(uint32_t *bytes, uint32_t written_bytes, uint32_t how) {
        if (how & 0x80)
                *bytes = written_bytes + (how & 0x7f);
        else
                *bytes -= how < *bytes ? how : *bytes;
}

static void damage(struct input *input) {
        while (input->size >= 6) {
                uint32_t what = take(input, 1) % 7;
                struct delta *delta = &deltas[take(input, 1) % n_deltas];
                uint32_t where = take(input, 3), how = take(input, 1);
                uint32_t map_bytes =
                        (uint32_t) (LIVESNAP_MAP_HEADER_BYTES + delta->described.n_pages * sizeof(delta->entries[0]));
                uint32_t pages_bytes = (uint32_t) (delta->described.pages_stored * LIVESNAP_FORMAT_PAGE_BYTES);

                if (what == 0)
                        delta->damaged_map[where % map_bytes] ^= (uint8_t) how;
                else if (what == 1 && pages_bytes)
                        delta->damaged_pages[where % pages_bytes] ^= (uint8_t) how;
                else if (what == 2)
                        change_length(&delta->map_bytes, map_bytes, how);
                else if (what == 3)
                        change_length(&delta->pages_bytes, pages_bytes, how);
                else if (what == 4)
                        delta->region.n_pages ^= how;
                else if (what == 5)
                        delta->region.pages_stored ^= how;
        }
}

/* What a writer that meant the damage would have written beside it. */
static void repair(struct delta *delta, bool manifest_too) {
        struct livesnap_map_header *header = (struct livesnap_map_header *) delta->damaged_map;
        uint64_t bytes = delta->region.n_pages * sizeof(delta->entries[0]);

        if (manifest_too) {
                header->pages = htole64(delta->region.n_pages);
                header->pages_stored = htole64(delta->region.pages_stored);
                if (LIVESNAP_MAP_HEADER_BYTES + bytes <= delta->map_bytes)
                        delta->region.map_digest =
                                checksum_bytes(delta->damaged_map + LIVESNAP_MAP_HEADER_BYTES, (size_t) bytes);
        }
        header->checksum = htole64(checksum_bytes(header, offsetof(struct livesnap_map_header, checksum)));
}

static int make_file(const uint8_t *data, uint32_t bytes) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);

        FUZZ_REQUIRE(fd >= 0 && pwrite(fd, data, bytes, 0) == (ssize_t) bytes);
        return fd;
}

/* With holes where there is nothing but zeros, as the image writer leaves them. */
static int make_image(void) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);

        FUZZ_REQUIRE(fd >= 0);
        for (uint64_t page = 0; page < sums_pages(region_bytes); page++) {
                if (!base_pages[page])
                        continue;
                fill_page(page_buffer, page, base_pages[page]);
                FUZZ_REQUIRE(pwrite(fd, page_buffer, sizeof(page_buffer),
                                    (off_t) (page * LIVESNAP_FORMAT_PAGE_BYTES)) == sizeof(page_buffer));
        }
        FUZZ_REQUIRE(ftruncate(fd, region_bytes) == 0);
        return fd;
}

/* The newest entry for a page, in files that a reader has accepted; NULL: it is the whole image's. */
static const struct livesnap_map_entry *find_entry(uint64_t page, unsigned *ret_delta) {
        for (unsigned i = n_deltas; i-- > 0;) {
                const struct livesnap_map_entry *entries =
                        (const void *) (deltas[i].damaged_map + LIVESNAP_MAP_HEADER_BYTES);

                for (uint64_t j = 0; j < deltas[i].region.n_pages; j++)
                        if (le64toh(entries[j].page) == page) {
                                *ret_delta = i;
                                return &entries[j];
                        }
        }
        return NULL;
}

/* What a page of the chain is, if the files mean what they say. Return: its sum; in page_buffer its bytes, if wanted.
 */
static uint64_t expect_page(uint64_t page, bool only_sum) {
        unsigned delta;
        const struct livesnap_map_entry *entry = find_entry(page, &delta);

        if (!entry) {
                fill_page(page_buffer, page, base_pages[page]);
                return base_pages[page] ? checksum_page(page_buffer) : 0;
        }
        if (!entry->sum) {
                memset(page_buffer, 0, sizeof(page_buffer));
                return 0;
        }
        if (only_sum)
                return entry->sum;
        FUZZ_REQUIRE((le64toh(entry->position) + 1) * LIVESNAP_FORMAT_PAGE_BYTES <= sizeof(deltas[delta].pages));
        memcpy(page_buffer, deltas[delta].damaged_pages + le64toh(entry->position) * LIVESNAP_FORMAT_PAGE_BYTES,
               sizeof(page_buffer));
        return entry->sum;
}

/* A bad map may be found at its end only, so what was read is kept, and looked at when it was accepted. */
static void keep_chunk(const struct image_chunk *chunk, bool only_sums) {
        memcpy(read_sums + chunk->offset / LIVESNAP_FORMAT_PAGE_BYTES, chunk->sums,
               chunk->pages * sizeof(read_sums[0]));
        if (only_sums)
                return;
        for (unsigned i = 0; i < chunk->pages; i++)
                FUZZ_REQUIRE(checksum_page(chunk->data + (size_t) i * LIVESNAP_FORMAT_PAGE_BYTES) == chunk->sums[i]);
        memcpy(read_data + chunk->offset, chunk->data, (size_t) chunk->pages * LIVESNAP_FORMAT_PAGE_BYTES);
}

static void expect_all(bool only_sums) {
        for (uint64_t page = 0; page < sums_pages(region_bytes); page++) {
                uint64_t from = page * LIVESNAP_FORMAT_PAGE_BYTES, left = region_bytes - from;
                size_t bytes = left < LIVESNAP_FORMAT_PAGE_BYTES ? (size_t) left : LIVESNAP_FORMAT_PAGE_BYTES;

                FUZZ_REQUIRE(expect_page(page, only_sums) == read_sums[page]);
                FUZZ_REQUIRE(only_sums || !memcmp(read_data + from, page_buffer, bytes));
        }
}

static bool read_chain(int image_fd, int sums_fd, bool only_sums) {
        struct chain_layer layers[DELTAS_MAX + 1];
        struct error error = { .kind = ERROR_NONE };
        struct chain_reader *reader;
        struct image_chunk chunk;
        uint64_t end = 0;
        int r;

        for (unsigned i = 0; i < n_deltas; i++) {
                const struct delta *delta = &deltas[n_deltas - 1 - i];

                layers[i] = (struct chain_layer){ &delta->manifest, 0, delta->pages_fd, delta->map_fd };
        }
        layers[n_deltas] = (struct chain_layer){ &base_manifest, 0, image_fd, sums_fd };
        memset(read_sums, 0, sizeof(read_sums));
        if (!only_sums)
                memset(read_data, 0, (size_t) sums_pages(region_bytes) * LIVESNAP_FORMAT_PAGE_BYTES);
        r = chain_reader_new(layers, n_deltas + 1, only_sums, &reader, &error);
        if (r == 0) {
                while ((r = chain_reader_next(reader, &chunk, &error)) == 1) {
                        FUZZ_REQUIRE(chunk.offset % LIVESNAP_SUMS_BLOCK_COVERS == 0 && chunk.offset >= end);
                        FUZZ_REQUIRE(chunk.offset < region_bytes && chunk.bytes <= region_bytes - chunk.offset);
                        FUZZ_REQUIRE(chunk.pages == sums_pages(chunk.bytes));
                        keep_chunk(&chunk, only_sums);
                        end = chunk.offset + chunk.bytes;
                }
                chain_reader_free(reader);
        }
        FUZZ_REQUIRE((r < 0) == (error.kind != ERROR_NONE));
        if (r == 0)
                expect_all(only_sums);
        return r == 0;
}

static bool go_on(void *data, uint64_t offset) {
        return offset < region_bytes;
}

static bool verify_delta(const struct delta *delta) {
        struct error error = { .kind = ERROR_NONE };
        int r = delta_verify(&delta->manifest, 0, delta->pages_fd, delta->map_fd, go_on, NULL, &error);

        FUZZ_REQUIRE((r < 0) == (error.kind != ERROR_NONE) && error.kind != ERROR_CANCELLED);
        return r == 0;
}

/* Is all that counts as it was written? Pages that were saved again are in no map, so they do not. */
static bool is_same(const struct delta *delta) {
        uint32_t map_bytes =
                (uint32_t) (LIVESNAP_MAP_HEADER_BYTES + delta->described.n_pages * sizeof(delta->entries[0]));

        if (delta->map_bytes != map_bytes || memcmp(delta->map, delta->damaged_map, map_bytes) ||
            delta->pages_bytes != delta->described.pages_stored * LIVESNAP_FORMAT_PAGE_BYTES ||
            delta->region.n_pages != delta->described.n_pages ||
            delta->region.pages_stored != delta->described.pages_stored)
                return false;
        for (uint64_t i = 0; i < delta->described.n_pages; i++) {
                uint64_t at = le64toh(delta->entries[i].position) * LIVESNAP_FORMAT_PAGE_BYTES;

                if (delta->entries[i].sum && memcmp(delta->pages + at, delta->damaged_pages + at, 4096) != 0)
                        return false;
        }
        return true;
}

static void try_chain(bool repaired) {
        int image_fd = make_image(),
            sums_fd = make_file(base_sums, (uint32_t) sums_block_offset(sums_blocks(region_bytes)));
        bool same[DELTAS_MAX] = { false }, all_same = true, verified = true;

        for (unsigned i = 0; i < n_deltas; i++) {
                deltas[i].map_fd = make_file(deltas[i].damaged_map, deltas[i].map_bytes);
                deltas[i].pages_fd = make_file(deltas[i].damaged_pages, deltas[i].pages_bytes);
                same[i] = is_same(&deltas[i]);
                all_same &= same[i];
        }
        for (unsigned i = 0; i < n_deltas; i++) {
                bool good = verify_delta(&deltas[i]);

                FUZZ_REQUIRE(good || !same[i]);
                FUZZ_REQUIRE(repaired || good == same[i]);
                verified &= good;
        }
        for (int only_sums = 0; only_sums < 2; only_sums++) {
                bool good = read_chain(image_fd, sums_fd, only_sums);

                FUZZ_REQUIRE(good || !(all_same || verified));
        }
        for (unsigned i = 0; i < n_deltas; i++) {
                close(deltas[i].map_fd);
                close(deltas[i].pages_fd);
        }
        close(image_fd);
        close(sums_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct input input = { data, size };
        uint32_t repairs;

        if (size < 6)
                return 0;
        region_bytes = take(&input, 3) % SIZE_MAX_BYTES + 1;
        repairs = take(&input, 1);
        make_base(&input);
        n_deltas = take(&input, 1) % DELTAS_MAX + 1;
        for (unsigned i = 0; i < n_deltas; i++)
                make_delta(&input, i);
        damage(&input);
        for (unsigned i = 0; i < n_deltas && (repairs & 3); i++)
                repair(&deltas[i], repairs & 2);
        try_chain(repairs & 3);
        return 0;
}
