/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/sweep.h"

#include <errno.h>
#include <string.h>

#include "common/checksum.h"
#include "common/uffd.h"
#include "daemon/clock.h"

/* How often to look whether the run still goes on, while the disk has all chunk buffers. */
#define SWEEP_LOOK_MS 20

/* The place up to which a region has been swept in order, and the extent of data around it. */
struct sweep_cursor {
        uint64_t chunk;
        uint64_t data_start;
        uint64_t data_end;
        bool data_known;
};

struct sweep_state {
        struct sweep *sweep;
        struct region *regions[DOMAIN_REGIONS_MAX]; /* by index */
        struct domain_targets targets;
        struct chunk *packed; /* being filled with wanted pages, or NULL */
};

static struct capture_region *sweep_capture_region(struct sweep_state *state, unsigned region) {
        return &state->sweep->run->capture.regions[region];
}

static bool sweep_is_awaited(struct sweep_state *state, unsigned region, uint64_t offset, uint64_t length) {
        const struct capture_chunk *chunks = sweep_capture_region(state, region)->chunks;

        for (uint64_t i = offset / CHUNK_BYTES; i < (offset + length + CHUNK_BYTES - 1) / CHUNK_BYTES; i++)
                if (atomic_load_explicit(&chunks[i].urgent_ns, memory_order_relaxed))
                        return true;
        return false;
}

/*
 * Take the protection from a range, wherever it is mapped now. Where that is refused for the moment (EAGAIN, the
 * process is about to fork) the faults that are left over are answered by the fault thread, and who waits already is
 * woken to fault again. Where the protection is to stay, all are woken so: the chunk is closed, so they need not wait.
 */
static void sweep_release(struct sweep_state *state, unsigned region, uint64_t offset, uint64_t length) {
        uint64_t page_bytes = state->regions[region]->page_bytes;

        if (state->sweep->keep_armed && !sweep_is_awaited(state, region, offset, length))
                return;
        length = (length + page_bytes - 1) / page_bytes * page_bytes;
        if (domain_find_targets(state->sweep->domain, state->regions[region], offset, length, &state->targets) < 0) {
                run_stop(state->sweep->run, RUN_NO_MEMORY, ENOMEM);
                return;
        }
        for (unsigned i = 0; i < state->targets.n; i++) {
                const struct domain_target *target = &state->targets.items[i];

                if (state->sweep->keep_armed || uffd_disarm(target->context->uffd, target->address, target->length) < 0)
                        (void) uffd_wake(target->context->uffd, target->address, target->length);
        }
        domain_targets_deinit(&state->targets);
}

static bool sweep_is_zero(const uint8_t *data, size_t length) {
        return data[0] == 0 && !memcmp(data, data + 1, length - 1);
}

/*
 * Which pages had data at the cut and came out as zero? They may have been zero, or their content was removed first. If
 * they are holes now it was removed for certain.
 */
static void sweep_look_for_loss(struct sweep_state *state, unsigned region, uint64_t chunk, const uint8_t *data) {
        struct capture_region *r = sweep_capture_region(state, region);
        struct capture_chunk *c = &r->chunks[chunk];
        uint64_t page = chunk * (CHUNK_BYTES / r->page_bytes), end = page + CHUNK_BYTES / r->page_bytes;
        uint64_t hole_from = chunk * CHUNK_BYTES, data_start, data_end;

        if (!r->data_at_cut)
                return;
        for (const uint8_t *p = data; page < end && page < r->n_pages; page++) {
                if (!capture_wants(r, page))
                        continue;
                if (capture_page_had_data(r, page) && (!data || sweep_is_zero(p, r->page_bytes)))
                        c->suspect = 1;
                p += data ? r->page_bytes : 0;
        }
        if (!c->suspect || state->regions[region]->kind == REGION_HUGETLBFS)
                return;
        while (hole_from < (chunk + 1) * CHUNK_BYTES) {
                if (!region_next_data(state->regions[region], hole_from, (chunk + 1) * CHUNK_BYTES, &data_start,
                                      &data_end))
                        data_start = data_end = (chunk + 1) * CHUNK_BYTES;
                for (page = hole_from / r->page_bytes; page < data_start / r->page_bytes && page < r->n_pages; page++)
                        if (capture_wants(r, page) && capture_page_had_data(r, page))
                                c->removed = 1;
                hole_from = data_end;
        }
}

static void sweep_note_wait(struct sweep_state *state, const struct capture_chunk *chunk) {
        uint64_t since_ns = atomic_load_explicit(&chunk->urgent_ns, memory_order_relaxed);

        if (since_ns)
                state->sweep->run->throttled_ns += clock_now_ns() - since_ns;
}

static uint64_t sweep_chunk_bytes(struct sweep_state *state, unsigned region, uint64_t chunk) {
        uint64_t left = sweep_capture_region(state, region)->bytes - chunk * CHUNK_BYTES;

        return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

static bool sweep_goes_on(const struct sweep *sweep) {
        return run_goes_on(sweep->run) && !image_writer_failed(sweep->writer);
}

/* NULL if the run cannot go on. */
static struct chunk *sweep_take_chunk(const struct sweep *sweep) {
        struct chunk *chunk = NULL;

        while (sweep_goes_on(sweep) && !(chunk = pool_take_chunk(sweep->share, SWEEP_LOOK_MS)))
                ;
        return chunk;
}

/* Returns false if the run cannot go on. */
static bool sweep_chunk(struct sweep_state *state, unsigned region, uint64_t index) {
        struct sweep *sweep = state->sweep;
        struct capture_chunk *c = &sweep_capture_region(state, region)->chunks[index];
        struct chunk *chunk = sweep_take_chunk(sweep);
        struct iovec iov = { .iov_len = CHUNK_BYTES };
        uint32_t n_saved = 0;
        int r;

        if (!chunk)
                return false;
        iov.iov_base = chunk->data;
        chunk->region = region;
        chunk->index = index;
        chunk->bytes = (uint32_t) sweep_chunk_bytes(state, region, index);
        r = region_read(state->regions[region], &iov, 1, index * CHUNK_BYTES);
        if (r < 0) {
                run_stop(sweep->run, RUN_READ_FAILED, -r);
                pool_give_chunk(sweep->share, chunk);
                return false;
        }
        capture_close(&sweep->run->capture, region, index, chunk->data, &n_saved);
        sweep_release(state, region, index * CHUNK_BYTES, CHUNK_BYTES);
        sweep_note_wait(state, c);
        sweep_look_for_loss(state, region, index, chunk->data);
        sweep->run->pages_fault += n_saved;
        sweep->run->pages_read +=
                (chunk->bytes + state->regions[region]->page_bytes - 1) / state->regions[region]->page_bytes - n_saved;
        state->sweep->bytes_swept += chunk->bytes;
        image_writer_submit(sweep->writer, chunk);
        if (sweep->progress)
                sweep->progress(sweep->data, sweep->bytes_swept);
        return true;
}

static void sweep_submit_packed(struct sweep_state *state) {
        if (state->packed)
                image_writer_submit(state->sweep->writer, state->packed);
        state->packed = NULL;
}

/* Read the wanted pages of a chunk to @data, one behind the other. */
static int sweep_read_wanted(struct sweep_state *state, unsigned region, uint64_t index, uint8_t *data) {
        const struct capture_region *r = sweep_capture_region(state, region);
        uint64_t page = index * capture_pages_per_chunk(r), end = page + capture_pages_per_chunk(r);
        int result = 0;

        end = end < r->n_pages ? end : r->n_pages;
        while (page < end && result == 0) {
                uint64_t first = page;
                struct iovec iov = { .iov_base = data };

                while (page < end && capture_wants(r, page))
                        page++;
                if (page == first) {
                        page++;
                        continue;
                }
                iov.iov_len = (page - first) * r->page_bytes;
                result = region_read(state->regions[region], &iov, 1, first * r->page_bytes);
                data += iov.iov_len;
        }
        return result;
}

/* Note in the packed chunk which pages of the region have been added to it. */
static void sweep_name_wanted(struct sweep_state *state, unsigned region, uint64_t index) {
        const struct capture_region *r = sweep_capture_region(state, region);
        uint64_t page = index * capture_pages_per_chunk(r), end = page + capture_pages_per_chunk(r);
        uint64_t pieces = r->page_bytes / CHUNK_PAGE_BYTES, n_pieces = (r->bytes - 1) / CHUNK_PAGE_BYTES + 1;
        struct chunk *packed = state->packed;

        for (; page < end && page < r->n_pages; page++)
                for (uint64_t i = page * pieces; capture_wants(r, page) && i < (page + 1) * pieces && i < n_pieces; i++)
                        packed->pages[packed->n_pages++] = i;
}

/* Have room for so many pages of the region in the packed chunk. Returns false if the run cannot go on. */
static bool sweep_make_room(struct sweep_state *state, unsigned region, uint32_t n_pages) {
        if (state->packed && (state->packed->region != region || state->packed->n_pages + n_pages > CHUNK_PAGES))
                sweep_submit_packed(state);
        if (!state->packed) {
                state->packed = sweep_take_chunk(state->sweep);
                if (!state->packed)
                        return false;
                state->packed->region = region;
        }
        return true;
}

/* Returns false if the run cannot go on. */
static bool sweep_pack_chunk(struct sweep_state *state, unsigned region, uint64_t index) {
        struct capture_region *r = sweep_capture_region(state, region);
        uint32_t n_wanted = capture_wanted_pages(r, index), n_saved = 0;
        struct sweep *sweep = state->sweep;
        uint8_t *data;
        int result;

        if (!sweep_make_room(state, region, n_wanted * (r->page_bytes / CHUNK_PAGE_BYTES)))
                return false;
        data = state->packed->data + (size_t) state->packed->n_pages * CHUNK_PAGE_BYTES;
        /* Where all were saved already there is nothing to read that would not be laid over. */
        result = capture_saved_pages(r, index) < n_wanted ? sweep_read_wanted(state, region, index, data) : 0;
        if (result < 0) {
                run_stop(sweep->run, RUN_READ_FAILED, -result);
                return false;
        }
        capture_close(&sweep->run->capture, region, index, data, &n_saved);
        sweep_release(state, region, index * CHUNK_BYTES, CHUNK_BYTES);
        sweep_note_wait(state, &r->chunks[index]);
        sweep_look_for_loss(state, region, index, data);
        sweep_name_wanted(state, region, index);
        sweep->run->pages_fault += n_saved;
        sweep->run->pages_read += n_wanted - n_saved;
        state->sweep->bytes_swept += (uint64_t) n_wanted * r->page_bytes;
        if (sweep->progress)
                sweep->progress(sweep->data, sweep->bytes_swept);
        return true;
}

/* Where the pool runs low or a thread waits, those chunks come first. */
static bool sweep_hot_chunks(struct sweep_state *state) {
        struct run *run = state->sweep->run;
        struct pool *pool = run->capture.pool;
        unsigned region;
        uint64_t chunk;

        while (atomic_load_explicit(&run->capture.n_urgent, memory_order_relaxed) > 0 ||
               pool_slots_free(pool) < pool_slots(pool) / 4) {
                if (!capture_hottest(&run->capture, &region, &chunk))
                        return true;
                if (!(state->sweep->only_wanted ? sweep_pack_chunk : sweep_chunk)(state, region, chunk))
                        return false;
        }
        return true;
}

static bool sweep_is_hole(struct sweep_state *state, unsigned region, struct sweep_cursor *cursor) {
        uint64_t start = cursor->chunk * CHUNK_BYTES, end = start + CHUNK_BYTES;

        if (!cursor->data_known || cursor->data_end <= start) {
                uint64_t bytes = sweep_capture_region(state, region)->bytes;

                if (!region_next_data(state->regions[region], start, bytes, &cursor->data_start, &cursor->data_end))
                        cursor->data_start = cursor->data_end = UINT64_MAX;
                cursor->data_known = true;
        }
        return cursor->data_start >= end;
}

/* Close the holes from the cursor on, as far as they go, and disarm them with one call. */
static bool sweep_holes(struct sweep_state *state, unsigned region, struct sweep_cursor *cursor) {
        struct capture *capture = &state->sweep->run->capture;
        uint64_t n_chunks = capture->regions[region].n_chunks, first = cursor->chunk, bytes;
        uint32_t n_saved;

        for (; cursor->chunk < n_chunks && sweep_is_hole(state, region, cursor); cursor->chunk++) {
                if (capture_is_closed(capture, region, cursor->chunk))
                        continue;
                if (!capture_close(capture, region, cursor->chunk, NULL, &n_saved))
                        break; /* a page of it was written, and so saved: it needs a buffer after all */
                sweep_note_wait(state, &capture->regions[region].chunks[cursor->chunk]);
                sweep_look_for_loss(state, region, cursor->chunk, NULL);
        }
        if (cursor->chunk == first)
                return false;
        bytes = (cursor->chunk - first) * CHUNK_BYTES;
        sweep_release(state, region, first * CHUNK_BYTES, bytes);
        state->sweep->bytes_swept +=
                cursor->chunk == n_chunks ? capture->regions[region].bytes - first * CHUNK_BYTES : bytes;
        return true;
}

static bool sweep_region(struct sweep_state *state, unsigned region) {
        struct capture *capture = &state->sweep->run->capture;
        struct sweep_cursor cursor = { 0 };

        while (cursor.chunk < capture->regions[region].n_chunks) {
                if (!sweep_hot_chunks(state))
                        return false;
                if (capture_is_closed(capture, region, cursor.chunk)) {
                        cursor.chunk++;
                        continue;
                }
                if (sweep_holes(state, region, &cursor))
                        continue;
                if (!sweep_chunk(state, region, cursor.chunk))
                        return false;
                cursor.chunk++;
        }
        return true;
}

static bool sweep_increment(struct sweep_state *state, unsigned region) {
        const struct capture *capture = &state->sweep->run->capture;
        const struct capture_region *r = &capture->regions[region];
        uint64_t page = 0;

        while ((page = capture_next_wanted(r, page)) < r->n_pages) {
                uint64_t per_chunk = capture_pages_per_chunk(r), index = page / per_chunk;

                if (!sweep_hot_chunks(state))
                        return false;
                if (!capture_is_closed(capture, region, index) && !sweep_pack_chunk(state, region, index))
                        return false;
                page = (index + 1) * per_chunk;
        }
        return true;
}

bool sweep_run(struct sweep *sweep) {
        struct sweep_state state = { .sweep = sweep };
        struct region *region;
        bool complete = true;

        TAILQ_FOREACH (region, &sweep->domain->regions, link)
                state.regions[region->index] = region;
        for (unsigned i = 0; i < sweep->run->capture.n_regions && complete; i++)
                complete = sweep->only_wanted ? sweep_increment(&state, i) : sweep_region(&state, i);
        if (complete)
                sweep_submit_packed(&state);
        else if (state.packed)
                pool_give_chunk(sweep->share, state.packed);
        domain_targets_deinit(&state.targets);
        return complete && sweep_goes_on(sweep);
}
