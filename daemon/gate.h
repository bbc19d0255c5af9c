/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_GATE_H
#define LIVESNAP_DAEMON_GATE_H

/*
 * What peers send along with their messages is looked at before it comes into the process's descriptor table.
 *
 * To close a descriptor is to ask its filesystem (->flush), at every close() and when a process ends, and a filesystem
 * in user space (FUSE) may never answer. The wait cannot be interrupted, not even by SIGKILL. In the table with the
 * userfaultfds that would be the end of all clients: the kernel closes the descriptors of a killed process one after
 * the other, and those behind the one that hangs stay open.
 *
 * So a message with descriptors is received by a thread of its own, with a table of its own that has nothing else in
 * it. The thread passes on what can be nothing but what we ask for, memory objects, userfaultfds and files of
 * cgroups, whose close() asks nobody, and what is only the path of something (O_PATH), which is not asked either. Of
 * everything else the receiver gets an eventfd in its place, so that numbers stay as the sender has them and whoever
 * looks says what is wrong. The thread ends by closing the rest. If that hangs, it hangs alone: the process goes on,
 * and where it is killed nobody else's descriptors are in that table. Only the process itself is not gone until the
 * filesystem answers.
 *
 * Who has too many threads hanging that way is disconnected. Main thread only.
 */

#include <sys/socket.h>
#include <sys/types.h>

struct gate;

/** gate_new() - nobody waits at it yet. Return: 0 or -ENOMEM. */
int gate_new(struct gate **ret);

/** gate_free() - the threads that hang are left to the end of the process; NULL is allowed */
void gate_free(struct gate *gate);

/**
 * gate_receive() - recvmsg(2) with MSG_DONTWAIT and MSG_CMSG_CLOEXEC, by way of the gate
 * @uid: of the peer, in whose name a thread may hang
 * @socket: of AF_UNIX and SOCK_STREAM; borrowed
 * @header: one piece of memory and a control buffer with room for at most 64 descriptors; changed as by recvmsg()
 *
 * Return: bytes, 0 at the end, or -errno; -EDQUOT: too many descriptors of this user hang.
 */
ssize_t gate_receive(struct gate *gate, uid_t uid, int socket, struct msghdr *header);

#endif
