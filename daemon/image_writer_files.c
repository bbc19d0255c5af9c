/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/map.h"
#include "common/name.h"
#include "common/sums.h"
#include "daemon/store_tree.h"

#define FILE_NAME_BYTES (NAME_LENGTH_MAX + 8)

int image_files_failed(const struct image_files *files, const char *operation, const char *name, const char *suffix,
                       int code, struct error *error) {
        char path[sizeof(STORE_WORK_NAME) + STORE_WORK_NAME_BYTES + FILE_NAME_BYTES];

        snprintf(path, sizeof(path), "%s/%s/%s%s", STORE_WORK_NAME, files->work_name, name, suffix);
        return store_failed(files->store, operation, path, code, error);
}

/* Version 4: random. */
static int uuid_make(uint8_t ret[16]) {
        if (getrandom(ret, 16, 0) != 16)
                return -1;
        ret[6] = (uint8_t) ((ret[6] & 0x0f) | 0x40);
        ret[8] = (uint8_t) ((ret[8] & 0x3f) | 0x80);
        return 0;
}

int image_files_init(struct image_files *files, struct store *store, unsigned n_regions,
                     const struct image_writer_region *regions, struct error *error) {
        *files = (struct image_files){ .store = store, .directory = -1, .parent = IMAGE_PARENT_INIT };
        if (n_regions > LIVESNAP_FORMAT_REGIONS_MAX)
                return error_set(error, ERROR_LIMIT_EXCEEDED, "a snapshot can have at most %d regions, not %u",
                                 LIVESNAP_FORMAT_REGIONS_MAX, n_regions);
        if (uuid_make(files->uuid) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot make a UUID: %s", strerror(errno));
        files->regions = calloc(n_regions + 1, sizeof(*files->regions));
        if (!files->regions)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        for (unsigned i = 0; i < n_regions; i++) {
                struct image_region *region = &files->regions[i];

                if (name_check("region", regions[i].name, error) < 0)
                        return -1;
                if (regions[i].bytes > LIVESNAP_FORMAT_REGION_BYTES_MAX)
                        return error_set(error, ERROR_LIMIT_EXCEEDED, "region '%s' is too large for a snapshot",
                                         regions[i].name);
                *region = (struct image_region){ .bytes = regions[i].bytes, .image = -1, .sums = -1 };
                region->name = strdup(regions[i].name);
                if (!region->name)
                        return error_set(error, ERROR_INTERNAL, "out of memory");
                files->n_regions++;
        }
        return 0;
}

void image_files_deinit(struct image_files *files) {
        for (unsigned i = 0; i < files->n_regions; i++) {
                free(files->regions[i].name);
                free(files->regions[i].entries);
                cleanup_close_p(&files->regions[i].image);
                cleanup_close_p(&files->regions[i].sums);
        }
        free(files->regions);
        image_parent_close(&files->parent);
        if (files->directory >= 0) {
                close(files->directory);
                store_tree_remove(files->store->work, files->work_name);
        }
}

/* Empty, also where it was there before. */
static int create_file(struct image_files *files, const char *name, const char *suffix, int flags,
                       struct error *error) {
        CLEANUP_CLOSE int fd = -1;
        char file[FILE_NAME_BYTES];

        snprintf(file, sizeof(file), "%s%s", name, suffix);
        fd = openat(files->directory, file, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
        if (fd < 0 && errno == EINVAL && flags)
                fd = openat(files->directory, file, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return image_files_failed(files, "create", name, suffix, errno, error);
        return steal_fd(&fd);
}

static int write_all(int fd, const void *data, size_t bytes, off_t offset) {
        size_t done = 0;

        while (done < bytes) {
                ssize_t n = pwrite(fd, (const uint8_t *) data + done, bytes - done, offset + (off_t) done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t) n;
        }
        return 0;
}

/* Whose region the parent has under this name: image_parent_open() has seen that it has one. */
static const struct manifest_region *parent_region(const struct image_files *files, const struct image_region *region) {
        const struct manifest *manifest = files->parent.found.manifest;

        for (unsigned i = 0; i < manifest->n_regions; i++)
                if (!strcmp(manifest->regions[i].name, region->name))
                        return &manifest->regions[i];
        return NULL;
}

/* Have a new file share all that a file of the parent has. Return: 0 or -errno. */
static int share_file(struct image_files *files, const struct image_region *region, const char *suffix, int fd) {
        struct error error = { .kind = ERROR_NONE };
        CLEANUP_CLOSE int from =
                store_open_regular(files->store, files->parent.found.directory, region->name, suffix, 0, &error);

        if (from < 0)
                return -EIO;
        return ioctl(fd, FICLONE, from) < 0 ? -errno : 0;
}

static int create_pages(struct image_files *files, struct image_region *region, struct error *error) {
        region->image = create_file(files, region->name, LIVESNAP_PAGES_SUFFIX, O_DIRECT, error);
        if (region->image < 0)
                return -1;
        region->sums = create_file(files, region->name, LIVESNAP_MAP_SUFFIX, 0, error);
        return region->sums < 0 ? -1 : 0;
}

/* Before the files have a size: the last block of a file can be shared only where the other one ends with it, too. */
static int share_region(struct image_files *files, struct image_region *region, struct error *error) {
        int r = share_file(files, region, LIVESNAP_IMAGE_SUFFIX, region->image);

        if (r == 0)
                r = share_file(files, region, LIVESNAP_SUMS_SUFFIX, region->sums);
        if (r < 0)
                return image_files_failed(files, "share the parent's data with", region->name, LIVESNAP_IMAGE_SUFFIX,
                                          -r, error);
        region->sums_digest = parent_region(files, region)->sums_digest;
        return 0;
}

static int create_region(struct image_files *files, struct image_region *region, struct error *error) {
        struct livesnap_sums_header header;
        int r;

        if (files->delta)
                return create_pages(files, region, error);
        region->image = create_file(files, region->name, LIVESNAP_IMAGE_SUFFIX, O_DIRECT, error);
        if (region->image < 0)
                return -1;
        region->sums = create_file(files, region->name, LIVESNAP_SUMS_SUFFIX, 0, error);
        if (region->sums < 0 || (files->parent.name && share_region(files, region, error) < 0))
                return -1;
        /* Whole pages until the end: O_DIRECT writes no less, and a write behind the end is slower than one before it.
         */
        if (ftruncate(region->image, (off_t) (sums_pages(region->bytes) * LIVESNAP_FORMAT_PAGE_BYTES)) < 0)
                return image_files_failed(files, "set the size of", region->name, LIVESNAP_IMAGE_SUFFIX, errno, error);
        if (ftruncate(region->sums, (off_t) sums_block_offset(sums_blocks(region->bytes))) < 0)
                return image_files_failed(files, "set the size of", region->name, LIVESNAP_SUMS_SUFFIX, errno, error);
        sums_header_init(&header, region->name, region->bytes, files->uuid);
        r = write_all(region->sums, &header, sizeof(header), 0);
        if (r < 0)
                return image_files_failed(files, "write", region->name, LIVESNAP_SUMS_SUFFIX, -r, error);
        return 0;
}

/* Can files of the store share data? Asked with the parent's first sums, which every filesystem lays out by itself. */
static bool can_share(struct image_files *files) {
        struct error error = { .kind = ERROR_NONE };
        CLEANUP_CLOSE int fd = -1;
        int r;

        if (files->parent.found.manifest->delta)
                return false;
        fd = create_file(files, files->regions[0].name, LIVESNAP_SUMS_SUFFIX, 0, &error);
        r = fd < 0 ? -EIO : share_file(files, &files->regions[0], LIVESNAP_SUMS_SUFFIX, fd);
        if (r < 0) {
                char file[FILE_NAME_BYTES];

                snprintf(file, sizeof(file), "%s%s", files->regions[0].name, LIVESNAP_SUMS_SUFFIX);
                (void) unlinkat(files->directory, file, 0);
        }
        return r == 0;
}

static uint64_t total_pages(const struct image_files *files) {
        uint64_t pages = 0;

        for (unsigned i = 0; i < files->n_regions; i++)
                pages += sums_pages(files->regions[i].bytes);
        return pages;
}

int image_files_create(struct image_files *files, struct error *error) {
        store_work_name(files->store, files->work_name);
        if (mkdirat(files->store->work, files->work_name, 0700) < 0)
                return image_files_failed(files, "make", "", "", errno, error);
        files->directory = openat(files->store->work, files->work_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (files->directory < 0) {
                image_files_failed(files, "open", "", "", errno, error);
                unlinkat(files->store->work, files->work_name, AT_REMOVEDIR);
                return -1;
        }
        if (files->parent.name) {
                files->delta = !can_share(files);
                files->pages_zero = files->delta ? 0
                                                 : (uint64_t) json_integer_value(json_object_get(
                                                           files->parent.found.manifest->json, "pages_zero"));
        } else {
                files->pages_zero = total_pages(files);
        }
        for (unsigned i = 0; i < files->n_regions; i++)
                if (create_region(files, &files->regions[i], error) < 0)
                        return -1;
        return 0;
}

/*
 * Through the page cache: 4 KiB for each 2 MiB of image are nothing for it, and come out as large sequential writes at
 * the fsync, where 4 KiB at a time with O_DIRECT would be as many requests to the disk as the image itself makes.
 */
int image_files_write_sums(struct image_files *files, unsigned region_index, uint64_t block, const uint64_t *sums,
                           struct error *error) {
        struct image_region *region = &files->regions[region_index];
        int r = write_all(region->sums, sums, LIVESNAP_SUMS_BLOCK_BYTES, (off_t) sums_block_offset(block));

        if (r < 0)
                return image_files_failed(files, "write", region->name, LIVESNAP_SUMS_SUFFIX, -r, error);
        region->sums_digest += checksum_block(sums, block);
        return 0;
}

int image_files_read_sums(struct image_files *files, unsigned region_index, uint64_t block, uint64_t *ret_sums,
                          struct error *error) {
        const struct image_region *region = &files->regions[region_index];
        ssize_t n = pread(region->sums, ret_sums, LIVESNAP_SUMS_BLOCK_BYTES, (off_t) sums_block_offset(block));

        if (n != LIVESNAP_SUMS_BLOCK_BYTES)
                return image_files_failed(files, "read", region->name, LIVESNAP_SUMS_SUFFIX, n < 0 ? errno : EIO,
                                          error);
        return 0;
}

int image_files_replace_sums(struct image_files *files, unsigned region, uint64_t block, const uint64_t *old,
                             const uint64_t *sums, struct error *error) {
        files->regions[region].sums_digest -= checksum_block(old, block);
        return image_files_write_sums(files, region, block, sums, error);
}

int image_files_punch(struct image_files *files, unsigned region_index, uint64_t page, struct error *error) {
        const struct image_region *region = &files->regions[region_index];

        if (fallocate(region->image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t) (page * LIVESNAP_FORMAT_PAGE_BYTES), LIVESNAP_FORMAT_PAGE_BYTES) < 0)
                return image_files_failed(files, "punch a hole into", region->name, LIVESNAP_IMAGE_SUFFIX, errno,
                                          error);
        return 0;
}

/* Images and sums alternate. */
static const char *fsync_suffix(const struct image_files *files, unsigned file) {
        if (files->delta)
                return file % 2 ? LIVESNAP_MAP_SUFFIX : LIVESNAP_PAGES_SUFFIX;
        return file % 2 ? LIVESNAP_SUMS_SUFFIX : LIVESNAP_IMAGE_SUFFIX;
}

static int fsync_complete(struct image_files *files, struct image_io *io, struct error *error) {
        struct image_io_op *op = image_io_wait(io, -1);
        int r = 0;

        if (op->result < 0)
                r = image_files_failed(files, "make durable", files->regions[op->id / 2].name,
                                       fsync_suffix(files, op->id), -op->result, error);
        image_io_put(io, op);
        return r;
}

/* All at once, so that the filesystem's journal and the disk's cache are flushed for many files together. */
static int fsync_all(struct image_files *files, struct image_io *io, struct error *error) {
        struct image_io_op *op;
        int r = 0;

        for (unsigned i = 0; i < 2 * files->n_regions; i++) {
                const struct image_region *region = &files->regions[i / 2];

                while (!(op = image_io_get(io)))
                        r |= fsync_complete(files, io, error);
                *op = (struct image_io_op){
                        .kind = IMAGE_IO_FSYNC,
                        .fd = i % 2 ? region->sums : region->image,
                        .id = i,
                };
                image_io_queue(io, op);
        }
        while (io->in_flight)
                r |= fsync_complete(files, io, error);
        return r;
}

/* Through the page cache, like the sums. */
static int write_map(struct image_files *files, struct image_region *region, struct error *error) {
        struct manifest_region described = { .name = region->name, .bytes = region->bytes };
        struct livesnap_map_header header;
        int r;

        region->n_entries = map_arrange(region->entries, region->n_entries);
        region->map_digest = map_digest(region->entries, region->n_entries);
        described.n_pages = region->n_entries;
        described.pages_stored = region->pages_stored;
        map_header_init(&header, &described, files->uuid);
        r = write_all(region->sums, &header, sizeof(header), 0);
        if (r == 0)
                r = write_all(region->sums, region->entries, region->n_entries * sizeof(*region->entries),
                              LIVESNAP_MAP_HEADER_BYTES);
        if (r < 0)
                return image_files_failed(files, "write", region->name, LIVESNAP_MAP_SUFFIX, -r, error);
        return 0;
}

int image_files_settle(struct image_files *files, struct image_io *io, struct error *error) {
        for (unsigned i = 0; i < files->n_regions; i++) {
                struct image_region *region = &files->regions[i];

                if (files->delta) {
                        if (write_map(files, region, error) < 0)
                                return -1;
                        continue;
                }

                if (region->bytes % LIVESNAP_FORMAT_PAGE_BYTES && ftruncate(region->image, (off_t) region->bytes) < 0)
                        return image_files_failed(files, "set the size of", region->name, LIVESNAP_IMAGE_SUFFIX, errno,
                                                  error);
        }
        return fsync_all(files, io, error);
}

int image_files_write_manifest(struct image_files *files, const char *text, size_t bytes, struct error *error) {
        CLEANUP_CLOSE int fd = create_file(files, LIVESNAP_MANIFEST_NAME, "", 0, error);
        int r;

        if (fd < 0)
                return -1;
        r = write_all(fd, text, bytes, 0);
        if (r < 0)
                return image_files_failed(files, "write", LIVESNAP_MANIFEST_NAME, "", -r, error);
        if (fsync(fd) < 0 || fsync(files->directory) < 0)
                return image_files_failed(files, "make durable", LIVESNAP_MANIFEST_NAME, "", errno, error);
        return 0;
}

static int move_in_delta(struct image_files *files, const char *domain, const char *name, struct error *error) {
        int r = -1;

        pthread_mutex_lock(&files->store->chains);
        if (image_parent_is_there(files->store, domain, &files->parent))
                r = store_move_in(files->store, files->work_name, domain, name, error);
        else
                error_set(error, ERROR_NO_SUCH_SNAPSHOT,
                          "snapshot %s/%s was deleted while an increment on it was being taken: take it again", domain,
                          files->parent.name);
        pthread_mutex_unlock(&files->store->chains);
        return r;
}

void image_files_forget(struct image_files *files) {
        close(files->directory);
        files->directory = -1;
}

int image_files_publish(struct image_files *files, const char *domain, const char *name, struct error *error) {
        int r = files->delta ? move_in_delta(files, domain, name, error)
                             : store_move_in(files->store, files->work_name, domain, name, error);

        if (r < 0)
                return -1;
        image_files_forget(files);
        return 0;
}
