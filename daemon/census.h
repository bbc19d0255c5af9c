/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CENSUS_H
#define LIVESNAP_DAEMON_CENSUS_H

/*
 * Before a cut: who else could write to the regions? Looks through the mappings, and for tmpfs files the descriptors,
 * of all processes, and says for each region what can be guaranteed.
 */

#include <sys/types.h>

#include "common/error.h"
#include "daemon/fault.h"

struct census {
        unsigned n_unreadable; /* processes that could not be looked into */
        unsigned n_foreign;    /* descriptors, open for writing, that processes hold which are not tracked */
        pid_t foreign_pid;     /* one of them */
        unsigned n_pids;
        pid_t *pids; /* processes that map a region and are tracked; owned */
};

enum census_mode {
        CENSUS_ADOPT, /* before the cut: what a tracked process maps anew comes under its userfaultfd */
        CENSUS_CHECK, /* after the sweep: nothing may be untracked, for it was so in the course of the snapshot */
};

/**
 * census_take() - look, and set the guarantee of every region
 *
 * Sealed regions are looked at as well: who mapped them before the seal, or moved or grew a mapping, still writes.
 * Called on a thread that may block, never in the hold.
 * Return: 0, or -1 with *error set (UntrackedWriter) when a process maps a region writable and is not tracked.
 * census_deinit() is due in any case.
 */
int census_take(struct fault_thread *thread, enum census_mode mode, struct census *ret, struct error *error);
void census_deinit(struct census *census);

#endif
