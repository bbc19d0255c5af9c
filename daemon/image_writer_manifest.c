/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/utsname.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/manifest.h"

static json_t *make_regions(const struct image_files *files, json_t *figures) {
        json_t *all = json_array();

        for (unsigned i = 0; i < files->n_regions; i++) {
                const struct image_region *region = &files->regions[i];
                json_t *made = json_pack("{s:s, s:I}", "name", region->name, "bytes", (json_int_t) region->bytes);

                if (files->delta) {
                        json_object_set_new(made, "map_digest", json_sprintf("%016" PRIx64, region->map_digest));
                        json_object_set_new(made, "pages", json_integer((json_int_t) region->n_entries));
                        json_object_set_new(made, "pages_stored", json_integer((json_int_t) region->pages_stored));
                } else {
                        json_object_set_new(made, "sums_digest", json_sprintf("%016" PRIx64, region->sums_digest));
                }
                json_object_update_missing(made, json_array_get(json_object_get(figures, "regions"), i));
                json_array_append_new(all, made);
        }
        return all;
}

/*
 * What the snapshot holds, in one number: the same digests on the same parent are the same content. Children of a delta
 * that is made whole know it again by this.
 */
static uint64_t make_content(const struct image_files *files) {
        const struct manifest *parent = files->parent.name ? files->parent.found.manifest : NULL;
        CLEANUP_FREE char *text = NULL;
        size_t bytes = 0;
        FILE *stream = open_memstream(&text, &bytes);

        if (!stream)
                return 0;
        fwrite(files->uuid, sizeof(files->uuid), 1, stream);
        fprintf(stream, " %016" PRIx64, parent ? parent->content : 0);
        for (unsigned i = 0; i < files->n_regions; i++)
                fprintf(stream, " %s %" PRIu64 " %016" PRIx64, files->regions[i].name, files->regions[i].bytes,
                        files->delta ? files->regions[i].map_digest : files->regions[i].sums_digest);
        fclose(stream);
        return checksum_bytes(text, bytes);
}

static json_t *make_parent(const struct image_files *files) {
        const struct manifest *parent = files->parent.found.manifest;
        char uuid[MANIFEST_UUID_CHARS + 1];

        manifest_uuid_format(parent->uuid, uuid);
        return json_pack("{s:s, s:s, s:o, s:i}", "name", files->parent.name, "uuid", uuid, "content",
                         json_sprintf("%016" PRIx64, parent->content), "depth",
                         files->delta ? (int) files->parent.depth : 0);
}

/* Where both know a member the capture is right about these: it saw the cut. */
static void take_over(json_t *made, json_t *figures, const char *member) {
        json_t *value = json_object_get(figures, member);

        if (value)
                json_object_set(made, member, value);
}

int image_manifest_make(const struct image_files *files, const struct image_facts *facts, json_t *figures, json_t **ret,
                        struct error *error) {
        char uuid[MANIFEST_UUID_CHARS + 1];
        struct utsname kernel;
        json_t *made;

        manifest_uuid_format(files->uuid, uuid);
        uname(&kernel);
        made = json_pack("{s:s, s:i, s:i, s:s, s:s, s:i, s:s, s:o, s:f, s:I, s:o, s:I, s:I, s:I}", "format",
                         LIVESNAP_MANIFEST_FORMAT, "version", LIVESNAP_FORMAT_VERSION, "compatible",
                         files->delta ? LIVESNAP_FORMAT_COMPATIBLE_DELTA : LIVESNAP_FORMAT_COMPATIBLE, "uuid", uuid,
                         "hash", LIVESNAP_FORMAT_HASH, "page_bytes", LIVESNAP_FORMAT_PAGE_BYTES, "kernel",
                         kernel.release, "snapshot", json_sprintf("%s/%s", facts->domain, facts->name), "created",
                         facts->created, "uid", (json_int_t) facts->uid, "regions", make_regions(files, figures),
                         "duration_us", (json_int_t) facts->duration_us, "pages_zero", (json_int_t) files->pages_zero,
                         "bytes_written", (json_int_t) facts->bytes_written);
        if (!made)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        json_object_set_new(made, "content", json_sprintf("%016" PRIx64, make_content(files)));
        json_object_set_new(made, "kind", json_string(files->parent.name ? "increment" : "full"));
        if (files->parent.name)
                json_object_set_new(made, "parent", make_parent(files));
        if (files->delta)
                json_object_set_new(made, "delta", json_true());
        take_over(made, figures, "created");
        take_over(made, figures, "kernel");
        if (figures && json_object_update_missing(made, figures) < 0) {
                json_decref(made);
                return error_set(error, ERROR_INTERNAL, "out of memory");
        }
        *ret = made;
        return 0;
}
