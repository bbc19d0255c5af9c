/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/store_find.h"
#include "daemon/store_internal.h"
#include "daemon/store_tree.h"

struct opening {
        struct store_call call;
        const char *path;
        struct error *error;
        int result;
        bool done;
};

void store_work_name(struct store *store, char ret[STORE_WORK_NAME_BYTES]) {
        snprintf(ret, STORE_WORK_NAME_BYTES, "%u",
                 atomic_fetch_add_explicit(&store->next_work, 1, memory_order_relaxed));
}

static const char *remedy(int code) {
        switch (code) {
        case ENOSPC:
        case EDQUOT:
                return "; free space there or delete snapshots";
        case EROFS:
                return "; mount it writable or use --store with another directory";
        case EACCES:
        case EPERM:
                return "; give the daemon's user the right to write there or use --store with another directory";
        case EIO:
                return "; the disk fails: look at the kernel's log";
        case EMFILE:
                return "; raise the daemon's limit of open files";
        default:
                return "";
        }
}

int store_failed(const struct store *store, const char *operation, const char *path, int code, struct error *error) {
        return error_set(error, ERROR_STORE_FAILED, "cannot %s %s/%s: %s%s", operation, store->path, path,
                         strerror(code), remedy(code));
}

static int open_directory(struct store *store, const char *path, struct error *error) {
        int code;

        if (mkdir(path, 0700) < 0 && errno != EEXIST) {
                code = errno;
                if (code == ENOENT)
                        return error_set(
                                error, ERROR_STORE_FAILED,
                                "cannot make the store %s: the directory above it does not exist; make that first",
                                path);
                return error_set(error, ERROR_STORE_FAILED, "cannot make the store %s: %s%s", path, strerror(code),
                                 remedy(code));
        }
        store->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (store->root < 0) {
                code = errno;
                return error_set(error, ERROR_STORE_FAILED, "cannot open the store %s: %s%s", path, strerror(code),
                                 remedy(code));
        }
        store->path = realpath(path, NULL);
        if (!store->path)
                return error_set(error, ERROR_STORE_FAILED, "cannot find the way to the store %s: %s", path,
                                 strerror(errno));
        return 0;
}

/* Opened for writing, so that a store which is read-only is found now and not by the first snapshot. */
static int take_lock(struct store *store, struct error *error) {
        char text[32] = "";
        ssize_t got;

        store->lock = openat(store->root, STORE_LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (store->lock < 0)
                return store_failed(store, "write", STORE_LOCK_NAME, errno, error);
        if (flock(store->lock, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return store_failed(store, "lock", STORE_LOCK_NAME, errno, error);
                got = pread(store->lock, text, sizeof(text) - 1, 0);
                text[got > 0 ? strspn(text, "0123456789") : 0] = '\0';
                return error_set(error, ERROR_BUSY,
                                 "the store %s is in use by another daemon (process %s); stop that or use --store with "
                                 "another directory",
                                 store->path, text[0] ? text : "unknown");
        }
        /* For that message only: the lock is what counts. */
        snprintf(text, sizeof(text), "%d\n", (int) getpid());
        if (ftruncate(store->lock, 0) < 0 || pwrite(store->lock, text, strlen(text), 0) < 0)
                return store_failed(store, "write", STORE_LOCK_NAME, errno, error);
        return 0;
}

static int open_work(struct store *store, struct error *error) {
        int r;

        if (mkdirat(store->root, STORE_WORK_NAME, 0700) < 0 && errno != EEXIST)
                return store_failed(store, "make", STORE_WORK_NAME, errno, error);
        store->work = openat(store->root, STORE_WORK_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (store->work < 0)
                return store_failed(store, "open", STORE_WORK_NAME, errno, error);
        r = store_tree_empty(store->work);
        if (r < 0)
                return store_failed(store, "remove what an earlier daemon left in", STORE_WORK_NAME, -r, error);
        return 0;
}

static void opening_run(struct store *store, struct store_call *call) {
        struct opening *opening = (struct opening *) call;

        opening->result = -1;
        if (open_directory(store, opening->path, opening->error) == 0 && take_lock(store, opening->error) == 0 &&
            open_work(store, opening->error) == 0)
                opening->result = 0;
}

/* Left to itself the threads' table would go some time after they have been joined, and the lock with it. */
static void close_all(struct store *store) {
        cleanup_close_p(&store->lock);
        cleanup_close_p(&store->work);
        cleanup_close_p(&store->root);
}

static void opening_done(struct store_call *call) {
        ((struct opening *) call)->done = true;
}

int store_new(const char *path, struct store **ret, struct error *error) {
        struct opening opening = { .call = { .run = opening_run, .done = opening_done }, .path = path, .error = error };
        struct store *store = calloc(1, sizeof(*store));
        struct pollfd ready = { .events = POLLIN };
        int r;

        if (!store)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        store->root = store->work = store->lock = -1;
        pthread_mutex_init(&store->chains, NULL);
        store_discards_init(&store->discards);
        r = store_threads_new(store, close_all, &store->threads);
        if (r < 0) {
                store_discards_deinit(&store->discards);
                pthread_mutex_destroy(&store->chains);
                free(store);
                return error_set(error, ERROR_INTERNAL, "cannot start the threads of the store: %s", strerror(-r));
        }
        ready.fd = store_get_fd(store);
        store_submit(store, &opening.call);
        while (!opening.done) {
                poll(&ready, 1, -1);
                store_dispatch(store);
        }
        if (opening.result < 0) {
                store_free(store);
                return -1;
        }
        *ret = store;
        return 0;
}

void store_free(struct store *store) {
        if (!store)
                return;
        store_threads_free(store->threads);
        store_discards_deinit(&store->discards);
        pthread_mutex_destroy(&store->chains);
        free(store->path);
        free(store);
}

const char *store_path(const struct store *store) {
        return store->path;
}

void store_submit(struct store *store, struct store_call *call) {
        store_threads_submit(store->threads, call);
}

int store_get_fd(const struct store *store) {
        return store_threads_get_fd(store->threads);
}

void store_dispatch(struct store *store) {
        store_threads_dispatch(store->threads);
}

bool store_has(const struct store *store, const char *domain, const char *name) {
        char path[2 * 128 + 2];

        snprintf(path, sizeof(path), "%s/%s", domain, name);
        return faccessat(store->root, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Return: a descriptor; -ENOENT if it has gone again; -1 with *error set. */
static int open_domain(struct store *store, const char *domain, struct error *error) {
        int fd;

        if (mkdirat(store->root, domain, 0700) < 0 && errno != EEXIST)
                return store_failed(store, "make", domain, errno, error);
        fd = openat(store->root, domain, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? -ENOENT : store_failed(store, "open", domain, errno, error);
        return fd;
}

/* A filesystem without RENAME_NOREPLACE: rename puts a directory only over one that is empty, which no snapshot is. */
static int rename_no_replace(int from_directory, const char *from, int to_directory, const char *to) {
        if (renameat2(from_directory, from, to_directory, to, RENAME_NOREPLACE) == 0)
                return 0;
        if (errno == EINVAL && renameat(from_directory, from, to_directory, to) == 0)
                return 0;
        return -errno;
}

int store_move_in(struct store *store, const char *work_name, const char *domain, const char *name,
                  struct error *error) {
        int r = -ENOENT;

        /* The deletion of the domain's last other snapshot may take the directory away in between: then once more. */
        for (int attempt = 0; attempt < 100 && r == -ENOENT; attempt++) {
                CLEANUP_CLOSE int directory = -1;

                directory = open_domain(store, domain, error);
                if (directory == -ENOENT)
                        continue;
                if (directory < 0)
                        return -1;
                r = rename_no_replace(store->work, work_name, directory, name);
                if (r == 0 && (fsync(directory) < 0 || fsync(store->root) < 0)) {
                        /* Whether it would be there after a crash is not known: so it must not be there now. */
                        r = -errno;
                        (void) renameat(directory, name, store->work, work_name);
                }
        }
        if (r == -EEXIST || r == -ENOTEMPTY)
                error_set(error, ERROR_SNAPSHOT_EXISTS, "snapshot %s/%s exists already; use another name", domain,
                          name);
        else if (r < 0)
                store_failed(store, "publish", domain, -r, error);
        if (r < 0)
                unlinkat(store->root, domain, AT_REMOVEDIR); /* if it was made for this one it is empty */
        return r < 0 ? -1 : 0;
}

/* What is there must still be the delta; the lock of chains is held. Return: 1, 0 if it is whole by now, -1. */
static int check_delta(struct store *store, const char *domain, const char *name, const struct manifest *delta,
                       struct error *error) {
        CLEANUP_STORE_FOUND struct store_found now = STORE_FOUND_INIT;

        if (store_find(store, domain, name, &now, error) < 0)
                return -1;
        if (memcmp(now.manifest->uuid, delta->uuid, sizeof(delta->uuid)) || now.manifest->content != delta->content)
                return error_set(error, ERROR_BUSY, "snapshot %s/%s was replaced by another while it was made whole",
                                 domain, name);
        return now.manifest->delta;
}

static int exchange(struct store *store, const char *work_name, const char *domain, const char *name,
                    struct error *error) {
        CLEANUP_CLOSE int directory = openat(store->root, domain, STORE_OPEN_DIRECTORY);

        if (directory < 0 || renameat2(store->work, work_name, directory, name, RENAME_EXCHANGE) < 0) {
                if (directory >= 0 && errno == EINVAL)
                        return error_set(error, ERROR_STORE_FAILED,
                                         "the filesystem of the store %s cannot exchange two directories, so no "
                                         "snapshot can be made whole there",
                                         store->path);
                return store_failed(store, "publish", domain, errno, error);
        }
        if (fsync(directory) == 0 && fsync(store->work) == 0)
                return 0;
        /* Which of the two is there after a crash is not known. Either would do, but what failed changes nothing. */
        store_failed(store, "publish", domain, errno, error);
        (void) renameat2(store->work, work_name, directory, name, RENAME_EXCHANGE);
        return -1;
}

int store_replace(struct store *store, const char *work_name, const char *domain, const char *name,
                  const struct manifest *delta, bool *ret_done, struct error *error) {
        int r;

        pthread_mutex_lock(&store->chains);
        r = check_delta(store, domain, name, delta, error);
        *ret_done = r > 0;
        if (r > 0)
                r = exchange(store, work_name, domain, name, error);
        pthread_mutex_unlock(&store->chains);
        if (r == 0 && *ret_done)
                (void) store_discard(store, domain, work_name); /* what cannot be removed goes with the next start */
        return r < 0 ? -1 : 0;
}
