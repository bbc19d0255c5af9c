/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_outdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "client/lib_error.h"
#include "common/cleanup.h"

int outdir_open(struct outdir *ret, const char *path) {
        *ret = (struct outdir){ .fd = -1 };
        ret->path = strdup(path);
        if (!ret->path)
                return lib_fail_errno(ENOMEM, "cannot open '%s'", path);
        if (mkdir(path, 0700) == 0)
                ret->made = true;
        else if (errno != EEXIST)
                return lib_fail_errno(errno, "cannot make the directory '%s'", path);
        ret->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return ret->fd < 0 ? lib_fail_errno(errno, "cannot open the directory '%s'", path) : 0;
}

static int fail_exists(const struct outdir *outdir, const char *name) {
        return lib_fail_errno(EEXIST, "'%s/%s' is there already and is not overwritten; name another directory",
                              outdir->path, name);
}

static int open_named(const struct outdir *outdir, struct outdir_file *file) {
        if (asprintf(&file->temporary, ".%s.%d.tmp", file->name, (int) getpid()) < 0) {
                file->temporary = NULL;
                return -ENOMEM;
        }
        file->fd = openat(outdir->fd, file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (file->fd < 0) {
                int r = -errno;

                free(STEAL_PTR(file->temporary));
                return r;
        }
        return 0;
}

static int open_file(const struct outdir *outdir, struct outdir_file *file) {
        file->fd = openat(outdir->fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
        if (file->fd >= 0)
                return 0;
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
                return -errno;
        return open_named(outdir, file);
}

int outdir_add(struct outdir *outdir, const char *name) {
        struct outdir_file *files, *file;
        struct stat status;
        int r;

        if (fstatat(outdir->fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0)
                return fail_exists(outdir, name);
        files = reallocarray(outdir->files, outdir->n_files + 1, sizeof(*files));
        if (!files)
                return lib_fail_errno(ENOMEM, "cannot add '%s/%s'", outdir->path, name);
        outdir->files = files;
        file = &files[outdir->n_files];
        *file = (struct outdir_file){ .name = strdup(name), .fd = -1 };
        if (!file->name)
                return lib_fail_errno(ENOMEM, "cannot add '%s/%s'", outdir->path, name);
        outdir->n_files++;
        r = open_file(outdir, file);
        return r < 0 ? lib_fail_errno(-r, "cannot make a file in '%s'", outdir->path) : file->fd;
}

/* Gives a file its name, unless that is taken. */
static int file_publish(const struct outdir *outdir, struct outdir_file *file) {
        char self[64];
        int r;

        if (file->temporary) {
                r = renameat2(outdir->fd, file->temporary, outdir->fd, file->name, RENAME_NOREPLACE);
        } else {
                snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
                r = linkat(AT_FDCWD, self, outdir->fd, file->name, AT_SYMLINK_FOLLOW);
        }
        if (r < 0 && errno == EEXIST)
                return fail_exists(outdir, file->name);
        if (r < 0)
                return lib_fail_errno(errno, "cannot give '%s/%s' its name", outdir->path, file->name);
        file->published = true;
        return 0;
}

static int sync_all(const struct outdir *outdir) {
        for (size_t i = 0; i < outdir->n_files; i++)
                if (fsync(outdir->files[i].fd) < 0)
                        return lib_fail_errno(errno, "cannot make '%s/%s' durable", outdir->path,
                                              outdir->files[i].name);
        return 0;
}

static void unpublish(struct outdir *outdir) {
        for (size_t i = 0; i < outdir->n_files; i++) {
                struct outdir_file *file = &outdir->files[i];

                if (file->published)
                        unlinkat(outdir->fd, file->name, 0);
                else if (file->temporary)
                        unlinkat(outdir->fd, file->temporary, 0);
        }
        if (outdir->made)
                rmdir(outdir->path);
        outdir->made = false;
}

static void forget_files(struct outdir *outdir) {
        for (size_t i = 0; i < outdir->n_files; i++) {
                free(outdir->files[i].name);
                free(outdir->files[i].temporary);
                cleanup_close_p(&outdir->files[i].fd);
        }
        free(STEAL_PTR(outdir->files));
        outdir->n_files = 0;
}

int outdir_publish(struct outdir *outdir) {
        if (sync_all(outdir) < 0)
                return -1;
        for (size_t i = 0; i < outdir->n_files; i++)
                if (file_publish(outdir, &outdir->files[i]) < 0)
                        return -1;
        if (fsync(outdir->fd) < 0)
                return lib_fail_errno(errno, "cannot make the directory '%s' durable", outdir->path);
        forget_files(outdir);
        outdir->made = false;
        return 0;
}

void outdir_close(struct outdir *outdir) {
        unpublish(outdir);
        forget_files(outdir);
        cleanup_close_p(&outdir->fd);
        free(outdir->path);
}
