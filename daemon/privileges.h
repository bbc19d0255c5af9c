/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_PRIVILEGES_H
#define LIVESNAP_DAEMON_PRIVILEGES_H

/* What the daemon may do and use, brought to what it needs. */

#include <stdbool.h>

#include "common/error.h"

/**
 * privileges_reduce() - give up capabilities that the daemon has no use for, for good
 * @ret_can_trace: may it track the forks of clients, and read their page tables (CAP_SYS_PTRACE)?
 *
 * Acts on the calling thread and those it makes later, so call it before there is another. Return: 0, or -1 with *error
 * set.
 */
int privileges_reduce(bool *ret_can_trace, struct error *error);

/** privileges_raise_limits() - as many descriptors as the hard limit allows: clients send some for each process */
void privileges_raise_limits(void);

/**
 * privileges_lock_memory() - keep all memory of the daemon, what it will have included, from reclaim and swap
 *
 * To be called when what tests the kernel with memory of its own has run: locked memory cannot be reclaimed for a test.
 * Return: whether that was allowed (RLIMIT_MEMLOCK, CAP_IPC_LOCK) and done.
 */
bool privileges_lock_memory(void);

#endif
