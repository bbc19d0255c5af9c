/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/fdtable.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

static int close_all_but(int first, int second) {
        unsigned low = (unsigned) (first < second ? first : second),
                 high = (unsigned) (first < second ? second : first);

        if ((low > 3 && close_range(3, low - 1, 0) < 0) || (high > low + 1 && close_range(low + 1, high - 1, 0) < 0) ||
            close_range(high + 1, ~0u, 0) < 0)
                return -errno;
        return 0;
}

int fdtable_isolate(int first, int second) {
        if (unshare(CLONE_FILES) < 0)
                return -errno;
        return close_all_but(first, second);
}
