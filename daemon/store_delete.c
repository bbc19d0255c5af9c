/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "common/name.h"
#include "daemon/store_layers.h"
#include "daemon/store_tree.h"

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

static int refuse_with_children(const char *path, const json_t *children, struct error *error) {
        size_t n = json_array_size(children);

        return error_set(error, ERROR_BUSY, "snapshot %s cannot be deleted, since %s%s%s on it: delete %s first", path,
                         json_string_value(json_array_get(children, 0)), n > 1 ? " and others" : "",
                         n > 1 ? " build" : " builds", n > 1 ? "them" : "it");
}

int store_delete(struct store *store, const char *domain, const char *name, uint32_t uid, struct error *error) {
        char path[2 * NAME_LENGTH_MAX + 2], work_name[STORE_WORK_NAME_BYTES];
        json_t *children = NULL;
        int r;

        if (may_delete(store, domain, name, uid, error) < 0)
                return -1;
        snprintf(path, sizeof(path), "%s/%s", domain, name);
        store_work_name(store, work_name);
        pthread_mutex_lock(&store->chains);
        r = store_layers_children(store, domain, name, &children, error);
        if (r == 0 && json_array_size(children) > 0)
                r = refuse_with_children(path, children, error);
        else if (r == 0)
                r = move_out(store, domain, name, path, work_name, error);
        pthread_mutex_unlock(&store->chains);
        json_decref(children);
        if (r < 0)
                return -1;

        /* Others may put a snapshot there at the same time; then it is not empty and stays. */
        if (unlinkat(store->root, domain, AT_REMOVEDIR) == 0 && fsync(store->root) < 0)
                return store_failed(store, "delete", domain, errno, error);
        r = store_tree_remove(store->work, work_name);
        if (r < 0)
                return store_failed(store, "free the space of", path, -r, error);
        return 0;
}
