/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_FDTABLE_H
#define LIVESNAP_DAEMON_FDTABLE_H

/*
 * Threads with a descriptor table of their own. A thread that may hang in the kernel, where not even SIGKILL ends it,
 * keeps open whatever is in its table; so nothing is in it that somebody waits for.
 */

/**
 * fdtable_isolate() - give the calling thread a table of its own, with nothing in it but @first and @second and
 * standard input, output and error
 *
 * All that the process has open is in the table for a moment, in which the thread waits for nothing.
 *
 * Return: 0, or -errno: the thread must end, and close nothing before.
 */
int fdtable_isolate(int first, int second);

#endif
