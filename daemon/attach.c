/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/proc_maps.h"
#include "common/uffd.h"
#include "daemon/log.h"
#include "daemon/pins.h"
#include "daemon/process.h"

#define ATTACH_FEATURES                                                                               \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EVENT_FORK | \
         UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

struct attach {
        struct registry_entry *entry;
        struct attach_request *request;
        unsigned n_contexts;
        struct context **contexts; /* one for each userfaultfd; references */
        struct error *error;
};

void attach_request_deinit(struct attach_request *request) {
        for (unsigned i = 0; i < request->n_regions; i++)
                if (request->regions[i].object >= 0)
                        close(request->regions[i].object);
        for (unsigned i = 0; i < request->n_uffds; i++) {
                if (request->uffds[i].fd >= 0)
                        close(request->uffds[i].fd);
                if (request->uffds[i].async_fd >= 0)
                        close(request->uffds[i].async_fd);
        }
        free(request->regions);
        free(request->mappings);
        free(request->uffds);
        *request = (struct attach_request){ 0 };
}

static bool attach_maps(const struct attach_request *request, unsigned region) {
        for (unsigned i = 0; i < request->n_mappings; i++)
                if (request->mappings[i].region == region)
                        return true;
        return false;
}

static int attach_find_regions(struct attach *attach) {
        struct attach_request *request = attach->request;
        const struct registry_entry *other;

        for (unsigned i = 0; i < request->n_regions; i++) {
                struct attach_region *wanted = &request->regions[i];
                struct region *known;

                if (region_new(steal_fd(&wanted->object), &wanted->region, attach->error) < 0)
                        return -1;
                wanted->is_new = true;
                known = domain_find_region(attach->entry->domain, wanted->region->device, wanted->region->inode);
                for (unsigned j = 0; j < i; j++)
                        if (request->regions[j].region->device == wanted->region->device &&
                            request->regions[j].region->inode == wanted->region->inode)
                                return error_set(attach->error, ERROR_BAD_REQUEST,
                                                 "two of the regions are the same object");
                if (known) {
                        region_free(wanted->region);
                        wanted->region = known;
                        wanted->is_new = false;
                        continue;
                }
                if (!attach_maps(request, i))
                        return error_set(attach->error, ERROR_BAD_MAPPING,
                                         "none of the mappings is of region %u: what nobody maps is not snapshotted",
                                         i);
                other = registry_find_object(attach->entry->registry, wanted->region->device, wanted->region->inode);
                if (other)
                        return error_set(attach->error, ERROR_BUSY,
                                         "the object is in domain %s already, and can be in one domain only",
                                         other->domain->name);
                wanted->region->discard_zero = wanted->discard_zero;
        }
        return 0;
}

/* Does the process map the object there, shared, over the whole range? */
static bool attach_is_mapped(const struct proc_maps *maps, const struct attach_mapping *mapping,
                             const struct region *region) {
        uint64_t at = mapping->address, end = mapping->address + mapping->length;

        while (at < end) {
                const struct proc_map *map = proc_maps_find(maps, at);

                if (!map || !map->shared || map->dev != region->device || map->inode != region->inode ||
                    map->offset + (at - map->start) != mapping->offset + (at - mapping->address))
                        return false;
                at = map->end;
        }
        return true;
}

static int attach_check_mapping(struct attach *attach, const struct attach_mapping *mapping,
                                const struct proc_maps *maps, pid_t pid) {
        const struct region *region = attach->request->regions[mapping->region].region;
        uint64_t mask = region->page_bytes - 1, end;

        if (mapping->length == 0 || ((mapping->address | mapping->length | mapping->offset) & mask) ||
            __builtin_add_overflow(mapping->address, mapping->length, &end) ||
            __builtin_add_overflow(mapping->offset, mapping->length, &end))
                return error_set(attach->error, ERROR_BAD_MAPPING,
                                 "the mapping at %#llx, %llu bytes, is not made of whole pages",
                                 (unsigned long long) mapping->address, (unsigned long long) mapping->length);
        if (!attach_is_mapped(maps, mapping, region))
                return error_set(attach->error, ERROR_BAD_MAPPING,
                                 "process %d does not map the object at %#llx, %llu bytes, as it was said to",
                                 (int) pid, (unsigned long long) mapping->address,
                                 (unsigned long long) mapping->length);
        return 0;
}

static int attach_explain_maps(struct attach *attach, pid_t pid, int r) {
        if (r == -ESRCH)
                return error_set(attach->error, ERROR_BAD_MAPPING, "process %d is gone", (int) pid);
        return error_set(attach->error, ERROR_PERMISSION_DENIED,
                         "cannot look at the mappings of process %d (%s): livesnapd needs CAP_SYS_PTRACE", (int) pid,
                         strerror(-r));
}

/*
 * Whoever owns a domain may read its snapshots. So only root's take in the memory of anybody; a user's, even if it is
 * root who attaches, and for instance did not know that a user has made a domain of this name, only that user's own.
 * It also holds off who calls over a connection that a process made which has gained other rights since.
 */
static int attach_check_owner(struct attach *attach, pid_t pid) {
        const struct domain *domain = attach->entry->domain;
        struct process_status status;
        int r;

        if (domain->uid == 0)
                return 0;
        r = process_read_status(pid, &status);
        if (r == -ESRCH)
                return error_set(attach->error, ERROR_BAD_MAPPING, "process %d is gone", (int) pid);
        if (r < 0)
                return error_set(attach->error, ERROR_PERMISSION_DENIED, "cannot tell whose process %d is: %s",
                                 (int) pid, strerror(-r));
        if (!process_belongs_to(&status, domain->uid))
                return error_set(attach->error, ERROR_PERMISSION_DENIED,
                                 "process %d does not belong to user %u alone, who owns domain %s and may read its "
                                 "snapshots: choose another domain",
                                 (int) pid, (unsigned) domain->uid, domain->name);
        return 0;
}

/* What is pinned now will be written to unseen. Each snapshot looks again, and says so. */
static int attach_check_pins(struct attach *attach, pid_t pid) {
        struct pins pins = { 0 };
        char text[PINS_TEXT_MAX];

        pins_look_at(pid, &pins);
        if (pins.n_processes == 0)
                return 0;
        pins_explain(&pins, text);
        if (attach->request->strict)
                return error_set(attach->error, ERROR_UNTRACKED_WRITER,
                                 "%s; domain %s is to be strict: attach without that", text,
                                 attach->entry->domain->name);
        log_warning("domain %s: %s", attach->entry->domain->name, text);
        return 0;
}

static int attach_check_uffd(struct attach *attach, int uffd) {
        char path[64], target[64];
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", uffd);
        n = readlink(path, target, sizeof(target) - 1);
        target[n < 0 ? 0 : n] = '\0';
        if (strcmp(target, "anon_inode:[userfaultfd]") != 0)
                return error_set(attach->error, ERROR_BAD_MAPPING, "a descriptor that should be a userfaultfd is not");
        if (fcntl(uffd, F_SETFL, O_NONBLOCK) < 0)
                return error_set(attach->error, ERROR_BAD_MAPPING, "cannot make the userfaultfd non-blocking: %s",
                                 strerror(errno));
        return 0;
}

static int attach_handshake(struct attach *attach, int uffd) {
        int r = attach_check_uffd(attach, uffd);

        if (r < 0)
                return r;
        r = uffd_handshake(uffd, ATTACH_FEATURES, NULL);
        if (r == 0)
                return 0;
        if (r == -EPERM)
                return error_set(attach->error, ERROR_PERMISSION_DENIED,
                                 "the kernel does not let livesnapd follow forks: it needs CAP_SYS_PTRACE (run it as "
                                 "root or by its systemd unit)");
        if (r == -EOPNOTSUPP)
                return error_set(attach->error, ERROR_KERNEL_UNSUPPORTED,
                                 "the userfaultfd cannot be used: the kernel is too old (5.19 or later is needed; "
                                 "'livesnap doctor' tells)");
        /* The kernel was tried when the daemon started, so it is not the features that it finds invalid. */
        return error_set(attach->error, ERROR_BAD_MAPPING,
                         "the userfaultfd cannot be used (%s): it was used before; send a fresh one", strerror(-r));
}

/* Where the kernel has not what the second one is for (6.7) there is none, and nothing that could be tracked so. */
static int attach_handshake_async(struct attach *attach, struct attach_uffd *uffd) {
        if (uffd->async_fd < 0)
                return 0;
        if (attach_check_uffd(attach, uffd->async_fd) < 0)
                return -1;
        if (uffd_handshake(uffd->async_fd, ATTACH_FEATURES | UFFD_FEATURE_WP_ASYNC, NULL) < 0)
                close(steal_fd(&uffd->async_fd));
        return 0;
}

/* The context of a process, under the userfaultfd that the domain's way of tracking needs. Takes both. */
static int attach_make_context(struct attach *attach, struct attach_uffd *uffd, struct context **ret) {
        bool async = changes_get_mode(attach->entry->thread) == TRACKING_ASYNC;

        if (async && uffd->async_fd < 0)
                return error_set(
                        attach->error, ERROR_BAD_REQUEST,
                        "domain %s is tracked asynchronously, for which process %d needs a second userfaultfd: "
                        "send one, or choose another way ('livesnap tracking %s sync')",
                        attach->entry->domain->name, (int) uffd->pid, attach->entry->domain->name);
        if (context_new(async ? uffd->async_fd : uffd->fd, async, uffd->pid, ret) < 0)
                return error_set(attach->error, ERROR_INTERNAL, "out of memory");
        (*ret)->spare = async ? uffd->fd : uffd->async_fd;
        uffd->fd = uffd->async_fd = -1;
        return 0;
}

static int attach_register(struct attach *attach, struct context *context, const struct attach_mapping *wanted) {
        struct mapping mapping = {
                .address = wanted->address,
                .length = wanted->length,
                .offset = wanted->offset,
                .region = attach->request->regions[wanted->region].region,
                .unarmed = true,
        };
        int r = context_add(context, &mapping);

        if (r == -EEXIST)
                return error_set(attach->error, ERROR_BAD_MAPPING, "two of the mappings overlap at %#llx",
                                 (unsigned long long) wanted->address);
        if (r < 0)
                return error_set(attach->error, ERROR_LIMIT_EXCEEDED, "process %d has too many mappings",
                                 (int) context->pid);
        r = uffd_register_wp(context->uffd, wanted->address, wanted->length);
        if (r == -EBUSY)
                return error_set(attach->error, ERROR_BUSY,
                                 "the memory of process %d at %#llx is under a userfaultfd already: it is attached, or "
                                 "the program uses userfaultfd itself",
                                 (int) context->pid, (unsigned long long) wanted->address);
        if (r == -EPERM)
                return error_set(attach->error, ERROR_BAD_MAPPING,
                                 "process %d cannot write the memory at %#llx and never will: it needs no tracking",
                                 (int) context->pid, (unsigned long long) wanted->address);
        if (r < 0)
                return error_set(attach->error, ERROR_BAD_MAPPING,
                                 "cannot register the memory of process %d at %#llx: %s", (int) context->pid,
                                 (unsigned long long) wanted->address, strerror(-r));
        return 0;
}

static int attach_uffd(struct attach *attach, unsigned index) {
        struct attach_uffd *uffd = &attach->request->uffds[index];
        struct proc_maps maps = { 0 };
        int r;

        if (attach_check_owner(attach, uffd->pid) < 0 || attach_check_pins(attach, uffd->pid) < 0)
                return -1;
        r = proc_maps_read(uffd->pid, PROC_MAPS_SHARED, &maps);
        if (r < 0)
                return attach_explain_maps(attach, uffd->pid, r);
        r = attach_handshake(attach, uffd->fd);
        if (r == 0)
                r = attach_handshake_async(attach, uffd);
        if (r == 0)
                r = attach_make_context(attach, uffd, &attach->contexts[index]);
        for (unsigned i = 0; i < attach->request->n_mappings && r == 0; i++) {
                const struct attach_mapping *mapping = &attach->request->mappings[i];

                if (mapping->uffd != index)
                        continue;
                r = attach_check_mapping(attach, mapping, &maps, uffd->pid);
                if (r == 0)
                        r = attach_register(attach, attach->contexts[index], mapping);
        }
        proc_maps_deinit(&maps);
        return r;
}

/* On the fault thread. From here on nothing can fail but for want of memory or descriptors. */
static int attach_on_commit(struct fault_thread *thread, void *data) {
        struct attach *attach = data;
        unsigned n_before = thread->domain->n_contexts;

        for (unsigned i = 0; i < attach->n_contexts; i++) {
                int r = fault_watch(thread, attach->contexts[i]);

                if (r == 0)
                        r = domain_add_context(thread->domain, attach->contexts[i]);
                if (r == 0) {
                        struct context *context = STEAL_PTR(attach->contexts[i]);

                        for (unsigned j = 0; j < context->n_mappings; j++)
                                changes_lose_mapping(&context->mappings[j]);
                        continue;
                }
                fault_unwatch(thread, attach->contexts[i]);
                while (thread->domain->n_contexts > n_before) {
                        fault_unwatch(thread, thread->domain->contexts[thread->domain->n_contexts - 1]);
                        domain_drop_context(thread->domain, thread->domain->n_contexts - 1);
                }
                return r;
        }
        for (unsigned i = 0; i < attach->request->n_regions; i++) {
                struct attach_region *region = &attach->request->regions[i];

                if (!region->is_new)
                        continue;
                registry_name_region(attach->entry, region->region, region->name);
                domain_add_region(thread->domain, STEAL_PTR(region->region));
                changes_lose_parent(thread, "a region was attached");
        }
        /* For want of memory it is done by the next snapshot, or makes that fail. */
        (void) changes_fit(thread);
        return 0;
}

static int attach_try(struct attach *attach) {
        struct attach_request *request = attach->request;
        int r;

        attach->contexts = calloc(request->n_uffds + 1, sizeof(struct context *));
        if (!attach->contexts)
                return error_set(attach->error, ERROR_INTERNAL, "out of memory");
        attach->n_contexts = request->n_uffds;
        if (attach_find_regions(attach) < 0)
                return -1;
        if (attach->entry->domain->n_regions + request->n_regions > DOMAIN_REGIONS_MAX)
                return error_set(attach->error, ERROR_LIMIT_EXCEEDED, "a domain has at most %u regions",
                                 DOMAIN_REGIONS_MAX);
        for (unsigned i = 0; i < request->n_uffds; i++)
                if (attach_uffd(attach, i) < 0)
                        return -1;
        r = fault_call(attach->entry->thread, attach_on_commit, attach);
        if (r < 0)
                return error_set(attach->error, ERROR_LIMIT_EXCEEDED,
                                 "cannot track any more processes in domain %s: %s", attach->entry->domain->name,
                                 strerror(-r));
        attach->entry->domain->strict |= request->strict;
        return 0;
}

int attach_all(struct registry_entry *entry, struct attach_request *request, struct error *error) {
        struct attach attach = { .entry = entry, .request = request, .error = error };
        int r = attach_try(&attach);

        for (unsigned i = 0; i < attach.n_contexts; i++)
                context_unref(attach.contexts[i]);
        free(attach.contexts);
        for (unsigned i = 0; i < request->n_regions; i++)
                if (request->regions[i].is_new)
                        region_free(request->regions[i].region);
        return r;
}
