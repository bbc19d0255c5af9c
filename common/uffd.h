/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_UFFD_H
#define LIVESNAP_COMMON_UFFD_H

/*
 * userfaultfd(2) in write-protect mode, one function a call. All return 0 or -errno, allocate nothing and may be called
 * from any thread; the memory meant is that of the process in which the descriptor was made, not the caller's.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/uffd_compat.h"

/** uffd_open_device() - open /dev/userfaultfd; the permission is checked here and never again. A descriptor or -errno.
 */
int uffd_open_device(void);

/**
 * uffd_new() - make a userfaultfd for the calling process, close-on-exec and non-blocking
 * @device: descriptor of /dev/userfaultfd, borrowed, or -1 to use the system call
 *
 * Return: a descriptor that the caller owns, or -errno.
 */
int uffd_new(int device);

/**
 * uffd_handshake() - agree on the API; once only for each descriptor
 * @features: UFFD_FEATURE_* that must be there. Some kernels of the 6.1 series accept what they do not know, so what
 *            comes back is checked: -EOPNOTSUPP where one is missing.
 * @ret_features: all that the kernel offers; may be NULL
 *
 * EVENT_FORK needs CAP_SYS_PTRACE of the caller: -EPERM.
 */
int uffd_handshake(int uffd, uint64_t features, uint64_t *ret_features);

/** uffd_register_wp() - put a range under the userfaultfd. EBUSY: another one has it. EINVAL: not shmem or hugetlbfs.
 */
int uffd_register_wp(int uffd, uint64_t address, uint64_t length);

/**
 * uffd_unregister() - take a range out, which clears its protection but does not wake who waits on it
 *
 * Disarm, unregister, uffd_wake(), in this order, leaves nobody asleep.
 */
int uffd_unregister(int uffd, uint64_t address, uint64_t length);

/**
 * uffd_arm() - write-protect a range
 *
 * -EAGAIN: a fork, mremap or the like is under way; its event must be read first. -ESRCH: the process is gone.
 * -ENOENT: part of the range is not registered; the part before it is protected all the same.
 */
int uffd_arm(int uffd, uint64_t address, uint64_t length);

/** uffd_disarm() - take the protection away and wake who waits; errors as for uffd_arm() */
int uffd_disarm(int uffd, uint64_t address, uint64_t length);

/** uffd_wake() - wake who waits on the range; works even while uffd_disarm() gives -EAGAIN */
int uffd_wake(int uffd, uint64_t address, uint64_t length);

/** uffd_owner_is_alive() - false once the process has exited or called exec, which the kernel tells in no other way */
bool uffd_owner_is_alive(int uffd);

/** uffd_read() - read up to @max messages. The number read (0: none waits now) or -errno. */
int uffd_read(int uffd, struct uffd_msg *messages, size_t max);

#endif
