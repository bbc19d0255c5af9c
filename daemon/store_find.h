/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_FIND_H
#define LIVESNAP_DAEMON_STORE_FIND_H

/* Finding a published snapshot. Names are checked here; what is found may still hold anything. */

#include <fcntl.h>

#include "common/cleanup.h"
#include "common/manifest.h"
#include "daemon/store_internal.h"

#define STORE_OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
/* O_NONBLOCK: what somebody else put into the store may be a FIFO, and its opening must not wait for a writer. */
#define STORE_OPEN_FILE (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

struct store_found {
        int directory;             /* owned */
        int file;                  /* the manifest's; owned */
        struct manifest *manifest; /* owned; NULL until it has been read */
};

#define STORE_FOUND_INIT \
        { .directory = -1, .file = -1 }
#define CLEANUP_STORE_FOUND CLEANUP(store_found_deinit)

void store_found_deinit(struct store_found *found);

/** store_is_absent() - does this errno say that there is no such thing, or that it is not one of ours? */
bool store_is_absent(int code);

/** store_find_directory() - open the directory and the manifest. -1 with ERROR_NO_SUCH_SNAPSHOT if it is none. */
int store_find_directory(struct store *store, const char *domain, const char *name, struct store_found *found,
                         struct error *error);

/** store_find_manifest() - read the manifest of what was found; @domain and @name are for the message */
int store_find_manifest(const char *domain, const char *name, struct store_found *found, struct error *error);

/** store_find() - both */
int store_find(struct store *store, const char *domain, const char *name, struct store_found *found,
               struct error *error);

/** store_find_for() - the same on behalf of @uid; @purpose is the verb for the sentence that refuses it */
int store_find_for(struct store *store, const char *domain, const char *name, uint32_t uid, const char *purpose,
                   struct store_found *found, struct error *error);

/**
 * store_open_regular() - open REGION + SUFFIX in a snapshot's directory for reading, and nothing but a regular file
 * @flags: O_DIRECT, left out where the filesystem refuses it, or 0
 *
 * Return: the descriptor, or -1 with *error set.
 */
int store_open_regular(const struct store *store, int directory, const char *region, const char *suffix, int flags,
                       struct error *error);

#endif
