/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_EVENTS_H
#define LIVESNAP_DAEMON_EVENTS_H

/*
 * What a client does to its address space, told by the userfaultfd: fork, mremap, unmap, and removal of content. On the
 * fault thread only. Nothing is silent: where tracking could be lost the domain is marked, and a snapshot that is being
 * taken ends with a named reason.
 */

#include "common/uffd_compat.h"
#include "daemon/fault.h"

/** event_handle() - act on one message that is not a page fault */
void event_handle(struct fault_thread *thread, struct context *context, const struct uffd_msg *message);

#endif
