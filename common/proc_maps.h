/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_PROC_MAPS_H
#define LIVESNAP_COMMON_PROC_MAPS_H

/*
 * The mappings of a process, as /proc/PID/maps and /proc/PID/smaps tell them.
 *
 * The kernel makes these files piece by piece while the process goes on, so what is read is what was true of each
 * mapping at some moment, not of all of them at one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** struct proc_map - one mapping. The fields below "of VmFlags" are known only with PROC_MAPS_VM_FLAGS. */
struct proc_map {
        uint64_t start;  /* address of the first byte */
        uint64_t end;    /* address after the last byte */
        uint64_t offset; /* in the object, bytes */
        dev_t dev;
        uint64_t inode;
        bool readable;
        bool writable;
        bool executable;
        bool shared; /* MAP_SHARED, whether it can be written or not */
        char *path;  /* as the kernel shows it: with " (deleted)", newlines as \012; "" where there is none */
        /* of VmFlags: */
        bool may_write; /* is writable, or mprotect() can make it so */
        bool tracked;   /* registered with a userfaultfd */
};

/** struct proc_maps - the mappings of a process in the order of their addresses; owns them */
struct proc_maps {
        struct proc_map *items;
        size_t n_items;
};

#define PROC_MAPS_SHARED 1u   /* only MAP_SHARED mappings */
#define PROC_MAPS_VM_FLAGS 2u /* read smaps, for which the kernel walks the page tables: 10 ms or so for each GiB */

/**
 * proc_maps_read() - read the mappings of a process
 * @pid: the process, or 0 for the caller's own
 * @flags: PROC_MAPS_*
 * @ret: filled on success; release with proc_maps_deinit(). A kernel thread or a zombie has no mappings.
 *
 * Thread-safe. Return: 0, -ESRCH the process is gone, -EACCES or -EPERM it may not be looked into, -ENOMEM, -EBADMSG
 * the kernel wrote what this does not understand.
 */
int proc_maps_read(pid_t pid, unsigned flags, struct proc_maps *ret);

/** proc_maps_deinit() - release what proc_maps_read() filled; one that is all zero is allowed */
void proc_maps_deinit(struct proc_maps *maps);

/** proc_maps_find() - the mapping that @address lies in, or NULL; borrowed from @maps */
const struct proc_map *proc_maps_find(const struct proc_maps *maps, uint64_t address);

#endif
