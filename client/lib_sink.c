/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/lib_error.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define ZERO_PAGE_BYTES ((size_t) 4096)

/* A restore that is a page-cache full ahead of the disk pays for all of it in the last fsync. */
#define FLUSH_EVERY_BYTES ((uint64_t) 16 << 20)

static const uint8_t zero_page[ZERO_PAGE_BYTES];

static int file_write_all(struct sink *sink, uint64_t offset, const uint8_t *data, size_t bytes) {
        while (bytes > 0) {
                ssize_t n = pwrite(sink->fd, data, bytes, (off_t) offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return lib_fail_errno(errno, "cannot write the restored memory at offset %llu",
                                              (unsigned long long) offset);
                data += n;
                offset += (uint64_t) n;
                bytes -= (size_t) n;
        }
        return 0;
}

static int new_file_write(struct sink *sink, uint64_t offset, const uint8_t *data, size_t bytes) {
        if (file_write_all(sink, offset, data, bytes) < 0)
                return -1;
        sink->flush_bytes += bytes;
        if (sink->flush_bytes >= FLUSH_EVERY_BYTES) {
                /* Only a hint: what matters is fsync(), later. */
                sync_file_range(sink->fd, (off_t) sink->flush_from, (off_t) (offset + bytes - sink->flush_from),
                                SYNC_FILE_RANGE_WRITE);
                sink->flush_from = offset + bytes;
                sink->flush_bytes = 0;
        }
        return 0;
}

static int new_file_zero(struct sink *sink, uint64_t offset, uint64_t bytes) {
        return 0;
}

void sink_init_new_file(struct sink *sink, int fd) {
        *sink = (struct sink){ .write = new_file_write, .zero = new_file_zero, .fd = fd };
}

static int object_zero(struct sink *sink, uint64_t offset, uint64_t bytes) {
        if (fallocate(sink->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, (off_t) bytes) == 0)
                return 0;
        if (errno != EOPNOTSUPP && errno != EPERM && errno != EINVAL && errno != ENOSYS)
                return lib_fail_errno(errno, "cannot clear %llu bytes at offset %llu", (unsigned long long) bytes,
                                      (unsigned long long) offset);
        while (bytes > 0) {
                size_t part = bytes < ZERO_PAGE_BYTES ? (size_t) bytes : ZERO_PAGE_BYTES;

                if (file_write_all(sink, offset, zero_page, part) < 0)
                        return -1;
                offset += part;
                bytes -= part;
        }
        return 0;
}

void sink_init_object(struct sink *sink, int fd) {
        *sink = (struct sink){ .write = file_write_all, .zero = object_zero, .fd = fd };
}

static int memory_write(struct sink *sink, uint64_t offset, const uint8_t *data, size_t bytes) {
        size_t page_mask = (size_t) sysconf(_SC_PAGESIZE) - 1;

        /* One call instead of a fault for each page, at half the price; where it is not known the faults do it. */
        (void) madvise(sink->memory + offset, (bytes + page_mask) & ~page_mask, MADV_POPULATE_WRITE);
        memcpy(sink->memory + offset, data, bytes);
        return 0;
}

static int memory_zero(struct sink *sink, uint64_t offset, uint64_t bytes) {
        uint64_t whole = bytes & ~((uint64_t) sysconf(_SC_PAGESIZE) - 1);

        /* Gives memory back where it is shared and not sealed. Everywhere else look first: reading costs no memory. */
        if (whole && madvise(sink->memory + offset, whole, MADV_REMOVE) == 0) {
                offset += whole;
                bytes -= whole;
        }
        while (bytes > 0) {
                size_t part = bytes < ZERO_PAGE_BYTES ? (size_t) bytes : ZERO_PAGE_BYTES;

                if (memcmp(sink->memory + offset, zero_page, part) != 0)
                        memset(sink->memory + offset, 0, part);
                offset += part;
                bytes -= part;
        }
        return 0;
}

void sink_init_memory(struct sink *sink, void *memory) {
        *sink = (struct sink){ .write = memory_write, .zero = memory_zero, .fd = -1, .memory = memory };
}
