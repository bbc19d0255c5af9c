/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CAPTURE_H
#define LIVESNAP_DAEMON_CAPTURE_H

/*
 * The state machine of a snapshot's pages. It knows nothing of userfaultfd, so that it runs in a unit test.
 *
 * One fault thread and one sweep work on it at the same time and neither waits for the other. For each chunk there is
 * the list of its pages that were saved by a fault, newest first, or the mark CLOSED once the sweep has taken the
 * chunk. An increment has only some pages to save, the wanted ones; the others are as they were in its parent.
 */
/* clang-format off */
/*
 *   state of a page | how it is told                   | fault                         | sweep
 *   ----------------+----------------------------------+-------------------------------+--------------------------
 *   not wanted      | bit not in `wanted`              | nothing                       | nothing
 *   free            | chunk open, page not on its list | read it, push it: -> faulted; | read the chunk, close it:
 *                   |                                  | no slot: -> parked            | -> swept
 *   parked          | as free, and bit in `parked`     | no slot: stays; else as free  | as free; wakes it
 *   faulted         | chunk open, page on its list     | nothing (duplicate)           | close the chunk, lay the
 *                   |                                  |                               | saved page over: -> swept
 *   swept           | chunk CLOSED                     | nothing (late)                | never again
 */
/* clang-format on */
/*
 * Whatever the outcome, a fault's page is disarmed afterwards, unless it was parked.
 *
 * Why the image is of the cut. A wanted page is disarmed only after it was pushed or its chunk closed.
 *  - The fault thread's read: it pushes what it read before it disarms, and the sweep disarms only after it has closed
 *    the chunk, so if the push succeeds, the page was armed in every mapping through which it could be written while it
 *    was read. With more than one fault thread a page may be pushed twice; the older push was read before anybody
 *    disarmed it, and the sweep lays the older one over the newer.
 *  - The sweep's read: of the pages that are on the list when it closes the chunk it takes the saved content. No other
 *    wanted page of the chunk had been disarmed by then, so its own read was of the cut.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "daemon/chunk.h"
#include "daemon/pool.h"

#define CAPTURE_OPEN UINT32_MAX
#define CAPTURE_CLOSED (UINT32_MAX - 1)
#define CAPTURE_BYTES_MAX (16ULL << 40) /* of a region; its tables are then 1.2 GiB */

enum capture_result {
        CAPTURE_SAVED,       /* read and pushed */
        CAPTURE_DUPLICATE,   /* saved before */
        CAPTURE_LATE,        /* the sweep has it */
        CAPTURE_NO_SLOT,     /* the pool is spent: park it, or give the snapshot up */
        CAPTURE_READ_FAILED, /* errno says why: the snapshot cannot be */
};

struct capture_chunk {
        _Atomic uint32_t head;      /* CAPTURE_OPEN, CAPTURE_CLOSED, or the first slot of the newest saved page */
        _Atomic uint16_t n_saved;   /* pages on the list */
        _Atomic uint8_t removed;    /* content of this chunk may have been removed since the cut */
        uint8_t suspect;            /* the sweep's: pages that had data at the cut came out as zero */
        _Atomic uint64_t urgent_ns; /* CLOCK_MONOTONIC since when a thread waits for the sweep to come here, or 0 */
};

struct capture_region {
        uint64_t bytes;
        uint32_t page_bytes; /* 4096 or 2 MiB */
        uint64_t n_pages;
        uint64_t n_chunks;
        struct capture_chunk *chunks;
        uint64_t *saved;        /* the fault thread's: a bit for each page that it has pushed */
        uint64_t *parked;       /* the fault thread's: a bit for each page whose faults were not answered yet */
        uint64_t *data_at_cut;  /* a bit for each page that was not a hole at the cut; NULL where that cannot matter */
        const uint64_t *wanted; /* a bit for each page to save; borrowed, set before faults are served; NULL: all */
};

struct capture {
        struct pool *pool; /* borrowed */
        unsigned n_regions;
        struct capture_region *regions;
        uint64_t n_parked;         /* the fault thread's */
        _Atomic uint32_t n_urgent; /* chunks that were asked for; a hint, too large when one was closed meanwhile */
};

/**
 * capture_read_page() - how a page is read
 *
 * Fills all of @iov with the page at @offset of the region; what lies beyond the end of the object is zero.
 * Return: 0 or -errno. Called on the fault path: must not allocate, log or wait for a disk of ours.
 */
typedef int (*capture_read_page)(void *data, const struct iovec *iov, int n_iov, uint64_t offset);

/** capture_init() - @pool is borrowed. Return: 0 or -ENOMEM; capture_deinit() is due in any case. */
int capture_init(struct capture *capture, struct pool *pool, unsigned n_regions);

/** capture_add_region() - set up region @index; before any other thread knows the capture. 0, -EINVAL or -ENOMEM. */
int capture_add_region(struct capture *capture, unsigned index, uint64_t bytes, uint32_t page_bytes,
                       bool keep_data_map);

/** capture_deinit() - free the tables and give all slots back; no other thread may use the capture any more */
void capture_deinit(struct capture *capture);

/* On the fault thread only. */

enum capture_result capture_fault(struct capture *capture, unsigned region, uint64_t page, capture_read_page read,
                                  void *data);

/** capture_is_saved() - did a fault bring this page? */
bool capture_is_saved(const struct capture *capture, unsigned region, uint64_t page);

/** capture_park() - leave a page's faults unanswered; during the hold, or until the sweep has come by */
void capture_park(struct capture *capture, unsigned region, uint64_t page);

/**
 * capture_ask() - ask the sweep to go to a parked page's chunk soon
 *
 * Return: false if the chunk is closed already: nobody will come by, so the page must be answered now.
 */
bool capture_ask(struct capture *capture, unsigned region, uint64_t page, uint64_t now_ns);

/** capture_unpark() - take the first parked page at or after (*region, *page); false if there is none */
bool capture_unpark(struct capture *capture, unsigned *region, uint64_t *page);

/** capture_mark_removed() - content in this range may be gone */
void capture_mark_removed(struct capture *capture, unsigned region, uint64_t offset, uint64_t length);

/** capture_forget_data() - what was marked so far is of no use */
void capture_forget_data(struct capture *capture, unsigned region);

/** capture_mark_data() - this range is not a hole at the cut */
void capture_mark_data(struct capture *capture, unsigned region, uint64_t offset, uint64_t length);

/* On the sweep only. */

/** capture_reopen() - once all is closed: the same again, for the next round. No other thread may use the capture. */
void capture_reopen(struct capture *capture);

/** capture_next_wanted() - the first page at or after @page that is to be saved, or n_pages */
uint64_t capture_next_wanted(const struct capture_region *region, uint64_t page);

/** capture_wanted_pages() - how many pages of a chunk are to be saved */
uint32_t capture_wanted_pages(const struct capture_region *region, uint64_t chunk);

/** capture_saved_pages() - how many of them are on its list, each once: capture_close() lays over no fewer */
uint32_t capture_saved_pages(const struct capture_region *region, uint64_t chunk);

/**
 * capture_close() - take a chunk that has been read
 * @data: its wanted pages, one behind the other, as the sweep has read them; those that faults have saved are laid
 *        over. NULL for a chunk that is a hole and was not read: it is then left open if a page of it was saved.
 * @ret_n_saved: how many pages came from faults
 *
 * Return: true once the chunk is closed. The sweep disarms it next.
 */
bool capture_close(struct capture *capture, unsigned region, uint64_t chunk, uint8_t *data, uint32_t *ret_n_saved);

/** capture_is_closed() - has the sweep been here? Any thread. */
bool capture_is_closed(const struct capture *capture, unsigned region, uint64_t chunk);

/**
 * capture_hottest() - the open chunk that has waited longest for the sweep, else the one with most saved pages
 *
 * Return: false if no chunk is asked for and none has saved pages.
 */
bool capture_hottest(const struct capture *capture, unsigned *ret_region, uint64_t *ret_chunk);

/** capture_wants() - is this page to be saved? Any thread. */
static inline bool capture_wants(const struct capture_region *region, uint64_t page) {
        return !region->wanted || (region->wanted[page / 64] >> page % 64 & 1);
}

static inline uint64_t capture_pages_per_chunk(const struct capture_region *region) {
        return CHUNK_BYTES / region->page_bytes;
}

static inline bool capture_page_had_data(const struct capture_region *region, uint64_t page) {
        return region->data_at_cut[page / 64] >> page % 64 & 1;
}

#endif
