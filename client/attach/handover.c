/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/attach/handover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/attach/proc.h"
#include "common/cleanup.h"
#include "common/name.h"
#include "common/varlink.h"

static void cleanup_json_p(json_t **json) {
        json_decref(*json);
}

static int error_from_library(struct error *error) {
        enum error_kind kind = error_kind_from_name(livesnap_get_error_name());

        return error_set(error, kind ? kind : ERROR_INTERNAL, "%s", livesnap_get_error());
}

/* @parameters is consumed. */
static int call(struct livesnap *livesnap, const char *method, json_t *parameters, const int *fds, size_t n_fds,
                json_t **ret, struct error *error) {
        CLEANUP_FREE char *text = json_dumps(parameters, JSON_COMPACT);
        struct livesnap_reply *reply;

        json_decref(parameters);
        if (!text)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (livesnap_call(livesnap, method, text, fds, n_fds, NULL, &reply) < 0)
                return error_from_library(error);
        *ret = json_loads(livesnap_reply_get_parameters(reply), 0, NULL);
        livesnap_reply_free(reply);
        return *ret ? 0 : error_set(error, ERROR_INTERNAL, "the daemon's reply to %s is not understood", method);
}

int handover_domain_exists(struct livesnap *livesnap, const char *domain, struct error *error) {
        CLEANUP(cleanup_json_p) json_t *reply = NULL;
        json_t *item;
        size_t i;

        if (call(livesnap, "ListDomains", json_object(), NULL, 0, &reply, error) < 0)
                return -1;
        json_array_foreach (json_object_get(reply, "domains"), i, item) {
                const char *name = json_string_value(json_object_get(item, "name"));

                if (name && !strcmp(name, domain))
                        return 1;
        }
        return 0;
}

char *handover_choose_domain(struct livesnap *livesnap, const struct victims *victims, struct error *error) {
        char name[PROC_COMM_SIZE], *domain;
        int exists;

        proc_comm(victims->target, name);
        for (char *c = name; *c; c++) {
                const char one[] = { c == name ? *c : 'x', c == name ? '\0' : *c, '\0' };

                if (!name_is_valid(one))
                        *c = '_';
        }
        if (!*name)
                strcpy(name, "process");
        if (asprintf(&domain, "%s-%d", name, (int) victims->target) < 0) {
                error_set(error, ERROR_INTERNAL, "out of memory");
                return NULL;
        }
        /* A process that is tracked already was attached under one of the two names, unless somebody named another. */
        exists = handover_domain_exists(livesnap, victims->target_is_tracked ? domain : name, error);
        if (exists >= 0 && !exists == !victims->target_is_tracked)
                strcpy(domain, name);
        if (exists >= 0)
                return domain;
        free(domain);
        return NULL;
}

/* The next victims that go into one message, from @first: their descriptors, and the objects that they refer to. */
struct batch {
        int fds[VARLINK_FDS_MAX];
        unsigned n_fds;
        json_t *regions;
        json_t *mappings;
        size_t *region_of; /* of an object: index into regions, or SIZE_MAX */
};

static void batch_deinit(struct batch *batch) {
        json_decref(batch->regions);
        json_decref(batch->mappings);
        free(batch->region_of);
}

static bool victim_maps(const struct victim *victim, size_t object) {
        for (size_t i = 0; i < victim->n_ranges; i++)
                if (victim->ranges[i].object == object)
                        return true;
        return false;
}

static unsigned batch_count_new_objects(const struct batch *batch, const struct victims *victims,
                                        const struct victim *victim) {
        unsigned n_new = 0;

        for (size_t object = 0; object < victims->n_objects; object++)
                n_new += batch->region_of[object] == SIZE_MAX && victim_maps(victim, object);
        return n_new;
}

static void batch_add_object(struct batch *batch, const struct victims *victims, size_t object, const char *discard) {
        batch->region_of[object] = json_array_size(batch->regions);
        json_array_append_new(batch->regions,
                              discard ? json_pack("{s:i,s:s}", "object", batch->n_fds, "discard", discard)
                                      : json_pack("{s:i}", "object", batch->n_fds));
        batch->fds[batch->n_fds++] = victims->objects[object].fd;
}

static void batch_add(struct batch *batch, const struct victims *victims, const struct victim *victim,
                      const char *discard) {
        unsigned userfaultfd = batch->n_fds;

        for (unsigned i = 0; i < IMPLANT_UFFDS; i++)
                batch->fds[batch->n_fds++] = victim->uffds[i];
        for (size_t object = 0; object < victims->n_objects; object++)
                if (batch->region_of[object] == SIZE_MAX && victim_maps(victim, object))
                        batch_add_object(batch, victims, object, discard);
        for (size_t i = 0; i < victim->n_ranges; i++) {
                const struct victims_range *range = &victim->ranges[i];

                json_array_append_new(batch->mappings,
                                      json_pack("{s:I,s:i,s:i,s:I,s:I,s:I,s:i}", "region",
                                                (json_int_t) batch->region_of[range->object], "userfaultfd",
                                                (int) userfaultfd, "userfaultfd_async", (int) userfaultfd + 1,
                                                "address", (json_int_t) range->start, "length",
                                                (json_int_t) (range->end - range->start), "offset",
                                                (json_int_t) range->offset, "pid", (int) victim->pid));
        }
}

/* Sends victims from *first on, as many as go into one message. No reply where there was nothing to send. */
static int attach_batch(struct livesnap *livesnap, const struct handover_options *options,
                        const struct victims *victims, size_t *first, json_t **ret, struct error *error) {
        CLEANUP(batch_deinit) struct batch batch = { .regions = json_array(), .mappings = json_array() };
        size_t next = *first;

        batch.region_of = malloc(victims->n_objects * sizeof(*batch.region_of));
        if (!batch.region_of || !batch.regions || !batch.mappings)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        memset(batch.region_of, 0xff, victims->n_objects * sizeof(*batch.region_of));
        for (; next < victims->n_items; next++) {
                const struct victim *victim = &victims->items[next];
                unsigned n_objects = batch_count_new_objects(&batch, victims, victim);

                if (victim->uffds[0] < 0)
                        continue;
                if (n_objects > VARLINK_FDS_MAX - IMPLANT_UFFDS)
                        return error_set(error, ERROR_LIMIT_EXCEEDED,
                                         "process %d maps %u shared memory objects, and no more than %u can be "
                                         "attached; choose with --object GLOB",
                                         (int) victim->pid, n_objects, VARLINK_FDS_MAX - IMPLANT_UFFDS);
                if (batch.n_fds + n_objects + IMPLANT_UFFDS > VARLINK_FDS_MAX)
                        break;
                batch_add(&batch, victims, victim, options->discard);
        }
        *first = next;
        if (!batch.n_fds)
                return 0;
        return call(livesnap, "Attach",
                    json_pack("{s:s,s:O,s:O,s:b,s:s*}", "domain", options->domain, "regions", batch.regions, "mappings",
                              batch.mappings, "strict", options->strict, "tracking", options->tracking),
                    batch.fds, batch.n_fds, ret, error);
}

int handover_attach(struct livesnap *livesnap, const struct handover_options *options, const struct victims *victims,
                    json_t **ret_domain, struct error *error) {
        for (size_t first = 0; first < victims->n_items;) {
                CLEANUP(cleanup_json_p) json_t *reply = NULL;

                if (attach_batch(livesnap, options, victims, &first, &reply, error) < 0)
                        return -1;
                if (reply) {
                        json_decref(*ret_domain);
                        *ret_domain = json_incref(json_object_get(reply, "domain"));
                }
        }
        return 0;
}

void handover_detach(struct livesnap *livesnap, const char *domain) {
        CLEANUP(cleanup_json_p) json_t *reply = NULL;

        call(livesnap, "Detach", json_pack("{s:s}", "domain", domain), NULL, 0, &reply, NULL);
}
