/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CONTEXT_H
#define LIVESNAP_DAEMON_CONTEXT_H

/*
 * A context: a userfaultfd, hence the address space of one process, and the mappings that it tracks there.
 *
 * What a userfaultfd can is fixed when it is made, so there is one for each way of tracking (tracking.h): one whose
 * faults come to us, and one whose faults the kernel answers. A mapping is under one of them at a time, and all of a
 * context's are under the same. The other one is spare: messages that are left over may still come from it. A forked
 * child has only that which its parent's mappings were under.
 *
 * Reference counted, because a sweep may still disarm through it while the fault thread lets it go; the descriptor is
 * closed with the last reference. Its list of mappings belongs to whoever may change the domain (see domain.h).
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/region.h"

#define CONTEXT_MAPPINGS_MAX 4096u

struct mapping {
        uint64_t address;
        uint64_t length;
        uint64_t offset; /* in the region */
        struct region *region;
        bool unarmed; /* of no use to tracking: not all of it was armed since tracking began, or some of that was lost
                       */
};

struct context {
        int uffd;   /* owned: nobody else has a copy. Its mappings are under this one. */
        int spare;  /* owned likewise; the one for the other way of tracking, or -1: there is none */
        bool async; /* the kernel answers faults on `uffd` by itself (WP_ASYNC) */
        pid_t pid;  /* 0: a forked child, whose events do not tell */
        _Atomic unsigned n_refs;
        unsigned n_mappings;
        unsigned n_allocated;
        struct mapping *mappings; /* sorted by address, not overlapping */
        bool gone;                /* the process is; the fault thread is about to drop it */
        bool fresh;               /* in the hold: not armed yet */
        uint64_t again_ns;        /* when a disarm was refused (EAGAIN), if the last one was; else 0 */
        uint64_t stuck_since_ns;  /* since when they all were */
};

/** context_new() - without a spare; @uffd is consumed on success only. Return: 0 or -ENOMEM. */
int context_new(int uffd, bool async, pid_t pid, struct context **ret);
struct context *context_ref(struct context *context);
void context_unref(struct context *context);

/** context_find() - the mapping at an address, or NULL; logarithmic, safe on the fault path */
struct mapping *context_find(const struct context *context, uint64_t address);

/**
 * context_next() - the first mapping that ends after an address, or NULL
 *
 * The way to walk over all while events may change the list: go on from the end of the last one.
 */
const struct mapping *context_next(const struct context *context, uint64_t address);

/** context_maps() - is all of this part of a region, mapped at [@start, @end), known? @mappings are as in a context. */
bool context_maps(const struct mapping *mappings, unsigned n_mappings, const struct region *region, uint64_t start,
                  uint64_t end, uint64_t offset);

/** context_add() - start to know a mapping. -EEXIST: it overlaps another one. -E2BIG: too many. -ENOMEM. */
int context_add(struct context *context, const struct mapping *mapping);

/** context_remove() - forget all that is mapped in a range, in part where it must be. 0, -E2BIG or -ENOMEM. */
int context_remove(struct context *context, uint64_t address, uint64_t length);

/** context_remove_region() - forget all mappings of a region */
void context_remove_region(struct context *context, const struct region *region);

/** context_move() - what was mapped at @from is at @to now. 0, -E2BIG, -ENOMEM, or -EEXIST. */
int context_move(struct context *context, uint64_t from, uint64_t to, uint64_t length);

/** context_copy_mappings() - take over the mappings of the process that forked this one */
int context_copy_mappings(struct context *context, const struct context *parent);

#endif
