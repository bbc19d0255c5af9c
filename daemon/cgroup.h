/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CGROUP_H
#define LIVESNAP_DAEMON_CGROUP_H

/* What a descriptor that a peer has sent has to do with control groups. Thread-safe; asks no filesystem but /proc. */

#include <stdbool.h>
#include <stddef.h>

enum cgroup_version {
        CGROUP_NONE, /* no file of a hierarchy that is mounted here */
        CGROUP_V1,
        CGROUP_V2,
};

/**
 * cgroup_identify() - of which kind of hierarchy is this a file?
 *
 * A filesystem in user space could have the question wait, so it is not asked: the device number says it.
 */
enum cgroup_version cgroup_identify(int fd);

/**
 * cgroup_path() - the cgroup that a descriptor is a file of, as /proc/PID/cgroup writes it
 * @name: of the file, which it must have
 * @ret: such as "/machine.slice/vm"
 *
 * Return: false where it is no such file, or its cgroup cannot be told.
 */
bool cgroup_path(int fd, const char *name, char *ret, size_t size);

#endif
