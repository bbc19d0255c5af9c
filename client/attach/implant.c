/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Theory of operation
 *
 * The helper thread (tracee.c) makes these calls, one by one, with its arguments in a page that it maps and unmaps:
 *
 *     socket, connect      to an abstract socket of ours
 *     recvmsg              of our descriptor of /dev/userfaultfd, whose permission was checked when we opened it
 *     ioctl                USERFAULTFD_IOC_NEW: a userfaultfd for the memory of the caller, that is, the process
 *     sendmsg              of the userfaultfd to us; these two once more, for the second one
 *     exit                 and with it goes its descriptor table, which held the only other copies
 *
 * Nothing of this depends on what the process may open, see or do. Abstract names belong to a network namespace, so
 * our socket is made in that of the process; a socket stays in the namespace that it was made in. What the name leads
 * to is ours, because we bound it first; that the peer is the helper, SO_PEERCRED tells. (A thread of the program's
 * that got in first would get a descriptor of the device, which the daemon gives to anyone who may talk to it.)
 */

#include "client/attach/implant.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/attach/proc.h"
#include "client/attach/threads.h"
#include "client/attach/tracee.h"
#include "common/cleanup.h"
#include "common/socket.h"

#define USERFAULTFD_LINK "anon_inode:[userfaultfd]"
#define SPAWN_ATTEMPTS 5
#define HAND_OVER_TIMEOUT_S 5

/* What the helper's calls point to. It is built here, with the addresses that it has there. */
struct scratch {
        struct sockaddr_un address;
        struct msghdr message;
        struct iovec vector;
        char byte;
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control;
};

_Static_assert(sizeof(struct scratch) <= TRACEE_PAGE_BYTES, "the scratch page is one page");

static int error_call(const struct tracee_helper *helper, const char *call, long result, struct error *error) {
        if (result == -ESRCH || !proc_is_alive(helper->process))
                return error_set(error, ERROR_BAD_MAPPING,
                                 "process %d exited, or executed another program, while livesnap attached to it",
                                 (int) helper->process);
        return error_set(error, ERROR_PERMISSION_DENIED,
                         "%s on behalf of process %d failed: %s; a security module (SELinux, AppArmor, Landlock) may "
                         "forbid it to this process: see the kernel's log",
                         call, (int) helper->process, strerror((int) -result));
}

/* A listening socket in the network namespace of the process, under a name that the kernel chooses. */
static int listener_new(pid_t process, struct sockaddr_un *ret_address, socklen_t *ret_length) {
        CLEANUP_CLOSE int listener = -1, own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), theirs = -1;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t length = sizeof(address);
        struct stat own_stat, their_stat;
        char path[64];
        bool elsewhere;

        snprintf(path, sizeof(path), "/proc/%d/ns/net", (int) process);
        theirs = open(path, O_RDONLY | O_CLOEXEC);
        if (own < 0 || theirs < 0 || fstat(own, &own_stat) < 0 || fstat(theirs, &their_stat) < 0)
                return -errno;
        elsewhere = own_stat.st_ino != their_stat.st_ino || own_stat.st_dev != their_stat.st_dev;
        if (elsewhere && setns(theirs, CLONE_NEWNET) < 0)
                return -errno;
        listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (elsewhere && setns(own, CLONE_NEWNET) < 0)
                return -errno;
        if (listener < 0 || bind(listener, (struct sockaddr *) &address, sizeof(sa_family_t)) < 0 ||
            listen(listener, 4) < 0 || getsockname(listener, (struct sockaddr *) &address, &length) < 0)
                return -errno;
        *ret_address = address;
        *ret_length = length;
        return steal_fd(&listener);
}

/* The connection that the helper made; what others made is dropped. */
static int listener_accept(int listener, pid_t process) {
        const struct timeval timeout = { .tv_sec = HAND_OVER_TIMEOUT_S };

        for (;;) {
                CLEANUP_CLOSE int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                struct socket_peer peer;

                if (connection < 0)
                        return -errno;
                if (socket_get_peer(connection, &peer) < 0 || peer.pid != process)
                        continue;
                if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0)
                        return -errno;
                return steal_fd(&connection);
        }
}

/* @base: address that the scratch has where it is used: its own, or that in the process. */
static void scratch_init_message(struct scratch *scratch, uint64_t base, int fd) {
        *scratch = (struct scratch){
                .address = scratch->address,
                .message = {
                        .msg_iov = (void *) (uintptr_t) (base + offsetof(struct scratch, vector)),
                        .msg_iovlen = 1,
                        .msg_control = (void *) (uintptr_t) (base + offsetof(struct scratch, control)),
                        .msg_controllen = sizeof(scratch->control.bytes),
                },
                .vector = { (void *) (uintptr_t) (base + offsetof(struct scratch, byte)), 1 },
                .control.header = {
                        .cmsg_len = CMSG_LEN(sizeof(int)),
                        .cmsg_level = SOL_SOCKET,
                        .cmsg_type = SCM_RIGHTS,
                },
        };
        memcpy(CMSG_DATA(&scratch->control.header), &fd, sizeof(fd));
}

static int scratch_fd(const struct scratch *scratch) {
        const struct cmsghdr *header = &scratch->control.header;
        int fd;

        if (scratch->message.msg_controllen < CMSG_LEN(sizeof(int)) || header->cmsg_level != SOL_SOCKET ||
            header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
                return -EBADMSG;
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
        return fd;
}

static int scratch_copy(const struct tracee_helper *helper, struct scratch *scratch, uint64_t base, bool out) {
        struct iovec local = { scratch, sizeof(*scratch) };
        struct iovec remote = { (void *) (uintptr_t) base, sizeof(*scratch) };
        ssize_t length = out ? process_vm_writev(helper->tid, &local, 1, &remote, 1, 0)
                             : process_vm_readv(helper->tid, &local, 1, &remote, 1, 0);

        return length < 0 ? -errno : length == (ssize_t) sizeof(*scratch) ? 0 : -EFAULT;
}

static int message_send(int connection, int fd) {
        struct scratch scratch = { 0 };

        scratch_init_message(&scratch, (uintptr_t) &scratch, fd);
        return sendmsg(connection, &scratch.message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int message_receive(int connection) {
        struct scratch scratch = { 0 };

        scratch_init_message(&scratch, (uintptr_t) &scratch, -1);
        if (recvmsg(connection, &scratch.message, MSG_CMSG_CLOEXEC) < 0)
                return -errno;
        return scratch_fd(&scratch);
}

static bool is_userfaultfd(const char *path) {
        char link[sizeof(USERFAULTFD_LINK)];
        ssize_t length = readlink(path, link, sizeof(link));

        return length == (ssize_t) strlen(USERFAULTFD_LINK) && !memcmp(link, USERFAULTFD_LINK, (size_t) length);
}

/* Have the helper make a userfaultfd of its @device and send it over its @socket; @connection is our end of that. */
static int helper_fetch_userfaultfd(struct tracee_helper *helper, uint64_t base, long socket, long device,
                                    int connection, int *ret, struct error *error) {
        struct scratch scratch = { 0 };
        CLEANUP_CLOSE int uffd = -1;
        char path[64];
        long result;

        result = TRACEE_CALL(helper, SYS_ioctl, (uint64_t) device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        if (result < 0)
                return error_call(helper, "USERFAULTFD_IOC_NEW", result, error);
        scratch_init_message(&scratch, base, (int) result);
        result = scratch_copy(helper, &scratch, base, true);
        if (result < 0)
                return error_call(helper, "process_vm_writev", result, error);
        result = TRACEE_CALL(helper, SYS_sendmsg, (uint64_t) socket, base + offsetof(struct scratch, message),
                             MSG_NOSIGNAL);
        if (result < 0)
                return error_call(helper, "sendmsg", result, error);
        uffd = message_receive(connection);
        if (uffd < 0)
                return error_call(helper, "recvmsg of the userfaultfd", uffd, error);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", uffd);
        if (!is_userfaultfd(path))
                return error_set(error, ERROR_BAD_MAPPING, "process %d sent something that is no userfaultfd",
                                 (int) helper->process);
        *ret = steal_fd(&uffd);
        return 0;
}

/* All that is said to a helper with its scratch page at @base. What it made is the caller's, also on failure. */
static int helper_converse(struct tracee_helper *helper, uint64_t base, int device, int ret[IMPLANT_UFFDS],
                           struct error *error) {
        CLEANUP_CLOSE int listener = -1, connection = -1;
        struct scratch scratch = { 0 };
        socklen_t length = 0;
        long fd, result, helpers_device;
        uint64_t message = base + offsetof(struct scratch, message);

        listener = listener_new(helper->process, &scratch.address, &length);
        if (listener < 0)
                return error_set(error, ERROR_PERMISSION_DENIED,
                                 "cannot listen in the network namespace of process %d: %s; livesnap-attach needs "
                                 "CAP_SYS_ADMIN there",
                                 (int) helper->process, strerror(-listener));
        scratch_init_message(&scratch, base, -1);
        result = scratch_copy(helper, &scratch, base, true);
        if (result < 0)
                return error_call(helper, "process_vm_writev", result, error);

        fd = TRACEE_CALL(helper, SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return error_call(helper, "socket", fd, error);
        result = TRACEE_CALL(helper, SYS_connect, (uint64_t) fd, base + offsetof(struct scratch, address), length);
        if (result < 0)
                return error_call(helper, "connect", result, error);
        connection = listener_accept(listener, helper->process);
        if (connection < 0)
                return error_call(helper, "accept", connection, error);

        result = message_send(connection, device);
        if (result < 0)
                return error_call(helper, "sendmsg of /dev/userfaultfd", result, error);
        result = TRACEE_CALL(helper, SYS_recvmsg, (uint64_t) fd, message, MSG_CMSG_CLOEXEC);
        if (result < 0)
                return error_call(helper, "recvmsg", result, error);
        result = scratch_copy(helper, &scratch, base, false);
        if (result < 0)
                return error_call(helper, "process_vm_readv", result, error);
        result = scratch_fd(&scratch);
        if (result < 0)
                return error_call(helper, "recvmsg of /dev/userfaultfd", result, error);
        helpers_device = result;

        for (unsigned i = 0; i < IMPLANT_UFFDS; i++)
                if (helper_fetch_userfaultfd(helper, base, fd, helpers_device, connection, &ret[i], error) < 0)
                        return -1;
        return 0;
}

static int helper_make_userfaultfds(struct tracee_helper *helper, int device, int ret[IMPLANT_UFFDS],
                                    struct error *error) {
        long base = TRACEE_CALL(helper, SYS_mmap, 0, TRACEE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t) -1, 0);
        int r;

        if (base < 0)
                return error_call(helper, "mmap", base, error);
        r = helper_converse(helper, (uint64_t) base, device, ret, error);
        TRACEE_CALL(helper, SYS_munmap, (uint64_t) base, TRACEE_PAGE_BYTES);
        return r;
}

int implant_userfaultfds(pid_t process, pid_t twin, int device, int ret[IMPLANT_UFFDS], struct error *error) {
        int uffds[IMPLANT_UFFDS] = { -1, -1 };
        struct tracee_helper helper;
        int r;

        for (unsigned attempt = 1;; attempt++) {
                struct error failure = { 0 };
                pid_t owner, thread;

                if (threads_choose(process, twin, &owner, &thread, error) < 0)
                        return -1;
                if (!tracee_helper_spawn(owner, thread, &helper, &failure))
                        break;
                /* The thread may have ended just then, or the process have become another program. */
                if (failure.kind != ERROR_BAD_MAPPING || !proc_is_alive(process) || attempt == SPAWN_ATTEMPTS) {
                        *error = failure;
                        return -1;
                }
        }
        r = helper_make_userfaultfds(&helper, device, uffds, error);
        if (tracee_helper_finish(&helper, r == 0 ? error : NULL) < 0)
                r = -1;
        for (unsigned i = 0; i < IMPLANT_UFFDS; i++)
                if (r == 0)
                        ret[i] = uffds[i];
                else if (uffds[i] >= 0)
                        close(uffds[i]);
        return r;
}

static void cleanup_closedir_p(DIR **directory) {
        if (*directory)
                closedir(*directory);
}

static int process_check_copies(pid_t process, const int *uffds, size_t n_uffds, struct error *error) {
        CLEANUP(cleanup_closedir_p) DIR *directory = NULL;
        struct dirent *entry;
        char path[64 + sizeof(entry->d_name)], comm[PROC_COMM_SIZE];

        snprintf(path, sizeof(path), "/proc/%d/fd", (int) process);
        directory = opendir(path);
        if (!directory)
                return 0;
        while ((entry = readdir(directory))) {
                snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int) process, entry->d_name);
                if (!is_userfaultfd(path))
                        continue;
                for (size_t i = 0; i < n_uffds; i++)
                        if (!syscall(SYS_kcmp, process, getpid(), KCMP_FILE, atoi(entry->d_name), uffds[i]))
                                return error_set(error, ERROR_INTERNAL,
                                                 "process %d (%s) holds a copy of a userfaultfd that was made for the "
                                                 "daemon, so nothing was attached; try again",
                                                 (int) process, proc_comm(process, comm));
        }
        return 0;
}

int implant_check_sole_owner(const int *uffds, size_t n_uffds, struct error *error) {
        CLEANUP(cleanup_closedir_p) DIR *directory = opendir("/proc");
        struct dirent *entry;

        if (!directory)
                return error_set(error, ERROR_INTERNAL, "cannot read /proc: %s", strerror(errno));
        while ((entry = readdir(directory))) {
                pid_t process = atoi(entry->d_name);

                if (process > 0 && process != getpid() && process_check_copies(process, uffds, n_uffds, error) < 0)
                        return -1;
        }
        return 0;
}
