/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_READAHEAD_H
#define LIVESNAP_COMMON_READAHEAD_H

/*
 * Large reads of a file, several in flight, handed out in the order in which they were asked for. By io_uring; where
 * that cannot be had (forbidden by a sysctl or a seccomp filter) each is done when it is taken.
 *
 * What makes a fast disk fast is that it has always something to do: with O_DIRECT one read at a time leaves it idle
 * while its bytes are looked at. For one thread; not thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct readahead;

/**
 * readahead_new() - prepare
 * @depth: reads in flight, at most
 * @bytes: the largest read; a multiple of 4096
 * @may_use_ring: false for tests
 *
 * Return: 0 or -ENOMEM.
 */
int readahead_new(unsigned depth, size_t bytes, bool may_use_ring, struct readahead **ret);

/** readahead_free() - waits for what is in flight, whose buffers the kernel still writes to; NULL is allowed */
void readahead_free(struct readahead *readahead);

/** readahead_has_room() - may another read be queued? */
bool readahead_has_room(const struct readahead *readahead);

/** readahead_is_empty() - is there nothing to take? */
bool readahead_is_empty(const struct readahead *readahead);

/**
 * readahead_queue() - start a read; only where there is room
 * @fd: borrowed until the read is taken. O_DIRECT is fine: buffers are aligned
 * @bytes: to ask for
 * @expected_bytes: that must come; fewer than @bytes at the end of a file
 */
void readahead_queue(struct readahead *readahead, int fd, uint64_t offset, size_t bytes, size_t expected_bytes);

/**
 * readahead_take() - wait for the read that was queued first; only where there is one
 * @ret: what was read; valid, and writable, until the next call
 *
 * Return: the number of bytes, at least what was expected unless the file ends before; or -errno.
 */
ptrdiff_t readahead_take(struct readahead *readahead, uint8_t **ret);

#endif
