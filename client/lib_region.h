/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_REGION_H
#define LIVESNAP_CLIENT_LIB_REGION_H

#include <jansson.h>

#include "livesnap/livesnap.h"

/** struct region_mapping - a place where this process maps the region; values only */
struct region_mapping {
        void *address;
        uint64_t length_bytes;
        uint64_t offset_bytes;
};

/** struct livesnap_region - owns its descriptor, its name, and (where it was created here) its first mapping */
struct livesnap_region {
        char *name; /* NULL: the daemon chooses */
        int fd;
        uint64_t bytes;
        bool owns_mapping;
        bool discard_zero;
        size_t n_mappings;
        struct region_mapping *mappings;
};

/**
 * region_build_parameters() - the parameters of the method Attach
 *
 * The descriptor of region i gets index i, the userfaultfd index @n_regions, and that for asynchronous tracking the
 * next one. Return: a new reference, or NULL
 * where memory is short.
 */
json_t *region_build_parameters(const char *domain, struct livesnap_region *const *regions, size_t n_regions);

#endif
