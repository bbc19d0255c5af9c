/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_DISCARD_H
#define LIVESNAP_DAEMON_STORE_DISCARD_H

/*
 * What was published once and is in the work directory now: a snapshot that was deleted, a delta that was made whole.
 * Whoever began to read before may be going to open files in it, by the descriptor of its directory, so it is removed
 * when the last of them has ended. What is left when the daemon ends goes at its next start.
 *
 * On the store's threads only. The lock is held for memory accesses alone.
 */

#include <pthread.h>
#include <stdint.h>
#include <sys/queue.h>

struct store;

/** A reader of the published snapshots of one domain; on the stack of who reads. */
struct store_reader {
        struct store *store; /* NULL: has not begun, or has ended */
        const char *domain;  /* borrowed */
        uint64_t since;
        LIST_ENTRY(store_reader) link;
};

struct store_discards {
        pthread_mutex_t lock;
        uint64_t now; /* counts what was discarded */
        LIST_HEAD(, store_reader) readers;
        LIST_HEAD(, store_discard) waiting;
};

void store_discards_init(struct store_discards *discards);

/** store_discards_deinit() - there must be no reader any more; removes nothing */
void store_discards_deinit(struct store_discards *discards);

/** store_reader_begin() - from here on, what is found published in the domain stays readable; before it is looked for
 */
void store_reader_begin(struct store *store, const char *domain, struct store_reader *reader);

/** store_reader_end() - removes what has waited for this one; one that is all zero is allowed */
void store_reader_end(struct store_reader *reader);

#define CLEANUP_STORE_READER CLEANUP(store_reader_end)

/**
 * store_discard() - remove what was DOMAIN's and is @work_name in the work directory, as soon as nobody reads it
 *
 * Return: 0, also where it has to wait, or -errno.
 */
int store_discard(struct store *store, const char *domain, const char *work_name);

#endif
