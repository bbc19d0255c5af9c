/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_TRACEE_H
#define LIVESNAP_CLIENT_ATTACH_TRACEE_H

/*
 * A thread of our own in somebody else's process, and system calls made by it. The theory of operation is at the top of
 * tracee.c.
 */

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

/** struct tracee_helper - the thread; owned by whoever spawned it until tracee_helper_finish() */
struct tracee_helper {
        pid_t process; /* thread group that it was put into */
        pid_t tid;
        uint64_t gadget;     /* address of a `syscall` instruction of the process's own, in executable memory */
        uint64_t trampoline; /* our `syscall`, behind which the thread exits; 0: not mapped */
};

#define TRACEE_PAGE_BYTES 4096u

/**
 * tracee_helper_spawn() - put a thread into a process
 * @process: the process
 * @thread: the thread of it that is stopped, for some 100 µs, to make the new one; see threads_choose()
 * @ret: the helper: it is stopped, runs none of the process's code, and has all signals blocked and an empty descriptor
 *       table of its own
 *
 * The caller must be single-threaded and have SIGCHLD blocked. Return: 0, or -1 with *error set; the process is then as
 * before.
 */
int tracee_helper_spawn(pid_t process, pid_t thread, struct tracee_helper *ret, struct error *error);

/**
 * tracee_helper_call() - let the helper make a system call
 * @number: SYS_*
 * @arguments: six of them; pointers are addresses in the process
 *
 * Return: what the call returns: negative errno values as they are. -ESRCH also where the process went away, -ETIMEDOUT
 * where the call did not return in time.
 */
long tracee_helper_call(struct tracee_helper *helper, long number, const uint64_t arguments[6]);

#define TRACEE_CALL(helper, number, ...) tracee_helper_call(helper, number, (const uint64_t[6]){ __VA_ARGS__ })

/**
 * tracee_helper_finish() - unmap the trampoline, end the thread and see that it is gone
 *
 * Whatever the return, the helper must not be used any more. Return: 0; -1 with *error set where it is not gone yet.
 */
int tracee_helper_finish(struct tracee_helper *helper, struct error *error);

#endif
