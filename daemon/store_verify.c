/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "common/delta.h"
#include "common/image.h"
#include "daemon/store_layers.h"

struct verification {
        struct store *store;
        const struct store_found *found; /* the layer that is being read; borrowed */
        uint64_t done, total;
        bool (*progress)(void *data, uint64_t done, uint64_t total);
        void *data;
};

static int tell(const struct verification *verification, uint64_t done, struct error *error) {
        if (!verification->progress(verification->data, done, verification->total))
                return error_set(error, ERROR_CANCELLED, "the verification was cancelled");
        return 0;
}

/*
 * What counts is what is on the disk: images are read with O_DIRECT, and what the cache holds of the rest goes first.
 * It is clean, for a snapshot is published after fsync.
 */
static int open_from_disk(const struct verification *verification, const char *region, const char *suffix, int flags,
                          struct error *error) {
        int fd = store_open_regular(verification->store, verification->found->directory, region, suffix, flags, error);

        if (fd >= 0)
                posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        return fd;
}

static bool delta_progress(void *data, uint64_t offset) {
        const struct verification *verification = data;

        return verification->progress(verification->data, verification->done + offset, verification->total);
}

static int verify_delta_region(struct verification *verification, unsigned index, struct error *error) {
        const struct manifest_region *region = &verification->found->manifest->regions[index];
        CLEANUP_CLOSE int pages = open_from_disk(verification, region->name, LIVESNAP_PAGES_SUFFIX, 0, error);
        CLEANUP_CLOSE int map = -1;

        if (pages < 0)
                return -1;
        map = open_from_disk(verification, region->name, LIVESNAP_MAP_SUFFIX, 0, error);
        if (map < 0 ||
            delta_verify(verification->found->manifest, index, pages, map, delta_progress, verification, error) < 0)
                return -1;
        verification->done += region->bytes;
        return tell(verification, verification->done, error);
}

static void image_reader_free_p(struct image_reader **reader) {
        image_reader_free(*reader);
}

static int verify_region(struct verification *verification, unsigned index, struct error *error) {
        const struct manifest_region *region = &verification->found->manifest->regions[index];
        CLEANUP(image_reader_free_p) struct image_reader *reader = NULL;
        CLEANUP_CLOSE int image = -1;
        CLEANUP_CLOSE int sums = -1;
        struct image_chunk chunk;
        int r;

        image = open_from_disk(verification, region->name, LIVESNAP_IMAGE_SUFFIX, O_DIRECT, error);
        if (image < 0)
                return -1;
        sums = open_from_disk(verification, region->name, LIVESNAP_SUMS_SUFFIX, 0, error);
        if (sums < 0 || image_reader_new(verification->found->manifest, index, image, sums, &reader, error) < 0)
                return -1;
        while ((r = image_reader_next(reader, &chunk, error)) > 0)
                if (tell(verification, verification->done + chunk.offset + chunk.bytes, error) < 0)
                        return -1;
        verification->done += region->bytes;
        return r < 0 ? -1 : tell(verification, verification->done, error);
}

static int verify_layer(struct verification *verification, struct error *error) {
        const struct manifest *manifest = verification->found->manifest;

        for (unsigned i = 0; i < manifest->n_regions; i++)
                if ((manifest->delta ? verify_delta_region : verify_region)(verification, i, error) < 0)
                        return -1;
        return 0;
}

/* What a delta builds on is part of what it holds. */
static int verify(struct verification *verification, const struct store_layers *layers, struct error *error) {
        for (unsigned i = 0; i < layers->n; i++)
                for (unsigned j = 0; j < layers->items[i].manifest->n_regions; j++)
                        verification->total += layers->items[i].manifest->regions[j].bytes;
        if (tell(verification, 0, error) < 0)
                return -1;
        for (unsigned i = 0; i < layers->n; i++) {
                struct error inner = { .kind = ERROR_NONE };

                verification->found = &layers->items[i];
                if (verify_layer(verification, i ? &inner : error) == 0)
                        continue;
                if (i)
                        error_set(error, inner.kind, "it builds on %s: %s", layers->items[i - 1].manifest->parent.name,
                                  inner.message);
                return -1;
        }
        return 0;
}

int store_verify(struct store *store, const char *domain, const char *name, uint32_t uid,
                 bool (*progress)(void *data, uint64_t done, uint64_t total), void *data, struct error *error) {
        struct verification verification = { .store = store, .progress = progress, .data = data };
        CLEANUP_STORE_READER struct store_reader reader = { 0 };
        CLEANUP(store_layers_close) struct store_layers layers = { 0 };
        struct error inner = { .kind = ERROR_NONE };

        store_reader_begin(store, domain, &reader);
        if (store_layers_open(store, domain, name, uid, "verify", &layers, error) < 0)
                return -1;
        /* Messages about files do not know whose they are. */
        if (verify(&verification, &layers, &inner) < 0)
                return error_set(error, inner.kind, "snapshot %s/%s: %s", domain, name, inner.message);
        return 0;
}
