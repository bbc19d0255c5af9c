/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_REGISTRY_H
#define LIVESNAP_DAEMON_REGISTRY_H

/* The domains that there are, by name, and their fault threads. Main thread only, but for what is said of @wake. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include <jansson.h>

#include "common/error.h"
#include "daemon/fault.h"
#include "daemon/quiesce.h"

#define REGISTRY_DOMAINS_MAX 256u
/* Of these, what one user may have, and all users together, so that there are always some left for root. */
#define REGISTRY_DOMAINS_USER_MAX 64u
#define REGISTRY_DOMAINS_USERS_MAX 192u

struct registry_entry {
        struct domain *domain; /* owned */
        struct fault_thread *thread;
        uint64_t job;           /* that is taking a snapshot of it, or 0: then nothing may be attached or detached */
        struct quiesce quiesce; /* not changed while there is a job */
        struct quiesce_client *quiesce_client;
        atomic_bool unmapped; /* there may be a region that nobody maps */
        struct registry *registry;
        TAILQ_ENTRY(registry_entry) link;
};

struct registry;

/** registry_new() - @wake is called on other threads when registry_check() is due */
int registry_new(void (*wake)(void *data), void *data, struct registry **ret);

/** registry_free() - let go of everything */
void registry_free(struct registry *registry);

/** registry_find() - NULL with *error set (NoSuchDomain) if there is none of that name, or it is not @uid's to use */
struct registry_entry *registry_find(struct registry *registry, const char *name, uid_t uid, struct error *error);

/** registry_find_object() - the domain that has this object as a region, whosever it is, or NULL */
const struct registry_entry *registry_find_object(struct registry *registry, dev_t device, ino_t inode);

/** registry_find_or_add() - the same, and make it where it does not exist */
struct registry_entry *registry_find_or_add(struct registry *registry, const char *name, uid_t uid,
                                            struct error *error);

/** registry_remove() - disarm, let go and forget a domain */
void registry_remove(struct registry_entry *entry);

/**
 * registry_check() - let go of regions that nobody maps any more, and of domains that have no other; tell programs to
 * stop, or to go on
 */
void registry_check(struct registry *registry);

/** registry_drop_unmapped() - let go of regions of the domain that nobody maps any more, be it since a moment ago */
void registry_drop_unmapped(struct registry_entry *entry);

/** registry_name_region() - a name for a new region of the domain: the one the same object had before, where it had one
 */
void registry_name_region(struct registry_entry *entry, struct region *region, const char *wish);

/** registry_detach_region() - disarm, let go and forget one region */
void registry_detach_region(struct registry_entry *entry, struct region *region);

/** registry_answers() - has every fault thread come round since this was last called? See fault_thread_answers(). */
bool registry_answers(struct registry *registry);

unsigned registry_count(const struct registry *registry);

/** registry_list() - array of the type Domain of io.livesnap, of what @uid may see */
json_t *registry_list(struct registry *registry, uid_t uid);

/** registry_entry_json() - the type Domain of io.livesnap */
json_t *registry_entry_json(struct registry_entry *entry);

#endif
