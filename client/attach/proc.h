/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_PROC_H
#define LIVESNAP_CLIENT_ATTACH_PROC_H

/* Small things out of /proc, and the time. All return at once and are thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROC_COMM_SIZE 64u

/** proc_read() - read a short file as text. Return: its length, at most @size - 1, or -errno. */
int proc_read(const char *path, char *ret, size_t size);

/** proc_status_number() - the number behind @key (with its colon) in a status file, or -1 */
long proc_status_number(const char *path, const char *key);

/** proc_thread_state() - 'R', 'S', 'D', ... as proc(5) has them; '\0' where the thread is gone */
char proc_thread_state(pid_t process, pid_t thread);

/** proc_is_kernel_thread() - is it a thread of the kernel, and no program? */
bool proc_is_kernel_thread(pid_t process);

/** proc_comm() - name of a process, "?" where it is gone; returns @ret */
const char *proc_comm(pid_t process, char ret[PROC_COMM_SIZE]);

/** proc_is_alive() - does it exist? So does one whose first thread has exited and others go on. */
bool proc_is_alive(pid_t process);

/** proc_now_ns() - CLOCK_MONOTONIC */
uint64_t proc_now_ns(void);

#endif
