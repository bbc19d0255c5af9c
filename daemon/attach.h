/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_ATTACH_H
#define LIVESNAP_DAEMON_ATTACH_H

/*
 * Puts mappings under a domain's care. The peer is not trusted: that each object is shared memory, each descriptor a
 * userfaultfd, and that the process really maps the object there, is seen for ourselves.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "daemon/registry.h"

#define ATTACH_REGIONS_MAX 64u
#define ATTACH_MAPPINGS_MAX 4096u

struct attach_region {
        int object;       /* owned until attach_all() */
        const char *name; /* wish, or NULL */
        bool discard_zero;
        struct region *region; /* attach_all()'s own */
        bool is_new;
};

struct attach_mapping {
        unsigned region; /* index of an attach_region */
        unsigned uffd;   /* index of an attach_uffd */
        uint64_t address;
        uint64_t length;
        uint64_t offset;
};

struct attach_uffd {
        int fd;       /* owned until attach_all() */
        int async_fd; /* the same; a second one of the same process, for asynchronous tracking, or -1 */
        pid_t pid;
        uint64_t index, async_index; /* as the call names them */
};

struct attach_request {
        bool strict; /* refuse what may be written untracked, now and in each snapshot */
        unsigned n_regions;
        struct attach_region *regions;
        unsigned n_mappings;
        struct attach_mapping *mappings;
        unsigned n_uffds;
        struct attach_uffd *uffds;
};

/**
 * attach_all() - check everything, then register and start to watch; all of it or nothing
 *
 * Descriptors of the request are consumed in any case and set to -1. The domain must not be in the middle of a
 * snapshot. Return: 0, or -1 with *error set and the domain as it was.
 */
int attach_all(struct registry_entry *entry, struct attach_request *request, struct error *error);

/** attach_request_deinit() - close what is left in it, free its arrays */
void attach_request_deinit(struct attach_request *request);

#endif
