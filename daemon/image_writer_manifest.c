/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_manifest.h"

#include <inttypes.h>
#include <sys/utsname.h>

#include "common/manifest.h"
#include "common/sums.h"

static uint64_t zero_pages(const struct image_files *files) {
        uint64_t pages = 0;

        for (unsigned i = 0; i < files->n_regions; i++)
                pages += sums_pages(files->regions[i].bytes) - files->regions[i].pages_written;
        return pages;
}

static json_t *make_regions(const struct image_files *files, json_t *figures) {
        json_t *all = json_array();

        for (unsigned i = 0; i < files->n_regions; i++) {
                const struct image_region *region = &files->regions[i];
                json_t *made = json_pack("{s:s, s:I, s:o}", "name", region->name, "bytes", (json_int_t) region->bytes,
                                         "sums_digest", json_sprintf("%016" PRIx64, region->sums_digest));

                json_object_update_missing(made, json_array_get(json_object_get(figures, "regions"), i));
                json_array_append_new(all, made);
        }
        return all;
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
                         LIVESNAP_FORMAT_COMPATIBLE, "uuid", uuid, "hash", LIVESNAP_FORMAT_HASH, "page_bytes",
                         LIVESNAP_FORMAT_PAGE_BYTES, "kernel", kernel.release, "snapshot",
                         json_sprintf("%s/%s", facts->domain, facts->name), "created", facts->created, "uid",
                         (json_int_t) facts->uid, "regions", make_regions(files, figures), "duration_us",
                         (json_int_t) facts->duration_us, "pages_zero", (json_int_t) zero_pages(files), "bytes_written",
                         (json_int_t) facts->bytes_written);
        if (!made)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        take_over(made, figures, "created");
        take_over(made, figures, "kernel");
        if (figures && json_object_update_missing(made, figures) < 0) {
                json_decref(made);
                return error_set(error, ERROR_INTERNAL, "out of memory");
        }
        *ret = made;
        return 0;
}
