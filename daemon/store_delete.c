/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/name.h"
#include "daemon/store_layers.h"

#define FOLD_ATTEMPTS 5

/* Root may delete a damaged one, too; whose it is cannot be told then. */
static int may_delete(struct store *store, const char *domain, const char *name, uint32_t uid, struct error *error) {
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;

        if (uid == 0)
                return store_find_directory(store, domain, name, &found, error);
        return store_find_for(store, domain, name, uid, "delete", &found, error);
}

/*
 * Renamed into the work directory first: a reader sees all of it or nothing, and after a crash in between the rest goes
 * with the next start of the daemon.
 */
static int move_out(struct store *store, const char *domain, const char *name, const char *path, const char *work_name,
                    struct error *error) {
        CLEANUP_CLOSE int directory = openat(store->root, domain, STORE_OPEN_DIRECTORY);

        if (directory < 0 || renameat(directory, name, store->work, work_name) < 0 || fsync(directory) < 0)
                return store_failed(store, "delete", path, errno, error);
        return 0;
}

static int refuse_with_children(const char *domain, const char *name, const json_t *children, struct error *error) {
        size_t n = json_array_size(children);
        const char *first = json_string_value(json_array_get(children, 0));

        return error_set(error, ERROR_BUSY,
                         "snapshot %s/%s cannot be deleted, since %s%s on it: 'livesnap compact %s/%s' %s, and "
                         "'livesnap delete --fold %s/%s' does both",
                         domain, name, first, n > 1 ? " and others build" : " builds", domain, first,
                         n > 1 ? "and the same of the others make them whole by themselves"
                               : "makes it whole by itself",
                         domain, name);
}

/* Is it still the one that was meant? */
static int check_uuid(struct store *store, const char *domain, const char *name, const uint8_t *uuid,
                      struct error *error) {
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;

        if (store_find(store, domain, name, &found, error) < 0)
                return -1;
        if (!memcmp(found.manifest->uuid, uuid, sizeof(found.manifest->uuid)))
                return 0;
        return error_set(error, ERROR_NO_SUCH_SNAPSHOT, "snapshot %s/%s is another one by now", domain, name);
}

int store_delete(struct store *store, const char *domain, const char *name, uint32_t uid, struct error *error) {
        return store_delete_this(store, domain, name, NULL, uid, error);
}

int store_delete_this(struct store *store, const char *domain, const char *name, const uint8_t *uuid_or_null,
                      uint32_t uid, struct error *error) {
        char path[2 * NAME_LENGTH_MAX + 2], work_name[STORE_WORK_NAME_BYTES];
        json_t *children = NULL;
        int r;

        if (may_delete(store, domain, name, uid, error) < 0)
                return -1;
        snprintf(path, sizeof(path), "%s/%s", domain, name);
        store_work_name(store, work_name);
        pthread_mutex_lock(&store->chains);
        r = uuid_or_null ? check_uuid(store, domain, name, uuid_or_null, error) : 0;
        if (r == 0)
                r = store_layers_children(store, domain, name, &children, error);
        if (r == 0 && json_array_size(children) > 0)
                r = refuse_with_children(domain, name, children, error);
        else if (r == 0)
                r = move_out(store, domain, name, path, work_name, error);
        pthread_mutex_unlock(&store->chains);
        json_decref(children);
        if (r < 0)
                return -1;

        /* Others may put a snapshot there at the same time; then it is not empty and stays. */
        if (unlinkat(store->root, domain, AT_REMOVEDIR) == 0 && fsync(store->root) < 0)
                return store_failed(store, "delete", domain, errno, error);
        r = store_discard(store, domain, work_name);
        if (r < 0)
                return store_failed(store, "free the space of", path, -r, error);
        return 0;
}

/* Make the deltas whole that build on it. Return: how many there were, or -1 with *error set. */
static int fold_children(struct store *store, const char *domain, const char *name, uint32_t uid,
                         const struct store_progress *progress, json_t *folded_names, struct error *error) {
        json_t *children, *child;
        int n, r = 0;
        size_t i;

        pthread_mutex_lock(&store->chains);
        r = store_layers_children(store, domain, name, &children, error);
        pthread_mutex_unlock(&store->chains);
        if (r < 0)
                return -1;
        n = (int) json_array_size(children);
        json_array_foreach (children, i, child) {
                bool folded = false;

                r = store_compact(store, domain, json_string_value(child), uid, progress, &folded, error);
                if (r < 0)
                        break;
                if (folded)
                        json_array_append(folded_names, child);
        }
        json_decref(children);
        return r < 0 ? -1 : n;
}

int store_delete_fold(struct store *store, const char *domain, const char *name, uint32_t uid,
                      const struct store_progress *progress, json_t **ret, struct error *error) {
        json_t *folded = json_array();
        int r = may_delete(store, domain, name, uid, error);

        /* What was published on it meanwhile is a child, too. */
        for (int attempt = 1; r == 0; attempt++) {
                struct error inner = { .kind = ERROR_NONE };

                if (fold_children(store, domain, name, uid, progress, folded, error) < 0) {
                        r = -1;
                } else if (store_delete(store, domain, name, uid, &inner) == 0) {
                        break;
                } else if (inner.kind != ERROR_BUSY || attempt == FOLD_ATTEMPTS) {
                        r = error_set(error, inner.kind, "%s", inner.message);
                }
        }
        if (r < 0) {
                json_decref(folded);
                return -1;
        }
        *ret = json_pack("{s:o}", "folded", folded);
        return 0;
}
