/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_SWEEP_H
#define LIVESNAP_DAEMON_SWEEP_H

/*
 * The sweep goes once over all chunks of all regions: reads each, takes the pages that faults have saved meanwhile,
 * disarms it, and hands it to the image writer. So the writes are sequential however the client writes. It goes out of
 * its order only to where threads wait for it, or, when the pool runs low, to where most pages are saved.
 *
 * For an increment, or a round after the first, it goes only to the chunks that have wanted pages, reads only these,
 * and packs those of many chunks into one buffer. Where changes are tracked nothing is disarmed: who waits is woken and
 * faults again.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/domain.h"
#include "daemon/image_writer.h"
#include "daemon/pool.h"
#include "daemon/run.h"

struct sweep {
        struct domain *domain; /* all borrowed */
        struct run *run;
        struct pool_share *share;
        struct image_writer *writer;
        bool only_wanted;
        bool keep_armed;
        void (*progress)(void *data, uint64_t bytes_swept); /* may be NULL */
        void *data;

        uint64_t bytes_swept; /* in all runs */
};

/**
 * sweep_run() - sweep all
 *
 * Return: true when every chunk is closed; false when the run was stopped or the writer failed, and pages are armed
 * still.
 */
bool sweep_run(struct sweep *sweep);

#endif
