/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/attach/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

#define KERNEL_PF_KTHREAD 0x00200000u /* of the flags in proc_pid_stat(5) */

int proc_read(const char *path, char *ret, size_t size) {
        CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t length = fd < 0 ? -1 : read(fd, ret, size - 1);

        if (length < 0)
                return -errno;
        ret[length] = '\0';
        return (int) length;
}

long proc_status_number(const char *path, const char *key) {
        char text[8192] = "", *line;

        if (proc_read(path, text, sizeof(text)) < 0)
                return -1;
        for (line = text; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (!strncmp(line, key, strlen(key)))
                        return strtol(line + strlen(key), NULL, 10);
        }
        return -1;
}

/* What is behind the name in "12 (any (thing) X) S 1 ...", or NULL. */
static const char *thread_stat(pid_t process, pid_t thread, char *text, size_t size) {
        char path[64], *end;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int) process, (int) thread);
        if (proc_read(path, text, size) <= 0 || !(end = strrchr(text, ')')) || end[1] != ' ')
                return NULL;
        return end + 2;
}

char proc_thread_state(pid_t process, pid_t thread) {
        char text[512];
        const char *stat = thread_stat(process, thread, text, sizeof(text));

        return stat ? *stat : '\0';
}

bool proc_is_kernel_thread(pid_t process) {
        char text[512];
        const char *stat = thread_stat(process, process, text, sizeof(text));
        unsigned flags;

        return stat && sscanf(stat, "%*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & KERNEL_PF_KTHREAD;
}

const char *proc_comm(pid_t process, char ret[PROC_COMM_SIZE]) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/comm", (int) process);
        if (proc_read(path, ret, PROC_COMM_SIZE) < 0)
                strcpy(ret, "?");
        ret[strcspn(ret, "\n")] = '\0';
        return ret;
}

bool proc_is_alive(pid_t process) {
        char state = proc_thread_state(process, process);

        return state && state != 'X';
}

uint64_t proc_now_ns(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}
