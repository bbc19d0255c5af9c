/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/census.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/proc_maps.h"
#include "common/uffd.h"

/* What is known of one context, copied so that the domain's lock is held for a moment only. */
struct census_context {
        const struct context *context; /* to know it again, never looked into; it may be gone */
        pid_t pid;
        unsigned n_mappings;
        struct mapping *mappings;
};

static int census_add_pid(struct census *census, pid_t pid) {
        /* In powers of two: grown when the number is one. */
        if ((census->n_pids & (census->n_pids - 1)) == 0) {
                pid_t *pids = reallocarray(census->pids, census->n_pids ? census->n_pids * 2 : 1, sizeof(*pids));

                if (!pids)
                        return -ENOMEM;
                census->pids = pids;
        }
        census->pids[census->n_pids++] = pid;
        return 0;
}

void census_deinit(struct census *census) {
        free(census->pids);
        *census = (struct census){ 0 };
}

struct census_work {
        struct fault_thread *thread;
        struct domain *domain;
        struct census *census;
        enum census_mode mode;
        unsigned n_contexts;
        struct census_context *contexts;
        struct error *error;
};

static void census_drop_contexts(struct census_work *work) {
        for (unsigned i = 0; i < work->n_contexts; i++)
                free(work->contexts[i].mappings);
        free(work->contexts);
        work->contexts = NULL;
        work->n_contexts = 0;
}

/* On the fault thread, after it has treated what it has read. */
static int census_on_barrier(struct fault_thread *thread, void *data) {
        return 0;
}

static int census_copy_contexts(struct census_work *work) {
        struct domain *domain = work->domain;
        int r = 0;

        census_drop_contexts(work);
        fault_call(work->thread, census_on_barrier, NULL);
        pthread_mutex_lock(&domain->lock);
        work->contexts = calloc(domain->n_contexts + 1, sizeof(*work->contexts));
        for (unsigned i = 0; work->contexts && i < domain->n_contexts && r == 0; i++) {
                const struct context *context = domain->contexts[i];
                struct census_context *copy = &work->contexts[work->n_contexts++];

                copy->context = context;
                copy->pid = context->pid;
                copy->n_mappings = context->n_mappings;
                copy->mappings = calloc(context->n_mappings + 1, sizeof(*copy->mappings));
                if (!copy->mappings)
                        r = -ENOMEM;
                else if (context->n_mappings)
                        memcpy(copy->mappings, context->mappings, context->n_mappings * sizeof(*copy->mappings));
        }
        if (!work->contexts)
                r = -ENOMEM;
        pthread_mutex_unlock(&domain->lock);
        return r;
}

static bool census_covers(const struct census_context *context, const struct proc_map *map,
                          const struct region *region) {
        return context_maps(context->mappings, context->n_mappings, region, map->start, map->end, map->offset);
}

static bool census_is_tracked(const struct census_work *work, pid_t pid, const struct proc_map *map,
                              const struct region *region) {
        for (unsigned i = 0; i < work->n_contexts; i++)
                if (work->contexts[i].pid == pid && census_covers(&work->contexts[i], map, region))
                        return true;
        return false;
}

/* On the fault thread: a context's process is known now. */
static int census_on_identify(struct fault_thread *thread, void *data) {
        const struct census_context *found = data;

        for (unsigned i = 0; i < thread->domain->n_contexts; i++)
                if (thread->domain->contexts[i] == found->context && thread->domain->contexts[i]->pid == 0)
                        thread->domain->contexts[i]->pid = found->pid;
        return 0;
}

/*
 * A forked child's pid is not told by the event. A process that has just the mappings of such a context, and has them
 * under a userfaultfd, is taken for it: an object is in one domain only, so the userfaultfd is ours. Each context is
 * given to one process.
 */
static bool census_identify(struct census_work *work, pid_t pid, const struct proc_map *map,
                            const struct region *region) {
        for (unsigned i = 0; i < work->n_contexts && map->tracked; i++) {
                struct census_context *context = &work->contexts[i];

                if (context->pid == 0 && census_covers(context, map, region)) {
                        context->pid = pid;
                        fault_call(work->thread, census_on_identify, context);
                        return true;
                }
        }
        return false;
}

struct census_adopt {
        pid_t pid;
        const struct proc_map *map;
        struct region *region;
};

/*
 * On the fault thread: a tracked process made this mapping, or made one larger, by mremap(). To register again what is
 * registered with the same userfaultfd changes nothing; what belongs to another one is refused.
 */
static int census_on_adopt(struct fault_thread *thread, void *data) {
        const struct census_adopt *adopt = data;
        struct mapping mapping = {
                .address = adopt->map->start,
                .length = adopt->map->end - adopt->map->start,
                .offset = adopt->map->offset,
                .region = adopt->region,
                .unarmed = true,
        };

        for (unsigned i = 0; i < thread->domain->n_contexts; i++) {
                struct context *context = thread->domain->contexts[i];
                int r;

                if (context->pid != adopt->pid)
                        continue;
                r = uffd_register_wp(context->uffd, mapping.address, mapping.length);
                if (r < 0)
                        return r;
                pthread_mutex_lock(&thread->domain->lock);
                r = context_remove(context, mapping.address, mapping.length);
                if (r == 0)
                        r = context_add(context, &mapping);
                if (r == 0)
                        changes_lose_mapping(&mapping);
                pthread_mutex_unlock(&thread->domain->lock);
                return r;
        }
        return -ESRCH;
}

static int census_refuse(struct census_work *work, pid_t pid, const struct region *region) {
        char path[64], comm[32] = "?";
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/comm", (int) pid);
        file = fopen(path, "re");
        if (file) {
                if (!fgets(comm, sizeof(comm), file))
                        strcpy(comm, "?");
                comm[strcspn(comm, "\n")] = '\0';
                fclose(file);
                /* Any process may call itself what it likes, and somebody's terminal will show it. */
                for (char *c = comm; *c; c++)
                        if (!isprint((unsigned char) *c))
                                *c = '?';
        }
        return error_set(work->error, ERROR_UNTRACKED_WRITER,
                         "process %d (%s) maps region %s writable and is not tracked, so no snapshot would be "
                         "consistent: attach it too (livesnap attach --pid %d --domain %s)",
                         (int) pid, comm, region->name, (int) pid, work->domain->name);
}

/* Is it of a child that was forked since the contexts were copied? */
static bool census_is_tracked_by_now(struct census_work *work, pid_t pid, const struct proc_map *map,
                                     const struct region *region) {
        return map->tracked && census_copy_contexts(work) == 0 &&
               (census_is_tracked(work, pid, map, region) || census_identify(work, pid, map, region));
}

/* Some of the process's mappings are not known. Can they be written, and what are they? */
static int census_look_closer(struct census_work *work, pid_t pid) {
        struct proc_maps maps = { 0 };
        int r = proc_maps_read(pid, PROC_MAPS_SHARED | PROC_MAPS_VM_FLAGS, &maps);

        if (r < 0) {
                work->census->n_unreadable += r != -ESRCH;
                return 0;
        }
        r = 0;
        for (size_t i = 0; i < maps.n_items && r == 0; i++) {
                struct proc_map *map = &maps.items[i];
                struct region *region = domain_find_region(work->domain, map->dev, map->inode);
                struct census_adopt adopt = { pid, map, region };

                if (!region || !map->may_write || census_is_tracked(work, pid, map, region) ||
                    census_identify(work, pid, map, region))
                        continue;
                if (work->mode == CENSUS_ADOPT && fault_call(work->thread, census_on_adopt, &adopt) == 0)
                        continue;
                if (!census_is_tracked_by_now(work, pid, map, region))
                        r = census_refuse(work, pid, region);
        }
        proc_maps_deinit(&maps);
        return r;
}

/* Does the process hold a region's file open for writing? Only tmpfs files can be opened by whoever finds them. */
static void census_look_at_descriptors(struct census_work *work, pid_t pid) {
        char path[64];
        struct dirent *entry;
        DIR *dir;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int) pid);
        dir = opendir(path);
        if (!dir) {
                work->census->n_unreadable += errno == EACCES || errno == EPERM;
                return;
        }
        while ((entry = readdir(dir))) {
                struct region *region;
                struct stat target, link;

                if (!isdigit((unsigned char) entry->d_name[0]) || fstatat(dirfd(dir), entry->d_name, &target, 0) < 0 ||
                    fstatat(dirfd(dir), entry->d_name, &link, AT_SYMLINK_NOFOLLOW) < 0 || !(link.st_mode & S_IWUSR))
                        continue;
                region = domain_find_region(work->domain, target.st_dev, target.st_ino);
                if (!region || region->kind != REGION_TMPFS)
                        continue;
                region->guarantee = GUARANTEE_ADVISORY;
                work->census->n_foreign++;
                work->census->foreign_pid = pid;
        }
        closedir(dir);
}

static int census_look_at_process(struct census_work *work, pid_t pid, bool descriptors) {
        struct proc_maps maps = { 0 };
        bool maps_region = false, unknown = false;
        int r = proc_maps_read(pid, PROC_MAPS_SHARED, &maps);

        if (r < 0) {
                work->census->n_unreadable += r != -ESRCH;
                return 0;
        }
        for (size_t i = 0; i < maps.n_items; i++) {
                struct region *region = domain_find_region(work->domain, maps.items[i].dev, maps.items[i].inode);

                if (!region)
                        continue;
                maps_region = true;
                unknown |= !census_is_tracked(work, pid, &maps.items[i], region);
        }
        proc_maps_deinit(&maps);
        if (maps_region && census_add_pid(work->census, pid) < 0)
                return error_set(work->error, ERROR_INTERNAL, "out of memory");
        if (unknown)
                return census_look_closer(work, pid);
        if (!maps_region && descriptors)
                census_look_at_descriptors(work, pid);
        return 0;
}

/* The best that each kind of object allows; what is found may lower it. Returns whether descriptors matter. */
static bool census_start(struct census_work *work) {
        bool descriptors = false;
        struct region *region;

        TAILQ_FOREACH (region, &work->domain->regions, link) {
                if (region_is_sealed(region))
                        region->guarantee = GUARANTEE_SEALED;
                else if (work->mode == CENSUS_ADOPT)
                        region->guarantee = region->kind == REGION_TMPFS || region->kind == REGION_ANONYMOUS
                                                    ? GUARANTEE_EXCLUSIVE
                                                    : GUARANTEE_ADVISORY;
                descriptors |= region->kind == REGION_TMPFS && region->guarantee != GUARANTEE_SEALED;
        }
        return descriptors;
}

static int census_look(struct census_work *work, bool descriptors) {
        struct dirent *entry;
        struct region *region;
        DIR *proc = opendir("/proc");
        bool all_sealed = true;
        int r = 0;

        if (!proc)
                return error_set(work->error, ERROR_INTERNAL, "cannot read /proc: %s", strerror(errno));
        while (r == 0 && (entry = readdir(proc))) {
                pid_t pid = (pid_t) atoi(entry->d_name);

                if (pid > 0 && pid != getpid())
                        r = census_look_at_process(work, pid, descriptors);
        }
        closedir(proc);
        if (work->census->n_unreadable == 0)
                return r;
        /* Who cannot be looked into may map it as well as not, but for what is sealed. */
        TAILQ_FOREACH (region, &work->domain->regions, link) {
                if (region->guarantee == GUARANTEE_SEALED)
                        continue;
                region->guarantee = GUARANTEE_ADVISORY;
                all_sealed = false;
        }
        if (all_sealed)
                work->census->n_unreadable = 0;
        return r;
}

int census_take(struct fault_thread *thread, enum census_mode mode, struct census *ret, struct error *error) {
        struct census_work work = {
                .thread = thread, .domain = thread->domain, .census = ret, .mode = mode, .error = error
        };
        bool descriptors = census_start(&work);
        int r;

        *ret = (struct census){ 0 };
        if (census_copy_contexts(&work) < 0)
                r = error_set(error, ERROR_INTERNAL, "out of memory");
        else
                r = census_look(&work, descriptors);
        census_drop_contexts(&work);
        return r;
}
