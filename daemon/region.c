/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/region.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/capture.h"

#define REGION_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)

/*
 * Everything that a peer sent is looked at by this before anything else is done with it. Only the memory filesystems
 * answer the question for seals, and they do so without asking anybody: a file of a filesystem in user space could keep
 * us waiting for as long as its owner likes, and to open a device can have effects. A descriptor that does not itself
 * permit to read, such as one opened with O_PATH, must not become one that does: we may open more than its sender.
 */
static int region_check_descriptor(int object, struct error *error) {
        int flags = fcntl(object, F_GETFL);

        if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) == O_WRONLY)
                return error_set(error, ERROR_BAD_MAPPING,
                                 "the descriptor of the object is not open for reading: open the object O_RDONLY or "
                                 "O_RDWR");
        if (fcntl(object, F_GET_SEALS) < 0)
                return error_set(error, ERROR_BAD_MAPPING,
                                 "the object is not shared memory: only memfd, tmpfs, hugetlbfs and shared anonymous "
                                 "memory can be snapshotted");
        return 0;
}

static int region_reopen(int object) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", object);
        return open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

/* Where the descriptor leads, such as "/memfd:ram (deleted)", without the trailing " (deleted)". */
static void region_object_path(int object, char ret[static PATH_MAX]) {
        static const char deleted[] = " (deleted)";
        char link[64];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", object);
        n = readlink(link, ret, PATH_MAX - 1);
        ret[n < 0 ? 0 : n] = '\0';
        if (n > (ssize_t) sizeof(deleted) && !strcmp(ret + n - (ssize_t) sizeof(deleted) + 1, deleted))
                ret[n - (ssize_t) sizeof(deleted) + 1] = '\0';
}

static int region_identify(struct region *region, struct error *error) {
        char path[PATH_MAX];
        struct statfs fs;
        struct stat st;

        if (fstat(region->object, &st) < 0 || fstatfs(region->object, &fs) < 0)
                return error_set(error, ERROR_BAD_MAPPING, "cannot look at the object: %s", strerror(errno));
        if (!S_ISREG(st.st_mode) || (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC))
                return error_set(error, ERROR_BAD_MAPPING,
                                 "the object is not shared memory: only memfd, tmpfs, hugetlbfs and shared anonymous "
                                 "memory can be snapshotted");
        region->device = st.st_dev;
        region->inode = st.st_ino;
        region->page_bytes = CHUNK_PAGE_BYTES;
        region_object_path(region->object, path);
        if (fs.f_type == HUGETLBFS_MAGIC) {
                if (fs.f_bsize != CHUNK_BYTES)
                        return error_set(error, ERROR_BAD_MAPPING,
                                         "the object has pages of %ld KiB: of huge pages only those of 2 MiB are "
                                         "supported",
                                         (long) fs.f_bsize / 1024);
                region->page_bytes = CHUNK_BYTES;
                region->kind = REGION_HUGETLBFS;
        } else if (!strncmp(path, "/memfd:", 7)) {
                region->kind = REGION_MEMFD;
        } else if (!strcmp(path, "/dev/zero") || !strncmp(path, "/SYSV", 5)) {
                region->kind = REGION_ANONYMOUS;
        } else {
                region->kind = REGION_TMPFS;
        }
        return 0;
}

int region_new(int object, struct region **ret, struct error *error) {
        struct region *region;
        int fresh;

        if (region_check_descriptor(object, error) < 0) {
                close(object);
                return -1;
        }
        region = calloc(1, sizeof(*region));
        if (!region) {
                close(object);
                return error_set(error, ERROR_INTERNAL, "out of memory");
        }
        region->object = object;
        fresh = region_reopen(object);
        if (fresh >= 0) {
                close(object);
                region->object = fresh;
        }
        if (region_identify(region, error) < 0 || region_refresh(region, error) < 0) {
                region_free(region);
                return -1;
        }
        *ret = region;
        return 0;
}

void region_free(struct region *region) {
        if (!region)
                return;
        close(region->object);
        tracking_free(region->tracking);
        free(region);
}

int region_refresh(struct region *region, struct error *error) {
        struct stat st;

        if (fstat(region->object, &st) < 0)
                return error_set(error, ERROR_BAD_MAPPING, "cannot look at the object: %s", strerror(errno));
        if (st.st_size <= 0 || (uint64_t) st.st_size > CAPTURE_BYTES_MAX)
                return error_set(error, ERROR_BAD_MAPPING,
                                 "the object has %lld bytes: a region has at least 1 and at most %llu",
                                 (long long) st.st_size, CAPTURE_BYTES_MAX);
        region->bytes = (uint64_t) st.st_size;
        if (region_is_sealed(region))
                region->guarantee = GUARANTEE_SEALED;
        return 0;
}

bool region_is_sealed(const struct region *region) {
        int seals = fcntl(region->object, F_GET_SEALS);

        return seals >= 0 && (seals & REGION_SEALS) == REGION_SEALS;
}

int region_read(const struct region *region, const struct iovec *iov, int n_iov, uint64_t offset) {
        for (int i = 0; i < n_iov;) {
                size_t skip = 0, want = 0;
                ssize_t n = preadv(region->object, iov + i, n_iov - i, (off_t) offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0) { /* the object ends here */
                        for (; i < n_iov; i++)
                                memset(iov[i].iov_base, 0, iov[i].iov_len);
                        return 0;
                }
                offset += (uint64_t) n;
                for (skip = (size_t) n; i < n_iov && skip >= iov[i].iov_len; i++)
                        skip -= iov[i].iov_len;
                /* A read ends within a piece at the end of the object or at a signal: finish this piece by itself. */
                while (skip > 0) {
                        want = iov[i].iov_len - skip;
                        n = pread(region->object, (char *) iov[i].iov_base + skip, want, (off_t) offset);
                        if (n < 0 && errno == EINTR)
                                continue;
                        if (n < 0)
                                return -errno;
                        if (n == 0) {
                                memset((char *) iov[i].iov_base + skip, 0, want);
                                n = (ssize_t) want;
                        }
                        offset += (uint64_t) n;
                        skip += (size_t) n;
                        if (skip == iov[i].iov_len) {
                                i++;
                                skip = 0;
                        }
                }
        }
        return 0;
}

bool region_next_data(const struct region *region, uint64_t offset, uint64_t end, uint64_t *ret_start,
                      uint64_t *ret_end) {
        off_t start, hole;

        start = lseek(region->object, (off_t) offset, SEEK_DATA);
        if (start < 0 && errno == ENXIO)
                return false;
        /* Where a filesystem cannot tell, all of it is data. */
        if (start < 0)
                start = (off_t) offset;
        if ((uint64_t) start >= end)
                return false;
        hole = lseek(region->object, start, SEEK_HOLE);
        *ret_start = (uint64_t) start;
        *ret_end = hole <= start || (uint64_t) hole > end ? end : (uint64_t) hole;
        return true;
}

static bool region_name_char(char c) {
        return isascii((unsigned char) c) && (isalnum((unsigned char) c) || strchr("._:@+-", c));
}

void region_wish_name(const struct region *region, const char *wish, char ret[static REGION_NAME_MAX + 1]) {
        char path[PATH_MAX];
        const char *from = wish;
        size_t n = 0;

        if (!from) {
                region_object_path(region->object, path);
                from = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
                if (!strncmp(path, "/memfd:", 7))
                        from = path + 7;
                else if (!strcmp(path, "/dev/zero"))
                        from = "anonymous";
                else if (!strncmp(path, "/anon_hugepage", 14))
                        from = "hugepages";
        }
        for (; *from && n < REGION_NAME_MAX - 24; from++) {
                char c = region_name_char(*from) ? *from : '-';

                if (n > 0 || (c != '.' && c != '-'))
                        ret[n++] = c;
        }
        ret[n] = '\0';
        if (n == 0)
                strcpy(ret, "region");
}

const char *region_kind_name(enum region_kind kind) {
        static const char *const names[] = { "memfd", "tmpfs", "hugetlbfs", "anonymous" };

        return names[kind];
}

const char *guarantee_name(enum guarantee guarantee) {
        static const char *const names[] = { "advisory", "exclusive", "sealed" };

        return names[guarantee];
}
