/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_IMPLANT_H
#define LIVESNAP_CLIENT_ATTACH_IMPLANT_H

/* Makes userfaultfds for the memory of another process. The theory of operation is at the top of implant.c. */

#include <stddef.h>
#include <sys/types.h>

#include "common/error.h"

/** How many a process needs: one for each way of tracking. */
#define IMPLANT_UFFDS 2u

/**
 * implant_userfaultfds() - make userfaultfds in a process and fetch them out of there
 * @process: the process
 * @twin: another process with the same memory, or 0
 * @device: descriptor of /dev/userfaultfd, borrowed
 * @ret: the userfaultfds, before their UFFDIO_API; nobody else has them. The caller's.
 *
 * Same conditions as tracee_helper_spawn(). Return: 0, or -1 with *error set; the process is then as before.
 */
int implant_userfaultfds(pid_t process, pid_t twin, int device, int ret[IMPLANT_UFFDS], struct error *error);

/**
 * implant_check_sole_owner() - see that no other process has a copy of a userfaultfd of ours
 *
 * Looks through the descriptors of all processes. Return: 0, or -1 with *error set.
 */
int implant_check_sole_owner(const int *uffds, size_t n_uffds, struct error *error);

#endif
