/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "observe.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void read_file(const char *path, char *buffer, size_t size) {
        int fd = open(path, O_RDONLY);
        size_t length = 0;
        ssize_t n;

        while (length < size - 1 && (n = read(fd, buffer + length, size - 1 - length)) > 0)
                length += (size_t) n;
        buffer[length] = '\0';
        close(fd);
}

static void read_directory(const char *path, char *buffer, size_t size) {
        struct linux_dirent64 {
                uint64_t ino;
                int64_t off;
                unsigned short reclen;
                unsigned char type;
                char name[];
        } * entry;
        static char entries[16384];
        int fd = open(path, O_RDONLY | O_DIRECTORY);
        size_t length = 0;
        long n;

        while ((n = syscall(SYS_getdents64, fd, entries, sizeof(entries))) > 0)
                for (long at = 0; at < n; at += entry->reclen) {
                        entry = (void *) (entries + at);
                        if (length + strlen(entry->name) + 2 > size)
                                break;
                        length = (size_t) (stpcpy(stpcpy(buffer + length, entry->name), " ") - buffer);
                }
        buffer[length] = '\0';
        close(fd);
}

void observe(struct observation *ret) {
        static char status[8192];
        size_t length = 0;

        read_directory("/proc/self/fd", ret->descriptors, sizeof(ret->descriptors));
        read_directory("/proc/self/task", ret->threads, sizeof(ret->threads));
        read_file("/proc/self/status", status, sizeof(status));
        for (char *line = strtok(status, "\n"); line; line = strtok(NULL, "\n"))
                if ((!strncmp(line, "Sig", 3) && line[3] != 'Q') || !strncmp(line, "Shd", 3))
                        length = (size_t) (stpcpy(stpcpy(ret->signals + length, line), "\n") - ret->signals);
        ret->signals[length] = '\0';
        read_file("/proc/self/maps", ret->maps, sizeof(ret->maps));
}

/* From the start of the line in which they begin to differ. */
static const char *difference(const char *a, const char *b) {
        const char *line = a;

        for (; *a == *b; a++, b++) {
                if (!*a)
                        return NULL;
                if (*a == '\n')
                        line = a + 1;
        }
        return *line ? line : "something is missing at the end";
}

const char *observe_compare(const struct observation *a, const struct observation *b) {
        const char *found = difference(a->descriptors, b->descriptors);

        if (!found)
                found = difference(a->threads, b->threads);
        if (!found)
                found = difference(a->signals, b->signals);
        return found ? found : difference(a->maps, b->maps);
}
