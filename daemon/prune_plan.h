/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_PRUNE_PLAN_H
#define LIVESNAP_DAEMON_PRUNE_PLAN_H

/*
 * Which snapshots of a domain are to go, by rules, and what becomes of those that others are read through.
 *
 * A snapshot that a rule names is kept. One that no rule names, but that a kept delta is read through, is *needed*. It
 * is kept too, for as long as no more are needed than are kept by the rules: to make the delta whole instead would
 * write a whole image to save some deltas, with every prune. When more are needed, the kept delta that needs most is
 * made whole
 * (*folded*), and so on. So there are never more than twice as many snapshots as the rules keep, and a chain that is
 * pruned after each increment is folded once for as many increments as are kept.
 *
 * Pure computing; knows nothing of files.
 */

#include <stdbool.h>
#include <stddef.h>

#include "daemon/store.h"

#define PRUNE_NO_PARENT ((size_t) -1)

struct prune_item {
        const char *name; /* borrowed */
        double created;   /* seconds since the epoch */
        bool delta;
        size_t parent; /* of a delta: index of what it builds on; PRUNE_NO_PARENT: it is not there */
        bool counts;   /* rules apply to it, and it may be deleted; else it is kept */
        bool may_fold; /* it may be made whole; what one needs that may not does not count for the limit */

        /* Found by prune_plan(). */
        bool kept;   /* by a rule, or since the rules do not apply to it */
        bool needed; /* by one that is kept */
        bool folded; /* kept, and to be made whole */
};

/** prune_plan() - decide; sorts the items, the newest first, and @parent with them. -ENOMEM. */
int prune_plan(struct prune_item *items, size_t n_items, const struct store_prune_rules *rules);

/** prune_is_deleted() - what was decided */
static inline bool prune_is_deleted(const struct prune_item *item) {
        return item->counts && !item->kept && !item->needed;
}

#endif
