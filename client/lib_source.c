/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "client/lib_error.h"
#include "client/lib_reply.h"
#include "client/lib_snapshot.h"
#include "common/cleanup.h"

#define OPEN_ATTEMPTS 5

void source_close(struct source *source) {
        for (unsigned i = 0; i < source->n_layers; i++) {
                cleanup_close_p(&source->layers[i].image);
                cleanup_close_p(&source->layers[i].sums);
                manifest_free(source->layers[i].manifest);
        }
        source->n_layers = 0;
}

static int take_fd(struct livesnap_reply *reply, const json_t *object, const char *key, int *ret) {
        uint64_t index;
        int fd;

        if (json_get_u64(object, key, &index) < 0)
                return -1;
        fd = livesnap_reply_take_fd(reply, index);
        if (fd < 0)
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd's reply has no descriptor for '%s'", key);
        *ret = fd;
        return 0;
}

static int find_region(struct source_layer *layer, const char *region) {
        for (unsigned i = 0; i < layer->manifest->n_regions; i++)
                if (!strcmp(layer->manifest->regions[i].name, region)) {
                        layer->region = i;
                        return 0;
                }
        return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "the manifest does not know region '%s'", region);
}

/* Past the page cache, which a restore would only fill with what is read once. Where it is refused, through it. */
static void bypass_page_cache(int fd) {
        int flags = fcntl(fd, F_GETFL);

        if (flags >= 0)
                (void) fcntl(fd, F_SETFL, flags | O_DIRECT);
}

static int read_opened(struct livesnap_reply *reply, const char *region, struct source_layer *ret) {
        CLEANUP_CLOSE int manifest = -1;
        const json_t *regions = json_object_get(reply->parameters, "regions");
        const json_t *entry = json_array_get(regions, 0);
        struct error error = { 0 };

        if (json_array_size(regions) != 1)
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd opened %zu regions instead of one",
                                json_array_size(regions));
        if (take_fd(reply, reply->parameters, "manifest", &manifest) < 0 ||
            take_fd(reply, entry, "image", &ret->image) < 0 || take_fd(reply, entry, "sums", &ret->sums) < 0)
                return -1;
        if (manifest_read(manifest, &ret->manifest, &error) < 0)
                return lib_fail_error(&error);
        /* The pages of a delta are few and lie together: there the cache's read-ahead is of use. */
        if (!ret->manifest->delta)
                bypass_page_cache(ret->image);
        return find_region(ret, region);
}

static int open_layer(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                      struct source_layer *ret) {
        json_t *parameters = json_pack("{s:s, s:s, s:s}", "domain", domain, "name", name, "region", region);
        struct livesnap_reply *reply;
        int r;

        if (!parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        r = connection_call(livesnap, "OpenSnapshot", parameters, NULL, 0, NULL, &reply);
        json_decref(parameters);
        if (r < 0)
                return -1;
        r = read_opened(reply, region, ret);
        livesnap_reply_free(reply);
        return r;
}

static int open_layers(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                       struct source *ret) {
        const struct manifest *manifest;

        ret->n_layers = 0;
        do {
                struct source_layer *layer = &ret->layers[ret->n_layers];

                if (ret->n_layers == CHAIN_LAYERS_MAX)
                        return lib_fail(error_name(ERROR_SNAPSHOT_CORRUPT),
                                        "snapshot '%s/%s' builds on more than %d others", domain, name,
                                        LIVESNAP_FORMAT_DEPTH_MAX);
                *layer = (struct source_layer){ .image = -1, .sums = -1 };
                ret->n_layers++;
                if (open_layer(livesnap, domain, name, region, layer) < 0)
                        return -1;
                manifest = layer->manifest;
                name = manifest->parent.name;
        } while (manifest->delta);
        ret->bytes = ret->layers[0].manifest->regions[ret->layers[0].region].bytes;
        return 0;
}

/*
 * Layer by layer. A parent cannot be deleted before its children. If one of them is made whole meanwhile the others are
 * still what they were, but a parent may be gone then: once more from the start, where it is not needed any more. That
 * the layers belong to each other is seen by the reader.
 */
int source_open(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                struct source *ret) {
        for (unsigned attempt = 1;; attempt++) {
                int r = open_layers(livesnap, domain, name, region, ret);

                if (r == 0 || ret->n_layers < 2 || attempt == OPEN_ATTEMPTS ||
                    strcmp(livesnap_get_error_name(), error_name(ERROR_NO_SUCH_SNAPSHOT)) != 0)
                        return r;
                source_close(ret);
        }
}

static int report(struct restore_progress *progress, uint64_t bytes_done) {
        const struct livesnap_restore_callback *callback = progress->callback;

        if (callback && callback->function(callback->data, bytes_done, progress->bytes_total))
                return lib_fail(error_name(ERROR_CANCELLED), "the restore was cancelled");
        return 0;
}

static uint64_t min_u64(uint64_t a, uint64_t b) {
        return a < b ? a : b;
}

/* A chunk as runs of pages that are zero and that are not. */
static int copy_chunk(const struct image_chunk *chunk, struct sink *sink, struct restore_progress *progress) {
        for (uint32_t page = 0, next; page < chunk->pages; page = next) {
                bool zero = chunk->sums[page] == 0;
                uint64_t from = (uint64_t) page * LIVESNAP_FORMAT_PAGE_BYTES, bytes;
                int r;

                for (next = page + 1; next < chunk->pages && (chunk->sums[next] == 0) == zero;)
                        next++;
                bytes = min_u64((uint64_t) next * LIVESNAP_FORMAT_PAGE_BYTES, chunk->bytes) - from;
                if (zero)
                        r = sink->zero(sink, chunk->offset + from, bytes);
                else
                        r = sink->write(sink, chunk->offset + from, chunk->data + from, (size_t) bytes);
                if (r < 0)
                        return -1;
                progress->bytes_data += zero ? 0 : bytes;
        }
        return 0;
}

static int copy_chunks(struct chain_reader *reader, const struct source *source, struct sink *sink,
                       struct restore_progress *progress) {
        struct image_chunk chunk;
        struct error error = { 0 };
        uint64_t position = 0;
        int r;

        while ((r = chain_reader_next(reader, &chunk, &error)) > 0) {
                if (chunk.offset > position && sink->zero(sink, position, chunk.offset - position) < 0)
                        return -1;
                if (copy_chunk(&chunk, sink, progress) < 0)
                        return -1;
                position = chunk.offset + chunk.bytes;
                if (report(progress, progress->bytes_done + position) < 0)
                        return -1;
        }
        if (r < 0)
                return lib_fail_error(&error);
        if (source->bytes > position && sink->zero(sink, position, source->bytes - position) < 0)
                return -1;
        progress->bytes_done += source->bytes;
        return report(progress, progress->bytes_done);
}

int source_read(const struct source *source, bool only_sums, struct chain_reader **ret) {
        struct chain_layer layers[CHAIN_LAYERS_MAX];
        struct error error = { 0 };

        for (unsigned i = 0; i < source->n_layers; i++)
                layers[i] = (struct chain_layer){ source->layers[i].manifest, source->layers[i].region,
                                                  source->layers[i].image, source->layers[i].sums };
        if (chain_reader_new(layers, source->n_layers, only_sums, ret, &error) < 0)
                return lib_fail_error(&error);
        return 0;
}

int source_copy(const struct source *source, struct sink *sink, struct restore_progress *progress) {
        struct chain_reader *reader;
        int r;

        if (source_read(source, false, &reader) < 0)
                return -1;
        r = copy_chunks(reader, source, sink, progress);
        chain_reader_free(reader);
        return r;
}

int source_show(struct livesnap *livesnap, const char *domain, const char *name, struct livesnap_snapshot **ret) {
        json_t *parameters = json_pack("{s:s, s:s}", "domain", domain, "name", name);
        struct livesnap_reply *reply;
        int r;

        if (!parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "names must be UTF-8");
        r = connection_call(livesnap, "ShowSnapshot", parameters, NULL, 0, NULL, &reply);
        json_decref(parameters);
        if (r < 0)
                return -1;
        r = snapshot_new(json_object_get(reply->parameters, "snapshot"), ret);
        livesnap_reply_free(reply);
        return r;
}
