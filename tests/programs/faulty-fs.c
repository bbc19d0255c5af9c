/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * faulty-fs DIRECTORY MOUNT-POINT: a filesystem (FUSE) that shows DIRECTORY and does to its users what disks and
 * hostile filesystems do. Takes one command a line on stdin and answers each with "ok":
 *
 *   refuse-direct   reading and writing with O_DIRECT is refused, which to open with O_DIRECT was not
 *   short           of each write only about the half is taken, and no whole number of sectors
 *   broken          no write succeeds (EIO)
 *   broken-fsync    nothing becomes durable (EIO)
 *   hang PID        closing a descriptor does not come back, to this process
 *   well            all is well again, and what hangs goes on
 *
 * Says "ok" once when it is mounted. End of file on stdin unmounts it and ends it.
 */

#define THREADS_MAX 64
#define FUSE_USE_VERSION 312
#include <fuse.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum fault {
        WELL,
        REFUSE_DIRECT,
        SHORT,
        BROKEN,
        BROKEN_FSYNC,
        HANG,
        N_FAULTS,
};

static const char *const fault_names[] = { "well", "refuse-direct", "short", "broken", "broken-fsync", "hang" };

static int root; /* descriptor of DIRECTORY */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static _Atomic enum fault fault;
static _Atomic int victim; /* of HANG */

static void set_fault(enum fault next) {
        pthread_mutex_lock(&lock);
        fault = next;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
}

static int result(int r) {
        return r < 0 ? -errno : 0;
}

/* Paths come with a slash before them, and the root as nothing but that. */
static const char *below(const char *path) {
        return path[1] ? path + 1 : ".";
}

static void *on_init(struct fuse_conn_info *connection, struct fuse_config *config) {
        /* The kernel would make an error of writes that are cut short, were they not made one after the other. */
        connection->want &= ~(unsigned) FUSE_CAP_ASYNC_DIO;
        /* What the kernel kept would hide what a fault does. */
        config->kernel_cache = 0;
        config->hard_remove = 1;
        config->use_ino = 1;
        return NULL;
}

static int on_getattr(const char *path, struct stat *status, struct fuse_file_info *file) {
        return result(file ? fstat((int) file->fh, status) : fstatat(root, below(path), status, AT_SYMLINK_NOFOLLOW));
}

static int on_mkdir(const char *path, mode_t mode) {
        return result(mkdirat(root, below(path), mode));
}

static int on_unlink(const char *path) {
        return result(unlinkat(root, below(path), 0));
}

static int on_rmdir(const char *path) {
        return result(unlinkat(root, below(path), AT_REMOVEDIR));
}

static int on_rename(const char *from, const char *to, unsigned flags) {
        return result(renameat2(root, below(from), root, below(to), flags));
}

static int on_chmod(const char *path, mode_t mode, struct fuse_file_info *file) {
        return result(fchmodat(root, below(path), mode, 0));
}

static int on_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file) {
        return result(utimensat(root, below(path), times, AT_SYMLINK_NOFOLLOW));
}

static int on_truncate(const char *path, off_t bytes, struct fuse_file_info *file) {
        int fd, r;

        if (file)
                return result(ftruncate((int) file->fh, bytes));
        fd = openat(root, below(path), O_WRONLY | O_CLOEXEC);
        r = fd < 0 ? -errno : result(ftruncate(fd, bytes));
        if (fd >= 0)
                close(fd);
        return r;
}

/* Buffers of FUSE are aligned to nothing, so the files themselves are not opened with O_DIRECT. */
static int on_create(const char *path, mode_t mode, struct fuse_file_info *file) {
        int fd = openat(root, below(path), (file->flags & ~O_DIRECT) | O_CREAT | O_CLOEXEC, mode);

        if (fd < 0)
                return -errno;
        file->fh = (uint64_t) fd;
        return 0;
}

static int on_open(const char *path, struct fuse_file_info *file) {
        int fd = openat(root, below(path), (file->flags & ~(O_DIRECT | O_CREAT | O_EXCL)) | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        file->fh = (uint64_t) fd;
        return 0;
}

static bool is_refused(const struct fuse_file_info *file) {
        return fault == REFUSE_DIRECT && (file->flags & O_DIRECT);
}

static int on_read(const char *path, char *data, size_t bytes, off_t offset, struct fuse_file_info *file) {
        ssize_t n;

        if (is_refused(file))
                return -EINVAL;
        n = pread((int) file->fh, data, bytes, offset);
        return n < 0 ? -errno : (int) n;
}

static int on_write(const char *path, const char *data, size_t bytes, off_t offset, struct fuse_file_info *file) {
        ssize_t n;

        if (is_refused(file))
                return -EINVAL;
        if (fault == BROKEN)
                return -EIO;
        if (fault == SHORT && bytes > 4096)
                bytes = bytes / 2 + 100;
        n = pwrite((int) file->fh, data, bytes, offset);
        return n < 0 ? -errno : (int) n;
}

static int on_fsync(const char *path, int only_data, struct fuse_file_info *file) {
        return fault == BROKEN_FSYNC ? -EIO : result(fsync((int) file->fh));
}

static int on_fsyncdir(const char *path, int only_data, struct fuse_file_info *file) {
        return 0;
}

/* The kernel tells which thread it is. Others fork and end with copies of the descriptor, and should not hang. */
static bool is_victim(pid_t tid) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/task/%d", victim, (int) tid);
        return access(path, F_OK) == 0;
}

static int on_flush(const char *path, struct fuse_file_info *file) {
        if (fault != HANG || !is_victim(fuse_get_context()->pid))
                return 0;
        pthread_mutex_lock(&lock);
        while (fault == HANG)
                pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
        return 0;
}

static int on_release(const char *path, struct fuse_file_info *file) {
        close((int) file->fh);
        return 0;
}

static int on_fallocate(const char *path, int mode, off_t offset, off_t bytes, struct fuse_file_info *file) {
        return result(fallocate((int) file->fh, mode, offset, bytes));
}

static int on_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *file,
                      enum fuse_readdir_flags flags) {
        int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;

        if (!directory) {
                int r = -errno;

                if (fd >= 0)
                        close(fd);
                return r;
        }
        while ((entry = readdir(directory)))
                if (fill(buffer, entry->d_name, NULL, 0, 0))
                        break;
        closedir(directory);
        return 0;
}

static int on_statfs(const char *path, struct statvfs *status) {
        return result(fstatvfs(root, status));
}

static const struct fuse_operations operations = {
        .init = on_init,
        .getattr = on_getattr,
        .mkdir = on_mkdir,
        .unlink = on_unlink,
        .rmdir = on_rmdir,
        .rename = on_rename,
        .chmod = on_chmod,
        .utimens = on_utimens,
        .truncate = on_truncate,
        .create = on_create,
        .open = on_open,
        .read = on_read,
        .write = on_write,
        .fsync = on_fsync,
        .fsyncdir = on_fsyncdir,
        .flush = on_flush,
        .release = on_release,
        .fallocate = on_fallocate,
        .readdir = on_readdir,
        .statfs = on_statfs,
};

static void *read_commands(void *data) {
        struct fuse *fuse = data;
        char line[64];

        puts("ok");
        while (fgets(line, sizeof(line), stdin)) {
                char *space = strpbrk(line, " \n");

                if (space && *space == ' ')
                        victim = (int) strtol(space, NULL, 10);
                line[strcspn(line, " \n")] = '\0';
                for (unsigned i = 0; i < N_FAULTS; i++)
                        if (!strcmp(line, fault_names[i])) {
                                set_fault((enum fault) i);
                                puts("ok");
                        }
        }
        set_fault(WELL);
        fuse_unmount(fuse);
        /* With the process goes the connection, and with that whoever still waits for an answer. */
        _exit(0);
}

int main(int argc, char **argv) {
        struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
        struct fuse_loop_config *config = fuse_loop_cfg_create();
        struct fuse *fuse;
        pthread_t commands;
        int r;

        if (argc != 3) {
                fprintf(stderr, "usage: faulty-fs DIRECTORY MOUNT-POINT\n");
                return 2;
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        umask(0);
        root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fuse_opt_add_arg(&arguments, "faulty-fs");
        fuse_opt_add_arg(&arguments, "-oallow_other");
        fuse = root < 0 ? NULL : fuse_new(&arguments, &operations, sizeof(operations), NULL);
        if (!fuse || fuse_mount(fuse, argv[2]) < 0) {
                fprintf(stderr, "faulty-fs: cannot show %s at %s\n", argv[1], argv[2]);
                return 1;
        }
        if (pthread_create(&commands, NULL, read_commands, fuse))
                return 1;
        /* Each that hangs takes one. */
        fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
        r = fuse_loop_mt(fuse, config);
        fuse_destroy(fuse);
        fuse_opt_free_args(&arguments);
        fuse_loop_cfg_destroy(config);
        return r < 0;
}
