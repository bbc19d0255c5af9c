/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store_layers.h"

#include <errno.h>
#include <string.h>

#include "common/name.h"
#include "daemon/store_tree.h"

#define OPEN_ATTEMPTS 5

/* The parent of the last layer, which is a delta. */
static int open_parent(struct store *store, const char *domain, struct store_layers *layers, uint32_t uid,
                       const char *purpose, struct error *error) {
        const struct manifest *child = layers->items[layers->n - 1].manifest;
        struct store_found *found = &layers->items[layers->n];
        struct error inner = { .kind = ERROR_NONE };

        if (layers->n == CHAIN_LAYERS_MAX)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "more than %d snapshots build on one another",
                                 LIVESNAP_FORMAT_DEPTH_MAX);
        *found = (struct store_found) STORE_FOUND_INIT;
        layers->n++;
        if (store_find_for(store, domain, child->parent.name, uid, purpose, found, &inner) < 0)
                return error_set(error, inner.kind == ERROR_NO_SUCH_SNAPSHOT ? ERROR_SNAPSHOT_CORRUPT : inner.kind,
                                 "the snapshot builds on %s/%s: %s", domain, child->parent.name, inner.message);
        if (memcmp(found->manifest->uuid, child->parent.uuid, sizeof(found->manifest->uuid)) ||
            found->manifest->content != child->parent.content)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the snapshot builds on %s/%s, and what is there now is another one", domain,
                                 child->parent.name);
        return 0;
}

static int open_all(struct store *store, const char *domain, const char *name, uint32_t uid, const char *purpose,
                    struct store_layers *ret, struct error *error) {
        ret->n = 1;
        ret->items[0] = (struct store_found) STORE_FOUND_INIT;
        if (store_find_for(store, domain, name, uid, purpose, &ret->items[0], error) < 0)
                return -1;
        while (ret->items[ret->n - 1].manifest->delta)
                if (open_parent(store, domain, ret, uid, purpose, error) < 0)
                        return -1;
        return 0;
}

/* A parent that is not there any more: is it that what builds on it was made whole meanwhile? Then once more. */
int store_layers_open(struct store *store, const char *domain, const char *name, uint32_t uid, const char *purpose,
                      struct store_layers *ret, struct error *error) {
        for (unsigned attempt = 1;; attempt++) {
                struct error inner = { .kind = ERROR_NONE };

                if (open_all(store, domain, name, uid, purpose, ret, &inner) == 0)
                        return 0;
                if (inner.kind != ERROR_SNAPSHOT_CORRUPT || attempt == OPEN_ATTEMPTS)
                        return error_set(error, inner.kind, "%s", inner.message);
                store_layers_close(ret);
        }
}

void store_layers_close(struct store_layers *layers) {
        for (unsigned i = 0; i < layers->n; i++)
                store_found_deinit(&layers->items[i]);
        layers->n = 0;
}

void store_layers_close_fds(int fds[2 * CHAIN_LAYERS_MAX]) {
        for (unsigned i = 0; i < 2 * CHAIN_LAYERS_MAX; i++) {
                cleanup_close_p(&fds[i]);
                fds[i] = -1;
        }
}

static int find_region(const struct manifest *manifest, const char *name) {
        for (unsigned i = 0; i < manifest->n_regions; i++)
                if (!strcmp(manifest->regions[i].name, name))
                        return (int) i;
        return -1;
}

int store_layers_read(struct store *store, const struct store_layers *layers, unsigned region, bool only_sums,
                      int ret_fds[2 * CHAIN_LAYERS_MAX], struct chain_reader **ret, struct error *error) {
        const char *name = layers->items[0].manifest->regions[region].name;
        struct chain_layer chain[CHAIN_LAYERS_MAX];

        for (unsigned i = 0; i < 2 * CHAIN_LAYERS_MAX; i++)
                ret_fds[i] = -1;
        for (unsigned i = 0; i < layers->n; i++) {
                const struct store_found *found = &layers->items[i];
                bool delta = found->manifest->delta;
                int index = find_region(found->manifest, name);

                if (index < 0)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "what the snapshot builds on has no region '%s'", name);
                ret_fds[2 * i] = store_open_regular(store, found->directory, name,
                                                    delta ? LIVESNAP_PAGES_SUFFIX : LIVESNAP_IMAGE_SUFFIX,
                                                    delta ? 0 : O_DIRECT, error);
                if (ret_fds[2 * i] < 0)
                        return -1;
                ret_fds[2 * i + 1] = store_open_regular(store, found->directory, name,
                                                        delta ? LIVESNAP_MAP_SUFFIX : LIVESNAP_SUMS_SUFFIX, 0, error);
                if (ret_fds[2 * i + 1] < 0)
                        return -1;
                chain[i] =
                        (struct chain_layer){ found->manifest, (unsigned) index, ret_fds[2 * i], ret_fds[2 * i + 1] };
        }
        return chain_reader_new(chain, layers->n, only_sums, ret, error);
}

struct children {
        struct store *store;
        const char *domain;
        const char *name;
        json_t *names;
        struct error *error;
};

/*
 * One that is damaged needs nothing that could be told, but one that could not be read may be a child. Return: 0, or 1
 * with the error set.
 */
static int look_at_child(void *data, int directory, const char *name) {
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;
        const struct children *children = data;
        struct error error = { .kind = ERROR_NONE };

        if (!name_is_valid(name))
                return 0;
        if (store_find(children->store, children->domain, name, &found, &error) < 0) {
                if (error.kind == ERROR_NO_SUCH_SNAPSHOT || error.kind == ERROR_SNAPSHOT_CORRUPT)
                        return 0;
                error_set(children->error, error.kind, "cannot tell what builds on snapshot %s/%s: %s",
                          children->domain, children->name, error.message);
                return 1;
        }
        if (found.manifest->delta && !strcmp(found.manifest->parent.name, children->name))
                json_array_append_new(children->names, json_string(name));
        return 0;
}

int store_layers_children(struct store *store, const char *domain, const char *name, json_t **ret,
                          struct error *error) {
        struct children children = { store, domain, name, json_array(), error };
        CLEANUP_CLOSE int directory = openat(store->root, domain, STORE_OPEN_DIRECTORY);
        int r = directory < 0 ? -errno : store_tree_entries(directory, look_at_child, &children);

        if (r != 0) {
                json_decref(children.names);
                return r < 0 ? store_failed(store, "read", domain, -r, error) : -1;
        }
        *ret = children.names;
        return 0;
}
