/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store_discard.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/name.h"
#include "daemon/store_internal.h"
#include "daemon/store_tree.h"

struct store_discard {
        char domain[NAME_LENGTH_MAX + 1];
        char work_name[STORE_WORK_NAME_BYTES];
        uint64_t at; /* who has begun before this may read it */
        LIST_ENTRY(store_discard) link;
};

void store_discards_init(struct store_discards *discards) {
        pthread_mutex_init(&discards->lock, NULL);
        discards->now = 0;
        LIST_INIT(&discards->readers);
        LIST_INIT(&discards->waiting);
}

void store_discards_deinit(struct store_discards *discards) {
        struct store_discard *item;

        while ((item = LIST_FIRST(&discards->waiting))) {
                LIST_REMOVE(item, link);
                free(item);
        }
        pthread_mutex_destroy(&discards->lock);
}

void store_reader_begin(struct store *store, const char *domain, struct store_reader *reader) {
        struct store_discards *discards = &store->discards;

        *reader = (struct store_reader){ .store = store, .domain = domain };
        pthread_mutex_lock(&discards->lock);
        reader->since = discards->now;
        LIST_INSERT_HEAD(&discards->readers, reader, link);
        pthread_mutex_unlock(&discards->lock);
}

/* The lock is held. */
static bool is_read(const struct store_discards *discards, const struct store_discard *item) {
        const struct store_reader *reader;

        LIST_FOREACH (reader, &discards->readers, link)
                if (reader->since < item->at && !strcmp(reader->domain, item->domain))
                        return true;
        return false;
}

/* One that nobody reads any more; NULL if there is none. The lock is held. */
static struct store_discard *take_free(struct store_discards *discards) {
        struct store_discard *item;

        LIST_FOREACH (item, &discards->waiting, link)
                if (!is_read(discards, item)) {
                        LIST_REMOVE(item, link);
                        return item;
                }
        return NULL;
}

void store_reader_end(struct store_reader *reader) {
        struct store *store = reader->store;
        struct store_discard *item;

        if (!store)
                return;
        reader->store = NULL;
        pthread_mutex_lock(&store->discards.lock);
        LIST_REMOVE(reader, link);
        while ((item = take_free(&store->discards))) {
                pthread_mutex_unlock(&store->discards.lock);
                (void) store_tree_remove(store->work, item->work_name); /* what fails goes with the next start */
                free(item);
                pthread_mutex_lock(&store->discards.lock);
        }
        pthread_mutex_unlock(&store->discards.lock);
}

int store_discard(struct store *store, const char *domain, const char *work_name) {
        struct store_discard *item = calloc(1, sizeof(*item));
        bool wait;

        if (!item)
                return 0; /* it goes with the next start */
        snprintf(item->domain, sizeof(item->domain), "%s", domain);
        snprintf(item->work_name, sizeof(item->work_name), "%s", work_name);
        pthread_mutex_lock(&store->discards.lock);
        item->at = ++store->discards.now;
        wait = is_read(&store->discards, item);
        if (wait)
                LIST_INSERT_HEAD(&store->discards.waiting, item, link);
        pthread_mutex_unlock(&store->discards.lock);
        if (wait)
                return 0;
        free(item);
        return store_tree_remove(store->work, work_name);
}
