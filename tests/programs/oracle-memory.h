/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_ORACLE_MEMORY_H
#define LIVESNAP_TESTS_ORACLE_MEMORY_H

/* The shared memory objects of an oracle-writer, and everything unkind that a program may do to its own mappings. */

#include <stdbool.h>
#include <stdint.h>

#include "tests/programs/oracle.h"

enum memory_kind {
        MEMORY_MEMFD,
        MEMORY_SEALED,
        MEMORY_TMPFS,
        MEMORY_HUGETLB,
        MEMORY_ANONYMOUS,
        MEMORY_SYSV,
        MEMORY_KIND_MAX,
};

struct memory_region {
        char name[32];
        int fd; /* of the object; -1 where the kind has none. Owned by the struct memory */
        uint64_t bytes;
        unsigned n_aliases;
        uint8_t *aliases[2]; /* places in this process where all of the object is mapped */
};

struct memory {
        const struct oracle_layout *layout; /* borrowed */
        enum memory_kind kind;
        struct memory_region regions[ORACLE_REGIONS_MAX];
};

enum memory_zap {
        MEMORY_ZAP_DONTNEED,
        MEMORY_ZAP_PAGEOUT,
        MEMORY_ZAP_COLD,
        MEMORY_ZAP_MAX,
};

/** memory_kind_from_name() - MEMORY_KIND_MAX for a name that is none */
enum memory_kind memory_kind_from_name(const char *name);

/** memory_page_bytes() - the size and alignment that an object of this kind must have */
uint64_t memory_page_bytes(enum memory_kind kind);

/**
 * memory_make() - make, map and fill the objects of all regions of a layout
 * @directory: where files of the kind tmpfs are made; borrowed during the call
 * @n_aliases: how often each is mapped, 1 or 2
 *
 * The memory lasts as long as the process. Return: 0 or -errno.
 */
int memory_make(struct memory *memory, const struct oracle_layout *layout, enum memory_kind kind, const char *directory,
                unsigned n_aliases);

/** memory_word() - where the word at @place is, in the mapping of the region that @choice selects */
uint64_t *memory_word(const struct memory *memory, struct oracle_place place, uint64_t choice);

/** memory_zap() - madvise a random part of a random region; @random is used up for the choice. Return: 0 or -errno. */
int memory_zap(const struct memory *memory, enum memory_zap zap, uint64_t random);

/** memory_remap() - move the first mapping of a region somewhere else; nobody may use it meanwhile. Return: 0 or
 * -errno. */
int memory_remap(struct memory *memory, unsigned region);

/** memory_punch() - remove the content of one page of a region by MADV_REMOVE. Return: 0 or -errno. */
int memory_punch(const struct memory *memory, unsigned region, uint64_t page);

/** memory_equals() - whether the data pages are exactly those of @state; says what is not on stderr */
bool memory_equals(const struct memory *memory, const struct oracle_state *state);

#endif
