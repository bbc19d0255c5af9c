/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_ROUNDS_H
#define LIVESNAP_DAEMON_ROUNDS_H

/*
 * The capture of a domain that is tracked asynchronously. No write waits for us, so none can be held up to make a cut:
 * while the programs run, what was written is asked for and copied, again and again, until so little is left that it
 * can be copied while they are stopped for a moment. That moment is the cut.
 *
 *   round:  scan, protect again ──> hole maps ──> freeze ──> sweep, to the image ──> again, or stop
 *   stop:   quiesce ──> scan ──> hole maps ──> freeze ──> copy to the pool ──> resume ──> sweep
 *
 * Why the image is of the cut. A page that was written after it was copied is not protected any more at the next scan,
 * so it is copied again; the last scan is made when nobody writes, and so is the last copy. A page that became a hole
 * is found by comparing hole maps, since no bit tells of it (tracking_note_holes()).
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/quiesce.h"
#include "daemon/sweep.h"

struct rounds {
        struct fault_thread *thread; /* all borrowed */
        struct sweep *sweep;         /* its run has the capture; where that is no increment, all of it is to be saved */
        const struct quiesce *quiesce;
        struct guardian *guardian;
        uint64_t max_pause_ns;
        bool pause_anyway; /* where the programs write too fast to be caught up with: stop them for as long as it takes
                            */
        void (*expect)(void *data, uint64_t bytes); /* so many more are to be swept as far as is known */
        void *data;

        /* What came of it. */
        unsigned n_rounds;     /* while the programs ran */
        uint64_t pause_ns;     /* from the first signal to stop to the last to go on */
        double cut_time;       /* in between, in seconds since the epoch */
        uint64_t pages_paused; /* copied meanwhile */
        bool forced;           /* they were stopped for longer than was wished, since they wrote too fast */
        unsigned n_workers;    /* threads of io_uring or vhost that could not be stopped */

        /* Its own. */
        uint64_t bytes_dirty;
        uint64_t overhead_ns; /* of the last stop, or scan: what a stop takes besides copying */
        unsigned n_stops;
        struct error not_now; /* why the last stop came to nothing */
};

/**
 * rounds_run() - do all of that
 *
 * Return: 0; or -1 with *error set, or with the run stopped, or the writer failed. No program is stopped when it
 * returns.
 */
int rounds_run(struct rounds *rounds, struct error *error);

#endif
