/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"

#define DEPTH_MAX 16

struct removal {
        int depth;
        int first_error;
};

int store_tree_entries(int directory, int (*entry)(void *data, int directory, const char *name), void *data) {
        int fd = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        struct dirent *found;
        DIR *stream;

        if (fd < 0)
                return -errno;
        stream = fdopendir(fd);
        if (!stream) {
                r = -errno;
                close(fd);
                return r;
        }
        while (r == 0) {
                errno = 0;
                found = readdir(stream);
                if (!found) {
                        r = -errno;
                        break;
                }
                if (strcmp(found->d_name, ".") && strcmp(found->d_name, ".."))
                        r = entry(data, directory, found->d_name);
        }
        closedir(stream);
        return r;
}

static int remove_below(int directory, const char *name, int depth);

static int remove_entry(void *data, int directory, const char *name) {
        struct removal *removal = data;
        int r = remove_below(directory, name, removal->depth + 1);

        if (r < 0 && removal->first_error == 0)
                removal->first_error = r;
        return 0;
}

static int empty_below(int directory, int depth) {
        struct removal removal = { .depth = depth };
        int r = store_tree_entries(directory, remove_entry, &removal);

        return removal.first_error ? removal.first_error : r;
}

static int remove_below(int directory, const char *name, int depth) {
        CLEANUP_CLOSE int fd = -1;
        int r;

        if (unlinkat(directory, name, 0) == 0 || errno == ENOENT)
                return 0;
        if (errno != EISDIR)
                return -errno;
        if (depth >= DEPTH_MAX)
                return -ELOOP;
        fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = empty_below(fd, depth);
        if (r < 0)
                return r;
        return unlinkat(directory, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int store_tree_remove(int directory, const char *name) {
        return remove_below(directory, name, 0);
}

int store_tree_empty(int directory) {
        return empty_below(directory, 0);
}
