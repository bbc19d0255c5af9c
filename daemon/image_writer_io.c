/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_io.h"

#include <assert.h>
#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/direct.h"
#include "daemon/chunk.h"

void image_io_init(struct image_io *io, bool may_use_ring) {
        /* One thread submits and waits: the kernel need not interrupt it to complete (6.1; older ones refuse, -EINVAL).
         */
        unsigned flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

        memset(io, 0, sizeof(*io));
        if (may_use_ring)
                io->has_ring = io_uring_queue_init(IMAGE_IO_DEPTH, &io->ring, flags) == 0 ||
                               io_uring_queue_init(IMAGE_IO_DEPTH, &io->ring, 0) == 0;
        for (unsigned i = 0; i < IMAGE_IO_DEPTH; i++)
                image_io_put(io, &io->ops[i]);
}

void image_io_deinit(struct image_io *io) {
        assert(io->in_flight == 0);
        if (io->has_ring)
                io_uring_queue_exit(&io->ring);
}

struct image_io_op *image_io_get(struct image_io *io) {
        struct image_io_op *op = io->free;

        if (op)
                io->free = op->next;
        return op;
}

void image_io_put(struct image_io *io, struct image_io_op *op) {
        op->next = io->free;
        io->free = op;
}

bool image_io_advance(struct image_io_op *op, ssize_t res) {
        if (res == -EINTR || res == -EAGAIN)
                return true;
        if (res == -EINVAL && op->kind == IMAGE_IO_WRITE && !op->is_retried && direct_leave(op->fd)) {
                op->is_retried = true;
                return true;
        }
        if (op->kind == IMAGE_IO_FSYNC || res < 0) {
                op->result = res < 0 ? (int) res : 0;
                return false;
        }
        if ((size_t) res >= op->bytes) {
                op->result = 0;
                return false;
        }
        /* The rest must start where O_DIRECT can. What does not get on by a page never will. */
        res -= res % CHUNK_PAGE_BYTES;
        if (res == 0) {
                op->result = -EIO;
                return false;
        }
        op->data += res;
        op->bytes -= (size_t) res;
        op->offset += res;
        return true;
}

static void complete(struct image_io *io, struct image_io_op *op) {
        op->next = io->complete;
        io->complete = op;
}

static void run_now(struct image_io *io, struct image_io_op *op) {
        ssize_t res;

        do {
                res = op->kind == IMAGE_IO_FSYNC ? fsync(op->fd) : pwrite(op->fd, op->data, op->bytes, op->offset);
        } while (image_io_advance(op, res < 0 ? -errno : res));
        complete(io, op);
}

static void start(struct image_io *io, struct image_io_op *op) {
        struct io_uring_sqe *sqe;

        if (!io->has_ring) {
                run_now(io, op);
                return;
        }
        /* There are as many entries as operations; only entries that the kernel has not taken yet can be in the way. */
        while (!(sqe = io_uring_get_sqe(&io->ring)))
                io_uring_submit(&io->ring);
        if (op->kind == IMAGE_IO_FSYNC)
                io_uring_prep_fsync(sqe, op->fd, 0);
        else
                io_uring_prep_write(sqe, op->fd, op->data, (unsigned) op->bytes, (uint64_t) op->offset);
        io_uring_sqe_set_data(sqe, op);
}

/*
 * When a filesystem in user space takes only a part of a write with O_DIRECT, io_uring continues it by itself, with the
 * data of another place (seen on 6.18: 388 KiB of 2 MiB were those of 512 KiB further on, and the result said that all
 * was well). pwrite(2) does not.
 */
static void check_filesystem(struct image_io *io, int fd) {
        struct statfs status;

        io->is_checked = true;
        if (io->has_ring && fstatfs(fd, &status) == 0 && status.f_type == FUSE_SUPER_MAGIC) {
                io_uring_queue_exit(&io->ring);
                io->has_ring = false;
        }
}

void image_io_queue(struct image_io *io, struct image_io_op *op) {
        if (!io->is_checked)
                check_filesystem(io, op->fd);
        io->in_flight++;
        start(io, op);
}

void image_io_submit(struct image_io *io) {
        if (io->has_ring && io_uring_sq_ready(&io->ring))
                io_uring_submit(&io->ring);
}

static void reap(struct image_io *io) {
        struct image_io_op *op;
        struct io_uring_cqe *cqe;

        while (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
                ssize_t res = cqe->res;

                op = io_uring_cqe_get_data(cqe);
                io_uring_cqe_seen(&io->ring, cqe);
                if (image_io_advance(op, res))
                        start(io, op);
                else
                        complete(io, op);
        }
}

struct image_io_op *image_io_wait(struct image_io *io, int64_t timeout_ns) {
        struct __kernel_timespec timeout = { .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000 };
        struct image_io_op *op;
        struct io_uring_cqe *cqe;
        int r = 0;

        image_io_submit(io);
        if (io->has_ring)
                reap(io);
        while (!io->complete && io->in_flight && timeout_ns != 0 && r != -ETIME) {
                image_io_submit(io); /* what reap() had to start again */
                r = io_uring_wait_cqes(&io->ring, &cqe, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
                reap(io);
        }
        op = io->complete;
        if (op) {
                io->complete = op->next;
                io->in_flight--;
        }
        return op;
}
