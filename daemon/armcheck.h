/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_ARMCHECK_H
#define LIVESNAP_DAEMON_ARMCHECK_H

/*
 * After a cut: is the protection there? The arm calls have returned without an error, but kernels of the 6.1 series can
 * return so although there was no memory for a page table; and a userfaultfd may be of another process than the one
 * that its sender named. The kernel shows the protection of each page as bit 57 of /proc/PID/pagemap.
 *
 * Runs after the hold, so nobody waits for it, and before the sweep begins to disarm. Threads fault meanwhile and
 * their pages are disarmed once they are saved. So a page that is found without protection is looked up on the fault
 * thread: only where it was not saved, the mapping is still there and its owner alive, the protection was never put.
 *
 * Processes that were forked after they were attached are not looked into: their pids are not known. Their page tables
 * are copies of their parents', or were armed by the same call.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "daemon/fault.h"

struct armcheck {
        unsigned n_unreadable; /* processes whose page tables could not be read */
        uint64_t n_pages;      /* looked at */
};

/**
 * armcheck_run() - look at pages of every mapping: all on kernels that can fail in silence, else a sample
 * @all: look at every page whatever the kernel
 *
 * Between fault_begin() and the sweep, on a thread that may wait. Return: 0, also where the run is to end anyway, or -1
 * with *error set (ArmFailed).
 */
int armcheck_run(struct fault_thread *thread, struct run *run, bool all, struct armcheck *ret, struct error *error);

/** armcheck_is_silent() - may arming fail in silence on the kernel of this release, such as "6.1.0-28-amd64"? */
bool armcheck_is_silent(const char *release);

#endif
