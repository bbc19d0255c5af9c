/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_POOL_H
#define LIVESNAP_DAEMON_POOL_H

/*
 * The bounded memory between capture and disk, made once and locked: slots of 4 KiB for pages that faulted, and chunk
 * buffers for the sweep.
 *
 * Slots are taken by fault threads, which must wait for nobody: their free list is a lock-free stack. Each slot has a
 * link, by which the slots of one huge page stay a chain while they are in use, and a note of what it holds.
 *
 * Chunk buffers go round with the disk, so taking one may wait. They are shared out evenly between the snapshots that
 * run, so that one with a slow disk cannot starve the others; POOL_CHUNKS_MIN are always there for each.
 *
 * All functions are thread-safe but for pool_new() and pool_free().
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "daemon/chunk.h"

#define POOL_BYTES_MIN (8ULL << 20)
#define POOL_BYTES_MAX (1ULL << 40)
#define POOL_SLOT_BYTES 4096u
#define POOL_NO_SLOT UINT32_MAX
#define POOL_CHUNKS_MIN 2u

/** What a used slot holds; written by its owner only. The first slot of a chain speaks for the chain. */
struct pool_note {
        uint32_t next_page; /* first slot of the next page in the same list */
        uint32_t page;      /* index in its chunk */
};

struct pool;

/**
 * pool_new() - make and lock the memory
 * @bytes: of all slots and chunk buffers, POOL_BYTES_MIN to POOL_BYTES_MAX
 * @ret: free with pool_free()
 *
 * The memory is kept out of core dumps, which would hold up the clients of a crashed daemon for seconds. Where
 * RLIMIT_MEMLOCK does not allow to lock it, it is only populated.
 */
int pool_new(uint64_t bytes, struct pool **ret, struct error *error);
void pool_free(struct pool *pool);

uint64_t pool_bytes(const struct pool *pool);
uint64_t pool_free_bytes(const struct pool *pool);
uint32_t pool_slots(const struct pool *pool);
uint32_t pool_slots_free(const struct pool *pool);

/** pool_take_slots() - a chain of @n slots, or POOL_NO_SLOT. Never waits. */
uint32_t pool_take_slots(struct pool *pool, uint32_t n);

/** pool_give_slots() - give a chain of @n slots back; @first is its first */
void pool_give_slots(struct pool *pool, uint32_t first, uint32_t n);

/** pool_next_slot() - the slot after this one in its chain */
uint32_t pool_next_slot(const struct pool *pool, uint32_t slot);
uint8_t *pool_slot_data(const struct pool *pool, uint32_t slot);
struct pool_note *pool_slot_note(const struct pool *pool, uint32_t slot);

/** A snapshot's share of the chunk buffers. */
struct pool_share {
        struct pool *pool;
        uint32_t held; /* under the pool's lock */
};

/** pool_share_init() - join those who share the chunk buffers; false if there are too many already */
bool pool_share_init(struct pool_share *share, struct pool *pool);

/** pool_share_deinit() - leave; waits until the last buffer is back */
void pool_share_deinit(struct pool_share *share);

/**
 * pool_take_chunk() - a chunk buffer, plain, whose other fields are the caller's to fill
 * @timeout_ms: how long to wait for one
 *
 * Return: NULL when none was given back in that time.
 */
struct chunk *pool_take_chunk(struct pool_share *share, unsigned timeout_ms);
void pool_give_chunk(struct pool_share *share, struct chunk *chunk);

#endif
