/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/map.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/name.h"
#include "common/sums.h"

#define ENTRIES_AT_ONCE 2048

static uint64_t header_checksum(const struct livesnap_map_header *header) {
        return htole64(checksum_bytes(header, offsetof(struct livesnap_map_header, checksum)));
}

void map_header_init(struct livesnap_map_header *header, const struct manifest_region *region, const uint8_t uuid[16]) {
        assert(name_is_valid(region->name) && region->bytes <= LIVESNAP_FORMAT_REGION_BYTES_MAX);

        memset(header, 0, sizeof(*header));
        memcpy(header->magic, LIVESNAP_MAP_MAGIC, sizeof(header->magic));
        header->version = htole32(LIVESNAP_FORMAT_VERSION);
        header->compatible = htole32(LIVESNAP_FORMAT_COMPATIBLE_DELTA);
        header->header_bytes = htole32(LIVESNAP_MAP_HEADER_BYTES);
        header->page_bytes = htole32(LIVESNAP_FORMAT_PAGE_BYTES);
        header->pages = htole64(region->n_pages);
        header->region_bytes = htole64(region->bytes);
        memcpy(header->uuid, uuid, sizeof(header->uuid));
        memcpy(header->hash, LIVESNAP_FORMAT_HASH, strlen(LIVESNAP_FORMAT_HASH));
        memcpy(header->region, region->name, strlen(region->name));
        header->pages_stored = htole64(region->pages_stored);
        header->checksum = header_checksum(header);
}

static int damaged(const struct manifest_region *region, const char *what, struct error *error) {
        return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: %s", region->name, LIVESNAP_MAP_SUFFIX, what);
}

int map_header_check(const struct livesnap_map_header *header, const struct manifest_region *region,
                     const uint8_t uuid[16], struct error *error) {
        struct livesnap_map_header expected;

        if (memcmp(header->magic, LIVESNAP_MAP_MAGIC, sizeof(header->magic)))
                return damaged(region, "it is not a map of pages", error);
        if (header->checksum != header_checksum(header))
                return damaged(region, "its header does not match its checksum", error);
        if (le32toh(header->compatible) > LIVESNAP_FORMAT_VERSION)
                return error_set(error, ERROR_STORE_FAILED,
                                 "%s%s has format version %u and this livesnap knows %d: use a newer livesnap",
                                 region->name, LIVESNAP_MAP_SUFFIX, le32toh(header->version), LIVESNAP_FORMAT_VERSION);

        /* Of what a newer writer may have changed, version and the bytes that are zero today do not matter. */
        map_header_init(&expected, region, uuid);
        if (memcmp(&header->header_bytes, &expected.header_bytes,
                   offsetof(struct livesnap_map_header, zero) - offsetof(struct livesnap_map_header, header_bytes)))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "%s%s is not of this snapshot: its header and the manifest differ", region->name,
                                 LIVESNAP_MAP_SUFFIX);
        return 0;
}

/*
 * By page, and the older first. Positions are given out in the order of saving; a page that is zero takes none, so of
 * two with the same position the zero one is older.
 */
static int entry_compare(const void *first, const void *second) {
        const struct livesnap_map_entry *a = first, *b = second;

        if (a->page != b->page)
                return a->page < b->page ? -1 : 1;
        if (a->position != b->position)
                return a->position < b->position ? -1 : 1;
        return (a->sum != 0) - (b->sum != 0);
}

size_t map_arrange(struct livesnap_map_entry *entries, size_t n_entries) {
        size_t n = 0;

        if (n_entries)
                qsort(entries, n_entries, sizeof(*entries), entry_compare);
        for (size_t i = 0; i < n_entries; i++)
                if (i + 1 == n_entries || entries[i].page != entries[i + 1].page)
                        entries[n++] = entries[i];
        for (size_t i = 0; i < n; i++) {
                entries[i].page = htole64(entries[i].page);
                entries[i].position = htole64(entries[i].sum ? entries[i].position : 0);
        }
        return n;
}

uint64_t map_digest(const struct livesnap_map_entry *entries, size_t n_entries) {
        return checksum_bytes(entries, n_entries * sizeof(*entries));
}

struct map_reader {
        const struct manifest_region *region; /* borrowed */
        int map;                              /* borrowed */
        XXH3_state_t *digest;                 /* owned */
        uint64_t n_read;                      /* entries, from the file */
        uint64_t next_page;                   /* the next entry's page is at least this */
        size_t at, n;                         /* in @entries */
        struct livesnap_map_entry entries[ENTRIES_AT_ONCE];
};

static void map_reader_free_p(struct map_reader **reader) {
        map_reader_free(*reader);
}

/* Reads exactly so much. */
static int map_read(const struct map_reader *reader, void *buffer, size_t bytes, uint64_t offset, struct error *error) {
        size_t done = 0;

        while (done < bytes) {
                ssize_t got = pread(reader->map, (char *) buffer + done, bytes - done, (off_t) (offset + done));

                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return error_set(error, ERROR_STORE_FAILED, "cannot read %s%s at %" PRIu64 ": %s",
                                         reader->region->name, LIVESNAP_MAP_SUFFIX, offset + done, strerror(errno));
                if (got == 0)
                        return damaged(reader->region, "it ends too early", error);
                done += (size_t) got;
        }
        return 0;
}

int map_reader_new(const struct manifest_region *region, const uint8_t uuid[16], int map, struct map_reader **ret,
                   struct error *error) {
        CLEANUP(map_reader_free_p) struct map_reader *reader = calloc(1, sizeof(*reader));
        struct livesnap_map_header header;
        struct stat status;

        if (reader)
                reader->digest = XXH3_createState();
        if (!reader || !reader->digest)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        XXH3_64bits_reset(reader->digest);
        reader->region = region;
        reader->map = map;
        if (fstat(map, &status) < 0 || !S_ISREG(status.st_mode))
                return damaged(region, "it is not a regular file", error);
        if ((uint64_t) status.st_size != LIVESNAP_MAP_HEADER_BYTES + region->n_pages * sizeof(reader->entries[0]))
                return damaged(region, "it has not the size that the manifest says", error);
        if (map_read(reader, &header, sizeof(header), 0, error) < 0 ||
            map_header_check(&header, region, uuid, error) < 0)
                return -1;
        *ret = STEAL_PTR(reader);
        return 0;
}

static int entry_check(struct map_reader *reader, struct livesnap_map_entry *entry, struct error *error) {
        entry->page = le64toh(entry->page);
        entry->position = le64toh(entry->position);
        if (entry->page < reader->next_page || entry->page >= sums_pages(reader->region->bytes))
                return damaged(reader->region, "its pages are not in order, or behind the end of the region", error);
        if (entry->sum ? entry->position >= reader->region->pages_stored : entry->position != 0)
                return damaged(reader->region, "a page is said to be where none is", error);
        reader->next_page = entry->page + 1;
        return 0;
}

static int map_fill(struct map_reader *reader, struct error *error) {
        uint64_t left = reader->region->n_pages - reader->n_read;
        size_t n = left < ENTRIES_AT_ONCE ? (size_t) left : ENTRIES_AT_ONCE;

        if (map_read(reader, reader->entries, n * sizeof(reader->entries[0]),
                     LIVESNAP_MAP_HEADER_BYTES + reader->n_read * sizeof(reader->entries[0]), error) < 0)
                return -1;
        XXH3_64bits_update(reader->digest, reader->entries, n * sizeof(reader->entries[0]));
        for (size_t i = 0; i < n; i++)
                if (entry_check(reader, &reader->entries[i], error) < 0)
                        return -1;
        reader->n_read += n;
        reader->n = n;
        reader->at = 0;
        return 0;
}

int map_reader_peek(struct map_reader *reader, const struct livesnap_map_entry **ret, struct error *error) {
        if (reader->at == reader->n && reader->n_read < reader->region->n_pages && map_fill(reader, error) < 0)
                return -1;
        if (reader->at == reader->n) {
                if (XXH3_64bits_digest(reader->digest) != reader->region->map_digest)
                        return damaged(reader->region, "it does not match its digest in the manifest", error);
                return 0;
        }
        *ret = &reader->entries[reader->at];
        return 1;
}

void map_reader_skip(struct map_reader *reader) {
        assert(reader->at < reader->n);
        reader->at++;
}

void map_reader_free(struct map_reader *reader) {
        if (!reader)
                return;
        XXH3_freeState(reader->digest);
        free(reader);
}
