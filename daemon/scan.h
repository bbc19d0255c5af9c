/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_SCAN_H
#define LIVESNAP_DAEMON_SCAN_H

/*
 * Asks the kernel which pages of a domain that is tracked asynchronously were written since the last scan, notes them
 * in the regions' tables (tracking.h), and protects them again. On the fault thread.
 *
 * Whatever is not seen to be protected counts as written, and so does all that a process had mapped which cannot be
 * asked any more, or not yet. A page is protected again before its content is read, so no write is lost between: it is
 * noted by this scan or by the next one.
 */

#include "daemon/fault.h"

struct scan {
        uint64_t bytes_dirty; /* of all pages that are noted as written by now */
        unsigned n_unknown;   /* contexts whose process is not known yet: all of what they map counts as written */
};

/**
 * scan_domain() - do that
 * @stopped: no program runs, so pages between two that were written may be protected with them. Else one of them could
 * be written just before that, and nobody would know.
 *
 * Return: 0, or -1 with *error set (ArmFailed) where it is not the memory that it was said to be.
 */
int scan_domain(struct fault_thread *thread, bool stopped, struct scan *ret, struct error *error);

#endif
