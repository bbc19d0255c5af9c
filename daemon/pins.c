/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pins.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/process.h"

static void cleanup_closedir_p(DIR **dir) {
        if (*dir)
                closedir(*dir);
}

static bool pins_starts_with(const char *text, const char *prefix) {
        return !strncmp(text, prefix, strlen(prefix));
}

/* "UserBufs:   2" and then a line for each, "    0: 0x7f01a000/4096" or, where the place is free, "    1: <none>". */
static unsigned pins_count_buffers(pid_t pid, const char *fd) {
        char line[256];
        bool in_buffers = false;
        unsigned n = 0, index;
        unsigned long long address;
        FILE *file;

        snprintf(line, sizeof(line), "/proc/%d/fdinfo/%.16s", (int) pid, fd);
        file = fopen(line, "re");
        if (!file)
                return 0;
        while (fgets(line, sizeof(line), file)) {
                if (isalpha((unsigned char) line[0]))
                        in_buffers = pins_starts_with(line, "UserBufs:");
                else if (in_buffers && sscanf(line, " %u: 0x%llx/", &index, &address) == 2)
                        n++;
        }
        fclose(file);
        return n;
}

static void pins_look_at_descriptors(pid_t pid, struct pins *found) {
        CLEANUP(cleanup_closedir_p) DIR *dir = NULL;
        char path[64], target[64];
        struct dirent *entry;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int) pid);
        dir = opendir(path);
        while (dir && (entry = readdir(dir))) {
                ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

                if (n < 0)
                        continue;
                target[n] = '\0';
                if (!strcmp(target, "anon_inode:[io_uring]"))
                        found->n_buffers += pins_count_buffers(pid, entry->d_name);
                else if (pins_starts_with(target, "anon_inode:[vfio-device]") || pins_starts_with(target, "/dev/vfio/"))
                        found->device = true;
        }
}

void pins_look_at(pid_t pid, struct pins *pins) {
        struct pins found = { .n_processes = pins->n_processes + 1, .pid = pid };
        struct process_status status;

        if (process_read_status(pid, &status) == 0)
                found.bytes = status.pinned_bytes;
        pins_look_at_descriptors(pid, &found);
        if (found.bytes || found.n_buffers || found.device)
                *pins = found;
}

void pins_explain(const struct pins *pins, char ret[static PINS_TEXT_MAX]) {
        char what[128];

        if (pins->n_buffers)
                snprintf(what, sizeof(what), "%u buffers registered with io_uring", pins->n_buffers);
        else if (pins->bytes)
                snprintf(what, sizeof(what), "%llu KiB of pinned memory", (unsigned long long) pins->bytes >> 10);
        else
                snprintf(what, sizeof(what), "a device open that may be given its memory (VFIO)");
        snprintf(ret, PINS_TEXT_MAX,
                 "process %d has %s, and what is written there by hardware or io_uring is not seen (%u processes in "
                 "all)",
                 (int) pins->pid, what, pins->n_processes);
}
