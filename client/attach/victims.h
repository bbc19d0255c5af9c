/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_VICTIMS_H
#define LIVESNAP_CLIENT_ATTACH_VICTIMS_H

/*
 * What is to be tracked: the shared memory objects of one process, the target, and every place where any process maps
 * one of them and writes, or could make itself able to write, without being tracked yet.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/attach/implant.h"
#include "common/error.h"

/** struct victims_object - a shared memory object; @born tells objects apart that have the same number by chance */
struct victims_object {
        dev_t dev;
        uint64_t inode;
        uint64_t born_ns; /* when it was made; 0: unknown */
        int fd;           /* open for reading; owned */
};

/** struct victims_range - a place where a process maps an object */
struct victims_range {
        size_t object; /* index into objects */
        uint64_t start, end, offset;
};

/** struct victim - a process with untracked mappings. Owns its userfaultfds, -1 until there are any. */
struct victim {
        pid_t pid;
        pid_t twin; /* another process with the same memory, as between vfork() and exec(), or 0 */
        int uffds[IMPLANT_UFFDS];
        struct victims_range *ranges;
        size_t n_ranges;
};

struct victims {
        pid_t target;
        const char *glob; /* which objects, by name; NULL: all; borrowed */
        /* is told what is left out, and why; may be called from any function below */
        void (*note)(const char *sentence);
        struct victims_object *objects;
        size_t n_objects;
        bool target_is_tracked; /* some mapping of the target has a userfaultfd already */
        bool objects_noted;     /* @note was told of them, and need not be again */
        bool processes_noted;
        struct victim *items;
        size_t n_items;
};

/**
 * victims_check() - can a process be attached to at all?
 *
 * Return: 0, or -1 with *error saying what it is: gone, a zombie, a kernel thread, of another user, 32-bit, traced.
 */
int victims_check(pid_t pid, struct error *error);

/**
 * victims_find_objects() - fill @objects with those that the target maps
 *
 * Return: 0, or -1 with *error set, also where there is none.
 */
int victims_find_objects(struct victims *victims, struct error *error);

/**
 * victims_find() - replace @items by all processes that have an untracked mapping of one of the objects, target first
 *
 * Return: 0, or -1 with *error set.
 */
int victims_find(struct victims *victims, struct error *error);

/** victims_deinit() - close and release all; one that is all zero is allowed */
void victims_deinit(struct victims *victims);

#endif
