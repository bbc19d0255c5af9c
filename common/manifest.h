/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_MANIFEST_H
#define LIVESNAP_COMMON_MANIFEST_H

/*
 * manifest.json (<livesnap/format.h>): making one, and reading one from a file that may hold anything.
 *
 * What has been read satisfies the type Snapshot of io.livesnap: all members are there, with the right types, and names
 * are valid and unique, so that whoever has a struct manifest need not look again.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "livesnap/format.h"

#define MANIFEST_UUID_CHARS 36

struct manifest_region {
        const char *name; /* borrowed from the JSON object */
        uint64_t bytes;
        uint64_t sums_digest; /* of a whole snapshot */

        /* of a delta */
        uint64_t map_digest;
        uint64_t n_pages;      /* entries of its map */
        uint64_t pages_stored; /* in REGION.pages */
};

/** The snapshot that an increment builds on. */
struct manifest_parent {
        const char *name; /* in the same domain; borrowed from the JSON object; NULL: there is none */
        uint8_t uuid[16];
        uint64_t content;
        uint32_t depth; /* snapshots that a delta needs itself, the parent among them */
};

struct manifest {
        json_t *json; /* owned */
        uint8_t uuid[16];
        uint64_t content; /* stands for what the snapshot holds; 0: written by a version that did not know it */
        bool delta;
        struct manifest_parent parent;
        uint32_t uid;
        unsigned n_regions;
        struct manifest_region *regions; /* owned */
};

/** manifest_uuid_format() - a UUID as text, with its terminator */
void manifest_uuid_format(const uint8_t uuid[16], char ret[MANIFEST_UUID_CHARS + 1]);

/**
 * manifest_render() - the text of a manifest
 * @members: JSON object with all members but the checksum; borrowed
 * @ret_text: allocated; not terminated
 *
 * What comes out has been read back: a manifest that could not be read is not written. Return: 0, or -1 with *error
 * set.
 */
int manifest_render(const json_t *members, char **ret_text, size_t *ret_bytes, struct error *error);

/** manifest_parse() - read the text of a manifest. Return: 0, or -1 with *error set and *ret untouched. */
int manifest_parse(const char *text, size_t bytes, struct manifest **ret, struct error *error);

/** manifest_read() - read a manifest from a regular file, from its start; @fd is borrowed, its offset left alone */
int manifest_read(int fd, struct manifest **ret, struct error *error);

/** manifest_free() - NULL is allowed */
void manifest_free(struct manifest *manifest);

/**
 * manifest_snapshot() - the object of the type Snapshot of io.livesnap
 * @snapshot: where it was found, DOMAIN/NAME: directories can be renamed
 * @directory: absolute path of its directory, to make the paths of the images
 *
 * Return: a new reference, with no other members than the type has; NULL when there is no memory.
 */
json_t *manifest_snapshot(const struct manifest *manifest, const char *snapshot, const char *directory);

#endif
