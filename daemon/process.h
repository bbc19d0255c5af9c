/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_PROCESS_H
#define LIVESNAP_DAEMON_PROCESS_H

/* What the kernel tells of a process in /proc/PID/status. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process_status {
        uid_t real_uid;
        uid_t effective_uid;
        uid_t saved_uid;
        uint64_t pinned_bytes; /* that devices and io_uring may write to whatever the page tables say (VmPin) */
};

/** process_read_status() - Return: 0, -ESRCH it is gone, -EBADMSG the kernel wrote what this does not understand, or
 * another -errno. Thread-safe. */
int process_read_status(pid_t pid, struct process_status *ret);

/**
 * process_belongs_to() - is it a user's altogether? A program that runs with the rights of somebody else besides, such
 * as one that is set-user-ID, is not.
 */
bool process_belongs_to(const struct process_status *status, uid_t uid);

#endif
