/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>

int pagemap_open(pid_t pid) {
        char path[64] = "/proc/self/pagemap";
        int fd;

        if (pid)
                snprintf(path, sizeof(path), "/proc/%d/pagemap", (int) pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? -ESRCH : -errno;
        return fd;
}

ssize_t pagemap_scan_protected(int pagemap, uint64_t start, uint64_t end, struct page_region *ret, size_t max,
                               uint64_t *ret_walked) {
        struct pm_scan_arg scan = {
                .size = sizeof(scan),
                .flags = PM_SCAN_CHECK_WPASYNC,
                .start = start,
                .end = end,
                .vec = (uintptr_t) ret,
                .vec_len = max,
                /* Not written, and there: as a page, or as what keeps its place. */
                .category_inverted = PAGE_IS_WRITTEN,
                .category_mask = PAGE_IS_WRITTEN,
                .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                /* The same for all ranges, so that those that touch are one. */
                .return_mask = PAGE_IS_WPALLOWED,
        };
        int n = ioctl(pagemap, PAGEMAP_SCAN, &scan);

        if (n < 0)
                return -errno;
        *ret_walked = scan.walk_end;
        return n;
}
