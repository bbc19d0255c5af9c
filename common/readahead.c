/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/readahead.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <liburing.h>

#include "common/cleanup.h"
#include "common/direct.h"

#define BUFFER_ALIGNMENT 4096

struct read_slot {
        int fd; /* borrowed */
        uint64_t offset;
        size_t bytes;
        size_t expected_bytes;
        uint8_t *data; /* owned */
        bool submitted;
        bool complete;
        int result;
};

struct readahead {
        struct io_uring ring;
        bool has_ring;
        unsigned depth;
        unsigned first;           /* of the slots in use, the one that was queued first */
        unsigned n;               /* slots in use */
        struct read_slot slots[]; /* depth + 1: one is with the caller while the others are in flight */
};

static void readahead_free_p(struct readahead **readahead) {
        readahead_free(*readahead);
}

int readahead_new(unsigned depth, size_t bytes, bool may_use_ring, struct readahead **ret) {
        CLEANUP(readahead_free_p) struct readahead *readahead = NULL;

        readahead = calloc(1, sizeof(*readahead) + (depth + 1) * sizeof(readahead->slots[0]));
        if (!readahead)
                return -ENOMEM;
        readahead->depth = depth;
        for (unsigned i = 0; i <= depth; i++) {
                readahead->slots[i].data = aligned_alloc(BUFFER_ALIGNMENT, bytes);
                if (!readahead->slots[i].data)
                        return -ENOMEM;
        }
        readahead->has_ring = may_use_ring && io_uring_queue_init(depth, &readahead->ring, 0) == 0;
        *ret = STEAL_PTR(readahead);
        return 0;
}

bool readahead_has_room(const struct readahead *readahead) {
        return readahead->n < readahead->depth;
}

bool readahead_is_empty(const struct readahead *readahead) {
        return readahead->n == 0;
}

void readahead_queue(struct readahead *readahead, int fd, uint64_t offset, size_t bytes, size_t expected_bytes) {
        unsigned index = (readahead->first + readahead->n) % (readahead->depth + 1);
        struct read_slot *slot = &readahead->slots[index];
        struct io_uring_sqe *sqe;

        assert(readahead_has_room(readahead));
        readahead->n++;
        slot->fd = fd;
        slot->offset = offset;
        slot->bytes = bytes;
        slot->expected_bytes = expected_bytes;
        slot->submitted = slot->complete = false;
        if (!readahead->has_ring)
                return;
        sqe = io_uring_get_sqe(&readahead->ring);
        if (!sqe)
                return; /* then it is done when it is taken */
        io_uring_prep_read(sqe, fd, slot->data, (unsigned) bytes, offset);
        io_uring_sqe_set_data64(sqe, index);
        slot->submitted = true;
        (void) io_uring_submit(&readahead->ring); /* what it could not take now goes with the next wait */
}

/* Waits for any completion. Return: 0 or -errno. */
static int wait_one(struct readahead *readahead) {
        struct io_uring_cqe *cqe;
        int r;

        do {
                r = io_uring_submit_and_wait(&readahead->ring, 1);
                if (r >= 0)
                        r = io_uring_peek_cqe(&readahead->ring, &cqe);
        } while (r == -EINTR || r == -EAGAIN);
        if (r < 0)
                return r;
        readahead->slots[cqe->user_data].result = cqe->res;
        readahead->slots[cqe->user_data].complete = true;
        io_uring_cqe_seen(&readahead->ring, cqe);
        return 0;
}

/* Reads what is still missing in a slot: all of it without a ring, the rest of a short read with one. */
static ptrdiff_t read_rest(struct read_slot *slot, size_t done) {
        bool is_retried = false;

        while (done < slot->expected_bytes) {
                ssize_t n = pread(slot->fd, slot->data + done, slot->bytes - done, (off_t) (slot->offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EINVAL && !is_retried) {
                        is_retried = true;
                        if (direct_leave(slot->fd))
                                continue;
                        errno = EINVAL;
                }
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                done += (size_t) n;
        }
        return (ptrdiff_t) done;
}

ptrdiff_t readahead_take(struct readahead *readahead, uint8_t **ret) {
        struct read_slot *slot = &readahead->slots[readahead->first];

        assert(!readahead_is_empty(readahead));
        while (slot->submitted && !slot->complete) {
                int r = wait_one(readahead);

                if (r < 0)
                        return r;
        }
        readahead->first = (readahead->first + 1) % (readahead->depth + 1);
        readahead->n--;
        *ret = slot->data;
        if (!slot->submitted || slot->result == -EINTR || slot->result == -EAGAIN || slot->result == -EINVAL)
                return read_rest(slot, 0);
        return slot->result < 0 ? slot->result : read_rest(slot, (size_t) slot->result);
}

static bool any_in_flight(const struct readahead *readahead) {
        for (unsigned i = 0; i < readahead->n; i++) {
                const struct read_slot *slot = &readahead->slots[(readahead->first + i) % (readahead->depth + 1)];

                if (slot->submitted && !slot->complete)
                        return true;
        }
        return false;
}

void readahead_free(struct readahead *readahead) {
        if (!readahead)
                return;
        while (readahead->has_ring && any_in_flight(readahead))
                if (wait_one(readahead) < 0)
                        break;
        if (readahead->has_ring)
                io_uring_queue_exit(&readahead->ring);
        for (unsigned i = 0; i <= readahead->depth; i++)
                free(readahead->slots[i].data);
        free(readahead);
}
