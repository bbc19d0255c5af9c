/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_H

/*
 * Writes one snapshot: takes chunks from the sweep, checksums their pages, finds the zero ones, and writes the rest to
 * the images with io_uring and O_DIRECT; at the end makes all of it durable and publishes it with one rename.
 *
 * Runs on a lasting thread of the store's. The sweep hands chunks over and gets them back through `release`. Chunks
 * come in any order, each at most once; a chunk of a region that never comes is zero.
 *
 * Chunks of single pages (chunk.h) make an increment: a page that never comes is as in its parent. In a full snapshot
 * they replace what was written before. The same page may come again once image_writer_flush() has returned.
 */

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "daemon/chunk.h"
#include "daemon/store.h"

/* A reason why a snapshot is full, with its terminator. */
#define IMAGE_WRITER_REASON_BYTES 400

struct image_writer;

struct image_writer_region {
        const char *name;
        uint64_t bytes; /* exact size of the object; need not be a multiple of anything */
};

struct image_writer_spec {
        const char *domain;
        const char *name;           /* of the snapshot; NULL: made from the UTC time, and unique */
        uint32_t uid;               /* who asked */
        const char *parent;         /* of an increment: a published snapshot of the domain; NULL: none */
        const uint8_t *parent_uuid; /* which it must be */
        unsigned n_regions;
        const struct image_writer_region *regions;
        uint64_t max_rate;                                    /* bytes a second; 0: none */
        void (*release)(void *data, struct chunk *chunk);     /* from the writer's thread: the buffer is free again */
        void (*progress)(void *data, uint64_t bytes_written); /* from the writer's thread, now and then; may be NULL */
        void *data;
};

/**
 * image_writer_new() - prepare the work directory and start writing
 * @spec: copied, but for @release, @progress and @data
 *
 * Blocks until the store has answered: not for the main thread. The name is checked for existence here, and again by
 * the rename. Return: 0, or -1 with *error set.
 */
int image_writer_new(struct store *store, const struct image_writer_spec *spec, struct image_writer **ret,
                     struct error *error);

/** image_writer_name() - the snapshot's name, also where it was made; final when image_writer_publish() has returned */
const char *image_writer_name(const struct image_writer *writer);

/**
 * image_writer_full_reason() - why the snapshot is full although it was given a parent; NULL: it is an increment, or
 * was given none. Known when image_writer_new() has returned.
 */
const char *image_writer_full_reason(const struct image_writer *writer);

/** image_writer_get_uuid() - of the snapshot in the making */
void image_writer_get_uuid(const struct image_writer *writer, uint8_t ret[16]);

/** image_writer_submit() - hand over a filled chunk; never blocks; after a failure chunks are released unwritten */
void image_writer_submit(struct image_writer *writer, struct chunk *chunk);

/** image_writer_failed() - has a write failed? Cheap, for the sweep to look at between chunks. */
bool image_writer_failed(const struct image_writer *writer);

/** image_writer_settle() - wait until all chunks are released, or for a time. Return: are they? */
bool image_writer_settle(struct image_writer *writer, unsigned timeout_ms);

/** image_writer_flush() - wait until everything submitted is written and all chunks are released. -1 if a write failed.
 */
int image_writer_flush(struct image_writer *writer, struct error *error);

/**
 * image_writer_publish() - make it durable and visible
 * @figures: members of the type Snapshot of io.livesnap that only the capture knows (guarantee, arm_us, hold_us,
 *           pages_fault, fault_us, warnings, kernel, ...) as a JSON object, borrowed; each region's own are in its
 * member "regions", an array in the order of the spec whose objects are merged into the manifest's. duration_us is
 *           computed here, from @started_ns (CLOCK_MONOTONIC), as late as can be.
 * @ret: the Snapshot as published, a new reference
 *
 * Blocks for fsync and rename. Return: 0, or -1 with *error set and nothing visible.
 */
int image_writer_publish(struct image_writer *writer, json_t *figures, uint64_t started_ns, json_t **ret,
                         struct error *error);

/** image_writer_free() - remove what was not published; releases chunks that are still with it; NULL is allowed */
void image_writer_free(struct image_writer *writer);

#endif
