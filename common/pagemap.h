/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_PAGEMAP_H
#define LIVESNAP_COMMON_PAGEMAP_H

/*
 * PAGEMAP_SCAN (Linux 6.7): which pages of a process were written since an asynchronous userfaultfd protected them.
 *
 * Asked the other way round: which are protected still? What is not counts as written. A page that was written and then
 * taken out of the page table, by reclaim or MADV_DONTNEED, has neither an entry nor a marker that could tell of it,
 * and what PAGE_IS_WRITTEN says of such a place is the kernel's choice. That a page is protected is said by what is
 * there.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/uffd_compat.h"

/** pagemap_open() - of a process, or of the caller (0). A descriptor that the caller owns, or -errno. */
int pagemap_open(pid_t pid);

/**
 * pagemap_scan_protected() - the ranges in [@start, @end) that are protected by an asynchronous userfaultfd
 * @pagemap: descriptor of /proc/PID/pagemap
 * @ret: room for @max ranges, in order
 * @ret_walked: how far the answer reaches: @end, or less where there was no more room
 *
 * Return: how many ranges, or -errno: -EPERM where something else than memory under such a userfaultfd is mapped in the
 * range, -ESRCH where the process is gone. Allocates nothing; thread-safe.
 */
ssize_t pagemap_scan_protected(int pagemap, uint64_t start, uint64_t end, struct page_region *ret, size_t max,
                               uint64_t *ret_walked);

#endif
