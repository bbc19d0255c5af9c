/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_ARM_H
#define LIVESNAP_DAEMON_ARM_H

/* Write-protecting ranges of a process's memory, whatever is in the way. On the fault thread. */

#include "daemon/fault.h"

/*
 * Where only some pages have to be armed they are armed in runs. To walk over a page that is armed already costs little
 * against the call itself, so runs that lie so many pages apart at most are armed with one.
 */
#define ARM_GAP_PAGES 32

/**
 * arm_range() - write-protect all that is mapped in a range
 * @page_bytes: of the region; @address and @length are multiples of it
 * @deadline_ns: CLOCK_MONOTONIC; looked at every GiB, and while the kernel refuses for the moment
 *
 * Messages are read meanwhile, which may change the lists of the domain. Return: 0, -ETIME past the deadline, -ESRCH
 * the process is gone, or another -errno.
 */
int arm_range(struct fault_thread *thread, struct context *context, uint64_t address, uint64_t length,
              uint64_t page_bytes, uint64_t deadline_ns);

#endif
