/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_IO_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_IO_H

/*
 * Writes and fsyncs of one thread to files of one filesystem, several in flight. By io_uring; where that cannot be had
 * (forbidden by a sysctl or a seccomp filter) or is wrong (FUSE) each is done when it is queued.
 *
 * A write that was short is continued, one that was interrupted repeated, and one that O_DIRECT is refused to (EINVAL)
 * repeated without, until it is complete or has failed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <liburing.h>

#define IMAGE_IO_DEPTH 64

enum image_io_kind {
        IMAGE_IO_WRITE,
        IMAGE_IO_FSYNC,
};

struct image_io_op {
        enum image_io_kind kind;
        int fd;              /* borrowed */
        const uint8_t *data; /* the rest that is to be written; borrowed */
        size_t bytes;
        off_t offset;
        void *owner;     /* the caller's own */
        uint32_t id;     /* likewise */
        bool is_retried; /* without O_DIRECT */
        int result;      /* when it is complete: 0 or -errno */
        struct image_io_op *next;
};

struct image_io {
        struct io_uring ring;
        bool has_ring;
        bool is_checked;    /* the ring is right for the filesystem of the first operation */
        unsigned in_flight; /* operations that were queued and have not been handed back by image_io_wait() */
        struct image_io_op *free;
        struct image_io_op *complete;
        struct image_io_op ops[IMAGE_IO_DEPTH];
};

/** image_io_init() - on the thread that will use it. @may_use_ring: false for tests */
void image_io_init(struct image_io *io, bool may_use_ring);

/** image_io_deinit() - nothing may be in flight */
void image_io_deinit(struct image_io *io);

/** image_io_get() - an operation to be filled in and queued; NULL if all are in flight */
struct image_io_op *image_io_get(struct image_io *io);

/** image_io_queue() - start it, at the latest with the next image_io_submit() or image_io_wait() */
void image_io_queue(struct image_io *io, struct image_io_op *op);

/** image_io_submit() - start what is queued, without waiting for any of it */
void image_io_submit(struct image_io *io);

/**
 * image_io_wait() - the next operation that is complete
 * @timeout_ns: 0 does not wait, -1 for ever
 *
 * Return: it, to be given back with image_io_put(); NULL after the timeout or if nothing is in flight.
 */
struct image_io_op *image_io_wait(struct image_io *io, int64_t timeout_ns);

/** image_io_put() - the operation can be used again */
void image_io_put(struct image_io *io, struct image_io_op *op);

/**
 * image_io_advance() - what follows from the result of a system call
 * @res: bytes or -errno
 *
 * Return: true if the rest must be submitted (again); false if it is complete, with op->result.
 */
bool image_io_advance(struct image_io_op *op, ssize_t res);

#endif
