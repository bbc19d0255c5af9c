/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/image.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/readahead.h"
#include "common/sums.h"

#define NOWHERE UINT64_MAX

/* Chunks that are read at the same time: enough for a disk to have always one to read while another is looked at. */
#define READ_DEPTH 6

/* A file and where its next data is. */
struct image_file {
        int fd;             /* borrowed */
        const char *suffix; /* for messages */
        uint64_t data_from; /* no data lies between the last place asked for and this one; NOWHERE: no more data */
};

struct image_reader {
        const char *name;
        uint64_t bytes;
        uint64_t expected_digest;
        struct image_file image, sums;
        uint64_t next_block; /* to ask for */
        bool at_end;         /* all have been asked for */
        struct readahead *readahead;
        uint64_t asked[READ_DEPTH]; /* which blocks are in it; asked[first] is the next to come out */
        unsigned first;
        unsigned n_asked;
        uint64_t digest;    /* of the blocks so far */
        uint64_t *block;    /* sums as they are in the file; LIVESNAP_SUMS_BLOCK_BYTES, owned */
        uint64_t *computed; /* likewise, of the data */
};

static int read_failed(const struct image_reader *reader, const struct image_file *file, uint64_t offset, int code,
                       struct error *error) {
        return error_set(error, ERROR_STORE_FAILED, "cannot read %s%s at %" PRIu64 ": %s", reader->name, file->suffix,
                         offset, strerror(code));
}

/* O_DIRECT: buffer, size and offset are multiples of 4096; only the end of the file makes an odd count. */
static int read_all(const struct image_reader *reader, const struct image_file *file, void *buffer, size_t bytes,
                    size_t expected_bytes, uint64_t offset, struct error *error) {
        size_t done = 0;
        ssize_t got;

        while (done < expected_bytes) {
                got = pread(file->fd, (uint8_t *) buffer + done, bytes - done, (off_t) (offset + done));
                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return read_failed(reader, file, offset + done, errno, error);
                if (got == 0)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it ends at %" PRIu64,
                                         reader->name, file->suffix, offset + done);
                done += (size_t) got;
        }
        return 0;
}

static int size_check(const struct image_reader *reader, const struct image_file *file, uint64_t expected_bytes,
                      struct error *error) {
        struct stat status;

        if (fstat(file->fd, &status) < 0)
                return read_failed(reader, file, 0, errno, error);
        if (!S_ISREG(status.st_mode))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it is not a regular file",
                                 reader->name, file->suffix);
        if ((uint64_t) status.st_size != expected_bytes)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "%s%s is damaged: it has %jd bytes where %" PRIu64 " are expected", reader->name,
                                 file->suffix, (intmax_t) status.st_size, expected_bytes);
        return 0;
}

static void image_reader_free_p(struct image_reader **reader) {
        image_reader_free(*reader);
}

int image_reader_new(const struct manifest *manifest, unsigned region, int image, int sums, struct image_reader **ret,
                     struct error *error) {
        CLEANUP(image_reader_free_p) struct image_reader *reader = calloc(1, sizeof(*reader));

        assert(region < manifest->n_regions);
        if (!reader)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        reader->name = manifest->regions[region].name;
        reader->bytes = manifest->regions[region].bytes;
        reader->expected_digest = manifest->regions[region].sums_digest;
        reader->image = (struct image_file){ .fd = image, .suffix = LIVESNAP_IMAGE_SUFFIX };
        reader->sums = (struct image_file){ .fd = sums, .suffix = LIVESNAP_SUMS_SUFFIX };

        reader->block = aligned_alloc(LIVESNAP_SUMS_BLOCK_BYTES, LIVESNAP_SUMS_BLOCK_BYTES);
        reader->computed = malloc(LIVESNAP_SUMS_BLOCK_BYTES);
        if (!reader->block || !reader->computed ||
            readahead_new(READ_DEPTH, LIVESNAP_SUMS_BLOCK_COVERS, true, &reader->readahead) < 0)
                return error_set(error, ERROR_INTERNAL, "out of memory");

        if ((image >= 0 && size_check(reader, &reader->image, reader->bytes, error) < 0) ||
            size_check(reader, &reader->sums, sums_block_offset(sums_blocks(reader->bytes)), error) < 0 ||
            read_all(reader, &reader->sums, reader->block, LIVESNAP_SUMS_HEADER_BYTES, LIVESNAP_SUMS_HEADER_BYTES, 0,
                     error) < 0 ||
            sums_header_check((const struct livesnap_sums_header *) reader->block, reader->name, reader->bytes,
                              manifest->uuid, error) < 0)
                return -1;
        *ret = STEAL_PTR(reader);
        return 0;
}

/* Where is the first data at or after @offset? A filesystem that knows no holes says that all is data. */
static int next_data(const struct image_reader *reader, struct image_file *file, uint64_t offset, struct error *error) {
        off_t found;

        if (file->data_from > offset)
                return 0;
        found = lseek(file->fd, (off_t) offset, SEEK_DATA);
        if (found >= 0)
                file->data_from = (uint64_t) found;
        else if (errno == ENXIO)
                file->data_from = NOWHERE;
        else if (errno == EINVAL)
                file->data_from = offset;
        else
                return read_failed(reader, file, offset, errno, error);
        return 0;
}

/* The first block from next_block on of which either file has data; the number of blocks if there is none. */
static int next_block(struct image_reader *reader, uint64_t *ret, struct error *error) {
        uint64_t blocks = sums_blocks(reader->bytes), block = blocks, found;

        if (reader->next_block < blocks) {
                if (reader->image.fd < 0)
                        reader->image.data_from = NOWHERE;
                else if (next_data(reader, &reader->image, reader->next_block * LIVESNAP_SUMS_BLOCK_COVERS, error) < 0)
                        return -1;
                if (next_data(reader, &reader->sums, sums_block_offset(reader->next_block), error) < 0)
                        return -1;
                if (reader->image.data_from != NOWHERE) {
                        found = reader->image.data_from / LIVESNAP_SUMS_BLOCK_COVERS;
                        block = found < block ? found : block;
                }
                if (reader->sums.data_from != NOWHERE) {
                        found = (reader->sums.data_from - LIVESNAP_SUMS_HEADER_BYTES) / LIVESNAP_SUMS_BLOCK_BYTES;
                        block = found < block ? found : block;
                }
                /* Data may start before the place that was asked for: it is then data there, too. */
                block = block < reader->next_block ? reader->next_block : block;
        }
        *ret = block;
        return 0;
}

static int block_check(const struct image_reader *reader, const struct image_chunk *chunk, struct error *error) {
        checksum_chunk(chunk->data, chunk->pages, reader->computed);
        for (unsigned i = 0; i < LIVESNAP_SUMS_PER_BLOCK; i++) {
                uint64_t offset = chunk->offset + (uint64_t) i * LIVESNAP_FORMAT_PAGE_BYTES;

                if (reader->computed[i] == reader->block[i])
                        continue;
                if (i >= chunk->pages)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "%s%s is damaged: it has checksums behind the end of the region", reader->name,
                                         LIVESNAP_SUMS_SUFFIX);
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "%s%s is damaged: the page at offset %" PRIu64 " does not match its checksum",
                                 reader->name, LIVESNAP_IMAGE_SUFFIX, offset);
        }
        return 0;
}

static void chunk_place(const struct image_reader *reader, uint64_t block, struct image_chunk *ret) {
        ret->offset = block * LIVESNAP_SUMS_BLOCK_COVERS;
        ret->bytes = LIVESNAP_SUMS_BLOCK_COVERS;
        if (reader->bytes - ret->offset < ret->bytes)
                ret->bytes = (uint32_t) (reader->bytes - ret->offset);
        ret->pages = (uint32_t) sums_pages(ret->bytes);
}

/* Asks for chunks until enough of them are on their way. */
static int ask_ahead(struct image_reader *reader, struct error *error) {
        struct image_chunk chunk;
        uint64_t block;

        while (!reader->at_end && reader->n_asked < READ_DEPTH) {
                if (next_block(reader, &block, error) < 0)
                        return -1;
                reader->at_end = block == sums_blocks(reader->bytes);
                if (reader->at_end)
                        break;
                chunk_place(reader, block, &chunk);
                if (reader->image.fd >= 0)
                        readahead_queue(reader->readahead, reader->image.fd, chunk.offset,
                                        (size_t) chunk.pages * LIVESNAP_FORMAT_PAGE_BYTES, chunk.bytes);
                reader->asked[(reader->first + reader->n_asked++) % READ_DEPTH] = block;
                reader->next_block = block + 1;
        }
        return 0;
}

static int take_data(struct image_reader *reader, const struct image_chunk *chunk, uint8_t **ret, struct error *error) {
        ptrdiff_t got = readahead_take(reader->readahead, ret);

        if (got < 0)
                return read_failed(reader, &reader->image, chunk->offset, (int) -got, error);
        if ((uint64_t) got < chunk->bytes)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it ends at %" PRIu64, reader->name,
                                 reader->image.suffix, chunk->offset + (uint64_t) got);
        memset(*ret + chunk->bytes, 0, (size_t) chunk->pages * LIVESNAP_FORMAT_PAGE_BYTES - chunk->bytes);
        return 0;
}

int image_reader_next(struct image_reader *reader, struct image_chunk *ret, struct error *error) {
        struct image_chunk chunk = { .sums = reader->block };
        uint64_t block;
        uint8_t *data = NULL;

        if (ask_ahead(reader, error) < 0)
                return -1;
        if (reader->n_asked == 0) {
                if (reader->digest != reader->expected_digest)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "%s%s is damaged: its checksums do not match their digest in the manifest",
                                         reader->name, LIVESNAP_SUMS_SUFFIX);
                return 0;
        }

        block = reader->asked[reader->first];
        reader->first = (reader->first + 1) % READ_DEPTH;
        reader->n_asked--;
        chunk_place(reader, block, &chunk);
        if (read_all(reader, &reader->sums, reader->block, LIVESNAP_SUMS_BLOCK_BYTES, LIVESNAP_SUMS_BLOCK_BYTES,
                     sums_block_offset(block), error) < 0)
                return -1;
        if (reader->image.fd >= 0 && take_data(reader, &chunk, &data, error) < 0)
                return -1;
        chunk.data = data;
        if (data && block_check(reader, &chunk, error) < 0)
                return -1;
        reader->digest += checksum_block(reader->block, block);
        *ret = chunk;
        return 1;
}

void image_reader_free(struct image_reader *reader) {
        if (!reader)
                return;
        readahead_free(reader->readahead);
        free(reader->block);
        free(reader->computed);
        free(reader);
}
