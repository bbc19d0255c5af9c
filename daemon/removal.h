/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_REMOVAL_H
#define LIVESNAP_DAEMON_REMOVAL_H

/*
 * Watches the objects of a snapshot that are not sealed for content that is taken away, or put there behind the pages'
 * backs: a hole punched, a truncation, a write through a descriptor.
 *
 * The protection bits survive such a thing and the content does not. No single source tells all of it: the
 * userfaultfd's event misses what comes through a descriptor, and is the same for a harmless MADV_DONTNEED; inotify
 * sees all of that on a tmpfs file, but on a memfd only what comes through a reopened descriptor; the count of blocks
 * tells a punch from none as long as nothing is filled meanwhile. Whatever one of them sees counts.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/domain.h"

struct removal_watch;

/** removal_watch_new() - start to watch all regions of the domain that are not sealed; before the cut. 0 or -errno. */
int removal_watch_new(struct domain *domain, struct removal_watch **ret);
void removal_watch_free(struct removal_watch *watch);

/**
 * removal_watch_start() - begin anew: forget what was seen so far, but for removal_watch_changed_before()
 *
 * Nothing falls between the two. On the fault thread, or when nobody else uses the watch.
 */
void removal_watch_start(struct removal_watch *watch, const struct domain *domain);

/** removal_watch_changed_before() - was anything seen of the region between the last two starts? */
bool removal_watch_changed_before(const struct removal_watch *watch, const struct region *region);

/** removal_watch_modified() - was the region changed through a descriptor since the start? Reads what has come. */
bool removal_watch_modified(struct removal_watch *watch, const struct region *region);

/** removal_watch_shrunk() - has the object fewer blocks, or a smaller size, than at the start? */
bool removal_watch_shrunk(struct removal_watch *watch, const struct region *region);

#endif
