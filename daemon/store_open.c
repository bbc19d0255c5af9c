/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/image.h"
#include "common/name.h"
#include "daemon/store_find.h"

/* What the kernel lets through in one message (SCM_MAX_FD). */
#define CHANNEL_FDS_MAX 253

int store_open_regular(const struct store *store, int directory, const char *region, const char *suffix, int flags,
                       struct error *error) {
        char file[NAME_LENGTH_MAX + sizeof(LIVESNAP_IMAGE_SUFFIX)];
        CLEANUP_CLOSE int fd = -1;
        struct stat status;

        snprintf(file, sizeof(file), "%s%s", region, suffix);
        fd = openat(directory, file, STORE_OPEN_FILE | flags);
        if (fd < 0 && errno == EINVAL && flags)
                fd = openat(directory, file, STORE_OPEN_FILE);
        if (fd < 0 && store_is_absent(errno))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the snapshot is damaged: it has no file %s", file);
        if (fd < 0)
                return store_failed(store, "open", file, errno, error);
        if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
                return error_set(error, ERROR_SNAPSHOT_CORRUPT, "the snapshot is damaged: %s is not a regular file",
                                 file);
        return steal_fd(&fd);
}

static int open_region(const struct store *store, const struct store_found *found, const struct manifest_region *region,
                       struct store_opened *opened, struct error *error) {
        struct store_opened_region *entry = &opened->regions[opened->n_regions++];
        bool delta = found->manifest->delta;

        *entry = (struct store_opened_region){ .bytes = region->bytes, .image = -1, .sums = -1 };
        entry->name = strdup(region->name);
        if (!entry->name)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        entry->image = store_open_regular(store, found->directory, region->name,
                                          delta ? LIVESNAP_PAGES_SUFFIX : LIVESNAP_IMAGE_SUFFIX, 0, error);
        if (entry->image < 0)
                return -1;
        entry->sums = store_open_regular(store, found->directory, region->name,
                                         delta ? LIVESNAP_MAP_SUFFIX : LIVESNAP_SUMS_SUFFIX, 0, error);
        return entry->sums < 0 ? -1 : 0;
}

int store_open(struct store *store, const char *domain, const char *name, const char *region_or_null, uint32_t uid,
               struct store_opened *ret, struct error *error) {
        CLEANUP_STORE_READER struct store_reader reader = { 0 };
        CLEANUP_STORE_FOUND struct store_found found = STORE_FOUND_INIT;
        CLEANUP(store_opened_done) struct store_opened opened = { .manifest = -1 };

        if (region_or_null && name_check("region", region_or_null, error) < 0)
                return -1;
        store_reader_begin(store, domain, &reader);
        if (store_find_for(store, domain, name, uid, "read", &found, error) < 0)
                return -1;
        opened.regions = calloc(found.manifest->n_regions + 1, sizeof(*opened.regions));
        if (!opened.regions)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        for (unsigned i = 0; i < found.manifest->n_regions; i++)
                if (!region_or_null || !strcmp(region_or_null, found.manifest->regions[i].name))
                        if (open_region(store, &found, &found.manifest->regions[i], &opened, error) < 0)
                                return -1;
        if (region_or_null && opened.n_regions == 0)
                return error_set(error, ERROR_NO_SUCH_REGION,
                                 "snapshot %s/%s has no region '%s'; 'livesnap show' lists its regions", domain, name,
                                 region_or_null);
        opened.manifest = steal_fd(&found.file);
        *ret = opened;
        opened = (struct store_opened){ .manifest = -1 };
        return 0;
}

void store_opened_done(struct store_opened *opened) {
        cleanup_close_p(&opened->manifest);
        for (unsigned i = 0; i < opened->n_regions; i++) {
                free(opened->regions[i].name);
                cleanup_close_p(&opened->regions[i].image);
                cleanup_close_p(&opened->regions[i].sums);
        }
        free(opened->regions);
        *opened = (struct store_opened){ .manifest = -1 };
}

/* All descriptors of an opened snapshot in a fixed order. */
static int *opened_fd(struct store_opened *opened, unsigned i) {
        struct store_opened_region *region;

        if (i == 0)
                return &opened->manifest;
        region = &opened->regions[(i - 1) / 2];
        return i % 2 ? &region->image : &region->sums;
}

static unsigned opened_fds(const struct store_opened *opened) {
        return 1 + 2 * opened->n_regions;
}

union channel_control {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(CHANNEL_FDS_MAX * sizeof(int))];
};

static int channel_send(int channel, const int *fds, unsigned n_fds) {
        union channel_control control = { .bytes = { 0 } };
        char data = 0;
        struct iovec byte = { .iov_base = &data, .iov_len = 1 };
        struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control.bytes };
        struct cmsghdr *header;

        message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
        return sendmsg(channel, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int channel_receive(int channel, int *ret_fds, unsigned n_fds) {
        union channel_control control;
        char data;
        struct iovec byte = { .iov_base = &data, .iov_len = 1 };
        struct msghdr message = {
                .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
        };
        struct cmsghdr *header;
        unsigned got = 0;

        if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) < 0)
                return -errno;
        header = CMSG_FIRSTHDR(&message);
        if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
                got = (unsigned) ((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(ret_fds, CMSG_DATA(header), (got < n_fds ? got : n_fds) * sizeof(int));
        }
        return got == n_fds && !(message.msg_flags & MSG_CTRUNC) ? 0 : -EMFILE;
}

int store_opened_send(struct store *store, struct store_opened *opened, struct error *error) {
        int channel = store_threads_channel(store->threads, false), r = 0;
        unsigned n_fds = opened_fds(opened);

        for (unsigned first = 0; first < n_fds && r == 0; first += CHANNEL_FDS_MAX) {
                unsigned n = n_fds - first < CHANNEL_FDS_MAX ? n_fds - first : CHANNEL_FDS_MAX;
                int fds[CHANNEL_FDS_MAX];

                for (unsigned i = 0; i < n; i++)
                        fds[i] = *opened_fd(opened, first + i);
                r = channel_send(channel, fds, n);
        }
        for (unsigned i = 0; i < n_fds; i++) {
                cleanup_close_p(opened_fd(opened, i));
                *opened_fd(opened, i) = -1;
        }
        if (r < 0)
                return error_set(error, ERROR_STORE_FAILED, "cannot pass the descriptors of the snapshot on: %s",
                                 strerror(-r));
        return 0;
}

int store_opened_receive(struct store *store, struct store_opened *opened, struct error *error) {
        int channel = store_threads_channel(store->threads, true), r = 0;
        unsigned n_fds = opened_fds(opened);

        for (unsigned first = 0; first < n_fds; first += CHANNEL_FDS_MAX) {
                unsigned n = n_fds - first < CHANNEL_FDS_MAX ? n_fds - first : CHANNEL_FDS_MAX;
                int fds[CHANNEL_FDS_MAX], got;

                memset(fds, -1, sizeof(fds));
                got = channel_receive(channel, fds, n);
                for (unsigned i = 0; i < n; i++)
                        *opened_fd(opened, first + i) = fds[i];
                r = r < 0 ? r : got;
        }
        if (r < 0)
                return error_set(error, ERROR_LIMIT_EXCEEDED, "cannot take the descriptors of the snapshot: %s",
                                 strerror(-r));
        return 0;
}
