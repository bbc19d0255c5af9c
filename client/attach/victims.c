/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/attach/victims.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client/attach/proc.h"
#include "common/cleanup.h"
#include "common/proc_maps.h"

/* The kernel's mappings change while we look at them: how often to look again. */
#define LOOKS_MAX 10

static void cleanup_closedir_p(DIR **directory) {
        if (*directory)
                closedir(*directory);
}

/* Makes room for one more item in an array, and returns it. */
static void *array_append(void *array_pointer, size_t *n_items, size_t item_size) {
        void *array, **pointer = array_pointer;

        array = reallocarray(*pointer, *n_items + 1, item_size);
        if (!array)
                return NULL;
        *pointer = array;
        return (char *) array + (*n_items)++ * item_size;
}

static int error_memory(struct error *error) {
        return error_set(error, ERROR_INTERNAL, "out of memory");
}

static int error_gone(pid_t pid, struct error *error) {
        return error_set(error, ERROR_BAD_MAPPING, "there is no process %d (any more)", (int) pid);
}

static int error_forbidden(pid_t pid, int r, struct error *error) {
        return error_set(error, ERROR_PERMISSION_DENIED,
                         "process %d may not be looked into: %s; run livesnap-attach as root", (int) pid, strerror(-r));
}

int victims_check(pid_t pid, struct error *error) {
        char path[64], ident[EI_NIDENT + 1], link[8], state = proc_thread_state(pid, pid);
        long tracer;
        int r;

        if (!state || state == 'X')
                return error_gone(pid, error);
        if (state == 'Z')
                return error_set(error, ERROR_BAD_MAPPING,
                                 "process %d has exited (it is a zombie, or only its first thread is gone); give the "
                                 "pid of a running process",
                                 (int) pid);
        if (pid == getpid() || pid == getppid())
                return error_set(error, ERROR_BAD_REQUEST, "livesnap-attach does not attach to itself");
        snprintf(path, sizeof(path), "/proc/%d/exe", (int) pid);
        if (readlink(path, link, sizeof(link)) < 0) {
                if (errno == ENOENT && proc_is_kernel_thread(pid))
                        return error_set(error, ERROR_BAD_MAPPING,
                                         "process %d is a thread of the kernel and has no memory of its own; give the "
                                         "pid of a program",
                                         (int) pid);
                return errno == ENOENT ? error_gone(pid, error) : error_forbidden(pid, -errno, error);
        }
        r = proc_read(path, ident, sizeof(ident));
        if (r > EI_CLASS && ident[EI_CLASS] == ELFCLASS32)
                return error_set(error, ERROR_KERNEL_UNSUPPORTED,
                                 "process %d is a 32-bit program; livesnap attaches to 64-bit programs only",
                                 (int) pid);
        snprintf(path, sizeof(path), "/proc/%d/status", (int) pid);
        tracer = proc_status_number(path, "TracerPid:");
        if (tracer > 0)
                return error_set(error, ERROR_BUSY,
                                 "process %d is being traced by process %ld; end that debugger or strace first",
                                 (int) pid, tracer);
        return 0;
}

/* Name of an object as --object knows it: the last part of the path, or what was given to memfd_create(). */
static void object_name(const char *path, char *ret, size_t size) {
        static const char deleted[] = " (deleted)";
        const char *base = strncmp(path, "/memfd:", strlen("/memfd:")) ? strrchr(path, '/') : path + strlen("/memfd");
        size_t length;

        snprintf(ret, size, "%s", base ? base + 1 : path);
        length = strlen(ret);
        if (length > strlen(deleted) && !strcmp(ret + length - strlen(deleted), deleted))
                ret[length - strlen(deleted)] = '\0';
}

static uint64_t file_born_ns(int fd) {
        struct statx statx_buffer;

        if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &statx_buffer) < 0 || !(statx_buffer.stx_mask & STATX_BTIME))
                return 0;
        return (uint64_t) statx_buffer.stx_btime.tv_sec * 1000000000u + statx_buffer.stx_btime.tv_nsec;
}

/* Without CAP_SYS_ADMIN map_files is closed; then a descriptor of the process's own leads to the object. */
static int mapping_open_by_fd(pid_t pid, const struct proc_map *map) {
        CLEANUP(cleanup_closedir_p) DIR *directory = NULL;
        struct dirent *entry;
        char path[64 + sizeof(entry->d_name)];
        struct stat stat_buffer;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int) pid);
        directory = opendir(path);
        while (directory && (entry = readdir(directory))) {
                snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int) pid, entry->d_name);
                if (!stat(path, &stat_buffer) && S_ISREG(stat_buffer.st_mode) && stat_buffer.st_dev == map->dev &&
                    stat_buffer.st_ino == map->inode)
                        return open(path, O_PATH | O_CLOEXEC);
        }
        errno = EPERM;
        return -1;
}

/* A path descriptor: to open a device, not knowing what it is, could do anything. */
static int mapping_open_path(pid_t pid, const struct proc_map *map) {
        char path[96];
        int fd;

        snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int) pid, map->start, map->end);
        fd = open(path, O_PATH | O_CLOEXEC);
        if (fd < 0 && (errno == EPERM || errno == EACCES))
                fd = mapping_open_by_fd(pid, map);
        return fd < 0 ? -errno : fd;
}

/*
 * Why an object cannot be tracked, or NULL. SysV memory is on a tmpfs, but its mappings have operations of their own,
 * by which userfaultfd does not know them for shared memory (measured on 6.18); that of huge pages is known by a flag.
 */
static const char *object_obstacle(int path_fd, const char *path) {
        struct statfs filesystem;
        struct stat stat_buffer;

        if (fstat(path_fd, &stat_buffer) < 0 || fstatfs(path_fd, &filesystem) < 0)
                return "it cannot be examined";
        if (S_ISCHR(stat_buffer.st_mode) || S_ISBLK(stat_buffer.st_mode))
                return "it is the memory of a device";
        switch ((unsigned) filesystem.f_type) {
        case TMPFS_MAGIC:
                if (!strncmp(path, "/SYSV", strlen("/SYSV")))
                        return "it is SysV shared memory, which the kernel write-protects only if it is of huge pages "
                               "(SHM_HUGETLB)";
                return S_ISREG(stat_buffer.st_mode) ? NULL : "it is no memory";
        case HUGETLBFS_MAGIC:
                return S_ISREG(stat_buffer.st_mode) ? NULL : "it is no memory";
        case DMA_BUF_MAGIC:
                return "it is a DMA buffer, which the kernel cannot write-protect";
        case SECRETMEM_MAGIC:
                return "it is secret memory, which cannot be read from outside";
        case ANON_INODE_FS_MAGIC:
                return "it is a ring shared with the kernel";
        default:
                return "it is a file on a disk; the kernel write-protects only memfds, tmpfs, hugetlbfs and shared "
                       "anonymous memory";
        }
}

static struct victims_object *object_find(struct victims *victims, const struct proc_map *map) {
        for (size_t i = 0; i < victims->n_objects; i++)
                if (victims->objects[i].dev == map->dev && victims->objects[i].inode == map->inode)
                        return &victims->objects[i];
        return NULL;
}

/* The same device and number, but is it the same object? SysV memory is numbered by each IPC namespace anew. */
static bool mapping_is_of(pid_t pid, const struct proc_map *map, const struct victims_object *object) {
        CLEANUP_CLOSE int fd = mapping_open_path(pid, map);
        uint64_t born_ns = fd < 0 ? 0 : file_born_ns(fd);

        return !born_ns || !object->born_ns || born_ns == object->born_ns;
}

/* Adds the object of a mapping of the target's unless it is known. Return 1 added or known, 0 left out, -errno. */
static int object_add(struct victims *victims, const struct proc_map *map) {
        CLEANUP_CLOSE int path_fd = -1, fd = -1;
        struct victims_object *object;
        const char *obstacle;
        char path[64], name[256], note[800];

        object = object_find(victims, map);
        if (object && mapping_is_of(victims->target, map, object))
                return 1;
        object_name(map->path, name, sizeof(name));
        if (victims->glob && fnmatch(victims->glob, name, 0))
                return 0;
        path_fd = mapping_open_path(victims->target, map);
        if (path_fd < 0)
                return path_fd;
        obstacle = object ? "another object has the same device and inode number" : object_obstacle(path_fd, map->path);
        if (obstacle) {
                snprintf(note, sizeof(note), "%.200s is left out: %s", map->path, obstacle);
                if (!victims->objects_noted)
                        victims->note(note);
                return 0;
        }
        snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        object = array_append(&victims->objects, &victims->n_objects, sizeof(*object));
        if (!object)
                return -ENOMEM;
        *object = (struct victims_object){ map->dev, map->inode, file_born_ns(fd), steal_fd(&fd) };
        return 1;
}

static int find_objects_once(struct victims *victims) {
        CLEANUP(proc_maps_deinit) struct proc_maps maps = { 0 };
        int r = proc_maps_read(victims->target, PROC_MAPS_SHARED | PROC_MAPS_VM_FLAGS, &maps);

        if (r < 0)
                return r;
        for (size_t i = 0; i < maps.n_items; i++) {
                if (!maps.items[i].may_write)
                        continue;
                r = object_add(victims, &maps.items[i]);
                if (r < 0)
                        return r;
                victims->target_is_tracked |= r && maps.items[i].tracked;
        }
        victims->objects_noted = true;
        return 0;
}

/* Oldest first: the order in which a program made them is one that people recognise. */
static int object_compare(const void *a_pointer, const void *b_pointer) {
        const struct victims_object *a = a_pointer, *b = b_pointer;

        if (a->born_ns != b->born_ns)
                return a->born_ns < b->born_ns ? -1 : 1;
        return a->inode < b->inode ? -1 : a->inode > b->inode;
}

int victims_find_objects(struct victims *victims, struct error *error) {
        char comm[PROC_COMM_SIZE];
        int r = -ENOENT;

        /* ENOENT: a mapping went away after we had read of it. */
        for (unsigned look = 0; r == -ENOENT && look < LOOKS_MAX; look++)
                r = find_objects_once(victims);
        if (r == -ENOENT)
                return error_set(error, ERROR_BUSY,
                                 "process %d changes its mappings faster than they can be looked at; try again",
                                 (int) victims->target);
        if (r == -ESRCH || !proc_is_alive(victims->target))
                return error_gone(victims->target, error);
        if (r == -ENOMEM)
                return error_memory(error);
        if (r < 0)
                return error_forbidden(victims->target, r, error);
        if (victims->n_objects)
                qsort(victims->objects, victims->n_objects, sizeof(*victims->objects), object_compare);
        else
                return error_set(error, ERROR_BAD_MAPPING,
                                 "process %d (%s) has no writable shared memory %s%s%s: nothing can be snapshotted; "
                                 "livesnap takes memfds, files on tmpfs and hugetlbfs, and shared anonymous memory",
                                 (int) victims->target, proc_comm(victims->target, comm),
                                 victims->glob ? "that matches '" : "that livesnap can track",
                                 victims->glob ? victims->glob : "", victims->glob ? "'" : "");
        return 0;
}

static void victim_deinit(struct victim *victim) {
        for (unsigned i = 0; i < IMPLANT_UFFDS; i++)
                if (victim->uffds[i] >= 0)
                        close(victim->uffds[i]);
        free(victim->ranges);
}

static int victim_add_ranges(struct victims *victims, struct victim *victim) {
        CLEANUP(proc_maps_deinit) struct proc_maps maps = { 0 };
        int r = proc_maps_read(victim->pid, PROC_MAPS_SHARED | PROC_MAPS_VM_FLAGS, &maps);

        if (r < 0)
                return r;
        for (size_t i = 0; i < maps.n_items; i++) {
                const struct proc_map *map = &maps.items[i];
                const struct victims_object *object = object_find(victims, map);
                struct victims_range *range;

                if (!object || !map->may_write || map->tracked || !mapping_is_of(victim->pid, map, object))
                        continue;
                range = array_append(&victim->ranges, &victim->n_ranges, sizeof(*range));
                if (!range)
                        return -ENOMEM;
                *range = (struct victims_range){ (size_t) (object - victims->objects), map->start, map->end,
                                                 map->offset };
        }
        return 0;
}

/* Return 1 where a process maps one of the objects at all, which is cheap to find out; 0; or -errno. */
static int process_is_concerned(struct victims *victims, pid_t pid) {
        CLEANUP(proc_maps_deinit) struct proc_maps maps = { 0 };
        int r = proc_maps_read(pid, PROC_MAPS_SHARED, &maps);

        for (size_t i = 0; !r && i < maps.n_items; i++)
                if (object_find(victims, &maps.items[i]))
                        return 1;
        return r;
}

static int victim_add(struct victims *victims, pid_t pid, struct error *error) {
        CLEANUP(victim_deinit) struct victim victim = { .pid = pid, .uffds = { -1, -1 } };
        char note[300], comm[PROC_COMM_SIZE];
        struct victim *item;
        int r = process_is_concerned(victims, pid);

        if (r > 0)
                r = victim_add_ranges(victims, &victim);
        if (r == -EACCES || r == -EPERM) {
                snprintf(note, sizeof(note),
                         "process %d (%s) may not be looked into; if it writes to the same memory, that is not tracked",
                         (int) pid, proc_comm(pid, comm));
                if (!victims->processes_noted)
                        victims->note(note);
                return 0;
        }
        if (r == -ESRCH || (!r && !victim.n_ranges))
                return 0;
        if (r < 0)
                return error_set(error, ERROR_INTERNAL, "cannot read the mappings of process %d: %s", (int) pid,
                                 strerror(-r));
        for (size_t i = 0; i < victims->n_items; i++)
                if (!syscall(SYS_kcmp, pid, victims->items[i].pid, KCMP_VM, 0, 0)) {
                        victims->items[i].twin = pid;
                        return 0;
                }
        item = array_append(&victims->items, &victims->n_items, sizeof(*item));
        if (!item)
                return error_memory(error);
        *item = victim;
        victim = (struct victim){ .uffds = { -1, -1 } };
        return 0;
}

static void victims_clear(struct victims *victims) {
        for (size_t i = 0; i < victims->n_items; i++)
                victim_deinit(&victims->items[i]);
        victims->n_items = 0;
}

int victims_find(struct victims *victims, struct error *error) {
        CLEANUP(cleanup_closedir_p) DIR *directory = opendir("/proc");
        struct dirent *entry;

        if (!directory)
                return error_set(error, ERROR_INTERNAL, "cannot read /proc: %s", strerror(errno));
        victims_clear(victims);
        if (victim_add(victims, victims->target, error) < 0)
                return -1;
        while ((entry = readdir(directory))) {
                pid_t pid = atoi(entry->d_name);

                if (pid > 0 && pid != victims->target && victim_add(victims, pid, error) < 0)
                        return -1;
        }
        victims->processes_noted = true;
        return 0;
}

void victims_deinit(struct victims *victims) {
        victims_clear(victims);
        free(victims->items);
        for (size_t i = 0; i < victims->n_objects; i++)
                close(victims->objects[i].fd);
        free(victims->objects);
        *victims = (struct victims){ 0 };
}
