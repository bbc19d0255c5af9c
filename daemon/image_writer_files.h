/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_IMAGE_WRITER_FILES_H
#define LIVESNAP_DAEMON_IMAGE_WRITER_FILES_H

/* The files of a snapshot in the making: a directory in the store's work directory. On the writer's thread only. */

#include "daemon/image_writer.h"
#include "daemon/image_writer_io.h"
#include "daemon/image_writer_parent.h"
#include "daemon/store_internal.h"

struct image_region {
        char *name; /* owned */
        uint64_t bytes;
        int image; /* owned, like @sums; of a delta these are the pages and the map */
        int sums;
        uint64_t sums_digest;

        /* Of a delta. */
        struct livesnap_map_entry *entries; /* owned; in the order in which they came */
        size_t n_entries, n_allocated;
        uint64_t pages_stored;
        uint64_t map_digest;
};

struct image_files {
        struct store *store; /* borrowed */
        char work_name[STORE_WORK_NAME_BYTES];
        int directory; /* owned; -1 before it is made and after it was published */
        uint8_t uuid[16];
        struct image_parent parent;
        bool delta;          /* only the pages of the increment are written */
        uint64_t pages_zero; /* in all regions */
        unsigned n_regions;
        struct image_region *regions; /* owned */
};

/** image_files_init() - remember what is to be made; touches no disk. Return: 0, or -1 with *error set. */
int image_files_init(struct image_files *files, struct store *store, unsigned n_regions,
                     const struct image_writer_region *regions, struct error *error);

/** image_files_deinit() - close all, and remove what was not published */
void image_files_deinit(struct image_files *files);

/**
 * image_files_create() - make the directory and the files, at their sizes
 *
 * With a parent: share its files where that can be done, else become a delta. Return: 0, or -1 with *error set.
 */
int image_files_create(struct image_files *files, struct error *error);

/** image_files_write_sums() - write one block of sums, and count it into the digest. Return: 0, or -1 with *error set.
 */
int image_files_write_sums(struct image_files *files, unsigned region, uint64_t block, const uint64_t *sums,
                           struct error *error);

/** image_files_read_sums() - read a block that was written, or shared with the parent. 0, or -1 with *error set. */
int image_files_read_sums(struct image_files *files, unsigned region, uint64_t block, uint64_t *ret_sums,
                          struct error *error);

/** image_files_replace_sums() - the same as writing, where there was a block before */
int image_files_replace_sums(struct image_files *files, unsigned region, uint64_t block, const uint64_t *old,
                             const uint64_t *sums, struct error *error);

/** image_files_punch() - make a page of the image zero. 0, or -1 with *error set. */
int image_files_punch(struct image_files *files, unsigned region, uint64_t page, struct error *error);

/** image_files_failed() - the sentence for a failed operation on one of the files. Return: -1. */
int image_files_failed(const struct image_files *files, const char *operation, const char *name, const char *suffix,
                       int code, struct error *error);

/**
 * image_files_settle() - write maps, cut images to size, make all durable
 * @io: nothing is in flight
 *
 * Return: 0, or -1 with *error set.
 */
int image_files_settle(struct image_files *files, struct image_io *io, struct error *error);

/** image_files_write_manifest() - write it, replacing an earlier one, and make it durable. 0, or -1 with *error set. */
int image_files_write_manifest(struct image_files *files, const char *text, size_t bytes, struct error *error);

/** image_files_forget() - the directory is published, in whatever way, and no more for image_files_deinit() to remove
 */
void image_files_forget(struct image_files *files);

/** image_files_publish() - make all of it DOMAIN/NAME. 0, or -1 with *error set and nothing visible. */
int image_files_publish(struct image_files *files, const char *domain, const char *name, struct error *error);

#endif
