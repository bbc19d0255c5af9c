/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/removal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

struct removal_region {
        int watch; /* inotify's, or -1 */
        bool modified;
        bool changed_before; /* before the last start */
        blkcnt_t blocks;
        off_t size;
};

struct removal_watch {
        int inotify; /* owned */
        unsigned n_regions;
        struct removal_region regions[];
};

int removal_watch_new(struct domain *domain, struct removal_watch **ret) {
        struct removal_watch *watch = calloc(1, sizeof(*watch) + domain->n_regions * sizeof(watch->regions[0]));
        struct region *region;
        char path[64];

        if (!watch)
                return -ENOMEM;
        watch->n_regions = domain->n_regions;
        watch->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (watch->inotify < 0) {
                int r = -errno;

                free(watch);
                return r;
        }
        TAILQ_FOREACH (region, &domain->regions, link) {
                struct removal_region *r = &watch->regions[region->index];

                r->watch = -1;
                if (region->guarantee == GUARANTEE_SEALED)
                        continue;
                snprintf(path, sizeof(path), "/proc/self/fd/%d", region->object);
                r->watch = inotify_add_watch(watch->inotify, path, IN_MODIFY);
        }
        *ret = watch;
        return 0;
}

void removal_watch_free(struct removal_watch *watch) {
        if (!watch)
                return;
        close(watch->inotify);
        free(watch);
}

static void removal_watch_read(struct removal_watch *watch) {
        char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
        ssize_t n;

        while ((n = read(watch->inotify, buffer, sizeof(buffer))) > 0) {
                for (char *p = buffer; p < buffer + n;) {
                        const struct inotify_event *event = (const struct inotify_event *) p;

                        for (unsigned i = 0; i < watch->n_regions; i++)
                                if ((event->mask & IN_Q_OVERFLOW) || watch->regions[i].watch == event->wd)
                                        watch->regions[i].modified = true;
                        p += sizeof(*event) + event->len;
                }
        }
}

void removal_watch_start(struct removal_watch *watch, const struct domain *domain) {
        const struct region *region;
        struct stat st;

        TAILQ_FOREACH (region, &domain->regions, link) {
                struct removal_region *r = &watch->regions[region->index];

                r->changed_before = false;
                if (region->guarantee != GUARANTEE_SEALED && fstat(region->object, &st) == 0) {
                        r->changed_before = st.st_blocks < r->blocks || st.st_size < r->size;
                        r->blocks = st.st_blocks;
                        r->size = st.st_size;
                }
        }
        removal_watch_read(watch);
        for (unsigned i = 0; i < watch->n_regions; i++) {
                watch->regions[i].changed_before |= watch->regions[i].modified;
                watch->regions[i].modified = false;
        }
}

bool removal_watch_changed_before(const struct removal_watch *watch, const struct region *region) {
        return watch->regions[region->index].changed_before;
}

bool removal_watch_modified(struct removal_watch *watch, const struct region *region) {
        removal_watch_read(watch);
        return watch->regions[region->index].modified;
}

bool removal_watch_shrunk(struct removal_watch *watch, const struct region *region) {
        struct removal_region *r = &watch->regions[region->index];
        struct stat st;

        return fstat(region->object, &st) < 0 || st.st_blocks < r->blocks || st.st_size < r->size;
}
