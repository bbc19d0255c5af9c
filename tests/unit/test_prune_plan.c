/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which snapshots a prune keeps, needs, makes whole and deletes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/prune_plan.h"

#define MAX 64
#define DAY 86400.0

struct chain {
        struct prune_item items[MAX];
        char names[MAX][24];
        size_t n;
};

/* Snapshot m0 is full, the others build on one another; @seconds apart. Handed over in disorder. */
static void make_chain(struct chain *chain, size_t n, double from, double seconds) {
        static const size_t step = 7; /* coprime to what is used as n */

        chain->n = n;
        for (size_t i = 0; i < n; i++) {
                size_t at = i * step % n, parent_at = i ? (i - 1) * step % n : PRUNE_NO_PARENT;

                snprintf(chain->names[at], sizeof(chain->names[at]), "m%zu", i);
                chain->items[at] = (struct prune_item){
                        .name = chain->names[at],
                        .created = from + (double) i * seconds,
                        .delta = i > 0,
                        .parent = parent_at,
                        .counts = true,
                        .may_fold = true,
                };
        }
}

static struct prune_item *find(struct chain *chain, const char *name) {
        for (size_t i = 0; i < chain->n; i++)
                if (!strcmp(chain->items[i].name, name))
                        return &chain->items[i];
        fail_msg("%s is not there", name);
        return NULL;
}

/* One letter for each, the oldest first: K kept, F kept and folded, n needed, . deleted, x not to be counted. */
static const char *plan(struct chain *chain, struct store_prune_rules rules) {
        static char text[MAX + 1];

        assert_int_equal(prune_plan(chain->items, chain->n, &rules), 0);
        for (size_t i = 0; i < chain->n; i++) {
                const struct prune_item *item = &chain->items[chain->n - 1 - i];

                assert_true(i == 0 || item->created >= chain->items[chain->n - i].created);
                assert_false(prune_is_deleted(item) && (item->kept || item->needed || item->folded));
                text[i] = item->folded             ? 'F'
                          : item->kept             ? (item->counts ? 'K' : 'x')
                          : item->needed           ? 'n'
                          : prune_is_deleted(item) ? '.'
                                                   : '?';
        }
        text[chain->n] = '\0';
        return text;
}

/* Nothing that is left is read through what is deleted. */
static void assert_unbroken(struct chain *chain) {
        for (size_t i = 0; i < chain->n; i++) {
                const struct prune_item *item = &chain->items[i];

                if (!prune_is_deleted(item) && item->delta && !item->folded && item->parent != PRUNE_NO_PARENT)
                        assert_false(prune_is_deleted(&chain->items[item->parent]));
        }
}

static void test_last(void **state) {
        static const struct {
                size_t n;
                uint64_t last;
                const char *plan;
        } cases[] = {
                { 1, 1, "K" },
                { 1, 9, "K" },
                { 2, 1, "nK" },
                { 3, 1, "..F" },
                { 8, 4, "nnnnKKKK" },
                { 9, 4, ".....FKKK" },
                { 11, 10, "nKKKKKKKKKK" },
                { 11, 20, "KKKKKKKKKKK" },
                { 11, 1, "..........F" },
        };
        struct chain chain;

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                make_chain(&chain, cases[i].n, 1e9, 60);
                assert_string_equal(plan(&chain, (struct store_prune_rules){ .last = cases[i].last }), cases[i].plan);
                assert_unbroken(&chain);
        }
}

/* Hours and days are those of UTC, and only those count that have a snapshot. */
static void test_hours_and_days(void **state) {
        struct chain chain;

        make_chain(&chain, 13, 10 * DAY - 3600, 1200); /* three an hour, over midnight, from its full hour on */
        for (size_t i = 0; i < chain.n; i++)
                chain.items[i].delta = false;
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .hourly = 3 }), "........K..KK");
        make_chain(&chain, 13, 10 * DAY - 3600, 1200);
        for (size_t i = 0; i < chain.n; i++)
                chain.items[i].delta = false;
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .daily = 5 }), "..K.........K");
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .daily = 1, .last = 2 }), "...........KK");
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .hourly = 100 }), "..K..K..K..KK");
        /* Before 1970, or with a clock that was never set. */
        make_chain(&chain, 3, -7200, 3600);
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .hourly = 3 }), "KKK");
}

/* What a scattered choice needs is made whole until no more is needed than kept, the neediest first. */
static void test_scattered(void **state) {
        struct chain chain;

        make_chain(&chain, 25, 100 * DAY, 1800);
        (void) plan(&chain, (struct store_prune_rules){ .daily = 7, .last = 2, .hourly = 4 });
        assert_unbroken(&chain);
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .daily = 7, .last = 2, .hourly = 4 }),
                            "...................FnKnKK");
}

static void test_what_does_not_count(void **state) {
        struct chain chain;

        /* Somebody else's: kept, and what it needs, too; it cannot be made whole. */
        make_chain(&chain, 6, 1e9, 60);
        find(&chain, "m3")->counts = false;
        find(&chain, "m3")->may_fold = false;
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .last = 1 }), "nnnxnK");
        assert_unbroken(&chain);
        /* One that has another prefix may be made whole. */
        make_chain(&chain, 6, 1e9, 60);
        find(&chain, "m3")->counts = false;
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .last = 1 }), "...FnK");
        /* What the next increment builds on. */
        make_chain(&chain, 6, 1e9, 60);
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .last = 1, .parent = "m4" }), "....FK");
        make_chain(&chain, 6, 1e9, 60);
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .last = 1, .parent = "gone" }), ".....F");
}

static void test_damaged_chains(void **state) {
        struct chain chain;

        /* A parent that is not there: what is left of the chain is kept together. */
        make_chain(&chain, 5, 1e9, 60);
        find(&chain, "m2")->parent = PRUNE_NO_PARENT;
        assert_string_equal(plan(&chain, (struct store_prune_rules){ .last = 2 }), "..nKK");
        /* Manifests that name each other in a circle. */
        make_chain(&chain, 5, 1e9, 60);
        find(&chain, "m0")->delta = true;
        find(&chain, "m0")->parent = (size_t) (find(&chain, "m4") - chain.items);
        find(&chain, "m4")->counts = false;
        (void) plan(&chain, (struct store_prune_rules){ .last = 1 });
        make_chain(&chain, 5, 1e9, 60);
        find(&chain, "m1")->parent = (size_t) (find(&chain, "m3") - chain.items);
        (void) plan(&chain, (struct store_prune_rules){ .last = 1 });
        assert_int_equal(prune_plan(chain.items, 0, &(struct store_prune_rules){ .last = 1 }), 0);
}

/* A watch: one more, and a prune, for a long time. Bounded, and a fold only now and then. */
static void test_watch(void **state) {
        static const struct store_prune_rules rules = { .last = 12, .hourly = 5 };
        struct chain chain = { .n = 0 };
        unsigned folds = 0, next = 0;

        for (unsigned round = 0; round < 2000; round++) {
                struct prune_item kept[MAX];
                size_t now[MAX], n = 0;

                assert_true(chain.n < MAX - 1);
                snprintf(chain.names[next % MAX], sizeof(chain.names[0]), "%u", round);
                chain.items[chain.n] = (struct prune_item){
                        .name = chain.names[next % MAX],
                        .created = 1e9 + round * 60.0,
                        .delta = round > 0,
                        .parent = chain.n ? 0 : PRUNE_NO_PARENT, /* sorted: the newest is the first */
                        .counts = true,
                        .may_fold = true,
                };
                chain.n++;
                next++;
                assert_int_equal(prune_plan(chain.items, chain.n, &rules), 0);
                assert_unbroken(&chain);
                for (size_t i = 0; i < chain.n; i++) {
                        now[i] = n;
                        if (!prune_is_deleted(&chain.items[i]))
                                kept[n++] = chain.items[i];
                }
                for (size_t i = 0; i < n; i++) {
                        folds += kept[i].folded;
                        kept[i].delta &= !kept[i].folded;
                        kept[i].parent = kept[i].delta ? now[kept[i].parent] : PRUNE_NO_PARENT;
                }
                memcpy(chain.items, kept, n * sizeof(kept[0]));
                chain.n = n;
                assert_true(n <= 2 * 17);
        }
        assert_true(folds > 2000 / 50 && folds < 2000 / 6);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_last),           cmocka_unit_test(test_hours_and_days),
                cmocka_unit_test(test_scattered),      cmocka_unit_test(test_what_does_not_count),
                cmocka_unit_test(test_damaged_chains), cmocka_unit_test(test_watch),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
