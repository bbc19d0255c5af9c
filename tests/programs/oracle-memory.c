/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/programs/oracle-memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "common/cleanup.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define ZAP_PAGES_MAX 64

static const char *const kind_names[MEMORY_KIND_MAX] = {
        [MEMORY_MEMFD] = "memfd",     [MEMORY_SEALED] = "sealed",       [MEMORY_TMPFS] = "tmpfs",
        [MEMORY_HUGETLB] = "hugetlb", [MEMORY_ANONYMOUS] = "anonymous", [MEMORY_SYSV] = "sysv",
};

enum memory_kind memory_kind_from_name(const char *name) {
        enum memory_kind kind = 0;

        while (kind < MEMORY_KIND_MAX && strcmp(kind_names[kind], name) != 0)
                kind++;
        return kind;
}

uint64_t memory_page_bytes(enum memory_kind kind) {
        return kind == MEMORY_HUGETLB ? ORACLE_HUGE_BYTES : ORACLE_PAGE_BYTES;
}

static int region_open(struct memory_region *region, enum memory_kind kind, const char *directory) {
        CLEANUP_CLOSE int fd = -1;
        char path[512];

        switch (kind) {
        case MEMORY_TMPFS:
                snprintf(path, sizeof(path), "%s/%s", directory, region->name);
                fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
                break;
        case MEMORY_HUGETLB:
                fd = memfd_create(region->name, MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
                break;
        default:
                fd = memfd_create(region->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
                break;
        }
        if (fd < 0 || ftruncate(fd, region->bytes) < 0)
                return -errno;
        region->fd = steal_fd(&fd);
        return 0;
}

static int region_map_file(struct memory_region *region) {
        for (unsigned i = 0; i < region->n_aliases; i++) {
                region->aliases[i] = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);
                if (region->aliases[i] == MAP_FAILED)
                        return -errno;
        }
        return 0;
}

static int region_map_anonymous(struct memory_region *region) {
        region->aliases[0] = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (region->aliases[0] == MAP_FAILED)
                return -errno;
        if (region->n_aliases == 1)
                return 0;
        /* An old size of zero makes a second mapping of a shared object: there is no descriptor to map again. */
        region->aliases[1] = mremap(region->aliases[0], 0, region->bytes, MREMAP_MAYMOVE);
        return region->aliases[1] == MAP_FAILED ? -errno : 0;
}

static int region_map_sysv(struct memory_region *region) {
        int r = 0;
        int id = shmget(IPC_PRIVATE, region->bytes, IPC_CREAT | 0600);

        if (id < 0)
                return -errno;
        for (unsigned i = 0; i < region->n_aliases && r == 0; i++) {
                region->aliases[i] = shmat(id, NULL, 0);
                if (region->aliases[i] == (void *) -1)
                        r = -errno;
        }
        /* From now on the segment goes when its last user goes, however that ends. */
        shmctl(id, IPC_RMID, NULL);
        return r;
}

static int region_make(struct memory_region *region, enum memory_kind kind, const char *directory) {
        int r;

        if (kind == MEMORY_ANONYMOUS)
                return region_map_anonymous(region);
        if (kind == MEMORY_SYSV)
                return region_map_sysv(region);

        r = region_open(region, kind, directory);
        if (r == 0)
                r = region_map_file(region);
        if (r == 0 && kind == MEMORY_SEALED &&
            fcntl(region->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) < 0)
                r = -errno;
        return r;
}

int memory_make(struct memory *memory, const struct oracle_layout *layout, enum memory_kind kind, const char *directory,
                unsigned n_aliases) {
        *memory = (struct memory){ .layout = layout, .kind = kind };

        for (unsigned i = 0; i < layout->n_regions; i++) {
                struct memory_region *region = &memory->regions[i];
                struct oracle_place place = { .region = i };
                int r;

                *region = (struct memory_region){
                        .fd = -1,
                        .bytes = layout->regions[i].pages * ORACLE_PAGE_BYTES,
                        .n_aliases = n_aliases,
                };
                snprintf(region->name, sizeof(region->name), "oracle-%u", i);
                r = region_make(region, kind, directory);
                if (r < 0)
                        return r;
                for (; place.data_page < layout->regions[i].data_pages; place.data_page++)
                        oracle_layout_fill(layout, i, place.data_page, memory_word(memory, place, 0));
        }
        return 0;
}

uint64_t *memory_word(const struct memory *memory, struct oracle_place place, uint64_t choice) {
        const struct memory_region *region = &memory->regions[place.region];

        return (uint64_t *) (region->aliases[choice % region->n_aliases] + oracle_place_offset(memory->layout, place));
}

int memory_zap(const struct memory *memory, enum memory_zap zap, uint64_t random) {
        static const int advice[MEMORY_ZAP_MAX] = {
                [MEMORY_ZAP_DONTNEED] = MADV_DONTNEED,
                [MEMORY_ZAP_PAGEOUT] = MADV_PAGEOUT,
                [MEMORY_ZAP_COLD] = MADV_COLD,
        };
        const struct memory_region *region = &memory->regions[random % memory->layout->n_regions];
        uint64_t page_bytes = memory_page_bytes(memory->kind);
        uint64_t pages = region->bytes / page_bytes;
        uint64_t first = (random >> 16) % pages;
        uint64_t count = 1 + (random >> 8) % ZAP_PAGES_MAX;

        if (count > pages - first)
                count = pages - first;
        return madvise(region->aliases[(random >> 3) % region->n_aliases] + first * page_bytes, count * page_bytes,
                       advice[zap]) < 0
                       ? -errno
                       : 0;
}

int memory_remap(struct memory *memory, unsigned region) {
        struct memory_region *r = &memory->regions[region];
        void *target = mmap(NULL, r->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        void *moved;

        if (target == MAP_FAILED)
                return -errno;
        moved = mremap(r->aliases[0], r->bytes, r->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target);
        if (moved == MAP_FAILED)
                return -errno;
        r->aliases[0] = moved;
        return 0;
}

int memory_punch(const struct memory *memory, unsigned region, uint64_t page) {
        const struct memory_region *r = &memory->regions[region];

        if (page >= r->bytes / ORACLE_PAGE_BYTES)
                return -EINVAL;
        return madvise(r->aliases[0] + page * ORACLE_PAGE_BYTES, ORACLE_PAGE_BYTES, MADV_REMOVE) < 0 ? -errno : 0;
}

bool memory_equals(const struct memory *memory, const struct oracle_state *state) {
        uint64_t bad_pages = 0;

        for (unsigned i = 0; i < memory->layout->n_regions; i++) {
                struct oracle_place place = { .region = i };

                for (; place.data_page < memory->layout->regions[i].data_pages; place.data_page++) {
                        if (memcmp(memory_word(memory, place, 0), oracle_state_page(state, i, place.data_page),
                                   ORACLE_PAGE_BYTES) == 0)
                                continue;
                        if (bad_pages++ < 5)
                                fprintf(stderr, "oracle-writer: %s: data page %ju is not what was written\n",
                                        memory->regions[i].name, (uintmax_t) place.data_page);
                }
        }
        return bad_pages == 0;
}
