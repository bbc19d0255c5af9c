/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_MANIFEST_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_MANIFEST_H

/* Putting the manifest together: what the capture knows, and what only the writer does. */

#include "daemon/image_writer_files.h"

struct image_facts {
        const char *domain;
        const char *name;
        uint32_t uid;
        double created; /* seconds since the epoch */
        uint64_t bytes_written;
        uint64_t duration_us;
};

/**
 * image_manifest_make() - the members of the manifest
 * @figures: as in image_writer_publish(); where both know a member, the writer is right, but for "created" and "kernel"
 *
 * Return: 0 with a new reference in *ret, or -1 with *error set.
 */
int image_manifest_make(const struct image_files *files, const struct image_facts *facts, json_t *figures, json_t **ret,
                        struct error *error);

#endif
