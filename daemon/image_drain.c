/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_drain.h"

#include <assert.h>
#include <string.h>

#include "common/checksum.h"
#include "daemon/image_writer_pages.h"

_Static_assert(CHUNK_PAGE_BYTES == LIVESNAP_FORMAT_PAGE_BYTES && CHUNK_PAGES == LIVESNAP_SUMS_PER_BLOCK,
               "the sums of a chunk are one block of the file");

void image_drain_init(struct image_drain *drain, const struct image_drain_spec *spec) {
        *drain = (struct image_drain){ .spec = *spec };
        image_io_init(&drain->io, true);
}

void image_drain_deinit(struct image_drain *drain) {
        image_io_deinit(&drain->io);
}

bool image_drain_is_full(const struct image_drain *drain) {
        return drain->current || drain->n_in_flight == IMAGE_DRAIN_DEPTH;
}

static bool is_stopped(const struct image_drain *drain) {
        /* relaxed: it only ends sooner for it; what is written meanwhile is not published */
        return atomic_load_explicit(drain->spec.stop, memory_order_relaxed);
}

/* A chunk is done when all its pages are queued and nothing of it is in flight. */
static void writing_release_if_done(struct image_drain *drain, struct image_drain_writing *writing) {
        struct chunk *chunk = writing->chunk;

        if (writing->pending || writing == drain->current)
                return;
        writing->chunk = NULL;
        drain->n_in_flight--;
        drain->spec.release(drain->spec.data, chunk);
}

static struct image_drain_writing *writing_get(struct image_drain *drain) {
        for (unsigned i = 0; i < IMAGE_DRAIN_DEPTH; i++)
                if (!drain->in_flight[i].chunk)
                        return &drain->in_flight[i];
        return NULL;
}

/* The number in the region of a page of the chunk. */
static uint64_t chunk_page(const struct chunk *chunk, unsigned i) {
        return chunk->n_pages ? chunk->pages[i] : chunk->index * CHUNK_PAGES + i;
}

static unsigned chunk_pages(const struct chunk *chunk) {
        return chunk->n_pages ? chunk->n_pages : (chunk->bytes + CHUNK_PAGE_BYTES - 1) / CHUNK_PAGE_BYTES;
}

/* What the region has not of its last page is zero in the file's sums, whatever is behind it in the buffer. */
static void chunk_pad(struct chunk *chunk, unsigned pages, uint64_t region_bytes) {
        uint64_t end = (chunk_page(chunk, pages - 1) + 1) * CHUNK_PAGE_BYTES;

        if (end > region_bytes)
                memset(chunk->data + (size_t) pages * CHUNK_PAGE_BYTES - (end - region_bytes), 0, end - region_bytes);
}

/* Where its pages go, and that they are there. */
static int place_chunk(struct image_drain *drain, const struct chunk *chunk, unsigned pages, unsigned not_zero,
                       struct error *error) {
        if (chunk->n_pages)
                return image_pages_place(drain->spec.files, chunk, drain->sums, drain->places, error);
        assert(!drain->spec.files->delta &&
               chunk->index * CHUNK_BYTES + chunk->bytes <= drain->spec.files->regions[chunk->region].bytes);
        for (unsigned i = 0; i < pages; i++)
                drain->places[i] = chunk_page(chunk, i);
        drain->spec.files->pages_zero -= not_zero;
        return not_zero ? image_files_write_sums(drain->spec.files, chunk->region, chunk->index, drain->sums, error)
                        : 0;
}

uint64_t image_drain_start(struct image_drain *drain, struct chunk *chunk) {
        unsigned pages = chunk_pages(chunk), not_zero;
        struct error error = { .kind = ERROR_NONE };

        assert(!image_drain_is_full(drain));
        assert(chunk->region < drain->spec.files->n_regions && pages > 0 && pages <= CHUNK_PAGES);
        chunk_pad(chunk, pages, drain->spec.files->regions[chunk->region].bytes);
        not_zero = checksum_chunk(chunk->data, pages, drain->sums);
        if (place_chunk(drain, chunk, pages, not_zero, &error) < 0) {
                drain->spec.fail(drain->spec.data, &error);
                not_zero = 0;
        }
        if (not_zero == 0) {
                drain->spec.release(drain->spec.data, chunk);
                return 0;
        }
        drain->current = writing_get(drain);
        drain->current->chunk = chunk;
        drain->n_in_flight++;
        drain->next_page = 0;
        drain->n_pages = pages;
        return (uint64_t) not_zero * CHUNK_PAGE_BYTES;
}

/* The next run of pages that are not zero and lie together in the file: one write. */
static bool next_run(struct image_drain *drain, unsigned *ret_first, unsigned *ret_pages) {
        unsigned first = drain->next_page, end;

        while (first < drain->n_pages && !drain->sums[first])
                first++;
        for (end = first;
             end < drain->n_pages && drain->sums[end] && drain->places[end] == drain->places[first] + (end - first);)
                end++;
        *ret_first = first;
        *ret_pages = end - first;
        return end > first;
}

/* Queues the current chunk's pages for as long as there are operations to be had. */
static void queue_pages(struct image_drain *drain) {
        struct image_drain_writing *writing = drain->current;
        struct chunk *chunk = writing->chunk;
        const struct image_region *region = &drain->spec.files->regions[chunk->region];
        struct image_io_op *op;
        unsigned first, pages;

        while (!is_stopped(drain) && next_run(drain, &first, &pages)) {
                uint64_t offset = drain->places[first] * CHUNK_PAGE_BYTES;
                size_t bytes = (size_t) pages * CHUNK_PAGE_BYTES;

                op = image_io_get(&drain->io);
                if (!op)
                        return;
                *op = (struct image_io_op){
                        .kind = IMAGE_IO_WRITE,
                        .fd = region->image,
                        .data = chunk->data + (size_t) first * CHUNK_PAGE_BYTES,
                        .bytes = bytes,
                        .offset = (off_t) offset,
                        .owner = writing,
                };
                image_io_queue(&drain->io, op);
                writing->pending++;
                drain->next_page = first + pages;
                if (!drain->spec.files->delta && offset + bytes > region->bytes)
                        bytes = region->bytes - offset;
                drain->bytes_written += bytes;
        }
        drain->current = NULL;
        writing_release_if_done(drain, writing);
}

static void complete(struct image_drain *drain, struct image_io_op *op) {
        struct image_drain_writing *writing = op->owner;
        const char *region = drain->spec.files->regions[writing->chunk->region].name;
        const char *suffix = drain->spec.files->delta ? LIVESNAP_PAGES_SUFFIX : LIVESNAP_IMAGE_SUFFIX;
        struct error error = { .kind = ERROR_NONE };

        if (op->result < 0) {
                image_files_failed(drain->spec.files, "write", region, suffix, -op->result, &error);
                drain->spec.fail(drain->spec.data, &error);
        }
        image_io_put(&drain->io, op);
        writing->pending--;
        writing_release_if_done(drain, writing);
}

void image_drain_push(struct image_drain *drain) {
        if (drain->current)
                queue_pages(drain);
        image_io_submit(&drain->io);
}

void image_drain_reap(struct image_drain *drain, int64_t timeout_ns) {
        struct image_io_op *op;

        while (drain->io.in_flight && (op = image_io_wait(&drain->io, timeout_ns))) {
                complete(drain, op);
                timeout_ns = 0;
        }
}

void image_drain_finish(struct image_drain *drain) {
        image_drain_push(drain);
        while (drain->n_in_flight) {
                image_drain_reap(drain, -1);
                image_drain_push(drain);
        }
}
