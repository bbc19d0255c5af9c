/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CUT_H
#define LIVESNAP_DAEMON_CUT_H

/*
 * The cut: arm every mapping of every region, and serve no fault until the last arm call has returned. A thread that
 * hits a page that is armed already sleeps, so nothing that it would have done later can happen before the cut; hence
 * memory at that moment is one consistent state, and no process was stopped.
 */

#include "daemon/fault.h"

/**
 * cut_make() - arm all, on the fault thread in phase hold
 *
 * A process that is forked meanwhile is armed before the cut, like any other. Takes the hole maps of regions that are
 * not sealed. Return: 0, or -1 with *error set, or with the run stopped; the caller then disarms.
 */
int cut_make(struct fault_thread *thread, struct run *run, struct error *error);

#endif
