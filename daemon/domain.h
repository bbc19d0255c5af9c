/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_DOMAIN_H
#define LIVESNAP_DAEMON_DOMAIN_H

/*
 * A domain: regions that are captured at one cut, and the contexts through which processes write to them.
 *
 * Its lists are changed by its fault thread alone (fault.h); that thread may read them as it likes. Others take the
 * lock to read, and the fault thread takes it to change. It is held for memory accesses only, never over a system call,
 * so the fault thread cannot be kept waiting by a disk or a client.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/context.h"
#include "daemon/region.h"

#define DOMAIN_REGIONS_MAX 1024u
#define DOMAIN_CONTEXTS_MAX 16384u
/* Each is two descriptors of the daemon's: with all the domains that a user may have, a quarter of LimitNOFILE. */
#define DOMAIN_CONTEXTS_USER_MAX 1024u

struct domain {
        char name[REGION_NAME_MAX + 1];
        uid_t uid;
        uint64_t copy_ns_per_mib; /* what it took last to copy its memory while it was stopped; a snapshot's thread's */
        bool strict; /* each snapshot of it fails where there may be untracked writers, rather than warn; main thread's
                      */
        pthread_mutex_t lock;
        struct region_list regions;
        unsigned n_regions;
        struct context **contexts; /* a reference each */
        unsigned n_contexts;
        unsigned n_allocated;
        /* Why a process may write untracked, until the domain is detached; static text, or NULL. */
        const char *_Atomic untracked;
};

int domain_new(const char *name, uid_t uid, struct domain **ret);

/** domain_free() - closes all userfaultfds, so everything is disarmed; the fault thread must be gone */
void domain_free(struct domain *domain);

/* To be called on the fault thread, or before there is one. */

/** domain_add_region() - @region is consumed and gets an index; its name must be unique already */
void domain_add_region(struct domain *domain, struct region *region);
void domain_remove_region(struct domain *domain, struct region *region);

/** domain_add_context() - @context is consumed on success. 0, -ENOMEM or -E2BIG. */
int domain_add_context(struct domain *domain, struct context *context);

/** domain_drop_context() - forget the context at this place of the list; its last user closes it */
void domain_drop_context(struct domain *domain, unsigned at);

/* Any thread. */

struct region *domain_find_region(struct domain *domain, dev_t device, ino_t inode);
struct region *domain_find_region_by_name(struct domain *domain, const char *name);

struct domain_counts {
        unsigned n_processes;
        unsigned n_mappings;
};

/** domain_count() - processes, and mappings of one region or (NULL) of all */
struct domain_counts domain_count(struct domain *domain, const struct region *region);

/** A place where a part of a region is mapped. */
struct domain_target {
        struct context *context; /* a reference */
        uint64_t address;
        uint64_t length;
};

struct domain_targets {
        unsigned n;
        unsigned n_allocated;
        struct domain_target *items;
};

/**
 * domain_find_targets() - where this range of a region is mapped now
 * @targets: zeroed at first, may be used again and again; previous content is dropped; end with domain_targets_deinit()
 *
 * Return: 0 or -ENOMEM.
 */
int domain_find_targets(struct domain *domain, const struct region *region, uint64_t offset, uint64_t length,
                        struct domain_targets *targets);
void domain_targets_deinit(struct domain_targets *targets);

#endif
