/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/holes.h"

void holes_take(const struct domain *domain, struct run *run) {
        struct region *region;

        TAILQ_FOREACH (region, &domain->regions, link) {
                uint64_t offset = 0, start, end;

                if (!run->capture.regions[region->index].data_at_cut)
                        continue;
                capture_forget_data(&run->capture, region->index);
                while (region_next_data(region, offset, region->bytes, &start, &end)) {
                        capture_mark_data(&run->capture, region->index, start, end - start);
                        offset = end;
                }
        }
}
