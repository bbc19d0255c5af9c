/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_PINS_H
#define LIVESNAP_DAEMON_PINS_H

/*
 * Memory that is written without its page tables: pages that were pinned before they are protected. A device, or the
 * kernel for io_uring, writes to them by their physical address, and no fault tells of it.
 *
 * The kernel tells of pinned pages for a process as a whole (VmPin), not where they are. It tells of io_uring's buffers
 * for each ring. Pages that VFIO has pinned for a device are not in VmPin, so it is looked for by its descriptors.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pins {
        unsigned n_processes; /* in which something was found */
        pid_t pid;            /* one of them, and what was found there: */
        uint64_t bytes;       /* pinned */
        unsigned n_buffers;   /* registered with io_uring */
        bool device;          /* a device is open that can be given the memory (VFIO) */
};

/** pins_look_at() - add what is pinned in one process; one that is gone or cannot be looked into adds nothing */
void pins_look_at(pid_t pid, struct pins *pins);

#define PINS_TEXT_MAX 256

/** pins_explain() - say what was found: "process 12 has 64 KiB of pinned memory, ..."; only where something was */
void pins_explain(const struct pins *pins, char ret[static PINS_TEXT_MAX]);

#endif
