/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/lib_error.h"
#include "client/lib_outdir.h"
#include "client/lib_reply.h"
#include "client/lib_snapshot.h"
#include "client/lib_source.h"
#include "common/cleanup.h"
#include "common/name.h"
#include "livesnap/format.h"

/** struct restored - owns what the public part points to */
struct restored {
        struct livesnap_restored public;
        struct livesnap_restored_region *regions;
};

void livesnap_restored_free(struct livesnap_restored *public) {
        struct restored *restored = (struct restored *) public;

        if (!restored)
                return;
        for (size_t i = 0; i < restored->public.n_regions; i++) {
                free((char *) restored->regions[i].name);
                free((char *) restored->regions[i].path);
        }
        free(restored->regions);
        free(restored);
}

static int restored_new(size_t n_regions, struct restored **ret) {
        struct restored *restored = calloc(1, sizeof(*restored));

        if (restored)
                restored->regions = calloc(n_regions ? n_regions : 1, sizeof(*restored->regions));
        if (!restored || !restored->regions) {
                free(restored);
                return lib_fail_errno(ENOMEM, "cannot restore");
        }
        restored->public.regions = restored->regions;
        *ret = restored;
        return 0;
}

static int restored_add(struct restored *restored, const char *name, uint64_t bytes, const char *directory) {
        struct livesnap_restored_region region = { .name = strdup(name), .bytes = bytes };
        char *path;

        if (!region.name || asprintf(&path, "%s/%s%s", directory, name, LIVESNAP_IMAGE_SUFFIX) < 0) {
                free((char *) region.name);
                return lib_fail_errno(ENOMEM, "cannot restore");
        }
        region.path = path;
        restored->regions[restored->public.n_regions++] = region;
        restored->public.bytes += bytes;
        return 0;
}

/** struct restore - a restore to files under way */
struct restore {
        struct livesnap *livesnap;
        const char *domain;
        const char *name;
        struct outdir outdir;
        struct restore_progress progress;
        struct restored *restored;
        bool has_uuid;
        uint8_t uuid[16];
};

/* Regions are opened one by one; a snapshot that was deleted and taken anew between two of them is another one. */
static int check_same_snapshot(struct restore *restore, const struct source *source) {
        if (!restore->has_uuid)
                memcpy(restore->uuid, source->layers[0].manifest->uuid, sizeof(restore->uuid));
        restore->has_uuid = true;
        if (memcmp(restore->uuid, source->layers[0].manifest->uuid, sizeof(restore->uuid)))
                return lib_fail(error_name(ERROR_BUSY),
                                "snapshot '%s/%s' was replaced by another while it was restored", restore->domain,
                                restore->name);
        return 0;
}

static int restore_source(struct restore *restore, const struct source *source, const char *region) {
        char file_name[NAME_LENGTH_MAX + sizeof(LIVESNAP_IMAGE_SUFFIX)];
        struct sink sink;
        int fd;

        if (check_same_snapshot(restore, source) < 0)
                return -1;
        snprintf(file_name, sizeof(file_name), "%s%s", region, LIVESNAP_IMAGE_SUFFIX);
        fd = outdir_add(&restore->outdir, file_name);
        if (fd < 0)
                return -1;
        if (ftruncate(fd, (off_t) source->bytes) < 0)
                return lib_fail_errno(errno, "cannot give '%s' the size of its region", file_name);
        sink_init_new_file(&sink, fd);
        if (source_copy(source, &sink, &restore->progress) < 0)
                return -1;
        return restored_add(restore->restored, region, source->bytes, restore->outdir.path);
}

static int restore_region(struct restore *restore, const char *region) {
        struct error error = { 0 };
        struct source source;
        int r;

        /* It becomes a file name here, so what the daemon says of it is looked at here. */
        if (name_check("region", region, &error) < 0)
                return lib_fail_error(&error);
        r = source_open(restore->livesnap, restore->domain, restore->name, region, &source);
        if (r == 0)
                r = restore_source(restore, &source, region);
        source_close(&source);
        return r;
}

static int restore_regions(struct restore *restore, const struct livesnap_snapshot *snapshot, const char *region) {
        size_t found = 0;

        for (size_t i = 0; i < snapshot->n_regions; i++)
                if (!region || !strcmp(snapshot->regions[i].name, region)) {
                        restore->progress.bytes_total += snapshot->regions[i].bytes;
                        found++;
                }
        if (!found)
                return lib_fail(error_name(ERROR_NO_SUCH_REGION), "snapshot '%s/%s' has no region '%s'",
                                restore->domain, restore->name, region ? region : "");
        for (size_t i = 0; i < snapshot->n_regions; i++)
                if (!region || !strcmp(snapshot->regions[i].name, region))
                        if (restore_region(restore, snapshot->regions[i].name) < 0)
                                return -1;
        restore->restored->public.bytes_data = restore->progress.bytes_data;
        return 0;
}

static int restore_to_directory(struct restore *restore, const char *region, const char *directory) {
        struct livesnap_snapshot *snapshot;
        int r;

        if (source_show(restore->livesnap, restore->domain, restore->name, &snapshot) < 0)
                return -1;
        r = restored_new(snapshot->n_regions, &restore->restored);
        if (r == 0) {
                r = outdir_open(&restore->outdir, directory);
                if (r == 0)
                        r = restore_regions(restore, snapshot, region);
                if (r == 0)
                        r = outdir_publish(&restore->outdir);
                outdir_close(&restore->outdir);
        }
        livesnap_snapshot_free(snapshot);
        return r;
}

int livesnap_restore(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                     const char *directory, const struct livesnap_restore_callback *callback,
                     struct livesnap_restored **ret) {
        struct restore restore = {
                .livesnap = livesnap,
                .domain = domain,
                .name = name,
                .progress = { .callback = callback },
        };

        if (restore_to_directory(&restore, region, directory) < 0) {
                livesnap_restored_free(restore.restored ? &restore.restored->public : NULL);
                return -1;
        }
        if (ret)
                *ret = &restore.restored->public;
        else
                livesnap_restored_free(&restore.restored->public);
        return 0;
}

static int object_grow(int fd, uint64_t bytes) {
        struct stat status;

        if (fstat(fd, &status) < 0)
                return lib_fail_errno(errno, "descriptor %d cannot be restored to", fd);
        if ((uint64_t) status.st_size < bytes && ftruncate(fd, (off_t) bytes) < 0)
                return lib_fail_errno(errno, "descriptor %d cannot be made as large as the region", fd);
        return 0;
}

int livesnap_restore_to_fd(struct livesnap *livesnap, const char *domain, const char *name, const char *region, int fd,
                           const struct livesnap_restore_callback *callback) {
        struct restore_progress progress = { .callback = callback };
        struct source source;
        struct sink sink;
        int r;

        r = source_open(livesnap, domain, name, region, &source);
        if (r == 0)
                r = object_grow(fd, source.bytes);
        if (r == 0) {
                sink_init_object(&sink, fd);
                progress.bytes_total = source.bytes;
                r = source_copy(&source, &sink, &progress);
        }
        source_close(&source);
        return r;
}

int livesnap_restore_to_memory(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                               void *address, uint64_t bytes, const struct livesnap_restore_callback *callback) {
        struct restore_progress progress = { .callback = callback };
        struct source source;
        struct sink sink;
        int r;

        if ((uintptr_t) address & ((uintptr_t) sysconf(_SC_PAGESIZE) - 1))
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "memory to restore to must start at a page");
        r = source_open(livesnap, domain, name, region, &source);
        if (r == 0 && source.bytes > bytes)
                r = lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                             "region '%s' has %llu bytes, the memory to restore it to %llu", region,
                             (unsigned long long) source.bytes, (unsigned long long) bytes);
        if (r == 0) {
                sink_init_memory(&sink, address);
                progress.bytes_total = source.bytes;
                r = source_copy(&source, &sink, &progress);
        }
        source_close(&source);
        return r;
}
