/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/capture.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS_MAX (CHUNK_BYTES / POOL_SLOT_BYTES)

static bool bit_test(const uint64_t *bits, uint64_t n) {
        return bits[n / 64] >> n % 64 & 1;
}

static void bit_set(uint64_t *bits, uint64_t n) {
        bits[n / 64] |= 1ULL << n % 64;
}

static void bit_clear(uint64_t *bits, uint64_t n) {
        bits[n / 64] &= ~(1ULL << n % 64);
}

static uint64_t *bits_new(uint64_t n) {
        return calloc(n / 64 + 1, sizeof(uint64_t));
}

int capture_init(struct capture *capture, struct pool *pool, unsigned n_regions) {
        *capture = (struct capture){ .pool = pool };
        capture->regions = calloc(n_regions, sizeof(*capture->regions));
        if (!capture->regions)
                return -ENOMEM;
        capture->n_regions = n_regions;
        return 0;
}

int capture_add_region(struct capture *capture, unsigned index, uint64_t bytes, uint32_t page_bytes,
                       bool keep_data_map) {
        struct capture_region *region = &capture->regions[index];

        assert(index < capture->n_regions && !region->chunks);
        if (bytes == 0 || bytes > CAPTURE_BYTES_MAX)
                return -EINVAL;
        if (page_bytes != CHUNK_PAGE_BYTES && page_bytes != CHUNK_BYTES)
                return -EINVAL;

        region->bytes = bytes;
        region->page_bytes = page_bytes;
        region->n_pages = (bytes + page_bytes - 1) / page_bytes;
        region->n_chunks = (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
        region->chunks = calloc(region->n_chunks, sizeof(*region->chunks));
        region->saved = bits_new(region->n_pages);
        region->parked = bits_new(region->n_pages);
        region->data_at_cut = keep_data_map ? bits_new(region->n_pages) : NULL;
        if (!region->chunks || !region->saved || !region->parked || (keep_data_map && !region->data_at_cut))
                return -ENOMEM;
        for (uint64_t i = 0; i < region->n_chunks; i++)
                atomic_init(&region->chunks[i].head, CAPTURE_OPEN);
        return 0;
}

static uint32_t capture_slots_per_page(const struct capture_region *region) {
        return region->page_bytes / POOL_SLOT_BYTES;
}

static void capture_give_list(struct capture *capture, const struct capture_region *region, uint32_t head) {
        while (head < CAPTURE_CLOSED) {
                uint32_t next = pool_slot_note(capture->pool, head)->next_page;

                pool_give_slots(capture->pool, head, capture_slots_per_page(region));
                head = next;
        }
}

void capture_deinit(struct capture *capture) {
        for (unsigned i = 0; i < capture->n_regions; i++) {
                struct capture_region *region = &capture->regions[i];

                for (uint64_t j = 0; region->chunks && j < region->n_chunks; j++)
                        capture_give_list(capture, region, region->chunks[j].head);
                free(region->chunks);
                free(region->saved);
                free(region->parked);
                free(region->data_at_cut);
        }
        free(capture->regions);
        *capture = (struct capture){ 0 };
}

void capture_reopen(struct capture *capture) {
        for (unsigned i = 0; i < capture->n_regions; i++) {
                struct capture_region *region = &capture->regions[i];

                for (uint64_t j = 0; j < region->n_chunks; j++) {
                        capture_give_list(capture, region, region->chunks[j].head);
                        region->chunks[j].head = CAPTURE_OPEN;
                        region->chunks[j].n_saved = 0;
                }
                memset(region->saved, 0, (region->n_pages / 64 + 1) * sizeof(uint64_t));
        }
}

static struct capture_chunk *capture_chunk_of(struct capture *capture, unsigned region, uint64_t page) {
        struct capture_region *r = &capture->regions[region];

        assert(page < r->n_pages);
        return &r->chunks[page * r->page_bytes / CHUNK_BYTES];
}

/* Push the chain at @slot unless the chunk was closed meanwhile. */
static bool capture_push(struct capture *capture, struct capture_chunk *chunk, uint32_t slot) {
        struct pool_note *note = pool_slot_note(capture->pool, slot);
        uint32_t head = atomic_load_explicit(&chunk->head, memory_order_relaxed);

        do {
                if (head == CAPTURE_CLOSED)
                        return false;
                note->next_page = head;
                /* release: the sweep that sees the slot on the list also sees what was read into it */
        } while (!atomic_compare_exchange_weak_explicit(&chunk->head, &head, slot, memory_order_release,
                                                        memory_order_relaxed));
        /* release: who sees the count sees the list that it is of */
        atomic_fetch_add_explicit(&chunk->n_saved, 1, memory_order_release);
        return true;
}

enum capture_result capture_fault(struct capture *capture, unsigned region, uint64_t page, capture_read_page read,
                                  void *data) {
        struct capture_region *r = &capture->regions[region];
        struct capture_chunk *chunk = capture_chunk_of(capture, region, page);
        uint32_t n_slots = capture_slots_per_page(r), first;
        struct iovec iov[SLOTS_MAX];
        int result;

        if (bit_test(r->saved, page))
                return CAPTURE_DUPLICATE;
        if (atomic_load_explicit(&chunk->head, memory_order_relaxed) == CAPTURE_CLOSED)
                return CAPTURE_LATE;
        first = pool_take_slots(capture->pool, n_slots);
        if (first == POOL_NO_SLOT)
                return CAPTURE_NO_SLOT;

        for (uint32_t i = 0, slot = first; i < n_slots; i++, slot = pool_next_slot(capture->pool, slot))
                iov[i] = (struct iovec){ pool_slot_data(capture->pool, slot), POOL_SLOT_BYTES };
        result = read(data, iov, (int) n_slots, page * r->page_bytes);
        if (result < 0) {
                pool_give_slots(capture->pool, first, n_slots);
                errno = -result;
                return CAPTURE_READ_FAILED;
        }
        pool_slot_note(capture->pool, first)->page = (uint32_t) (page * r->page_bytes % CHUNK_BYTES / r->page_bytes);
        if (!capture_push(capture, chunk, first)) {
                pool_give_slots(capture->pool, first, n_slots);
                return CAPTURE_LATE;
        }
        bit_set(r->saved, page);
        return CAPTURE_SAVED;
}

bool capture_is_saved(const struct capture *capture, unsigned region, uint64_t page) {
        const struct capture_region *r = &capture->regions[region];

        assert(page < r->n_pages);
        return bit_test(r->saved, page);
}

void capture_park(struct capture *capture, unsigned region, uint64_t page) {
        struct capture_region *r = &capture->regions[region];

        assert(page < r->n_pages);
        if (bit_test(r->parked, page))
                return;
        bit_set(r->parked, page);
        capture->n_parked++;
}

bool capture_ask(struct capture *capture, unsigned region, uint64_t page, uint64_t now_ns) {
        struct capture_chunk *chunk = capture_chunk_of(capture, region, page);
        uint64_t none = 0;

        if (atomic_compare_exchange_strong_explicit(&chunk->urgent_ns, &none, now_ns, memory_order_seq_cst,
                                                    memory_order_relaxed))
                atomic_fetch_add_explicit(&capture->n_urgent, 1, memory_order_relaxed);
        /*
         * seq_cst, here and in capture_close(): either the sweep that closes the chunk sees that it was asked for, or
         * we see it closed. A thread could otherwise sleep with nobody to come by.
         */
        return atomic_load_explicit(&chunk->head, memory_order_seq_cst) != CAPTURE_CLOSED;
}

bool capture_unpark(struct capture *capture, unsigned *region, uint64_t *page) {
        if (capture->n_parked == 0)
                return false;
        for (; *region < capture->n_regions; (*region)++, *page = 0) {
                struct capture_region *r = &capture->regions[*region];

                while (*page < r->n_pages) {
                        uint64_t word = r->parked[*page / 64] >> *page % 64;

                        if (!word) {
                                *page = (*page / 64 + 1) * 64;
                                continue;
                        }
                        *page += (uint64_t) __builtin_ctzll(word);
                        bit_clear(r->parked, *page);
                        capture->n_parked--;
                        return true;
                }
        }
        return false;
}

void capture_mark_removed(struct capture *capture, unsigned region, uint64_t offset, uint64_t length) {
        struct capture_region *r = &capture->regions[region];

        if (length == 0)
                return;
        for (uint64_t i = offset / CHUNK_BYTES; i <= (offset + length - 1) / CHUNK_BYTES && i < r->n_chunks; i++)
                atomic_store_explicit(&r->chunks[i].removed, 1, memory_order_relaxed);
}

void capture_forget_data(struct capture *capture, unsigned region) {
        struct capture_region *r = &capture->regions[region];

        memset(r->data_at_cut, 0, (r->n_pages / 64 + 1) * sizeof(uint64_t));
}

void capture_mark_data(struct capture *capture, unsigned region, uint64_t offset, uint64_t length) {
        struct capture_region *r = &capture->regions[region];
        uint64_t page = offset / r->page_bytes, end = (offset + length + r->page_bytes - 1) / r->page_bytes;

        if (end > r->n_pages)
                end = r->n_pages;
        for (; page < end && page % 64; page++)
                bit_set(r->data_at_cut, page);
        for (; page + 64 <= end; page += 64)
                r->data_at_cut[page / 64] = UINT64_MAX;
        for (; page < end; page++)
                bit_set(r->data_at_cut, page);
}

/* How many pages of the chunk that starts at page @first, and lie before @page, are wanted. */
static uint32_t capture_rank(const struct capture_region *region, uint64_t first, uint64_t page) {
        uint32_t rank = 0;

        if (!region->wanted)
                return (uint32_t) (page - first);
        for (uint64_t at = first; at < page; at = (at / 64 + 1) * 64) {
                uint64_t word = region->wanted[at / 64] >> at % 64;
                uint64_t n = 64 - at % 64;

                if (page - at < n)
                        word &= (1ULL << (page - at)) - 1;
                rank += (uint32_t) __builtin_popcountll(word);
        }
        return rank;
}

uint64_t capture_next_wanted(const struct capture_region *region, uint64_t page) {
        while (region->wanted && page < region->n_pages) {
                uint64_t word = region->wanted[page / 64] >> page % 64;

                if (word)
                        return page + (uint64_t) __builtin_ctzll(word) < region->n_pages
                                       ? page + (uint64_t) __builtin_ctzll(word)
                                       : region->n_pages;
                page = (page / 64 + 1) * 64;
        }
        return page < region->n_pages ? page : region->n_pages;
}

uint32_t capture_wanted_pages(const struct capture_region *region, uint64_t chunk) {
        uint64_t first = chunk * capture_pages_per_chunk(region), end = first + capture_pages_per_chunk(region);

        return capture_rank(region, first, end < region->n_pages ? end : region->n_pages);
}

uint32_t capture_saved_pages(const struct capture_region *region, uint64_t chunk) {
        return atomic_load_explicit(&region->chunks[chunk].n_saved, memory_order_acquire);
}

static uint32_t capture_lay_over(struct capture *capture, const struct capture_region *region, uint64_t chunk,
                                 uint32_t head, uint8_t *data) {
        uint64_t first = chunk * capture_pages_per_chunk(region);
        uint32_t n_slots = capture_slots_per_page(region), n_pages = 0, slot;

        /* Newest first, so that of a page saved twice the older content stays. */
        for (; head < CAPTURE_CLOSED; head = pool_slot_note(capture->pool, head)->next_page, n_pages++) {
                uint32_t rank = capture_rank(region, first, first + pool_slot_note(capture->pool, head)->page);
                uint8_t *page = data + (uint64_t) rank * region->page_bytes;

                slot = head;
                for (uint32_t i = 0; i < n_slots; i++, slot = pool_next_slot(capture->pool, slot))
                        memcpy(page + (uint64_t) i * POOL_SLOT_BYTES, pool_slot_data(capture->pool, slot),
                               POOL_SLOT_BYTES);
        }
        return n_pages;
}

bool capture_close(struct capture *capture, unsigned region, uint64_t chunk, uint8_t *data, uint32_t *ret_n_saved) {
        struct capture_region *r = &capture->regions[region];
        struct capture_chunk *c = &r->chunks[chunk];
        uint32_t head = CAPTURE_OPEN;

        if (data) {
                /* acquire: see the content of the slots on the list; seq_cst: see capture_ask() */
                head = atomic_exchange_explicit(&c->head, CAPTURE_CLOSED, memory_order_seq_cst);
                assert(head != CAPTURE_CLOSED);
        } else if (!atomic_compare_exchange_strong_explicit(&c->head, &head, CAPTURE_CLOSED, memory_order_seq_cst,
                                                            memory_order_relaxed)) {
                return false;
        }
        if (atomic_load_explicit(&c->urgent_ns, memory_order_seq_cst))
                atomic_fetch_sub_explicit(&capture->n_urgent, 1, memory_order_relaxed);
        *ret_n_saved = 0;
        if (head != CAPTURE_OPEN) {
                *ret_n_saved = capture_lay_over(capture, r, chunk, head, data);
                capture_give_list(capture, r, head);
        }
        return true;
}

bool capture_is_closed(const struct capture *capture, unsigned region, uint64_t chunk) {
        return atomic_load_explicit(&capture->regions[region].chunks[chunk].head, memory_order_acquire) ==
               CAPTURE_CLOSED;
}

bool capture_hottest(const struct capture *capture, unsigned *ret_region, uint64_t *ret_chunk) {
        uint64_t best = 0;

        for (unsigned i = 0; i < capture->n_regions; i++) {
                const struct capture_region *r = &capture->regions[i];

                for (uint64_t j = 0; j < r->n_chunks; j++) {
                        const struct capture_chunk *c = &r->chunks[j];
                        uint64_t urgent_ns, heat;

                        if (atomic_load_explicit(&c->head, memory_order_relaxed) == CAPTURE_CLOSED)
                                continue;
                        urgent_ns = atomic_load_explicit(&c->urgent_ns, memory_order_relaxed);
                        /* Any wait comes before any number of pages, and the longest first. */
                        heat = urgent_ns ? UINT64_MAX - urgent_ns
                                         : atomic_load_explicit(&c->n_saved, memory_order_relaxed);
                        if (heat > best) {
                                best = heat;
                                *ret_region = i;
                                *ret_chunk = j;
                        }
                }
        }
        return best > 0;
}
