/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/prune_plan.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_SECONDS 3600
#define DAY_SECONDS 86400
#define SECONDS_MAX 1e15 /* what a manifest says of its age may be anything */

struct place {
        const struct prune_item *item;
        size_t was;
};

/* The newest first; of the same age by name, so that it is always the same. */
static int place_compare(const void *first, const void *second) {
        const struct place *a = first, *b = second;

        if (a->item->created != b->item->created)
                return a->item->created > b->item->created ? -1 : 1;
        return strcmp(b->item->name, a->item->name);
}

static int sort(struct prune_item *items, size_t n) {
        struct prune_item *sorted = calloc(n + 1, sizeof(*sorted));
        struct place *places = calloc(n + 1, sizeof(*places));
        size_t *now = calloc(n + 1, sizeof(*now));
        int r = -ENOMEM;

        if (sorted && places && now) {
                for (size_t i = 0; i < n; i++)
                        places[i] = (struct place){ &items[i], i };
                qsort(places, n, sizeof(*places), place_compare);
                for (size_t i = 0; i < n; i++)
                        now[places[i].was] = i;
                for (size_t i = 0; i < n; i++) {
                        sorted[i] = *places[i].item;
                        if (sorted[i].parent != PRUNE_NO_PARENT)
                                sorted[i].parent = now[sorted[i].parent];
                }
                memcpy(items, sorted, n * sizeof(*items));
                r = 0;
        }
        free(sorted);
        free(places);
        free(now);
        return r;
}

/* Which hour or day of UTC it was, counted from 1970, also before that. */
static int64_t find_period(double created, int64_t seconds) {
        double bounded = created > SECONDS_MAX ? SECONDS_MAX : created < -SECONDS_MAX ? -SECONDS_MAX : created;
        int64_t whole = (int64_t) bounded;

        whole -= (double) whole > bounded;
        return whole / seconds - (whole % seconds < 0);
}

/* The newest of each of the @n newest periods in which there are any; @seconds 0: each is a period of its own. */
static void keep_periods(struct prune_item *items, size_t n_items, uint64_t n, int64_t seconds) {
        int64_t last = INT64_MIN;

        for (size_t i = 0; i < n_items && n > 0; i++) {
                int64_t period = seconds ? find_period(items[i].created, seconds) : (int64_t) i;

                if (!items[i].counts || period == last)
                        continue;
                items[i].kept = true;
                last = period;
                n--;
        }
}

/* What is not kept and has to be there for this one, up to the next that is kept or is whole. Mark it, or count it. */
static size_t walk(struct prune_item *items, size_t n_items, size_t from, bool mark) {
        size_t n = 0, steps = 0;

        while (items[from].delta && !items[from].folded && items[from].parent != PRUNE_NO_PARENT) {
                from = items[from].parent;
                if (items[from].kept || ++steps > n_items) /* a circle can only be in damaged manifests */
                        break;
                items[from].needed |= mark;
                n++;
        }
        return n;
}

static size_t count_needed(const struct prune_item *items, size_t n_items) {
        size_t n = 0;

        for (size_t i = 0; i < n_items; i++)
                n += items[i].needed;
        return n;
}

/* Return: how many would not be needed if all that may be made whole was. */
static size_t mark_needed(struct prune_item *items, size_t n_items) {
        size_t n_always;

        for (size_t i = 0; i < n_items; i++)
                items[i].needed = false;
        for (size_t i = 0; i < n_items; i++)
                if (items[i].kept && !items[i].may_fold)
                        (void) walk(items, n_items, i, true);
        n_always = count_needed(items, n_items);
        for (size_t i = 0; i < n_items; i++)
                if (items[i].kept && items[i].may_fold)
                        (void) walk(items, n_items, i, true);
        return count_needed(items, n_items) - n_always;
}

/* Which of the kept deltas needs most? PRUNE_NO_PARENT: none that may be made whole needs any. */
static size_t find_neediest(struct prune_item *items, size_t n_items) {
        size_t best = PRUNE_NO_PARENT, most = 0;

        for (size_t i = 0; i < n_items; i++) {
                size_t n = items[i].kept && items[i].may_fold ? walk(items, n_items, i, false) : 0;

                if (n > most) {
                        most = n;
                        best = i;
                }
        }
        return best;
}

int prune_plan(struct prune_item *items, size_t n_items, const struct store_prune_rules *rules) {
        size_t n_kept = 0, fold;
        int r = sort(items, n_items);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n_items; i++)
                items[i].kept = items[i].needed = items[i].folded = false;
        keep_periods(items, n_items, rules->last, 0);
        keep_periods(items, n_items, rules->hourly, HOUR_SECONDS);
        keep_periods(items, n_items, rules->daily, DAY_SECONDS);
        for (size_t i = 0; i < n_items; i++) {
                items[i].kept |= items[i].counts && rules->parent && !strcmp(items[i].name, rules->parent);
                n_kept += items[i].kept;
                items[i].kept |= !items[i].counts;
        }
        while (mark_needed(items, n_items) > n_kept) {
                fold = find_neediest(items, n_items);
                if (fold == PRUNE_NO_PARENT)
                        break;
                items[fold].folded = true;
        }
        return 0;
}
