/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_SINK_H
#define LIVESNAP_CLIENT_LIB_SINK_H

/*
 * Where restored bytes go. A sink is told, in order and without gaps, of every range of a region: bytes, or that it is
 * zero. All fail with the error of this thread set.
 */

#include <stddef.h>
#include <stdint.h>

struct sink {
        int (*write)(struct sink *sink, uint64_t offset, const uint8_t *data, size_t bytes);
        int (*zero)(struct sink *sink, uint64_t offset, uint64_t bytes);
        int fd;               /* of a file or object; borrowed */
        uint8_t *memory;      /* or memory; borrowed */
        uint64_t flush_bytes; /* written since the kernel was last told to start writing to disk */
        uint64_t flush_from;
};

/** sink_init_new_file() - a file that is empty: what is zero is left out. Does not set the size. */
void sink_init_new_file(struct sink *sink, int fd);

/** sink_init_object() - a file or memory object with content: what is zero is punched out, or overwritten */
void sink_init_object(struct sink *sink, int fd);

/** sink_init_memory() - memory of this process, at a page boundary */
void sink_init_memory(struct sink *sink, void *memory);

#endif
