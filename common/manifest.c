/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/name.h"

#define TAIL_BYTES (sizeof(LIVESNAP_MANIFEST_TAIL) - 1)
#define DIGEST_CHARS 16
#define DIGEST_BEFORE_END (DIGEST_CHARS + sizeof("\"\n}\n") - 1) /* where in the tail the digits start */

enum member_type {
        MEMBER_STRING,
        MEMBER_COUNT, /* an integer that is not negative */
        MEMBER_NUMBER,
        MEMBER_OBJECT,
        MEMBER_ARRAY,
};

struct member {
        const char *name;
        enum member_type type;
};

/* Members that the manifest shares with the type Snapshot, in its order; regions are made anew with their paths. */
static const struct member snapshot_members[] = {
        { "snapshot", MEMBER_STRING },   { "created", MEMBER_NUMBER },     { "uid", MEMBER_COUNT },
        { "guarantee", MEMBER_STRING },  { "regions", MEMBER_ARRAY },      { "arm_us", MEMBER_COUNT },
        { "hold_us", MEMBER_COUNT },     { "duration_us", MEMBER_COUNT },  { "pages_fault", MEMBER_COUNT },
        { "pages_sweep", MEMBER_COUNT }, { "pages_zero", MEMBER_COUNT },   { "bytes_written", MEMBER_COUNT },
        { "fault_us", MEMBER_OBJECT },   { "throttled_us", MEMBER_COUNT }, { "pool_peak_bytes", MEMBER_COUNT },
        { "warnings", MEMBER_ARRAY },
};

static const struct member own_members[] = {
        { "format", MEMBER_STRING }, { "version", MEMBER_COUNT }, { "compatible", MEMBER_COUNT },
        { "uuid", MEMBER_STRING },   { "hash", MEMBER_STRING },   { "page_bytes", MEMBER_COUNT },
        { "kernel", MEMBER_STRING },
};

static const struct member region_members[] = {
        { "name", MEMBER_STRING },
        { "bytes", MEMBER_COUNT },
        { "mappings", MEMBER_COUNT },
};

static const struct member whole_members[] = {
        { "sums_digest", MEMBER_STRING },
};

static const struct member delta_members[] = {
        { "map_digest", MEMBER_STRING },
        { "pages", MEMBER_COUNT },
        { "pages_stored", MEMBER_COUNT },
};

static const struct member parent_members[] = {
        { "name", MEMBER_STRING },
        { "uuid", MEMBER_STRING },
        { "content", MEMBER_STRING },
        { "depth", MEMBER_COUNT },
};

/* Members of the type Snapshot that may be absent, also from manifests of today. */
static const struct member optional_members[] = {
        { "kind", MEMBER_STRING },        { "tracking", MEMBER_STRING }, { "full_reason", MEMBER_STRING },
        { "pages_dirty", MEMBER_COUNT },  { "rounds", MEMBER_COUNT },    { "pause_us", MEMBER_COUNT },
        { "pages_paused", MEMBER_COUNT },
};

static const struct member fault_members[] = {
        { "p50", MEMBER_NUMBER },
        { "p99", MEMBER_NUMBER },
        { "p999", MEMBER_NUMBER },
        { "max", MEMBER_NUMBER },
};

#define ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))

static bool member_fits(const json_t *value, enum member_type type) {
        switch (type) {
        case MEMBER_STRING:
                return json_is_string(value);
        case MEMBER_COUNT:
                return json_is_integer(value) && json_integer_value(value) >= 0;
        case MEMBER_NUMBER:
                return json_is_number(value);
        case MEMBER_OBJECT:
                return json_is_object(value);
        case MEMBER_ARRAY:
                return json_is_array(value);
        }
        return false;
}

static int members_check(const json_t *object, const char *where, const struct member *members, size_t n_members,
                         struct error *error) {
        if (!json_is_object(object))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: %s is not an object", where);
        for (size_t i = 0; i < n_members; i++)
                if (!member_fits(json_object_get(object, members[i].name), members[i].type))
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "the manifest is damaged: member '%s' of %s is missing or of the wrong type",
                                         members[i].name, where);
        return 0;
}

void manifest_uuid_format(const uint8_t uuid[16], char ret[MANIFEST_UUID_CHARS + 1]) {
        snprintf(ret, MANIFEST_UUID_CHARS + 1, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                 uuid[0], uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8], uuid[9], uuid[10],
                 uuid[11], uuid[12], uuid[13], uuid[14], uuid[15]);
}

static bool uuid_parse(const char *text, uint8_t ret[16]) {
        char again[MANIFEST_UUID_CHARS + 1];

        if (strlen(text) != MANIFEST_UUID_CHARS)
                return false;
        for (size_t i = 0, at = 0; i < 16; i++, at += 2) {
                at += text[at] == '-';
                if (sscanf(text + at, "%2hhx", &ret[i]) != 1)
                        return false;
        }
        manifest_uuid_format(ret, again);
        return !strcmp(text, again);
}

static bool digest_parse(const char *text, uint64_t *ret) {
        char *end;

        if (strlen(text) != DIGEST_CHARS || strspn(text, "0123456789abcdef") != DIGEST_CHARS)
                return false;
        *ret = strtoull(text, &end, 16);
        return true;
}

/* The checksum of a manifest, whatever stands in the place of its digits. */
static void text_checksum(const char *text, size_t bytes, char ret[DIGEST_CHARS + 1]) {
        CLEANUP_FREE char *copy = malloc(bytes);

        ret[0] = '\0'; /* no memory: matches nothing */
        if (!copy)
                return;
        memcpy(copy, text, bytes);
        memset(copy + bytes - DIGEST_BEFORE_END, '0', DIGEST_CHARS);
        snprintf(ret, DIGEST_CHARS + 1, "%016" PRIx64, checksum_bytes(copy, bytes));
}

static int text_check(const char *text, size_t bytes, struct error *error) {
        char checksum[DIGEST_CHARS + 1];

        if (bytes < TAIL_BYTES ||
            memcmp(text + bytes - TAIL_BYTES, LIVESNAP_MANIFEST_TAIL, TAIL_BYTES - DIGEST_BEFORE_END) ||
            memcmp(text + bytes - strlen("\"\n}\n"), "\"\n}\n", strlen("\"\n}\n")))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: it does not end with its checksum");
        text_checksum(text, bytes, checksum);
        if (memcmp(text + bytes - DIGEST_BEFORE_END, checksum, DIGEST_CHARS))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: it does not match its checksum");
        return 0;
}

static int region_parse_whole(const json_t *object, struct manifest_region *ret, struct error *error) {
        if (members_check(object, "a region", whole_members, ELEMENTS(whole_members), error) < 0)
                return -1;
        if (!digest_parse(json_string_value(json_object_get(object, "sums_digest")), &ret->sums_digest))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: region '%s' has no digest of its checksums", ret->name);
        return 0;
}

static int region_parse_delta(const json_t *object, struct manifest_region *ret, struct error *error) {
        uint64_t pages = (ret->bytes + LIVESNAP_FORMAT_PAGE_BYTES - 1) / LIVESNAP_FORMAT_PAGE_BYTES;

        if (members_check(object, "a region", delta_members, ELEMENTS(delta_members), error) < 0)
                return -1;
        ret->n_pages = (uint64_t) json_integer_value(json_object_get(object, "pages"));
        ret->pages_stored = (uint64_t) json_integer_value(json_object_get(object, "pages_stored"));
        if (!digest_parse(json_string_value(json_object_get(object, "map_digest")), &ret->map_digest) ||
            ret->n_pages > pages || ret->pages_stored > LIVESNAP_FORMAT_REGION_BYTES_MAX)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: region '%s' has no map that could be", ret->name);
        return 0;
}

static int region_parse(const json_t *object, bool delta, struct manifest_region *ret, struct error *error) {
        if (members_check(object, "a region", region_members, ELEMENTS(region_members), error) < 0)
                return -1;
        ret->name = json_string_value(json_object_get(object, "name"));
        ret->bytes = (uint64_t) json_integer_value(json_object_get(object, "bytes"));
        if (!name_is_valid(ret->name))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: a region has a name that is not valid");
        if (ret->bytes > LIVESNAP_FORMAT_REGION_BYTES_MAX)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: region '%s' is too large",
                                 ret->name);
        return (delta ? region_parse_delta : region_parse_whole)(object, ret, error);
}

static int regions_parse(struct manifest *manifest, struct error *error) {
        json_t *regions = json_object_get(manifest->json, "regions");
        size_t n_regions = json_array_size(regions);

        if (n_regions > LIVESNAP_FORMAT_REGIONS_MAX)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: it has %zu regions, and %d are allowed", n_regions,
                                 LIVESNAP_FORMAT_REGIONS_MAX);
        manifest->regions = calloc(n_regions ? n_regions : 1, sizeof(*manifest->regions));
        if (!manifest->regions)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        for (size_t i = 0; i < n_regions; i++) {
                if (region_parse(json_array_get(regions, i), manifest->delta, &manifest->regions[i], error) < 0)
                        return -1;
                for (size_t other = 0; other < i; other++)
                        if (!strcmp(manifest->regions[other].name, manifest->regions[i].name))
                                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                                 "the manifest is damaged: two regions are called '%s'",
                                                 manifest->regions[i].name);
                manifest->n_regions++;
        }
        return 0;
}

static int version_check(const json_t *json, struct error *error) {
        if (strcmp(json_string_value(json_object_get(json, "format")), LIVESNAP_MANIFEST_FORMAT))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "this is not the manifest of a snapshot of livesnap");
        if (json_integer_value(json_object_get(json, "compatible")) > LIVESNAP_FORMAT_VERSION)
                return error_set(error, ERROR_STORE_FAILED,
                                 "the snapshot has format version %" JSON_INTEGER_FORMAT
                                 " and this livesnap knows %d: use a newer livesnap",
                                 json_integer_value(json_object_get(json, "version")), LIVESNAP_FORMAT_VERSION);
        if (strcmp(json_string_value(json_object_get(json, "hash")), LIVESNAP_FORMAT_HASH) ||
            json_integer_value(json_object_get(json, "page_bytes")) != LIVESNAP_FORMAT_PAGE_BYTES)
                return error_set(
                        error, ERROR_STORE_FAILED,
                        "the snapshot has checksums of a kind that this livesnap does not know: use a newer one");
        return 0;
}

static bool guarantee_is_known(const char *guarantee) {
        return !strcmp(guarantee, "sealed") || !strcmp(guarantee, "exclusive") || !strcmp(guarantee, "advisory");
}

static int optional_check(const json_t *json, struct error *error) {
        for (size_t i = 0; i < ELEMENTS(optional_members); i++) {
                const json_t *value = json_object_get(json, optional_members[i].name);

                if (value && !member_fits(value, optional_members[i].type))
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "the manifest is damaged: member '%s' is of the wrong type",
                                         optional_members[i].name);
        }
        return 0;
}

/* What an increment builds on, and what it is called by those that build on it. */
static int parent_parse(struct manifest *manifest, struct error *error) {
        const json_t *json = manifest->json, *object = json_object_get(json, "parent");
        const json_t *content = json_object_get(json, "content");
        struct manifest_parent *parent = &manifest->parent;
        json_int_t depth;

        manifest->delta = json_is_true(json_object_get(json, "delta"));
        if (content && (!json_is_string(content) || !digest_parse(json_string_value(content), &manifest->content)))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: its content is none");
        if (!object) {
                if (manifest->delta)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "the manifest is damaged: it is of a delta, and has no parent");
                return 0;
        }
        if (members_check(object, "the parent", parent_members, ELEMENTS(parent_members), error) < 0)
                return -1;
        parent->name = json_string_value(json_object_get(object, "name"));
        depth = json_integer_value(json_object_get(object, "depth"));
        if (!name_is_valid(parent->name) || depth > LIVESNAP_FORMAT_DEPTH_MAX ||
            !uuid_parse(json_string_value(json_object_get(object, "uuid")), parent->uuid) ||
            !digest_parse(json_string_value(json_object_get(object, "content")), &parent->content))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: its parent is none");
        parent->depth = (uint32_t) depth;
        return 0;
}

static int object_parse(struct manifest *manifest, struct error *error) {
        const json_t *json = manifest->json, *warnings;
        json_int_t uid;

        if (members_check(json, "the manifest", own_members, ELEMENTS(own_members), error) < 0 ||
            version_check(json, error) < 0 ||
            members_check(json, "the manifest", snapshot_members, ELEMENTS(snapshot_members), error) < 0 ||
            members_check(json_object_get(json, "fault_us"), "fault_us", fault_members, ELEMENTS(fault_members),
                          error) < 0)
                return -1;

        warnings = json_object_get(json, "warnings");
        for (size_t i = 0; i < json_array_size(warnings); i++)
                if (!json_is_string(json_array_get(warnings, i)))
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "the manifest is damaged: a warning is not a string");
        if (!guarantee_is_known(json_string_value(json_object_get(json, "guarantee"))))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: its guarantee is none we know");
        if (!uuid_parse(json_string_value(json_object_get(json, "uuid")), manifest->uuid))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: its uuid is none");
        uid = json_integer_value(json_object_get(json, "uid"));
        if (uid > UINT32_MAX)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: its uid is none");
        manifest->uid = (uint32_t) uid;
        if (optional_check(json, error) < 0 || parent_parse(manifest, error) < 0)
                return -1;
        return regions_parse(manifest, error);
}

static void manifest_free_p(struct manifest **manifest) {
        manifest_free(*manifest);
}

int manifest_parse(const char *text, size_t bytes, struct manifest **ret, struct error *error) {
        CLEANUP(manifest_free_p) struct manifest *manifest = NULL;
        json_error_t json_error;

        if (text_check(text, bytes, error) < 0)
                return -1;
        manifest = calloc(1, sizeof(*manifest));
        if (!manifest)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        manifest->json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &json_error);
        if (!manifest->json)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: it is not JSON (line %d: %s)",
                                 json_error.line, json_error.text);
        if (!json_is_object(manifest->json))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the manifest is damaged: it is not a JSON object");
        if (object_parse(manifest, error) < 0)
                return -1;
        *ret = STEAL_PTR(manifest);
        return 0;
}

int manifest_render(const json_t *members, char **ret_text, size_t *ret_bytes, struct error *error) {
        CLEANUP_FREE char *dumped = json_dumps(members, JSON_INDENT(1));
        CLEANUP_FREE char *text = NULL;
        CLEANUP(manifest_free_p) struct manifest *manifest = NULL;
        struct error inner = { .kind = ERROR_NONE };
        char checksum[DIGEST_CHARS + 1];
        size_t length, bytes;

        if (!dumped)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        length = strlen(dumped) - strlen("\n}");
        bytes = length + TAIL_BYTES;
        if (bytes > LIVESNAP_MANIFEST_BYTES_MAX)
                return error_set(error, ERROR_LIMIT_EXCEEDED, "the manifest would have %zu bytes, and %d are allowed",
                                 bytes, LIVESNAP_MANIFEST_BYTES_MAX);
        text = malloc(bytes + 1);
        if (!text)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        memcpy(text, dumped, length);
        strcpy(text + length, LIVESNAP_MANIFEST_TAIL);
        text_checksum(text, bytes, checksum);
        memcpy(text + bytes - DIGEST_BEFORE_END, checksum, strlen(checksum));

        if (manifest_parse(text, bytes, &manifest, &inner) < 0)
                return error_set(error, ERROR_INTERNAL, "the manifest could not be read back: %s", inner.message);
        *ret_text = STEAL_PTR(text);
        *ret_bytes = bytes;
        return 0;
}

int manifest_read(int fd, struct manifest **ret, struct error *error) {
        CLEANUP_FREE char *text = NULL;
        struct stat status;
        size_t bytes = 0, size;
        ssize_t got;

        if (fstat(fd, &status) < 0)
                return error_set(error, ERROR_STORE_FAILED, "cannot look at the manifest: %s", strerror(errno));
        if (!S_ISREG(status.st_mode) || status.st_size > LIVESNAP_MANIFEST_BYTES_MAX)
                return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                 "the manifest is damaged: it is not a regular file of at most %d bytes",
                                 LIVESNAP_MANIFEST_BYTES_MAX);
        size = (size_t) status.st_size;
        text = malloc(size + 1);
        if (!text)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        while (bytes < size) {
                got = pread(fd, text + bytes, size - bytes, (off_t) bytes);
                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return error_set(error, ERROR_STORE_FAILED, "cannot read the manifest: %s", strerror(errno));
                if (got == 0)
                        break;
                bytes += (size_t) got;
        }
        return manifest_parse(text, bytes, ret, error);
}

void manifest_free(struct manifest *manifest) {
        if (!manifest)
                return;
        json_decref(manifest->json);
        free(manifest->regions);
        free(manifest);
}

static json_t *manifest_region_figures(const struct manifest *manifest, const char *directory) {
        json_t *figures = json_array(), *region;

        for (unsigned i = 0; i < manifest->n_regions; i++) {
                const char *name = manifest->regions[i].name;

                region = json_pack(
                        "{s:s, s:I, s:O, s:o}", "name", name, "bytes", (json_int_t) manifest->regions[i].bytes,
                        "mappings",
                        json_object_get(json_array_get(json_object_get(manifest->json, "regions"), i), "mappings"),
                        "path",
                        json_sprintf("%s/%s%s", directory, name,
                                     manifest->delta ? LIVESNAP_PAGES_SUFFIX : LIVESNAP_IMAGE_SUFFIX));
                if (json_array_append_new(figures, region) < 0) {
                        json_decref(figures);
                        return NULL;
                }
        }
        return figures;
}

json_t *manifest_snapshot(const struct manifest *manifest, const char *snapshot, const char *directory) {
        json_t *object = json_object(), *value;

        for (size_t i = 0; i < ELEMENTS(snapshot_members); i++) {
                const char *name = snapshot_members[i].name;

                if (!strcmp(name, "snapshot"))
                        value = json_string(snapshot);
                else if (!strcmp(name, "regions"))
                        value = manifest_region_figures(manifest, directory);
                else
                        value = json_incref(json_object_get(manifest->json, name));
                if (json_object_set_new(object, name, value) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        for (size_t i = 0; i < ELEMENTS(optional_members); i++) {
                json_t *optional = json_object_get(manifest->json, optional_members[i].name);

                if (optional)
                        json_object_set(object, optional_members[i].name, optional);
        }
        if (manifest->parent.name)
                json_object_set_new(object, "parent", json_string(manifest->parent.name));
        if (manifest->delta)
                json_object_set_new(object, "delta", json_true());
        return object;
}
