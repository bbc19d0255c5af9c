/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_SOCKET_H
#define LIVESNAP_COMMON_SOCKET_H

/*
 * AF_UNIX stream sockets with a path. The path may be longer than the 107 bytes of sockaddr_un: then the directory is
 * opened and the socket is named through /proc/self/fd.
 */

#include <sys/types.h>

/** Where the daemon listens unless told otherwise. */
#define SOCKET_DIRECTORY_DEFAULT "/run/livesnap"
#define SOCKET_PATH_DEFAULT SOCKET_DIRECTORY_DEFAULT "/livesnapd.sock"

/**
 * socket_connect() - connect to a listening socket
 *
 * Return: a blocking descriptor, or -errno: -ENOENT there is no socket, -ECONNREFUSED nobody listens on it, -EACCES.
 */
int socket_connect(const char *path);

/**
 * socket_listen() - make a listening socket
 * @mode: permissions of its name in the filesystem; the process's umask is no matter
 *
 * A socket that somebody listens on is left alone, one that a dead process left behind is replaced, and anything else
 * of that name is not touched.
 *
 * Return: a non-blocking descriptor, or -errno: -EADDRINUSE somebody listens on it, -EEXIST it is no socket.
 */
int socket_listen(const char *path, mode_t mode, int backlog);

/** struct socket_peer - who connected; ids as this process's namespaces see them, pid 0 where they do not */
struct socket_peer {
        pid_t pid;
        uid_t uid;
        gid_t gid;
};

/** socket_get_peer() - identity of the peer when it connected (SO_PEERCRED). Return: 0 or -errno. */
int socket_get_peer(int fd, struct socket_peer *ret);

#endif
