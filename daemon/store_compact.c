/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/sums.h"
#include "daemon/image_drain.h"
#include "daemon/store_layers.h"

/*
 * Making a delta whole. Its chain is read through once, in order, as a restore does it, with each page compared with
 * its checksum; what comes out goes by the drain of the image writer into new files in the work directory, whose sums
 * are computed anew from the bytes that are written. Then the directories are exchanged.
 *
 * uuid and content stay what they were, and by these its children know it. All on one thread: while the disk writes
 * some chunks it reads others ahead.
 */

#define BUFFERS 4u

struct compaction {
        struct store *store;
        const struct store_progress *progress;
        uint64_t done, total;
        const struct manifest *manifest; /* of the delta; borrowed */
        struct image_files files;
        struct image_drain drain;
        struct chunk chunks[BUFFERS];
        struct chunk_list unused;
        atomic_bool failed;
        struct error *error; /* the first failure */
};

static void release(void *data, struct chunk *chunk) {
        struct compaction *compaction = data;

        STAILQ_INSERT_HEAD(&compaction->unused, chunk, link);
}

static void fail(void *data, const struct error *error) {
        struct compaction *compaction = data;

        if (compaction->error->kind == ERROR_NONE)
                *compaction->error = *error;
        compaction->failed = true;
}

static int tell(struct compaction *compaction, uint64_t done) {
        const struct store_progress *progress = compaction->progress;

        if (progress->progress(progress->data, done, compaction->total))
                return 0;
        return error_set(compaction->error, ERROR_CANCELLED, "making it whole was cancelled");
}

/* A buffer that is free, or NULL after a failure. */
static struct chunk *get_buffer(struct compaction *compaction) {
        struct chunk *chunk;

        image_drain_push(&compaction->drain);
        while (!compaction->failed && (STAILQ_EMPTY(&compaction->unused) || image_drain_is_full(&compaction->drain))) {
                image_drain_reap(&compaction->drain, -1);
                image_drain_push(&compaction->drain);
        }
        if (compaction->failed)
                return NULL;
        chunk = STAILQ_FIRST(&compaction->unused);
        STAILQ_REMOVE_HEAD(&compaction->unused, link);
        return chunk;
}

static int write_chunk(struct compaction *compaction, unsigned region, const struct image_chunk *read) {
        struct chunk *chunk = get_buffer(compaction);

        if (!chunk)
                return -1;
        chunk->region = region;
        chunk->bytes = read->bytes;
        chunk->index = read->offset / CHUNK_BYTES;
        chunk->n_pages = 0;
        memcpy(chunk->data, read->data, (size_t) read->pages * CHUNK_PAGE_BYTES);
        (void) image_drain_start(&compaction->drain, chunk);
        image_drain_push(&compaction->drain);
        return compaction->failed ? -1 : 0;
}

static int fold_region(struct compaction *compaction, const struct store_layers *layers, unsigned region) {
        int fds[2 * CHAIN_LAYERS_MAX], r;
        struct chain_reader *reader = NULL;
        struct image_chunk chunk;

        r = store_layers_read(compaction->store, layers, region, false, fds, &reader, compaction->error);
        while (r == 0 && (r = chain_reader_next(reader, &chunk, compaction->error)) > 0) {
                r = write_chunk(compaction, region, &chunk);
                if (r == 0)
                        r = tell(compaction, compaction->done + chunk.offset + chunk.bytes);
        }
        chain_reader_free(reader);
        store_layers_close_fds(fds);
        if (r < 0)
                return -1;
        compaction->done += compaction->manifest->regions[region].bytes;
        return tell(compaction, compaction->done);
}

static int fold_regions(struct compaction *compaction, const struct store_layers *layers) {
        int r = tell(compaction, 0);

        for (unsigned i = 0; i < compaction->manifest->n_regions && r == 0; i++)
                r = fold_region(compaction, layers, i);
        image_drain_finish(&compaction->drain);
        return r < 0 || compaction->failed ? -1 : 0;
}

/* The same snapshot, but a full one: what there was to say of how it was taken stays. */
static json_t *whole_members(const struct compaction *compaction) {
        static const char *const gone[] = { "delta", "parent", "checksum" };
        static const char *const gone_of_region[] = { "map_digest", "pages", "pages_stored" };
        json_t *members = json_deep_copy(compaction->manifest->json);
        json_t *regions = json_object_get(members, "regions");

        for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++)
                json_object_del(members, gone[i]);
        for (unsigned i = 0; i < compaction->files.n_regions; i++) {
                json_t *region = json_array_get(regions, i);

                for (size_t j = 0; j < sizeof(gone_of_region) / sizeof(gone_of_region[0]); j++)
                        json_object_del(region, gone_of_region[j]);
                json_object_set_new(region, "sums_digest",
                                    json_sprintf("%016" PRIx64, compaction->files.regions[i].sums_digest));
        }
        json_object_set_new(members, "kind", json_string("full"));
        json_object_set_new(members, "version", json_integer(LIVESNAP_FORMAT_VERSION));
        json_object_set_new(members, "compatible", json_integer(LIVESNAP_FORMAT_COMPATIBLE));
        json_object_set_new(members, "pages_zero", json_integer((json_int_t) compaction->files.pages_zero));
        return members;
}

static int write_manifest(struct compaction *compaction) {
        CLEANUP_FREE char *text = NULL;
        json_t *members = whole_members(compaction);
        size_t bytes;
        int r;

        if (!members)
                return error_set(compaction->error, ERROR_INTERNAL, "out of memory");
        r = manifest_render(members, &text, &bytes, compaction->error);
        json_decref(members);
        return r < 0 ? -1 : image_files_write_manifest(&compaction->files, text, bytes, compaction->error);
}

static int publish(struct compaction *compaction, const char *domain, const char *name, bool *ret_folded) {
        struct image_files *files = &compaction->files;

        if (image_files_settle(files, &compaction->drain.io, compaction->error) < 0 || write_manifest(compaction) < 0 ||
            store_replace(compaction->store, files->work_name, domain, name, compaction->manifest, ret_folded,
                          compaction->error) < 0)
                return -1;
        if (*ret_folded)
                image_files_forget(files);
        return 0;
}

static int prepare_files(struct compaction *compaction) {
        const struct manifest *manifest = compaction->manifest;
        struct image_writer_region *regions = calloc(manifest->n_regions + 1, sizeof(*regions));
        int r;

        if (!regions)
                return error_set(compaction->error, ERROR_INTERNAL, "out of memory");
        for (unsigned i = 0; i < manifest->n_regions; i++)
                regions[i] = (struct image_writer_region){ manifest->regions[i].name, manifest->regions[i].bytes };
        r = image_files_init(&compaction->files, compaction->store, manifest->n_regions, regions, compaction->error);
        free(regions);
        if (r < 0)
                return -1;
        memcpy(compaction->files.uuid, manifest->uuid, sizeof(manifest->uuid));
        return image_files_create(&compaction->files, compaction->error);
}

static int prepare_buffers(struct compaction *compaction) {
        STAILQ_INIT(&compaction->unused);
        for (unsigned i = 0; i < BUFFERS; i++) {
                compaction->chunks[i].data = aligned_alloc(CHUNK_PAGE_BYTES, CHUNK_BYTES);
                if (!compaction->chunks[i].data)
                        return error_set(compaction->error, ERROR_INTERNAL, "out of memory");
                STAILQ_INSERT_HEAD(&compaction->unused, &compaction->chunks[i], link);
        }
        return 0;
}

static int fold(struct compaction *compaction, const struct store_layers *layers, const char *domain, const char *name,
                bool *ret_folded) {
        const struct image_drain_spec spec = { &compaction->files, &compaction->failed, release, fail, compaction };
        int r = prepare_files(compaction);

        if (r == 0)
                r = prepare_buffers(compaction);
        if (r == 0) {
                image_drain_init(&compaction->drain, &spec);
                r = fold_regions(compaction, layers);
                if (r == 0)
                        r = publish(compaction, domain, name, ret_folded);
                image_drain_deinit(&compaction->drain);
        }
        for (unsigned i = 0; i < BUFFERS; i++)
                free(compaction->chunks[i].data);
        image_files_deinit(&compaction->files);
        return r;
}

int store_compact(struct store *store, const char *domain, const char *name, uint32_t uid,
                  const struct store_progress *progress, bool *ret_folded, struct error *error) {
        CLEANUP_STORE_READER struct store_reader reader = { 0 };
        CLEANUP(store_layers_close) struct store_layers layers = { 0 };
        CLEANUP_FREE struct compaction *compaction = calloc(1, sizeof(*compaction));
        struct error inner = { .kind = ERROR_NONE };
        bool folded = false;

        if (!compaction)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        store_reader_begin(store, domain, &reader);
        if (store_layers_open(store, domain, name, uid, "compact", &layers, error) < 0)
                return -1;
        compaction->store = store;
        compaction->progress = progress;
        compaction->manifest = layers.items[0].manifest;
        compaction->error = &inner;
        compaction->files = (struct image_files){ .directory = -1, .parent = IMAGE_PARENT_INIT };
        for (unsigned i = 0; i < compaction->manifest->n_regions; i++)
                compaction->total += compaction->manifest->regions[i].bytes;
        /* Messages about files do not know whose they are. */
        if (compaction->manifest->delta && fold(compaction, &layers, domain, name, &folded) < 0)
                return error_set(error, inner.kind, "snapshot %s/%s is not made whole: %s", domain, name,
                                 inner.message);
        *ret_folded = folded;
        return 0;
}
