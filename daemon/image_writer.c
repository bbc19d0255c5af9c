/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/image_writer.h"

/*
 * Two sides: the functions of the header, called by the sweep, and writer_run(), the thread of the store's that does
 * all the work. Between them are a queue of chunks and one command at a time, under one lock that is never held while
 * anything waits for the disk.
 *
 * The thread keeps several chunks in flight and computes the sums of the next one meanwhile. When the queue is empty
 * and something is in flight it waits for that, not for the queue: a new chunk is then taken up at the next completion,
 * a millisecond or two later, while the disk is still busy with the others.
 */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/manifest.h"
#include "common/name.h"
#include "daemon/image_drain.h"
#include "daemon/image_writer_manifest.h"
#include "daemon/image_writer_rate.h"

#define PROGRESS_NS UINT64_C(100000000)
#define NAMES_TRIED 1000

enum command {
        COMMAND_NONE,
        COMMAND_PUBLISH,
        COMMAND_END,
};

struct image_writer {
        struct store_call call;
        struct store *store; /* borrowed */
        atomic_int references;

        /* Set before the thread starts, then read only; but for @name, which the thread alone changes, while publishing
         */
        char *domain; /* owned */
        char *name;   /* owned */
        bool name_is_ours;
        char *parent; /* owned; NULL: none was given */
        uint8_t parent_uuid[16];
        char full_reason[IMAGE_WRITER_REASON_BYTES]; /* empty: there is none */
        uint32_t uid;
        double created;
        void (*release)(void *data, struct chunk *chunk);
        void (*progress)(void *data, uint64_t bytes_written);
        void *data;

        pthread_mutex_t lock;    /* from here to @error */
        pthread_cond_t work;     /* for the thread: @queue, @command */
        pthread_cond_t answer;   /* for the others: @outstanding, @command, @started, @ended */
        struct chunk_list queue; /* submitted and not taken up */
        uint64_t outstanding;    /* chunks submitted and not released */
        enum command command;
        int result; /* of the start, then of COMMAND_PUBLISH */
        bool started, ended;
        json_t *figures; /* of COMMAND_PUBLISH; borrowed */
        uint64_t started_ns;
        json_t *snapshot;   /* what came of it; owned */
        struct error error; /* the first failure */
        atomic_bool failed; /* read without the lock as a hint; set under it */

        /* The thread's own */
        struct image_files files;
        struct image_drain drain;
        struct image_rate rate;
        bool plain_in_flight; /* the chunk that was taken up last was a plain one */
        uint64_t progress_ns; /* when it was last told */
};

static uint64_t now_ns(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

static void writer_unref(struct image_writer *writer) {
        /* acq_rel: who frees must see all that the other one did before it let go */
        if (atomic_fetch_sub_explicit(&writer->references, 1, memory_order_acq_rel) != 1)
                return;
        pthread_cond_destroy(&writer->answer);
        pthread_cond_destroy(&writer->work);
        pthread_mutex_destroy(&writer->lock);
        json_decref(writer->snapshot);
        free(writer->domain);
        free(writer->name);
        free(writer->parent);
        free(writer);
}

/*
 * The thread
 */

static void writer_fail(void *data, const struct error *error) {
        struct image_writer *writer = data;

        pthread_mutex_lock(&writer->lock);
        if (!writer->failed)
                writer->error = *error;
        writer->failed = true;
        pthread_mutex_unlock(&writer->lock);
}

static void writer_release(void *data, struct chunk *chunk) {
        struct image_writer *writer = data;

        writer->release(writer->data, chunk);
        pthread_mutex_lock(&writer->lock);
        if (--writer->outstanding == 0)
                pthread_cond_broadcast(&writer->answer);
        pthread_mutex_unlock(&writer->lock);
}

static void writer_tell_progress(struct image_writer *writer, bool now) {
        uint64_t time = now_ns();

        if (!writer->progress || (!now && time - writer->progress_ns < PROGRESS_NS))
                return;
        writer->progress_ns = time;
        writer->progress(writer->data, writer->drain.bytes_written);
}

/* Single pages replace what plain chunks wrote, so these must be on the disk first: NULL until they are. */
static struct chunk *writer_take(struct image_writer *writer) {
        struct chunk *chunk;

        pthread_mutex_lock(&writer->lock);
        chunk = STAILQ_FIRST(&writer->queue);
        if (chunk && chunk->n_pages && writer->plain_in_flight && writer->drain.n_in_flight)
                chunk = NULL;
        if (chunk)
                STAILQ_REMOVE_HEAD(&writer->queue, link);
        pthread_mutex_unlock(&writer->lock);
        if (chunk)
                writer->plain_in_flight = !chunk->n_pages;
        return chunk;
}

/* After a failure nothing is written any more, so nothing is limited: what is queued goes back at once. */
static uint64_t writer_rate_wait_ns(const struct image_writer *writer) {
        return writer->failed ? 0 : image_rate_wait_ns(&writer->rate, now_ns());
}

/* Takes up chunks until something has to be waited for: the disk, the rate, or the sweep. */
static void writer_fill(struct image_writer *writer) {
        struct chunk *chunk;

        for (;;) {
                image_drain_push(&writer->drain);
                if (image_drain_is_full(&writer->drain) || writer_rate_wait_ns(writer) > 0)
                        return;
                chunk = writer_take(writer);
                if (!chunk)
                        return;
                if (writer->failed)
                        writer_release(writer, chunk);
                else
                        image_rate_take(&writer->rate, image_drain_start(&writer->drain, chunk), now_ns());
        }
}

/* Waits for the disk, or until the rate allows the next chunk. */
static void writer_reap(struct image_writer *writer) {
        uint64_t rate_wait_ns = writer_rate_wait_ns(writer);

        image_drain_reap(&writer->drain, rate_wait_ns ? (int64_t) rate_wait_ns : -1);
        writer_tell_progress(writer, false);
}

/* Waits for the sweep, when nothing is in flight. Return: the command, once there is nothing else to do. */
static enum command writer_wait(struct image_writer *writer) {
        enum command command = COMMAND_NONE;
        uint64_t wait_ns = writer_rate_wait_ns(writer), until_ns = now_ns() + wait_ns;
        struct timespec until = { .tv_sec = (time_t) (until_ns / 1000000000),
                                  .tv_nsec = (long) (until_ns % 1000000000) };

        pthread_mutex_lock(&writer->lock);
        while (STAILQ_EMPTY(&writer->queue) && writer->command == COMMAND_NONE)
                pthread_cond_wait(&writer->work, &writer->lock);
        if (STAILQ_EMPTY(&writer->queue))
                command = writer->command;
        else if (writer->command != COMMAND_END && wait_ns)
                pthread_cond_timedwait(&writer->work, &writer->lock, &until);
        pthread_mutex_unlock(&writer->lock);
        return command;
}

static double wall_clock(void) {
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

/* A name of the form 20261122T204505Z, or with -2, -3 ... behind it, that is not taken. */
static int choose_name(struct image_writer *writer, struct error *error) {
        time_t created = (time_t) writer->created;
        char stamp[32], name[48];
        struct tm utc;

        gmtime_r(&created, &utc);
        strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc);
        for (unsigned i = 1; i <= NAMES_TRIED; i++) {
                if (i == 1)
                        snprintf(name, sizeof(name), "%s", stamp);
                else
                        snprintf(name, sizeof(name), "%s-%u", stamp, i);
                if (store_has(writer->store, writer->domain, name))
                        continue;
                free(writer->name);
                writer->name = strdup(name);
                return writer->name ? 0 : error_set(error, ERROR_INTERNAL, "out of memory");
        }
        return error_set(error, ERROR_SNAPSHOT_EXISTS,
                         "all names like %s are taken in domain '%s'; give one with --name", stamp, writer->domain);
}

static int writer_write_manifest(struct image_writer *writer, json_t *figures, uint64_t started_ns,
                                 struct manifest **ret, struct error *error) {
        const struct image_facts facts = {
                .domain = writer->domain,
                .name = writer->name,
                .uid = writer->uid,
                .created = writer->created,
                .bytes_written = writer->drain.bytes_written,
                .duration_us = (now_ns() - started_ns) / 1000,
        };
        CLEANUP_FREE char *text = NULL;
        json_t *members;
        size_t bytes;
        int r;

        if (image_manifest_make(&writer->files, &facts, figures, &members, error) < 0)
                return -1;
        r = manifest_render(members, &text, &bytes, error);
        json_decref(members);
        if (r < 0 || image_files_write_manifest(&writer->files, text, bytes, error) < 0)
                return -1;
        return manifest_parse(text, bytes, ret, error);
}

static int writer_publish_as(struct image_writer *writer, json_t **ret, struct error *error) {
        CLEANUP_FREE char *directory = NULL;
        char snapshot[2 * NAME_LENGTH_MAX + 2];
        struct manifest *manifest;
        json_t *made;

        snprintf(snapshot, sizeof(snapshot), "%s/%s", writer->domain, writer->name);
        if (writer_write_manifest(writer, writer->figures, writer->started_ns, &manifest, error) < 0)
                return -1;
        if (asprintf(&directory, "%s/%s", writer->store->path, snapshot) < 0)
                directory = NULL;
        made = directory ? manifest_snapshot(manifest, snapshot, directory) : NULL;
        manifest_free(manifest);
        if (!made)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (image_files_publish(&writer->files, writer->domain, writer->name, error) < 0) {
                json_decref(made);
                return -1;
        }
        /* Only now is it known. The manifest says how long it took until the images were durable. */
        json_object_set_new(made, "duration_us", json_integer((json_int_t) ((now_ns() - writer->started_ns) / 1000)));
        *ret = made;
        return 0;
}

/* A name that is ours to choose and that somebody has taken meanwhile is replaced by the next one. */
static int writer_do_publish(struct image_writer *writer, json_t **ret, struct error *error) {
        if (image_files_settle(&writer->files, &writer->drain.io, error) < 0)
                return -1;
        for (unsigned attempt = 0;; attempt++) {
                struct error inner = { .kind = ERROR_NONE };

                if (writer_publish_as(writer, ret, &inner) == 0)
                        return 0;
                if (inner.kind != ERROR_SNAPSHOT_EXISTS || !writer->name_is_ours || attempt == NAMES_TRIED)
                        return error_set(error, inner.kind, "%s", inner.message);
                if (choose_name(writer, error) < 0)
                        return -1;
        }
}

static void writer_handle_publish(struct image_writer *writer) {
        struct error error = { .kind = ERROR_NONE };
        json_t *snapshot = NULL;
        int r = -1;

        writer_tell_progress(writer, true);
        if (!writer->failed)
                r = writer_do_publish(writer, &snapshot, &error);
        if (error.kind != ERROR_NONE)
                writer_fail(writer, &error);

        pthread_mutex_lock(&writer->lock);
        writer->result = r;
        writer->snapshot = snapshot;
        writer->command = COMMAND_NONE;
        pthread_cond_broadcast(&writer->answer);
        pthread_mutex_unlock(&writer->lock);
}

static void writer_loop(struct image_writer *writer) {
        enum command command;

        for (;;) {
                writer_fill(writer);
                if (writer->drain.io.in_flight) {
                        writer_reap(writer);
                        continue;
                }
                command = writer_wait(writer);
                if (command == COMMAND_END)
                        return;
                if (command == COMMAND_PUBLISH)
                        writer_handle_publish(writer);
        }
}

/* If it cannot be built upon, the snapshot is a full one. */
static void writer_open_parent(struct image_writer *writer) {
        struct image_writer_region regions[LIVESNAP_FORMAT_REGIONS_MAX];

        for (unsigned i = 0; i < writer->files.n_regions; i++)
                regions[i] =
                        (struct image_writer_region){ writer->files.regions[i].name, writer->files.regions[i].bytes };
        (void) image_parent_open(writer->store, writer->domain, writer->parent, writer->parent_uuid, writer->uid,
                                 regions, writer->files.n_regions, &writer->files.parent, writer->full_reason);
}

static int writer_prepare(struct image_writer *writer, struct error *error) {
        if (writer->parent)
                writer_open_parent(writer);
        writer->created = wall_clock();
        if (!writer->name) {
                writer->name_is_ours = true;
                if (choose_name(writer, error) < 0)
                        return -1;
        } else if (store_has(writer->store, writer->domain, writer->name))
                return error_set(error, ERROR_SNAPSHOT_EXISTS, "snapshot %s/%s exists already; use another name",
                                 writer->domain, writer->name);
        return image_files_create(&writer->files, error);
}

static void writer_run(struct store *store, struct store_call *call) {
        struct image_writer *writer = (struct image_writer *) call;
        int r = writer_prepare(writer, &writer->error); /* nobody else looks at it before @started */

        pthread_mutex_lock(&writer->lock);
        writer->result = r;
        writer->started = true;
        pthread_cond_broadcast(&writer->answer);
        pthread_mutex_unlock(&writer->lock);

        if (r == 0) {
                image_drain_init(&writer->drain, &(struct image_drain_spec){ &writer->files, &writer->failed,
                                                                             writer_release, writer_fail, writer });
                writer_loop(writer);
                image_drain_deinit(&writer->drain);
        }
        image_files_deinit(&writer->files);

        pthread_mutex_lock(&writer->lock);
        writer->ended = true;
        pthread_cond_broadcast(&writer->answer);
        pthread_mutex_unlock(&writer->lock);
}

static void writer_done(struct store_call *call) {
        writer_unref((struct image_writer *) call);
}

/*
 * The sweep's side
 */

static struct image_writer *writer_alloc(struct store *store, const struct image_writer_spec *spec) {
        struct image_writer *writer = calloc(1, sizeof(*writer));
        pthread_condattr_t monotonic;

        if (!writer)
                return NULL;
        writer->call = (struct store_call){ .run = writer_run, .done = writer_done, .lasting = true };
        writer->store = store;
        atomic_init(&writer->references, 1);
        writer->uid = spec->uid;
        writer->release = spec->release;
        writer->progress = spec->progress;
        writer->data = spec->data;
        image_rate_init(&writer->rate, spec->max_rate, now_ns());
        STAILQ_INIT(&writer->queue);
        pthread_mutex_init(&writer->lock, NULL);
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&writer->work, &monotonic);
        pthread_condattr_destroy(&monotonic);
        pthread_cond_init(&writer->answer, NULL);
        writer->domain = strdup(spec->domain);
        writer->name = spec->name ? strdup(spec->name) : NULL;
        writer->parent = spec->parent ? strdup(spec->parent) : NULL;
        if (spec->parent)
                memcpy(writer->parent_uuid, spec->parent_uuid, sizeof(writer->parent_uuid));
        if (!writer->domain || (spec->name && !writer->name) || (spec->parent && !writer->parent)) {
                writer_unref(writer);
                return NULL;
        }
        return writer;
}

int image_writer_new(struct store *store, const struct image_writer_spec *spec, struct image_writer **ret,
                     struct error *error) {
        struct image_writer *writer;
        int r;

        if (name_check("domain", spec->domain, error) < 0 ||
            (spec->name && name_check("snapshot", spec->name, error) < 0))
                return -1;
        writer = writer_alloc(store, spec);
        if (!writer)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (image_files_init(&writer->files, store, spec->n_regions, spec->regions, error) < 0) {
                image_files_deinit(&writer->files);
                writer_unref(writer);
                return -1;
        }

        atomic_store_explicit(&writer->references, 2, memory_order_relaxed); /* ours, and the call's */
        store_submit(store, &writer->call);
        pthread_mutex_lock(&writer->lock);
        while (!writer->started)
                pthread_cond_wait(&writer->answer, &writer->lock);
        r = writer->result;
        while (r < 0 && !writer->ended) /* when the caller hears of it nothing is left behind any more */
                pthread_cond_wait(&writer->answer, &writer->lock);
        if (r < 0)
                error_set(error, writer->error.kind, "%s", writer->error.message);
        pthread_mutex_unlock(&writer->lock);
        if (r < 0) {
                writer_unref(writer);
                return -1;
        }
        *ret = writer;
        return 0;
}

const char *image_writer_full_reason(const struct image_writer *writer) {
        return writer->full_reason[0] ? writer->full_reason : NULL;
}

void image_writer_get_uuid(const struct image_writer *writer, uint8_t ret[16]) {
        memcpy(ret, writer->files.uuid, sizeof(writer->files.uuid));
}

const char *image_writer_name(const struct image_writer *writer) {
        return writer->name;
}

void image_writer_submit(struct image_writer *writer, struct chunk *chunk) {
        pthread_mutex_lock(&writer->lock);
        STAILQ_INSERT_TAIL(&writer->queue, chunk, link);
        writer->outstanding++;
        pthread_cond_signal(&writer->work);
        pthread_mutex_unlock(&writer->lock);
}

bool image_writer_failed(const struct image_writer *writer) {
        /* relaxed: the sweep only stops sooner for it; errors are read under the lock */
        return atomic_load_explicit(&writer->failed, memory_order_relaxed);
}

bool image_writer_settle(struct image_writer *writer, unsigned timeout_ms) {
        uint64_t until_ns = now_ns() + (uint64_t) timeout_ms * 1000000;
        struct timespec until = { .tv_sec = (time_t) (until_ns / 1000000000),
                                  .tv_nsec = (long) (until_ns % 1000000000) };
        bool settled;
        int r = 0;

        pthread_mutex_lock(&writer->lock);
        while (writer->outstanding && r == 0)
                r = pthread_cond_clockwait(&writer->answer, &writer->lock, CLOCK_MONOTONIC, &until);
        settled = !writer->outstanding;
        pthread_mutex_unlock(&writer->lock);
        return settled;
}

int image_writer_flush(struct image_writer *writer, struct error *error) {
        int r = 0;

        pthread_mutex_lock(&writer->lock);
        while (writer->outstanding)
                pthread_cond_wait(&writer->answer, &writer->lock);
        if (writer->failed)
                r = error_set(error, writer->error.kind, "%s", writer->error.message);
        pthread_mutex_unlock(&writer->lock);
        return r;
}

int image_writer_publish(struct image_writer *writer, json_t *figures, uint64_t started_ns, json_t **ret,
                         struct error *error) {
        int r;

        pthread_mutex_lock(&writer->lock);
        writer->figures = figures;
        writer->started_ns = started_ns;
        writer->command = COMMAND_PUBLISH;
        pthread_cond_signal(&writer->work);
        while (writer->command != COMMAND_NONE)
                pthread_cond_wait(&writer->answer, &writer->lock);
        r = writer->result;
        if (r < 0)
                error_set(error, writer->error.kind, "%s", writer->error.message);
        else
                *ret = STEAL_PTR(writer->snapshot);
        pthread_mutex_unlock(&writer->lock);
        return r;
}

void image_writer_free(struct image_writer *writer) {
        if (!writer)
                return;
        pthread_mutex_lock(&writer->lock);
        writer->failed = true; /* what is queued is not wanted any more */
        writer->command = COMMAND_END;
        pthread_cond_signal(&writer->work);
        while (!writer->ended)
                pthread_cond_wait(&writer->answer, &writer->lock);
        pthread_mutex_unlock(&writer->lock);
        writer_unref(writer);
}
