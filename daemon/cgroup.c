/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/cgroup.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* A mount of a hierarchy, from /proc/self/mountinfo. */
struct cgroup_mount {
        dev_t device;
        enum cgroup_version version;
        char point[PATH_MAX];
};

/* The next one in the file; false at its end. */
static bool next_mount(FILE *file, struct cgroup_mount *ret) {
        char line[PATH_MAX + 512], type[32];
        unsigned major, minor;

        while (fgets(line, sizeof(line), file)) {
                const char *separator = strstr(line, " - ");

                if (!separator || sscanf(separator, " - %31s", type) != 1 ||
                    sscanf(line, "%*s %*s %u:%u %*s %4095s", &major, &minor, ret->point) != 3)
                        continue;
                ret->version = !strcmp(type, "cgroup2") ? CGROUP_V2 : !strcmp(type, "cgroup") ? CGROUP_V1 : CGROUP_NONE;
                ret->device = makedev(major, minor);
                if (ret->version != CGROUP_NONE)
                        return true;
        }
        return false;
}

static bool get_device(int fd, dev_t *ret) {
        struct statx status;

        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &status) < 0)
                return false;
        *ret = makedev(status.stx_dev_major, status.stx_dev_minor);
        return true;
}

enum cgroup_version cgroup_identify(int fd) {
        enum cgroup_version version = CGROUP_NONE;
        struct cgroup_mount mount;
        dev_t device;
        FILE *file;

        if (!get_device(fd, &device))
                return CGROUP_NONE;
        file = fopen("/proc/self/mountinfo", "re");
        while (file && version == CGROUP_NONE && next_mount(file, &mount))
                if (mount.device == device)
                        version = mount.version;
        if (file)
                fclose(file);
        return version;
}

/* Where the descriptor leads, if that ends with this name; @ret is the directory. */
static bool get_directory(int fd, const char *name, char ret[static PATH_MAX]) {
        char link[64];
        size_t length = strlen(name);
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, ret, PATH_MAX - 1);
        if (n <= (ssize_t) length + 1)
                return false;
        ret[n] = '\0';
        if (ret[n - (ssize_t) length - 1] != '/' || strcmp(ret + n - length, name))
                return false;
        ret[n - (ssize_t) length - 1] = '\0';
        return true;
}

bool cgroup_path(int fd, const char *name, char *ret, size_t size) {
        char directory[PATH_MAX];
        struct cgroup_mount mount;
        size_t longest = 0;
        dev_t device;
        FILE *file;

        if (!get_device(fd, &device) || !get_directory(fd, name, directory))
                return false;
        file = fopen("/proc/self/mountinfo", "re");
        while (file && next_mount(file, &mount)) {
                size_t length = strlen(mount.point);

                if (mount.device != device || length <= longest || strncmp(directory, mount.point, length) ||
                    (directory[length] && directory[length] != '/'))
                        continue;
                longest = length;
                if (snprintf(ret, size, "%s", directory[length] ? directory + length : "/") >= (int) size)
                        longest = 0;
        }
        if (file)
                fclose(file);
        return longest > 0;
}
