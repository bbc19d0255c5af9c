/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_THREADS_H
#define LIVESNAP_CLIENT_ATTACH_THREADS_H

/* Which thread of a process can be stopped for a moment, and when, so that it does not notice. */

#include <stdbool.h>
#include <sys/types.h>

#include "common/error.h"

/** threads_call_can_be_repeated() - may a system call that returned EINTR be made again, since it has done nothing yet?
 */
bool threads_call_can_be_repeated(long number);

/** threads_has_seccomp() - is the thread under a seccomp filter? False where it is gone. */
bool threads_has_seccomp(pid_t process, pid_t thread);

/**
 * threads_choose() - find a thread to stop
 * @process: the process
 * @twin: another process with the same memory, as between vfork() and exec(), whose threads will do as well; or 0
 * @ret_process: whose thread it is
 *
 * Prefers a thread that runs, then one in a call that the kernel restarts to the letter. Where there are only threads
 * in calls with a timeout that would start anew, waits up to a second for one to begin. Blocks up to three seconds for
 * a process all of whose threads wait uninterruptibly.
 *
 * Return: 0, or -1 with *error set.
 */
int threads_choose(pid_t process, pid_t twin, pid_t *ret_process, pid_t *ret_thread, struct error *error);

#endif
