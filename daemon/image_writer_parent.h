/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_PARENT_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_PARENT_H

/* The published snapshot that an increment builds on. On the writer's thread only. */

#include "daemon/image_writer.h"
#include "daemon/store_find.h"

struct image_parent {
        const char *name;         /* borrowed; NULL: none, the snapshot is a full one */
        struct store_found found; /* owned */
        uint32_t depth;           /* of a delta that builds on it */
};

#define IMAGE_PARENT_INIT \
        { .found = STORE_FOUND_INIT }

/**
 * image_parent_open() - look at the snapshot that is to be built upon
 * @uid: who asks: whoever may read the increment must be able to read the parent
 * @regions: those of the increment: the parent must have the same ones, of the same sizes
 * @ret_reason: why it cannot be built upon; empty if it can
 *
 * Return: can it be? If not, *ret is as it was.
 */
bool image_parent_open(struct store *store, const char *domain, const char *name, const uint8_t uuid[16], uint32_t uid,
                       const struct image_writer_region *regions, unsigned n_regions, struct image_parent *ret,
                       char ret_reason[IMAGE_WRITER_REASON_BYTES]);

/** image_parent_is_there() - is it still what it was when it was opened? */
bool image_parent_is_there(struct store *store, const char *domain, const struct image_parent *parent);

void image_parent_close(struct image_parent *parent);

#endif
