/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/delta.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checksum.h"
#include "common/cleanup.h"
#include "common/map.h"

#define RUN_PAGES 256

/* Pages that lie together in REGION.pages, and are read together. */
struct run {
        uint64_t position;
        unsigned n;
        uint64_t pages[RUN_PAGES];
        uint64_t sums[RUN_PAGES];
        uint8_t *data; /* owned */
};

static void run_deinit(struct run *run) {
        free(run->data);
}

static void map_reader_free_p(struct map_reader **reader) {
        map_reader_free(*reader);
}

static int run_read(struct run *run, const char *region, int pages, struct error *error) {
        size_t bytes = (size_t) run->n * LIVESNAP_FORMAT_PAGE_BYTES, done = 0;
        uint64_t offset = run->position * LIVESNAP_FORMAT_PAGE_BYTES;

        while (done < bytes) {
                ssize_t got = pread(pages, run->data + done, bytes - done, (off_t) (offset + done));

                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return error_set(error, ERROR_STORE_FAILED, "cannot read %s%s at %" PRIu64 ": %s", region,
                                         LIVESNAP_PAGES_SUFFIX, offset + done, strerror(errno));
                if (got == 0)
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it ends at %" PRIu64, region,
                                         LIVESNAP_PAGES_SUFFIX, offset + done);
                done += (size_t) got;
        }
        return 0;
}

static int run_check(struct run *run, const char *region, int pages, struct error *error) {
        if (run->n && run_read(run, region, pages, error) < 0)
                return -1;
        for (unsigned i = 0; i < run->n; i++)
                if (checksum_page(run->data + (size_t) i * LIVESNAP_FORMAT_PAGE_BYTES) != run->sums[i])
                        return error_set(error, ERROR_SNAPSHOT_CORRUPT,
                                         "%s%s is damaged: the page at offset %" PRIu64
                                         " of the region does not match its checksum",
                                         region, LIVESNAP_PAGES_SUFFIX, run->pages[i] * LIVESNAP_FORMAT_PAGE_BYTES);
        run->n = 0;
        return 0;
}

static int size_check(const struct manifest_region *region, int pages, struct error *error) {
        struct stat status;

        if (fstat(pages, &status) == 0 && S_ISREG(status.st_mode) &&
            (uint64_t) status.st_size == region->pages_stored * LIVESNAP_FORMAT_PAGE_BYTES)
                return 0;
        return error_set(error, ERROR_SNAPSHOT_CORRUPT, "%s%s is damaged: it has not the size that the manifest says",
                         region->name, LIVESNAP_PAGES_SUFFIX);
}

int delta_verify(const struct manifest *manifest, unsigned index, int pages, int map,
                 bool (*progress)(void *data, uint64_t offset), void *data, struct error *error) {
        const struct manifest_region *region = &manifest->regions[index];
        CLEANUP(map_reader_free_p) struct map_reader *reader = NULL;
        CLEANUP(run_deinit) struct run run = { .data = malloc((size_t) RUN_PAGES * LIVESNAP_FORMAT_PAGE_BYTES) };
        const struct livesnap_map_entry *entry;
        int r;

        if (!run.data)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (size_check(region, pages, error) < 0 || map_reader_new(region, manifest->uuid, map, &reader, error) < 0)
                return -1;
        while ((r = map_reader_peek(reader, &entry, error)) > 0) {
                if (entry->sum && run.n && (entry->position != run.position + run.n || run.n == RUN_PAGES)) {
                        if (run_check(&run, region->name, pages, error) < 0)
                                return -1;
                        if (!progress(data, entry->page * LIVESNAP_FORMAT_PAGE_BYTES))
                                return error_set(error, ERROR_CANCELLED, "the verification was cancelled");
                }
                if (entry->sum) {
                        run.position = run.n ? run.position : entry->position;
                        run.pages[run.n] = entry->page;
                        run.sums[run.n++] = entry->sum;
                }
                map_reader_skip(reader);
        }
        return r < 0 ? -1 : run_check(&run, region->name, pages, error);
}
