/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int process_read_status(pid_t pid, struct process_status *ret) {
        struct process_status status = { 0 };
        bool uids_known = false;
        char line[256];
        uint64_t kib;
        FILE *file;
        int r = 0;

        snprintf(line, sizeof(line), "/proc/%d/status", (int) pid);
        file = fopen(line, "re");
        if (!file)
                return errno == ENOENT ? -ESRCH : -errno;
        /* Lines longer than this, such as that of the groups, come in pieces, none of which begins like those wanted.
         */
        while ((errno = 0, fgets(line, sizeof(line), file))) {
                if (sscanf(line, "Uid: %u %u %u", &status.real_uid, &status.effective_uid, &status.saved_uid) == 3)
                        uids_known = true;
                else if (sscanf(line, "VmPin: %" SCNu64 " kB", &kib) == 1)
                        status.pinned_bytes = kib << 10;
        }
        if (errno)
                r = -errno;
        else if (!uids_known)
                r = -EBADMSG;
        fclose(file);
        if (r == 0)
                *ret = status;
        return r;
}

bool process_belongs_to(const struct process_status *status, uid_t uid) {
        return status->real_uid == uid && status->effective_uid == uid && status->saved_uid == uid;
}
