/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "common/image.h"
#include "daemon/store_find.h"

struct verification {
        struct store *store;
        struct store_found found;
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
        int fd = store_open_regular(verification->store, verification->found.directory, region, suffix, flags, error);

        if (fd >= 0)
                posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        return fd;
}

static void image_reader_free_p(struct image_reader **reader) {
        image_reader_free(*reader);
}

static int verify_region(struct verification *verification, unsigned index, struct error *error) {
        const struct manifest_region *region = &verification->found.manifest->regions[index];
        CLEANUP(image_reader_free_p) struct image_reader *reader = NULL;
        CLEANUP_CLOSE int image = -1;
        CLEANUP_CLOSE int sums = -1;
        struct image_chunk chunk;
        int r;

        image = open_from_disk(verification, region->name, LIVESNAP_IMAGE_SUFFIX, O_DIRECT, error);
        if (image < 0)
                return -1;
        sums = open_from_disk(verification, region->name, LIVESNAP_SUMS_SUFFIX, 0, error);
        if (sums < 0 || image_reader_new(verification->found.manifest, index, image, sums, &reader, error) < 0)
                return -1;
        while ((r = image_reader_next(reader, &chunk, error)) > 0)
                if (tell(verification, verification->done + chunk.offset + chunk.bytes, error) < 0)
                        return -1;
        verification->done += region->bytes;
        return r < 0 ? -1 : tell(verification, verification->done, error);
}

static int verify(struct verification *verification, struct error *error) {
        const struct manifest *manifest = verification->found.manifest;

        for (unsigned i = 0; i < manifest->n_regions; i++)
                verification->total += manifest->regions[i].bytes;
        if (tell(verification, 0, error) < 0)
                return -1;
        for (unsigned i = 0; i < manifest->n_regions; i++)
                if (verify_region(verification, i, error) < 0)
                        return -1;
        return 0;
}

int store_verify(struct store *store, const char *domain, const char *name, uint32_t uid,
                 bool (*progress)(void *data, uint64_t done, uint64_t total), void *data, struct error *error) {
        struct verification verification = {
                .store = store, .found = STORE_FOUND_INIT, .progress = progress, .data = data
        };
        struct error inner = { .kind = ERROR_NONE };
        int r = store_find_for(store, domain, name, uid, "verify", &verification.found, error);

        /* Messages about files do not know whose they are. */
        if (r == 0 && verify(&verification, &inner) < 0)
                r = error_set(error, inner.kind, "snapshot %s/%s: %s", domain, name, inner.message);
        store_found_deinit(&verification.found);
        return r;
}
