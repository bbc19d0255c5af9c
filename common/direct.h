/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_DIRECT_H
#define LIVESNAP_COMMON_DIRECT_H

#include <fcntl.h>
#include <stdbool.h>

/**
 * direct_leave() - have an open file read and written through the page cache from here on
 *
 * For when an operation got EINVAL: some filesystems take O_DIRECT when a file is opened and refuse it when it is used,
 * and some disks have sectors that are larger than our pages. Others that were started before may get EINVAL, too.
 *
 * Return: true, it is worth another try.
 */
static inline bool direct_leave(int fd) {
        int flags = fcntl(fd, F_GETFL);

        return flags >= 0 && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

#endif
