/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/proc_maps.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "common/cleanup.h"

static void cleanup_fclose_p(FILE **file) {
        if (*file)
                fclose(*file);
}

static int maps_append(struct proc_maps *maps, size_t *allocated, const struct proc_map *map) {
        if (maps->n_items == *allocated) {
                size_t more = *allocated ? *allocated * 2 : 64;
                struct proc_map *items = reallocarray(maps->items, more, sizeof(*items));

                if (!items)
                        return -ENOMEM;
                maps->items = items;
                *allocated = more;
        }
        maps->items[maps->n_items++] = *map;
        return 0;
}

/* "7f01a000-7f01c000 rw-s 00001000 00:01 1042    /memfd:x (deleted)"; the path is left out of *ret, but for *ret_path
 */
static int map_parse(const char *line, struct proc_map *ret, const char **ret_path) {
        struct proc_map map = { 0 };
        unsigned major, minor;
        char perms[5];
        int consumed = 0;

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 "%n", &map.start, &map.end, perms,
                   &map.offset, &major, &minor, &map.inode, &consumed) != 7 ||
            strlen(perms) != 4)
                return -EBADMSG;
        map.dev = makedev(major, minor);
        map.readable = perms[0] == 'r';
        map.writable = perms[1] == 'w';
        map.executable = perms[2] == 'x';
        map.shared = perms[3] == 's';
        *ret = map;
        *ret_path = line + consumed + strspn(line + consumed, " ");
        return 0;
}

static void map_parse_vm_flags(char *flags, struct proc_map *map) {
        char *position;

        for (char *flag = strtok_r(flags, " ", &position); flag; flag = strtok_r(NULL, " ", &position)) {
                if (!strcmp(flag, "mw"))
                        map->may_write = true;
                else if (!strcmp(flag, "um") || !strcmp(flag, "uw") || !strcmp(flag, "ui"))
                        map->tracked = true;
        }
}

static int maps_parse(FILE *file, unsigned flags, struct proc_maps *maps) {
        CLEANUP_FREE char *line = NULL;
        size_t line_allocated = 0, allocated = 0;
        struct proc_map *current = NULL;
        ssize_t length;
        int r;

        while ((errno = 0, length = getline(&line, &line_allocated, file)) > 0) {
                struct proc_map map;
                const char *path;

                if (line[length - 1] == '\n')
                        line[length - 1] = '\0';
                /* In smaps each mapping is followed by lines such as "VmFlags: rd wr"; addresses are in lower case. */
                if (isupper((unsigned char) line[0])) {
                        if (current && !strncmp(line, "VmFlags:", strlen("VmFlags:")))
                                map_parse_vm_flags(line + strlen("VmFlags:"), current);
                        continue;
                }
                current = NULL;
                r = map_parse(line, &map, &path);
                if (r < 0)
                        return r;
                if ((flags & PROC_MAPS_SHARED) && !map.shared)
                        continue;
                map.path = strdup(path);
                if (!map.path)
                        return -ENOMEM;
                r = maps_append(maps, &allocated, &map);
                if (r < 0) {
                        free(map.path);
                        return r;
                }
                current = &maps->items[maps->n_items - 1];
        }
        return errno ? -errno : 0;
}

int proc_maps_read(pid_t pid, unsigned flags, struct proc_maps *ret) {
        CLEANUP(proc_maps_deinit) struct proc_maps maps = { 0 };
        CLEANUP(cleanup_fclose_p) FILE *file = NULL;
        const char *name = flags & PROC_MAPS_VM_FLAGS ? "smaps" : "maps";
        char path[64];
        int r;

        if (pid)
                snprintf(path, sizeof(path), "/proc/%d/%s", (int) pid, name);
        else
                snprintf(path, sizeof(path), "/proc/self/%s", name);
        file = fopen(path, "re");
        if (!file)
                return errno == ENOENT ? -ESRCH : -errno;
        r = maps_parse(file, flags, &maps);
        if (r < 0)
                return r;
        *ret = maps;
        maps = (struct proc_maps){ 0 };
        return 0;
}

void proc_maps_deinit(struct proc_maps *maps) {
        for (size_t i = 0; i < maps->n_items; i++)
                free(maps->items[i].path);
        free(maps->items);
        *maps = (struct proc_maps){ 0 };
}

const struct proc_map *proc_maps_find(const struct proc_maps *maps, uint64_t address) {
        size_t low = 0, high = maps->n_items;

        while (low < high) {
                size_t middle = low + (high - low) / 2;
                const struct proc_map *map = &maps->items[middle];

                if (address < map->start)
                        high = middle;
                else if (address >= map->end)
                        low = middle + 1;
                else
                        return map;
        }
        return NULL;
}
