/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/name.h"
#include "daemon/prune_plan.h"
#include "daemon/store_layers.h"
#include "daemon/store_tree.h"

/* A snapshot of the domain as it was found. */
struct candidate {
        char *name;   /* owned */
        char *parent; /* owned; NULL: it is whole */
        double created;
        uint8_t uuid[16];
        uint32_t uid;
        uint64_t bytes; /* of its regions */
};

struct pruning {
        struct store *store;
        const char *domain;
        uint32_t uid;
        const struct store_prune_rules *rules;
        const struct store_progress *progress;
        uint64_t done, total;
        struct error *error;
        struct error damage;          /* that was found on the way */
        struct candidate *candidates; /* owned, as the next one */
        struct prune_item *items;
        size_t n;
};

static void pruning_deinit(struct pruning *pruning) {
        for (size_t i = 0; i < pruning->n; i++) {
                free(pruning->candidates[i].name);
                free(pruning->candidates[i].parent);
        }
        free(pruning->candidates);
        free(pruning->items);
}

static int out_of_memory(struct pruning *pruning) {
        error_set(pruning->error, ERROR_INTERNAL, "out of memory");
        return 1;
}

static int add_candidate(struct pruning *pruning, const char *name, const struct manifest *manifest) {
        struct candidate *grown = reallocarray(pruning->candidates, pruning->n + 1, sizeof(*grown)), *candidate;

        if (!grown)
                return out_of_memory(pruning);
        pruning->candidates = grown;
        candidate = &grown[pruning->n++];
        *candidate = (struct candidate){
                .name = strdup(name),
                .parent = manifest->delta ? strdup(manifest->parent.name) : NULL,
                .created = json_number_value(json_object_get(manifest->json, "created")),
                .uid = manifest->uid,
        };
        memcpy(candidate->uuid, manifest->uuid, sizeof(candidate->uuid));
        for (unsigned i = 0; i < manifest->n_regions; i++)
                candidate->bytes += manifest->regions[i].bytes;
        return candidate->name && (!manifest->delta || candidate->parent) ? 0 : out_of_memory(pruning);
}

/* One that is damaged is left alone: neither its age nor its owner can be told, nor what it builds on. */
static int look_at(void *data, int directory, const char *name) {
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;
        struct pruning *pruning = data;
        struct error error = { .kind = ERROR_NONE };

        if (!name_is_valid(name))
                return 0;
        if (store_find(pruning->store, pruning->domain, name, &found, &error) == 0)
                return add_candidate(pruning, name, found.manifest);
        if (error.kind == ERROR_NO_SUCH_SNAPSHOT || error.kind == ERROR_SNAPSHOT_CORRUPT)
                return 0;
        error_set(pruning->error, error.kind, "%s", error.message);
        return 1;
}

static int find_candidates(struct pruning *pruning) {
        CLEANUP_CLOSE int directory = -1;
        int r;

        directory = openat(pruning->store->root, pruning->domain, STORE_OPEN_DIRECTORY);
        if (directory < 0 && store_is_absent(errno))
                return error_set(pruning->error, ERROR_NO_SUCH_SNAPSHOT,
                                 "there are no snapshots of domain '%s'; 'livesnap list' shows which there are",
                                 pruning->domain);
        r = directory < 0 ? -errno : store_tree_entries(directory, look_at, pruning);
        return r < 0 ? store_failed(pruning->store, "read", pruning->domain, -r, pruning->error) : -r;
}

static int by_name(const void *first, const void *second) {
        return strcmp(((const struct candidate *) first)->name, ((const struct candidate *) second)->name);
}

static const struct candidate *find_candidate(const struct pruning *pruning, const char *name) {
        const struct candidate key = { .name = (char *) name };

        return bsearch(&key, pruning->candidates, pruning->n, sizeof(key), by_name);
}

static int make_items(struct pruning *pruning) {
        const char *prefix = pruning->rules->prefix ? pruning->rules->prefix : "";

        pruning->items = calloc(pruning->n + 1, sizeof(*pruning->items));
        if (!pruning->items)
                return -out_of_memory(pruning);
        if (pruning->n)
                qsort(pruning->candidates, pruning->n, sizeof(*pruning->candidates), by_name);
        for (size_t i = 0; i < pruning->n; i++) {
                const struct candidate *candidate = &pruning->candidates[i], *parent = NULL;
                bool own = pruning->uid == 0 || pruning->uid == candidate->uid;

                if (candidate->parent)
                        parent = find_candidate(pruning, candidate->parent);
                pruning->items[i] = (struct prune_item){
                        .name = candidate->name,
                        .created = candidate->created,
                        .delta = candidate->parent != NULL,
                        .parent = parent ? (size_t) (parent - pruning->candidates) : PRUNE_NO_PARENT,
                        .counts = own && !strncmp(candidate->name, prefix, strlen(prefix)),
                        .may_fold = own,
                };
        }
        return 0;
}

static bool fold_progress(void *data, uint64_t done, uint64_t total) {
        struct pruning *pruning = data;

        return pruning->progress->progress(pruning->progress->data, pruning->done + done, pruning->total);
}

/*
 * Return: 0, 1 where a chain is damaged, so that it has to be planned anew without that fold, or -1 with the error set.
 * The first damage is kept, and told in the end.
 */
static int fold_all(struct pruning *pruning) {
        const struct store_progress progress = { fold_progress, pruning };

        pruning->done = pruning->total = 0;
        for (size_t i = 0; i < pruning->n; i++)
                if (pruning->items[i].folded)
                        pruning->total += find_candidate(pruning, pruning->items[i].name)->bytes;
        for (size_t i = 0; i < pruning->n; i++) {
                struct prune_item *item = &pruning->items[i];
                struct error error = { .kind = ERROR_NONE };
                bool folded;

                if (!item->folded)
                        continue;
                if (store_compact(pruning->store, pruning->domain, item->name, pruning->uid, &progress, &folded,
                                  &error) < 0) {
                        if (error.kind != ERROR_SNAPSHOT_CORRUPT)
                                return error_set(pruning->error, error.kind, "%s", error.message);
                        error_set(&pruning->damage, error.kind, "%s", error.message);
                        item->may_fold = false;
                        return 1;
                }
                pruning->done += find_candidate(pruning, item->name)->bytes;
        }
        return 0;
}

/* Anew after damage was found: what was made whole until then is whole already, which takes no time. */
static int plan_and_fold(struct pruning *pruning) {
        int r;

        do {
                if (prune_plan(pruning->items, pruning->n, pruning->rules) < 0)
                        return -out_of_memory(pruning);
                r = pruning->rules->dry_run ? 0 : fold_all(pruning);
        } while (r > 0);
        return r;
}

/* Does anything that is still there need it? What is folded needs nothing any more. */
static bool is_needed_now(const struct pruning *pruning, size_t index) {
        for (size_t i = 0; i < pruning->n; i++)
                if (pruning->items[i].delta && !pruning->items[i].folded && pruning->items[i].parent == index)
                        return true;
        return false;
}

/* Children before their parents. What was built upon meanwhile is needed now, and what is gone already is gone. */
static int delete_one(struct pruning *pruning, size_t index) {
        struct prune_item *item = &pruning->items[index];
        struct error error = { .kind = ERROR_NONE };

        if (!fold_progress(pruning, 0, 0))
                return error_set(pruning->error, ERROR_CANCELLED, "the prune was cancelled");
        if (store_delete_this(pruning->store, pruning->domain, item->name, find_candidate(pruning, item->name)->uuid,
                              pruning->uid, &error) < 0 &&
            error.kind != ERROR_NO_SUCH_SNAPSHOT) {
                item->needed = true;
                if (error.kind != ERROR_BUSY)
                        return error_set(pruning->error, error.kind, "%s", error.message);
                return 0;
        }
        item->delta = false; /* it needs its parent no more */
        return 1;
}

static int delete_all(struct pruning *pruning) {
        bool *deleted = calloc(pruning->n + 1, sizeof(*deleted)), again = true;
        int r = deleted ? 0 : -out_of_memory(pruning);

        while (again && r == 0) {
                again = false;
                for (size_t i = 0; i < pruning->n && r >= 0; i++) {
                        if (deleted[i] || !prune_is_deleted(&pruning->items[i]) || is_needed_now(pruning, i))
                                continue;
                        r = delete_one(pruning, i);
                        again |= r > 0;
                        deleted[i] = r > 0;
                        r = r < 0 ? -1 : 0;
                }
        }
        /* Those that are left have children that were not there before. */
        for (size_t i = 0; i < pruning->n && r == 0; i++)
                pruning->items[i].needed |= prune_is_deleted(&pruning->items[i]) && !deleted[i];
        free(deleted);
        return r;
}

static json_t *make_report(const struct pruning *pruning) {
        json_t *kept = json_array(), *needed = json_array(), *folded = json_array(), *deleted = json_array();

        for (size_t i = 0; i < pruning->n; i++) {
                const struct prune_item *item = &pruning->items[i];

                if (item->folded)
                        json_array_append_new(folded, json_string(item->name));
                if (item->counts)
                        json_array_append_new(item->kept     ? kept
                                              : item->needed ? needed
                                                             : deleted,
                                              json_string(item->name));
        }
        return json_pack("{s:o, s:o, s:o, s:o}", "kept", kept, "needed", needed, "folded", folded, "deleted", deleted);
}

int store_prune(struct store *store, const char *domain, uint32_t uid, const struct store_prune_rules *rules,
                const struct store_progress *progress, json_t **ret, struct error *error) {
        CLEANUP(pruning_deinit)
        struct pruning pruning = { store, domain, uid, rules, progress, .error = error };
        json_t *report;

        if (!rules->last && !rules->hourly && !rules->daily)
                return error_set(error, ERROR_BAD_REQUEST,
                                 "nothing would be kept of domain '%s': give at least one of the rules what to keep",
                                 domain);
        if (find_candidates(&pruning) < 0 || make_items(&pruning) < 0)
                return -1;
        if (plan_and_fold(&pruning) < 0 || (!rules->dry_run && delete_all(&pruning) < 0))
                return -1;
        if (pruning.damage.kind)
                return error_set(error, pruning.damage.kind, "%s; what it is not read through is pruned",
                                 pruning.damage.message);
        report = make_report(&pruning);
        if (!report)
                return -out_of_memory(&pruning);
        *ret = report;
        return 0;
}
