/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_INTERNAL_H
#define LIVESNAP_DAEMON_STORE_INTERNAL_H

/* What the files of the store and the image writer share, and nobody else. On the store's threads only. */

#include <pthread.h>
#include <stdatomic.h>

#include "common/manifest.h"

#include "daemon/store.h"
#include "daemon/store_discard.h"
#include "daemon/store_threads.h"

#define STORE_WORK_NAME ".work"
#define STORE_LOCK_NAME ".lock"
#define STORE_WORK_NAME_BYTES 16

struct store {
        char *path;                    /* absolute, owned */
        struct store_threads *threads; /* owned */
        int root;                      /* the directory; in the store's table, owned, as the next two */
        int work;                      /* STORE_WORK_NAME */
        int lock;                      /* STORE_LOCK_NAME; held for as long as it is open */
        atomic_uint next_work;         /* makes names in the work directory unique */
        /* Held while an increment is published, and while it is seen that nothing builds on what is to be deleted. */
        pthread_mutex_t chains;
        struct store_discards discards;
};

/** store_work_name() - a name that nothing in the work directory has had yet */
void store_work_name(struct store *store, char ret[STORE_WORK_NAME_BYTES]);

/** store_failed() - "cannot OPERATION PATH: reason; what to do" as ERROR_STORE_FAILED. Return: -1. */
int store_failed(const struct store *store, const char *operation, const char *path, int code, struct error *error);

/**
 * store_move_in() - publish the directory @work_name of the work directory as DOMAIN/NAME, durably
 *
 * Return: 0, or -1 with *error set (ERROR_SNAPSHOT_EXISTS, ERROR_STORE_FAILED) and nothing visible.
 */
int store_move_in(struct store *store, const char *work_name, const char *domain, const char *name,
                  struct error *error);

/**
 * store_replace() - put the whole image @work_name in the place of the delta DOMAIN/NAME, durably and at one instant
 * @delta: the manifest of the delta that it was made of
 * @ret_done: false where another one was faster: what is there is whole already. Then @work_name is still the caller's.
 *
 * Directories are exchanged, so there is always one of the two. The delta's goes when nobody reads it any more. Return:
 * 0, or -1 with *error set and nothing changed.
 */
int store_replace(struct store *store, const char *work_name, const char *domain, const char *name,
                  const struct manifest *delta, bool *ret_done, struct error *error);

/** store_delete_this() - store_delete(), unless it is not the one with this uuid any more: ERROR_NO_SUCH_SNAPSHOT */
int store_delete_this(struct store *store, const char *domain, const char *name, const uint8_t *uuid_or_null,
                      uint32_t uid, struct error *error);

/** store_has() - is there anything called DOMAIN/NAME? */
bool store_has(const struct store *store, const char *domain, const char *name);

#endif
