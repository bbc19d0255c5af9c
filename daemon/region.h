/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_REGION_H
#define LIVESNAP_DAEMON_REGION_H

/* A region: one shared memory object, known by device and inode. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/error.h"
#include "daemon/tracking.h"

#define REGION_NAME_MAX 128

enum region_kind {
        REGION_MEMFD,
        REGION_TMPFS,
        REGION_HUGETLBFS,
        REGION_ANONYMOUS, /* shared anonymous, and System V */
};

enum guarantee {
        GUARANTEE_ADVISORY,
        GUARANTEE_EXCLUSIVE,
        GUARANTEE_SEALED,
};

struct region {
        char name[REGION_NAME_MAX + 1]; /* unique in the domain */
        enum region_kind kind;
        _Atomic enum guarantee guarantee; /* as of the last time it was looked at */
        bool discard_zero;                /* a page removed before it was saved counts as zero */
        int object;                       /* owned; read only; its file offset is ours alone */
        dev_t device;
        ino_t inode;
        _Atomic uint64_t bytes; /* changes between snapshots only */
        uint32_t page_bytes;
        unsigned index;            /* in the domain, and in the snapshot that is being taken */
        struct tracking *tracking; /* owned; the fault thread's; NULL: the domain does not track */
        TAILQ_ENTRY(region) link;
};

TAILQ_HEAD(region_list, region);

/**
 * region_new() - look at an object and make a region of it
 * @object: descriptor of the object, consumed in any case. Replaced by a fresh one of the same object where that may be
 *          opened, since the sender may share its file offset, which we move.
 * @ret: free with region_free()
 *
 * Return: 0, or -1 with *error set (BadMapping) when it is not shared memory.
 */
int region_new(int object, struct region **ret, struct error *error);
void region_free(struct region *region);

/** region_refresh() - look at size and seals again; -1 with *error set when the object is empty now or too big */
int region_refresh(struct region *region, struct error *error);

bool region_is_sealed(const struct region *region);

/**
 * region_read() - read @iov at @offset; what lies beyond the end of the object is zero
 *
 * Safe on the fault path. Return: 0 or -errno.
 */
int region_read(const struct region *region, const struct iovec *iov, int n_iov, uint64_t offset);

/**
 * region_next_data() - the next extent at or after @offset that is not a hole
 *
 * Only one thread at a time may ask, for it moves the file offset. Return: false when there is none before @end.
 */
bool region_next_data(const struct region *region, uint64_t offset, uint64_t end, uint64_t *ret_start,
                      uint64_t *ret_end);

/** region_wish_name() - a valid name, made from what the object is called; @wish (may be NULL) is preferred if valid */
void region_wish_name(const struct region *region, const char *wish, char ret[static REGION_NAME_MAX + 1]);

const char *region_kind_name(enum region_kind kind);
const char *guarantee_name(enum guarantee guarantee);

#endif
