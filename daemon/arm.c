/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/arm.h"

#include <errno.h>

#include "common/uffd.h"
#include "daemon/clock.h"

/* One call covers no more, so that the deadline is looked at in between. */
#define ARM_PIECE_BYTES (1ULL << 30)

/*
 * Kernels of the 6.1 series protect only a range within one VMA and stop with ENOENT at its end; later ones do where
 * something else was mapped in between. Halving finds every part that can be armed. What is not mapped needs no arming.
 */
static int arm_parts(struct fault_thread *thread, struct context *context, uint64_t address, uint64_t length,
                     uint64_t page_bytes, uint64_t deadline_ns) {
        uint64_t half = length / 2 / page_bytes * page_bytes;
        int r = fault_retry(thread, uffd_arm, context, address, length, deadline_ns);

        if (r != -ENOENT || length <= page_bytes)
                return r == -ENOENT ? 0 : r;
        if (clock_now_ns() > deadline_ns)
                return -ETIME;
        r = arm_parts(thread, context, address, half, page_bytes, deadline_ns);
        if (r < 0)
                return r;
        return arm_parts(thread, context, address + half, length - half, page_bytes, deadline_ns);
}

int arm_range(struct fault_thread *thread, struct context *context, uint64_t address, uint64_t length,
              uint64_t page_bytes, uint64_t deadline_ns) {
        int r = 0;

        for (uint64_t at = 0; at < length && r == 0; at += ARM_PIECE_BYTES) {
                r = arm_parts(thread, context, address + at,
                              length - at < ARM_PIECE_BYTES ? length - at : ARM_PIECE_BYTES, page_bytes, deadline_ns);
                if (r == 0 && clock_now_ns() > deadline_ns)
                        r = -ETIME;
        }
        return r;
}
