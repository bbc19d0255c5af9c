/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/name.h"
#include "daemon/store_find.h"
#include "daemon/store_tree.h"

static json_t *describe(struct store *store, const char *domain, const char *name, const struct manifest *manifest) {
        CLEANUP_FREE char *directory = NULL;
        char snapshot[2 * NAME_LENGTH_MAX + 2];

        snprintf(snapshot, sizeof(snapshot), "%s/%s", domain, name);
        if (asprintf(&directory, "%s/%s", store->path, snapshot) < 0) {
                directory = NULL;
                return NULL;
        }
        return manifest_snapshot(manifest, snapshot, directory);
}

int store_show(struct store *store, const char *domain, const char *name, json_t **ret, struct error *error) {
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;
        json_t *snapshot;

        if (store_find(store, domain, name, &found, error) < 0)
                return -1;
        snapshot = describe(store, domain, name, found.manifest);
        if (!snapshot)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        *ret = snapshot;
        return 0;
}

struct listing {
        struct store *store;
        const char *domain;
        json_t **snapshots; /* owned, and what is in it */
        size_t n_snapshots;
        struct error *error;
};

static void listing_deinit(struct listing *listing) {
        for (size_t i = 0; i < listing->n_snapshots; i++)
                json_decref(listing->snapshots[i]);
        free(listing->snapshots);
}

/* What goes through directories is told to stop by 1; the error is set then. Takes over @snapshot, NULL included. */
static int listing_add(struct listing *listing, json_t *snapshot) {
        json_t **grown = snapshot ? reallocarray(listing->snapshots, listing->n_snapshots + 1, sizeof(*grown)) : NULL;

        if (!grown) {
                json_decref(snapshot);
                error_set(listing->error, ERROR_INTERNAL, "out of memory");
                return 1;
        }
        listing->snapshots = grown;
        listing->snapshots[listing->n_snapshots++] = snapshot;
        return 0;
}

/* Shown, so that it can be seen and deleted; its figures are zero, for none of them can be trusted. */
static json_t *describe_damaged(const char *domain, const char *name, const struct store_found *found,
                                const char *message) {
        struct stat status;
        double created = 0.0;

        if (fstat(found->file, &status) == 0)
                created = (double) status.st_mtim.tv_sec + (double) status.st_mtim.tv_nsec / 1e9;
        return json_pack("{s:o, s:f, s:i, s:s, s:[], s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:{s:f, s:f, s:f, s:f}, s:i, "
                         "s:i, s:[s]}",
                         "snapshot", json_sprintf("%s/%s", domain, name), "created", created, "uid", 0, "guarantee",
                         "advisory", "regions", "arm_us", 0, "hold_us", 0, "duration_us", 0, "pages_fault", 0,
                         "pages_sweep", 0, "pages_zero", 0, "bytes_written", 0, "fault_us", "p50", 0.0, "p99", 0.0,
                         "p999", 0.0, "max", 0.0, "throttled_us", 0, "pool_peak_bytes", 0, "warnings", message);
}

static int list_snapshot(void *data, int directory, const char *name) {
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;
        struct listing *listing = data;
        struct error error = { .kind = ERROR_NONE };

        if (!name_is_valid(name))
                return 0;
        if (store_find_directory(listing->store, listing->domain, name, &found, &error) < 0) {
                if (error.kind == ERROR_NO_SUCH_SNAPSHOT)
                        return 0;
                error_set(listing->error, error.kind, "%s", error.message);
                return 1;
        }
        if (store_find_manifest(listing->domain, name, &found, &error) < 0)
                return listing_add(listing, describe_damaged(listing->domain, name, &found, error.message));
        return listing_add(listing, describe(listing->store, listing->domain, name, found.manifest));
}

static int list_domain(void *data, int root, const char *domain) {
        struct listing *listing = data;
        CLEANUP_CLOSE int directory = -1;
        int r;

        if (!name_is_valid(domain))
                return 0;
        directory = openat(root, domain, STORE_OPEN_DIRECTORY);
        if (directory < 0 && store_is_absent(errno))
                return 0;
        listing->domain = domain;
        r = directory < 0 ? -errno : store_tree_entries(directory, list_snapshot, listing);
        if (r < 0)
                store_failed(listing->store, "read", domain, -r, listing->error);
        return r != 0;
}

static void sort_key(const json_t *snapshot, const char **ret_name, size_t *ret_domain_length, double *ret_created) {
        *ret_name = json_string_value(json_object_get(snapshot, "snapshot"));
        *ret_domain_length = strcspn(*ret_name, "/");
        *ret_created = json_number_value(json_object_get(snapshot, "created"));
}

/* By domain, then by age, then by name. */
static int compare(const void *first, const void *second) {
        const char *names[2];
        size_t lengths[2];
        double created[2];
        int r;

        sort_key(*(json_t *const *) first, &names[0], &lengths[0], &created[0]);
        sort_key(*(json_t *const *) second, &names[1], &lengths[1], &created[1]);
        r = strncmp(names[0], names[1], lengths[0] < lengths[1] ? lengths[0] : lengths[1]);
        if (r || lengths[0] != lengths[1])
                return r ? r : (lengths[0] < lengths[1] ? -1 : 1);
        if (created[0] != created[1])
                return created[0] < created[1] ? -1 : 1;
        return strcmp(names[0], names[1]);
}

int store_list(struct store *store, const char *domain_or_null, json_t **ret_array, struct error *error) {
        CLEANUP(listing_deinit) struct listing listing = { .store = store, .error = error };
        json_t *array;
        int r;

        if (domain_or_null && name_check("domain", domain_or_null, error) < 0)
                return -1;
        r = domain_or_null ? list_domain(&listing, store->root, domain_or_null)
                           : store_tree_entries(store->root, list_domain, &listing);
        if (r < 0)
                return store_failed(store, "read", ".", -r, error);
        if (r > 0)
                return -1;

        if (listing.n_snapshots)
                qsort(listing.snapshots, listing.n_snapshots, sizeof(*listing.snapshots), compare);
        array = json_array();
        for (size_t i = 0; i < listing.n_snapshots; i++)
                if (json_array_append(array, listing.snapshots[i]) < 0) {
                        json_decref(array);
                        return error_set(error, ERROR_INTERNAL, "out of memory");
                }
        *ret_array = array;
        return 0;
}
