/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_GUARDIAN_H
#define LIVESNAP_DAEMON_GUARDIAN_H

/*
 * A process of ours that does nothing but outlive us. While the daemon keeps programs stopped the guardian has what is
 * needed to let them go on, and does so when the daemon is gone, however it went: the kernel takes protection away from
 * memory when a daemon dies, but starts no program again that was stopped by a signal or a freezer.
 *
 * It is made while the daemon has one thread and no userfaultfd, of which it would keep a copy.
 */

#include <stdint.h>

#include "common/error.h"

/** What a descriptor that the guardian is given is, and hence how it lets go on what is stopped by it. */
enum guardian_kind {
        GUARDIAN_PIDFD,      /* SIGCONT */
        GUARDIAN_FREEZER_V2, /* cgroup.freeze: "0" */
        GUARDIAN_FREEZER_V1, /* freezer.state: "THAWED" */
};

struct guardian;

/** guardian_new() - start it; the process must have one thread. Return: 0, or -1 with *error set. */
int guardian_new(struct guardian **ret, struct error *error);

/** guardian_free() - end it; what it still has it lets go on. NULL is allowed. */
void guardian_free(struct guardian *guardian);

/**
 * guardian_hold() - before something is stopped: have it let go on if the daemon is gone before guardian_release()
 * @id: of all that is released together; of the caller's choice, unique among those held
 * @fds: copied; may be called again with others of the same @id
 *
 * Once it has returned 0 the daemon may die at any moment. Any thread. Return: 0, or -errno, and then nothing may be
 * stopped and the @id holds nothing: -EPIPE where the guardian itself is gone.
 */
int guardian_hold(struct guardian *guardian, uint64_t id, enum guardian_kind kind, const int *fds, unsigned n_fds);

/** guardian_release() - it goes on already: forget it. Any thread. */
void guardian_release(struct guardian *guardian, uint64_t id);

/** guardian_let_go() - let go on what is stopped by a descriptor; what the guardian does, for the daemon's own use */
void guardian_let_go(enum guardian_kind kind, int fd);

#endif
