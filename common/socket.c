/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

/* The last component of a path, and the descriptor of the directory that it lies in, AT_FDCWD or an O_PATH one. */
struct place {
        int directory;
        const char *name;
};

static int open_place(const char *path, struct place *ret) {
        CLEANUP_FREE char *parent = NULL;
        const char *slash = strrchr(path, '/');
        int directory;

        if (!*path || (slash && !slash[1]))
                return -EINVAL;
        if (!slash) {
                directory = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        } else {
                /* With its slash, so that it is right for "/name" too. */
                parent = strndup(path, (size_t) (slash - path) + 1);
                if (!parent)
                        return -ENOMEM;
                directory = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
        }
        if (directory < 0)
                return -errno;
        *ret = (struct place){ .directory = directory, .name = slash ? slash + 1 : path };
        return 0;
}

/* @path as it is where it fits, which is what a person wants to read in ss(8). */
static int make_address(const char *path, const struct place *place, struct sockaddr_un *ret) {
        int n = -1;

        *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
        if (strlen(path) < sizeof(ret->sun_path)) {
                strcpy(ret->sun_path, path);
                return 0;
        }
        n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", place->directory, place->name);
        return n < 0 || (size_t) n >= sizeof(ret->sun_path) ? -ENAMETOOLONG : 0;
}

static int connect_address(const struct sockaddr_un *address, int flags) {
        CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *) address, sizeof(*address)) < 0)
                return -errno;
        return steal_fd(&fd);
}

int socket_connect(const char *path) {
        CLEANUP_CLOSE int directory = -1;
        struct sockaddr_un address;
        struct place place;
        int r;

        r = open_place(path, &place);
        if (r < 0)
                return r;
        directory = place.directory;
        r = make_address(path, &place, &address);
        if (r < 0)
                return r;
        return connect_address(&address, 0);
}

/* A full backlog (EAGAIN) and a socket that we may not connect to (EACCES) are no sign of death. */
static bool somebody_listens(const struct sockaddr_un *address) {
        CLEANUP_CLOSE int fd = connect_address(address, SOCK_NONBLOCK);

        return fd != -ECONNREFUSED && fd != -ENOENT;
}

/*
 * Remove a socket that nobody listens on. A daemon that is just starting has bound its socket and will listen in a
 * moment, so it gets a second chance; and what has been replaced meanwhile is no longer what we looked at.
 */
static int remove_stale(const struct place *place, const struct sockaddr_un *address) {
        const struct timespec moment = { .tv_nsec = 50 * 1000 * 1000 };
        struct stat before, after;

        if (fstatat(place->directory, place->name, &before, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISSOCK(before.st_mode))
                return -EEXIST;
        if (somebody_listens(address))
                return -EADDRINUSE;
        nanosleep(&moment, NULL);
        if (somebody_listens(address))
                return -EADDRINUSE;
        if (fstatat(place->directory, place->name, &after, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (before.st_dev != after.st_dev || before.st_ino != after.st_ino)
                return -EADDRINUSE;
        return unlinkat(place->directory, place->name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int listen_at(const struct place *place, const struct sockaddr_un *address, mode_t mode, int backlog) {
        CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return -errno;
        /* The name starts with the socket's own mode less the umask, so it is never open to more than @mode says. */
        if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *) address, sizeof(*address)) < 0)
                return -errno;
        if (fchmodat(place->directory, place->name, mode, 0) < 0 || listen(fd, backlog) < 0) {
                r = -errno;
                unlinkat(place->directory, place->name, 0);
                return r;
        }
        return steal_fd(&fd);
}

int socket_listen(const char *path, mode_t mode, int backlog) {
        CLEANUP_CLOSE int directory = -1;
        struct sockaddr_un address;
        struct place place;
        int r;

        r = open_place(path, &place);
        if (r < 0)
                return r;
        directory = place.directory;
        r = make_address(path, &place, &address);
        if (r < 0)
                return r;
        r = remove_stale(&place, &address);
        if (r < 0)
                return r;
        return listen_at(&place, &address, mode, backlog);
}

int socket_get_peer(int fd, struct socket_peer *ret) {
        struct ucred credentials;
        socklen_t length = sizeof(credentials);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
                return -errno;
        *ret = (struct socket_peer){ .pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid };
        return 0;
}
