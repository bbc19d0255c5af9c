/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_parent.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool refuse(char reason[IMAGE_WRITER_REASON_BYTES], const char *format, ...)
        __attribute__((format(printf, 2, 3)));

static bool refuse(char reason[IMAGE_WRITER_REASON_BYTES], const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(reason, IMAGE_WRITER_REASON_BYTES, format, arguments);
        va_end(arguments);
        return false;
}

static bool has_regions(const struct manifest *manifest, const struct image_writer_region *regions,
                        unsigned n_regions) {
        if (manifest->n_regions != n_regions)
                return false;
        for (unsigned i = 0; i < n_regions; i++) {
                bool found = false;

                for (unsigned j = 0; j < n_regions && !found; j++)
                        found = !strcmp(manifest->regions[j].name, regions[i].name) &&
                                manifest->regions[j].bytes == regions[i].bytes;
                if (!found)
                        return false;
        }
        return true;
}

/*
 * What a manifest says of its depth was so when it was written; what has been made whole below it since then needs no
 * more. Return: snapshots that a delta on this one needs, more than are allowed if that cannot be told.
 */
static uint32_t count_depth(struct store *store, const char *domain, const char *name) {
        char next[LIVESNAP_FORMAT_NAME_MAX + 1];
        uint32_t depth = 0;
        bool delta = true;

        snprintf(next, sizeof(next), "%s", name);
        while (delta && depth <= LIVESNAP_FORMAT_DEPTH_MAX) {
                CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;
                struct error error = { .kind = ERROR_NONE };

                if (store_find(store, domain, next, &found, &error) < 0)
                        return LIVESNAP_FORMAT_DEPTH_MAX + 1;
                depth++;
                delta = found.manifest->delta;
                if (delta)
                        snprintf(next, sizeof(next), "%s", found.manifest->parent.name);
        }
        return depth;
}

bool image_parent_open(struct store *store, const char *domain, const char *name, const uint8_t uuid[16], uint32_t uid,
                       const struct image_writer_region *regions, unsigned n_regions, struct image_parent *ret,
                       char ret_reason[IMAGE_WRITER_REASON_BYTES]) {
        struct image_parent parent = { .name = name, .found = STORE_FOUND_INIT };
        struct error error = { .kind = ERROR_NONE };
        bool good = true;

        ret_reason[0] = '\0';
        if (store_find(store, domain, name, &parent.found, &error) < 0) {
                good = error.kind == ERROR_NO_SUCH_SNAPSHOT
                               ? refuse(ret_reason, "snapshot %s, since which changes are known, was deleted", name)
                               : refuse(ret_reason, "%s", error.message);
        } else {
                const struct manifest *manifest = parent.found.manifest;

                parent.depth = manifest->delta ? manifest->parent.depth + 1 : 1;
                if (parent.depth > LIVESNAP_FORMAT_DEPTH_MAX)
                        parent.depth = count_depth(store, domain, name);
                if (memcmp(manifest->uuid, uuid, sizeof(manifest->uuid)))
                        good = refuse(ret_reason, "snapshot %s is not the one since which changes are known", name);
                else if (uid != 0 && uid != manifest->uid)
                        good = refuse(ret_reason, "snapshot %s belongs to another user (%u)", name, manifest->uid);
                else if (!has_regions(manifest, regions, n_regions))
                        good = refuse(ret_reason, "snapshot %s has other regions, or regions of another size", name);
                else if (parent.depth > LIVESNAP_FORMAT_DEPTH_MAX)
                        good = refuse(ret_reason, "%d increments build on one another already, and no more may",
                                      LIVESNAP_FORMAT_DEPTH_MAX);
        }
        if (good)
                *ret = parent;
        else
                store_found_deinit(&parent.found);
        return good;
}

bool image_parent_is_there(struct store *store, const char *domain, const struct image_parent *parent) {
        CLEANUP_STORE_FOUND struct store_found now = STORE_FOUND_INIT;
        struct error error = { .kind = ERROR_NONE };

        return store_find(store, domain, parent->name, &now, &error) == 0 &&
               !memcmp(now.manifest->uuid, parent->found.manifest->uuid, sizeof(now.manifest->uuid));
}

void image_parent_close(struct image_parent *parent) {
        store_found_deinit(&parent->found);
        *parent = (struct image_parent) IMAGE_PARENT_INIT;
}
