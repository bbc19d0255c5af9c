/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_DRAIN_H
#define LIVESNAP_DAEMON_IMAGE_DRAIN_H

/*
 * Chunks on their way to the files of a snapshot in the making: checksums their pages, finds the zero ones, and keeps
 * several chunks in flight. All on one thread of the store's, which decides when to take up a chunk and when to wait.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/chunk.h"
#include "daemon/image_writer_files.h"

#define IMAGE_DRAIN_DEPTH 16

struct image_drain_spec {
        struct image_files *files;                        /* borrowed, as all of these */
        const atomic_bool *stop;                          /* when true, of what is taken up nothing more is written */
        void (*release)(void *data, struct chunk *chunk); /* the buffer is free again */
        void (*fail)(void *data, const struct error *error); /* a write has failed; makes *stop true */
        void *data;
};

/* A chunk some of whose pages are being written. */
struct image_drain_writing {
        struct chunk *chunk;
        unsigned pending; /* its operations in flight */
};

struct image_drain {
        struct image_drain_spec spec;
        struct image_io io;
        struct image_drain_writing in_flight[IMAGE_DRAIN_DEPTH];
        unsigned n_in_flight;                /* chunks */
        struct image_drain_writing *current; /* not all of its pages are queued yet */
        unsigned next_page;                  /* of @current; what is before it is queued or zero */
        unsigned n_pages;                    /* of @current */
        uint64_t sums[CHUNK_PAGES];
        uint64_t places[CHUNK_PAGES]; /* in the file, in pages, of those that are not zero */
        uint64_t bytes_written;
};

/** image_drain_init() - on the thread that will use it */
void image_drain_init(struct image_drain *drain, const struct image_drain_spec *spec);

/** image_drain_deinit() - nothing may be in flight: image_drain_finish() */
void image_drain_deinit(struct image_drain *drain);

/** image_drain_is_full() - must something be waited for before another chunk is taken up? */
bool image_drain_is_full(const struct image_drain *drain);

/**
 * image_drain_start() - take up a chunk; not while it is full
 *
 * The chunk is released when its bytes are on the disk, or will not be. Return: how many of its bytes are not zero.
 */
uint64_t image_drain_start(struct image_drain *drain, struct chunk *chunk);

/** image_drain_push() - have the disk start what it can take; waits for nothing */
void image_drain_push(struct image_drain *drain);

/**
 * image_drain_reap() - wait until something in flight is complete, and take what else is
 * @timeout_ns: -1 for ever
 */
void image_drain_reap(struct image_drain *drain, int64_t timeout_ns);

/** image_drain_finish() - wait until nothing is in flight */
void image_drain_finish(struct image_drain *drain);

#endif
