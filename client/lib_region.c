/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_region.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client/lib_error.h"
#include "common/cleanup.h"

#define HUGE_PAGE_BYTES (2ull << 20)

/* A program that maps one object in more places than this does something else than it means to. */
#define REGION_MAX_MAPPINGS 1024

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static void region_free_p(struct livesnap_region **region) {
        livesnap_region_free(*region);
}

static struct livesnap_region *region_alloc(const char *name) {
        struct livesnap_region *region = calloc(1, sizeof(*region));

        if (!region)
                goto no_memory;
        region->fd = -1;
        if (name) {
                region->name = strdup(name);
                if (!region->name)
                        goto no_memory;
        }
        return region;

no_memory:
        lib_fail_errno(ENOMEM, "cannot make a region");
        free(region);
        return NULL;
}

static int region_map(struct livesnap_region *region) {
        void *address = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);

        if (address == MAP_FAILED)
                return lib_fail_errno(errno, "cannot map region '%s' of %llu bytes", region->name,
                                      (unsigned long long) region->bytes);
        if (livesnap_region_add_mapping(region, address, region->bytes, 0) < 0) {
                munmap(address, region->bytes);
                return -1;
        }
        region->owns_mapping = true;
        return 0;
}

struct livesnap_region *livesnap_region_create(const char *name, uint64_t bytes, unsigned flags) {
        CLEANUP(region_free_p) struct livesnap_region *region = NULL;
        bool huge = flags & LIVESNAP_REGION_HUGETLB;
        uint64_t page_bytes = huge ? HUGE_PAGE_BYTES : (uint64_t) sysconf(_SC_PAGESIZE);

        if (!name || flags & ~LIVESNAP_REGION_HUGETLB) {
                lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                         "a region needs a name and no flags that this version does not know");
                return NULL;
        }
        if (bytes == 0 || bytes % page_bytes || bytes > INT64_MAX) {
                lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "the size of region '%s', %llu bytes, is not a multiple of %llu",
                         name, (unsigned long long) bytes, (unsigned long long) page_bytes);
                return NULL;
        }
        region = region_alloc(name);
        if (!region)
                return NULL;
        region->bytes = bytes;
        region->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0u));
        if (region->fd < 0) {
                lib_fail_errno(errno, "cannot make shared memory for region '%s'", name);
                return NULL;
        }
        if (ftruncate(region->fd, (off_t) bytes) < 0) {
                lib_fail_errno(errno, "cannot give region '%s' its %llu bytes", name, (unsigned long long) bytes);
                return NULL;
        }
        if (region_map(region) < 0)
                return NULL;
        /* Only now: the seal refuses writable mappings that are made later. F_SEAL_SEAL keeps a later F_SEAL_WRITE out.
         */
        if (fcntl(region->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0) {
                lib_fail_errno(errno, "cannot seal region '%s'", name);
                return NULL;
        }
        return STEAL_PTR(region);
}

struct livesnap_region *livesnap_region_new(const char *name, int fd) {
        CLEANUP(region_free_p) struct livesnap_region *region = region_alloc(name);
        struct stat status;

        if (!region)
                return NULL;
        region->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (region->fd < 0 || fstat(region->fd, &status) < 0) {
                lib_fail_errno(errno, "descriptor %d cannot be used as a region", fd);
                return NULL;
        }
        if (!S_ISREG(status.st_mode) || status.st_size <= 0) {
                lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "descriptor %d is no shared memory object, or an empty one", fd);
                return NULL;
        }
        region->bytes = (uint64_t) status.st_size;
        return STEAL_PTR(region);
}

int livesnap_region_add_mapping(struct livesnap_region *region, void *address, uint64_t length_bytes,
                                uint64_t offset_bytes) {
        uint64_t page_mask = (uint64_t) sysconf(_SC_PAGESIZE) - 1;
        struct region_mapping *mappings;

        if (!address || !length_bytes || ((uintptr_t) address | length_bytes | offset_bytes) & page_mask)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                                "a mapping's address, length and offset must be whole pages");
        if (length_bytes > UINTPTR_MAX - (uintptr_t) address || offset_bytes > INT64_MAX ||
            length_bytes > INT64_MAX - offset_bytes)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "a mapping reaches past the end of what can be addressed");
        if (region->n_mappings >= REGION_MAX_MAPPINGS)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "a region cannot have more than %d mappings",
                                REGION_MAX_MAPPINGS);
        mappings = reallocarray(region->mappings, region->n_mappings + 1, sizeof(*mappings));
        if (!mappings)
                return lib_fail_errno(ENOMEM, "cannot add a mapping");
        mappings[region->n_mappings++] = (struct region_mapping){
                .address = address,
                .length_bytes = length_bytes,
                .offset_bytes = offset_bytes,
        };
        region->mappings = mappings;
        return 0;
}

void livesnap_region_set_discard_zero(struct livesnap_region *region, bool zero) {
        region->discard_zero = zero;
}

void *livesnap_region_get_address(const struct livesnap_region *region) {
        return region->n_mappings ? region->mappings[0].address : NULL;
}

uint64_t livesnap_region_get_bytes(const struct livesnap_region *region) {
        return region->bytes;
}

int livesnap_region_get_fd(const struct livesnap_region *region) {
        return region->fd;
}

void livesnap_region_free(struct livesnap_region *region) {
        if (!region)
                return;
        if (region->owns_mapping)
                munmap(region->mappings[0].address, region->mappings[0].length_bytes);
        cleanup_close_p(&region->fd);
        free(region->mappings);
        free(region->name);
        free(region);
}

static json_t *build_region(const struct livesnap_region *region, size_t index) {
        return json_pack("{s:I, s:s*, s:s*}", "object", (json_int_t) index, "name", region->name, "discard",
                         region->discard_zero ? "zero" : NULL);
}

static json_t *build_mapping(const struct region_mapping *mapping, size_t region, size_t userfaultfd) {
        return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "region", (json_int_t) region, "userfaultfd",
                         (json_int_t) userfaultfd, "userfaultfd_async", (json_int_t) userfaultfd + 1, "address",
                         (json_int_t) (uintptr_t) mapping->address, "length", (json_int_t) mapping->length_bytes,
                         "offset", (json_int_t) mapping->offset_bytes);
}

json_t *region_build_parameters(const char *domain, struct livesnap_region *const *regions, size_t n_regions) {
        json_t *region_array = json_array();
        json_t *mapping_array = json_array();
        int r = 0;

        for (size_t i = 0; i < n_regions; i++) {
                r |= json_array_append_new(region_array, build_region(regions[i], i));
                for (size_t k = 0; k < regions[i]->n_mappings; k++)
                        r |= json_array_append_new(mapping_array,
                                                   build_mapping(&regions[i]->mappings[k], i, n_regions));
        }
        if (r) {
                json_decref(region_array);
                json_decref(mapping_array);
                return NULL;
        }
        return json_pack("{s:s, s:o, s:o}", "domain", domain, "regions", region_array, "mappings", mapping_array);
}
