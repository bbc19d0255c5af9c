/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Methods that attach and detach. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/api_internal.h"
#include "daemon/attach.h"

void api_on_get_userfaultfd_device(struct call *call, void *context) {
        const struct api *api = context;
        struct error error = { 0 };
        int fd = api->device < 0 ? -1 : fcntl(api->device, F_DUPFD_CLOEXEC, 3);

        if (fd < 0) {
                error_set(&error, ERROR_PERMISSION_DENIED,
                          "livesnapd has no right to /dev/userfaultfd: run it as root or give its user access to the "
                          "device");
                call_fail(call, &error);
                return;
        }
        call_reply(call, json_pack("{s:i}", "device", 0), &fd, 1);
}

/* Returns false when the call was answered because a parameter is wrong. */
static bool api_read_attach_region(struct call *call, json_t *json, unsigned index, struct attach_region *region) {
        const char *discard = NULL, *wrong;
        uint64_t object = 0;
        const struct parameter parameters[] = {
                { "object", .required = true, .number = &object },
                { "name", .string = &region->name },
                { "discard", .string = &discard },
                {},
        };

        wrong = parameters_read(json, parameters);
        if (!wrong && discard && strcmp(discard, "fail") && strcmp(discard, "zero"))
                wrong = "discard";
        if (!wrong) {
                region->discard_zero = discard && !strcmp(discard, "zero");
                region->object = call_take_fd(call, object);
                if (region->object < 0)
                        wrong = "object";
        }
        if (wrong)
                call_fail_parameter(call, "regions[%u].%s", index, wrong);
        return !wrong;
}

/* Mappings of one process share its userfaultfds. NULL where the descriptor is not there, or is of another process. */
static struct attach_uffd *api_find_attach_uffd(struct call *call, struct attach_request *request, uint64_t index,
                                                pid_t pid) {
        struct attach_uffd *uffd;

        for (unsigned i = 0; i < request->n_uffds; i++)
                if (request->uffds[i].index == index)
                        return request->uffds[i].pid == pid ? &request->uffds[i] : NULL;
        uffd = &request->uffds[request->n_uffds];
        *uffd = (struct attach_uffd){
                .fd = call_take_fd(call, index),
                .async_fd = -1,
                .pid = pid,
                .index = index,
                .async_index = UINT64_MAX,
        };
        if (uffd->fd < 0)
                return NULL;
        request->n_uffds++;
        return uffd;
}

/* The second one of a process may be left away, or named by some of its mappings only. */
static bool api_take_async_uffd(struct call *call, struct attach_uffd *uffd, uint64_t index) {
        if (index == UINT64_MAX || index == uffd->async_index)
                return true;
        if (uffd->async_fd >= 0)
                return false;
        uffd->async_fd = call_take_fd(call, index);
        uffd->async_index = index;
        return uffd->async_fd >= 0;
}

static bool api_read_attach_mapping(struct call *call, json_t *json, unsigned index, struct attach_request *request) {
        struct attach_mapping *mapping = &request->mappings[index];
        uint64_t region = 0, uffd_index = 0, async_index = UINT64_MAX, pid = (uint64_t) call_peer_pid(call);
        const struct parameter parameters[] = {
                { "region", .required = true, .number = &region },
                { "userfaultfd", .required = true, .number = &uffd_index },
                { "userfaultfd_async", .number = &async_index },
                { "address", .required = true, .number = &mapping->address },
                { "length", .required = true, .number = &mapping->length },
                { "offset", .required = true, .number = &mapping->offset },
                { "pid", .number = &pid },
                {},
        };
        struct error error = { 0 };
        const char *wrong = parameters_read(json, parameters);
        struct attach_uffd *uffd = NULL;

        if (!wrong && call_peer_uid(call) != 0 && pid != (uint64_t) call_peer_pid(call)) {
                error_set(&error, ERROR_PERMISSION_DENIED, "only root may attach another process");
                call_fail(call, &error);
                return false;
        }
        if (!wrong && region >= request->n_regions)
                wrong = "region";
        if (!wrong && (pid == 0 || pid > INT32_MAX))
                wrong = "pid";
        if (!wrong) {
                uffd = api_find_attach_uffd(call, request, uffd_index, (pid_t) pid);
                if (!uffd)
                        wrong = "userfaultfd";
                else if (!api_take_async_uffd(call, uffd, async_index))
                        wrong = "userfaultfd_async";
        }
        if (wrong) {
                call_fail_parameter(call, "mappings[%u].%s", index, wrong);
                return false;
        }
        mapping->region = (unsigned) region;
        mapping->uffd = (unsigned) (uffd - request->uffds);
        return true;
}

static bool api_read_attach(struct call *call, json_t *regions, json_t *mappings, struct attach_request *request) {
        size_t n_regions = json_array_size(regions), n_mappings = json_array_size(mappings);
        bool good = true;

        if (n_regions == 0 || n_regions > ATTACH_REGIONS_MAX) {
                call_fail_parameter(call, "regions");
                return false;
        }
        if (n_mappings == 0 || n_mappings > ATTACH_MAPPINGS_MAX) {
                call_fail_parameter(call, "mappings");
                return false;
        }
        request->regions = calloc(n_regions, sizeof(*request->regions));
        request->mappings = calloc(n_mappings, sizeof(*request->mappings));
        request->uffds = calloc(n_mappings, sizeof(*request->uffds));
        if (!request->regions || !request->mappings || !request->uffds) {
                call_fail(call, &(struct error){ ERROR_INTERNAL, "out of memory" });
                good = false;
        }
        for (size_t i = 0; i < n_regions && good; i++) {
                request->regions[i].object = -1;
                request->n_regions = (unsigned) i + 1;
                good = api_read_attach_region(call, json_array_get(regions, i), (unsigned) i, &request->regions[i]);
        }
        for (size_t i = 0; i < n_mappings && good; i++) {
                request->n_mappings = (unsigned) i + 1;
                good = api_read_attach_mapping(call, json_array_get(mappings, i), (unsigned) i, request);
        }
        return good;
}

static int api_attach(struct api *api, const struct call *call, const char *name, const char *tracking,
                      struct attach_request *request, json_t **ret, struct error *error) {
        struct registry_entry *entry;

        entry = registry_find_or_add(api->registry, name, call_peer_uid(call), error);
        if (!entry)
                return -1;
        if (entry->job)
                return error_set(error, ERROR_BUSY,
                                 "a snapshot of domain %s is being taken (job %llu): wait until it has ended", name,
                                 (unsigned long long) entry->job);
        /* A program that was started anew gets the names that it had before. */
        registry_drop_unmapped(entry);
        /* First, so that what is attached comes under the right userfaultfd. */
        if ((tracking && api_set_mode(api, entry, tracking, error) < 0) || attach_all(entry, request, error) < 0) {
                if (entry->domain->n_regions == 0)
                        registry_remove(entry);
                return -1;
        }
        *ret = registry_entry_json(entry);
        return 0;
}

void api_on_attach(struct call *call, void *context) {
        struct attach_request request = { 0 };
        json_t *regions = NULL, *mappings = NULL, *domain = NULL;
        struct error error = { 0 };
        const char *name = NULL, *tracking = NULL;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &name },
                { "tracking", .string = &tracking },
                { "strict", .boolean = &request.strict },
                { "regions", .required = true, .array = &regions },
                { "mappings", .required = true, .array = &mappings },
                {},
        };

        if (call_read(call, parameters) < 0)
                return;
        if (tracking && !api_knows_mode(tracking)) {
                call_fail_parameter(call, "tracking");
                return;
        }
        if (api_read_attach(call, regions, mappings, &request)) {
                if (api_attach(context, call, name, tracking, &request, &domain, &error) < 0)
                        call_fail(call, &error);
                else
                        call_reply(call, json_pack("{s:o}", "domain", domain), NULL, 0);
        }
        attach_request_deinit(&request);
}

static int api_detach(struct api *api, uid_t uid, const char *name, const char *region_name, struct error *error) {
        struct registry_entry *entry = registry_find(api->registry, name, uid, error);
        struct region *region = NULL;

        if (!entry)
                return -1;
        if (entry->job)
                return error_set(error, ERROR_BUSY,
                                 "a snapshot of domain %s is being taken (job %llu): wait until it has ended or cancel "
                                 "it ('livesnap cancel %llu')",
                                 name, (unsigned long long) entry->job, (unsigned long long) entry->job);
        if (region_name) {
                region = domain_find_region_by_name(entry->domain, region_name);
                if (!region)
                        return error_set(error, ERROR_NO_SUCH_REGION, "domain %s has no region '%.128s'", name,
                                         region_name);
        }
        /* The last region takes the domain with it. */
        if (region && entry->domain->n_regions > 1)
                registry_detach_region(entry, region);
        else
                registry_remove(entry);
        return 0;
}

void api_on_detach(struct call *call, void *context) {
        const char *domain = NULL, *region = NULL;
        const struct parameter parameters[] = {
                { "domain", .required = true, .string = &domain },
                { "region", .string = &region },
                {},
        };
        struct error error = { 0 };

        if (call_read(call, parameters) < 0)
                return;
        if (api_detach(context, call_peer_uid(call), domain, region, &error) < 0)
                call_fail(call, &error);
        else
                call_reply(call, NULL, NULL, 0);
}

void api_on_list_domains(struct call *call, void *context) {
        struct api *api = context;
        const char *domain = NULL;
        const struct parameter parameters[] = {
                { "domain", .string = &domain },
                {},
        };
        struct error error = { 0 };
        struct registry_entry *entry;
        json_t *list;

        if (call_read(call, parameters) < 0)
                return;
        if (domain) {
                entry = registry_find(api->registry, domain, call_peer_uid(call), &error);
                if (!entry) {
                        call_fail(call, &error);
                        return;
                }
                list = json_pack("[o]", registry_entry_json(entry));
        } else {
                list = registry_list(api->registry, call_peer_uid(call));
        }
        call_reply(call, json_pack("{s:o}", "domains", list), NULL, 0);
}
