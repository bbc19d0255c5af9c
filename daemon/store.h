/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_H
#define LIVESNAP_DAEMON_STORE_H

/*
 * The store: a directory with published snapshots, STORE/DOMAIN/NAME, and a place for work in progress that no reader
 * looks at.
 *
 * A process's descriptors are closed at its death only when the last thread that shares the table is gone, and a thread
 * that waits for a disk does not go. A userfaultfd that is not closed keeps its client asleep. So all threads that
 * touch the store descend from one that was started before the first userfaultfd was made and that has a descriptor
 * table of its own (unshare(CLONE_FILES)). No path, descriptor or lock of the store is used on any other thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"

struct store;

/**
 * store_new() - start the store's threads and open the directory
 * @path: the directory; made (0700) with its parents' last component where it does not exist
 * @ret: the store; free with store_free()
 * @error: says why not: missing, not a directory, read-only, no right, in use by another daemon (a lock)
 *
 * Must be called before the process has any userfaultfd. Removes what an earlier daemon left in the work directory.
 * Return: 0, or -1 with *error set and *ret untouched.
 */
int store_new(const char *path, struct store **ret, struct error *error);

/**
 * store_free() - run what has been submitted, call every @done, and stop the threads; NULL is allowed
 *
 * On the thread that calls store_dispatch(). There must be no image writer any more: its call would not end.
 */
void store_free(struct store *store);

/** store_path() - absolute path of the directory, borrowed */
const char *store_path(const struct store *store);

/**
 * struct store_call - one operation on the store, run on a thread of the store's
 * @run: does the work there. It may block for as long as the disk does.
 * @done: called afterwards, on the thread that calls store_dispatch(); frees the call
 * @lasting: true for what reads or writes whole images: it gets a thread of its own, while the others share one
 *
 * Embedded in the caller's own struct. Owned by the store from store_submit() until @done.
 */
struct store_call {
        void (*run)(struct store *store, struct store_call *call);
        void (*done)(struct store_call *call);
        bool lasting;
        struct store_call *next;
};

/** store_submit() - queue a call; never blocks; thread-safe */
void store_submit(struct store *store, struct store_call *call);

/** store_get_fd() - an eventfd, readable when store_dispatch() has something to do; borrowed */
int store_get_fd(const struct store *store);

/** store_dispatch() - call @done of every call that has been run; on the main thread only */
void store_dispatch(struct store *store);

/*
 * What follows runs on the store's threads only (from store_call.run).
 */

/** The answers are JSON objects of the type Snapshot of io.livesnap, new references. Return 0, or -1 with *error set.
 */
int store_list(struct store *store, const char *domain_or_null, json_t **ret_array, struct error *error);
int store_show(struct store *store, const char *domain, const char *name, json_t **ret, struct error *error);
/** @uid: who asks; only its owner and root may delete or read a snapshot back */
int store_delete(struct store *store, const char *domain, const char *name, uint32_t uid, struct error *error);

/** The descriptors that the method OpenSnapshot gives. Owned by the caller, in the store's descriptor table. */
struct store_opened {
        int manifest;
        unsigned n_regions;
        struct store_opened_region {
                char *name;
                uint64_t bytes;
                int image; /* of a delta: its pages */
                int sums;  /* of a delta: its map */
        } * regions;
};

int store_open(struct store *store, const char *domain, const char *name, const char *region_or_null, uint32_t uid,
               struct store_opened *ret, struct error *error);
void store_opened_done(struct store_opened *opened);

/**
 * store_opened_send() - hand the descriptors over to the main thread's table
 *
 * From a call that is not lasting, once; its @done then takes them with store_opened_receive(). On return they are no
 * longer here, whether it failed or not.
 */
int store_opened_send(struct store *store, struct store_opened *opened, struct error *error);

/** store_opened_receive() - on the main thread, from @done, and only if store_opened_send() succeeded: take them */
int store_opened_receive(struct store *store, struct store_opened *opened, struct error *error);

/** How far something is that reads or writes whole images. @progress returns false to stop it: ERROR_CANCELLED. */
struct store_progress {
        bool (*progress)(void *data, uint64_t done, uint64_t total); /* bytes */
        void *data;
};

/** store_verify() - read all of it back, and all that it builds on */
int store_verify(struct store *store, const char *domain, const char *name, uint32_t uid,
                 bool (*progress)(void *data, uint64_t done, uint64_t total), void *data, struct error *error);

/**
 * store_compact() - make a delta whole, so that nothing that it builds on is needed for it
 * @ret_folded: was it a delta? What is whole already is left as it is, and that is a success.
 *
 * It stays the same snapshot for all that builds on it. Takes some 30 MiB of memory, whatever its size. Return: 0, or
 * -1 with *error set and nothing changed.
 */
int store_compact(struct store *store, const char *domain, const char *name, uint32_t uid,
                  const struct store_progress *progress, bool *ret_folded, struct error *error);

/**
 * store_delete_fold() - the same as store_delete(), but the deltas that build on it are made whole first
 * @ret: { folded: [NAME] }, a new reference
 */
int store_delete_fold(struct store *store, const char *domain, const char *name, uint32_t uid,
                      const struct store_progress *progress, json_t **ret, struct error *error);

/** What is to be kept of a domain's snapshots; 0: the rule keeps none. */
struct store_prune_rules {
        uint64_t last;      /* so many of the newest */
        uint64_t hourly;    /* the newest of each of so many hours (UTC) in which there are any */
        uint64_t daily;     /* and of so many days */
        const char *prefix; /* only those whose name begins so are counted or deleted; NULL: all */
        const char *parent; /* what the next increment builds on is kept; NULL: not known, or none */
        bool dry_run;       /* say what would be done */
};

/**
 * store_prune() - delete what no rule keeps, and break no chain (prune_plan.h)
 * @ret: { kept, needed, folded, deleted }, arrays of names, newest first; a new reference
 *
 * Only snapshots that belong to @uid; of root's all. Return: 0, or -1 with *error set: what was folded or deleted until
 * then stays so.
 */
int store_prune(struct store *store, const char *domain, uint32_t uid, const struct store_prune_rules *rules,
                const struct store_progress *progress, json_t **ret, struct error *error);

#endif
