/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store_find.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/name.h"

void store_found_deinit(struct store_found *found) {
        cleanup_close_p(&found->directory);
        cleanup_close_p(&found->file);
        manifest_free(found->manifest);
}

static int names_check(const char *domain, const char *name, struct error *error) {
        return name_check("domain", domain, error) < 0 || name_check("snapshot", name, error) < 0 ? -1 : 0;
}

/* "Not there" and "there, but not one of ours" are the same to a user. */
bool store_is_absent(int code) {
        return code == ENOENT || code == ENOTDIR || code == ELOOP;
}

static int no_such_snapshot(const char *domain, const char *name, struct error *error) {
        return error_set(error, ERROR_NO_SUCH_SNAPSHOT,
                         "domain '%s' has no snapshot '%s'; 'livesnap list' shows which there are", domain, name);
}

int store_find_directory(struct store *store, const char *domain, const char *name, struct store_found *found,
                         struct error *error) {
        CLEANUP_STORE_READER struct store_reader reader = { 0 };
        char path[2 * NAME_LENGTH_MAX + 2];
        CLEANUP_CLOSE int above = -1;

        if (names_check(domain, name, error) < 0)
                return -1;
        store_reader_begin(store, domain, &reader);
        snprintf(path, sizeof(path), "%s/%s", domain, name);
        above = openat(store->root, domain, STORE_OPEN_DIRECTORY);
        if (above >= 0)
                found->directory = openat(above, name, STORE_OPEN_DIRECTORY);
        if (above >= 0 && found->directory >= 0)
                found->file = openat(found->directory, LIVESNAP_MANIFEST_NAME, STORE_OPEN_FILE);
        if (found->file >= 0)
                return 0;
        if (store_is_absent(errno))
                return no_such_snapshot(domain, name, error);
        return store_failed(store, "open", path, errno, error);
}

/* Messages about a manifest's content do not know whose it is. */
int store_find_manifest(const char *domain, const char *name, struct store_found *found, struct error *error) {
        struct error inner = { .kind = ERROR_NONE };

        if (manifest_read(found->file, &found->manifest, &inner) == 0)
                return 0;
        return error_set(error, inner.kind, "snapshot %s/%s: %s", domain, name, inner.message);
}

int store_find(struct store *store, const char *domain, const char *name, struct store_found *found,
               struct error *error) {
        if (store_find_directory(store, domain, name, found, error) < 0)
                return -1;
        return store_find_manifest(domain, name, found, error);
}

int store_find_for(struct store *store, const char *domain, const char *name, uint32_t uid, const char *purpose,
                   struct store_found *found, struct error *error) {
        if (store_find(store, domain, name, found, error) < 0)
                return -1;
        if (uid != 0 && uid != found->manifest->uid)
                return error_set(error, ERROR_PERMISSION_DENIED,
                                 "snapshot %s/%s belongs to uid %u: only that user and root may %s it", domain, name,
                                 found->manifest->uid, purpose);
        return 0;
}
