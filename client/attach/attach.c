/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/attach/attach.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/attach/handover.h"
#include "client/attach/implant.h"
#include "client/attach/proc.h"
#include "client/attach/victims.h"
#include "common/cleanup.h"
#include "common/uffd.h"

/* A process that forks between our look and the daemon's registration makes one more round. */
#define ROUNDS_MAX 16
/* Processes that end, or change their mappings, between our look and the registration. */
#define FAILURES_MAX 8

struct attach {
        const struct attach_options *options;
        struct livesnap *livesnap;
        struct victims victims;
        int device;
        char *domain;
        bool domain_is_ours; /* did not exist before */
        unsigned failures;
        json_t *processes; /* array of {pid, mappings} */
        json_t *reply;     /* the Domain as of the last handover */
};

static void attach_deinit(struct attach *attach) {
        livesnap_close(attach->livesnap);
        victims_deinit(&attach->victims);
        if (attach->device >= 0)
                close(attach->device);
        free(attach->domain);
        json_decref(attach->processes);
        json_decref(attach->reply);
}

static int attach_prepare(struct attach *attach, struct error *error) {
        const struct attach_options *options = attach->options;
        int exists;

        attach->victims.target = options->pid;
        attach->victims.glob = options->glob;
        attach->victims.note = options->note;
        if (victims_check(options->pid, error) < 0 || victims_find_objects(&attach->victims, error) < 0)
                return -1;
        attach->device = uffd_open_device();
        if (attach->device < 0)
                return error_set(error, attach->device == -ENOENT ? ERROR_KERNEL_UNSUPPORTED : ERROR_PERMISSION_DENIED,
                                 "cannot open /dev/userfaultfd: %s; %s", strerror(-attach->device),
                                 attach->device == -ENOENT ? "livesnap needs Linux 6.1 or newer with CONFIG_USERFAULTFD"
                                                           : "run livesnap-attach as root");
        attach->livesnap = livesnap_connect(options->socket);
        if (!attach->livesnap)
                return error_set(error, ERROR_INTERNAL, "%s", livesnap_get_error());
        attach->domain = options->domain ? strdup(options->domain)
                                         : handover_choose_domain(attach->livesnap, &attach->victims, error);
        if (!attach->domain)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        exists = handover_domain_exists(attach->livesnap, attach->domain, error);
        attach->domain_is_ours = !exists;
        return exists < 0 ? -1 : 0;
}

/* A process other than the target that ends meanwhile has nothing to be tracked any more: it gets no userfaultfd. */
static int attach_implant(struct attach *attach, struct error *error) {
        struct victims *victims = &attach->victims;
        CLEANUP_FREE int *uffds = calloc(victims->n_items * IMPLANT_UFFDS, sizeof(*uffds));
        size_t n_uffds = 0;

        if (!uffds)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        for (size_t i = 0; i < victims->n_items; i++) {
                struct victim *victim = &victims->items[i];
                struct error failure = { 0 };

                if (attach->options->abandoned())
                        return error_set(error, ERROR_CANCELLED, "livesnap-attach was stopped");
                if (!victims_check(victim->pid, &failure) &&
                    !implant_userfaultfds(victim->pid, victim->twin, attach->device, victim->uffds, &failure)) {
                        for (unsigned k = 0; k < IMPLANT_UFFDS; k++)
                                uffds[n_uffds++] = victim->uffds[k];
                } else if (victim->pid == victims->target || failure.kind != ERROR_BAD_MAPPING) {
                        *error = failure;
                        return -1;
                }
        }
        return implant_check_sole_owner(uffds, n_uffds, error);
}

static int attach_report(struct attach *attach) {
        const struct victims *victims = &attach->victims;

        for (size_t i = 0; i < victims->n_items; i++)
                if (victims->items[i].uffds[0] >= 0 &&
                    json_array_append_new(attach->processes,
                                          json_pack("{s:i,s:I}", "pid", (int) victims->items[i].pid, "mappings",
                                                    (json_int_t) victims->items[i].n_ranges)) < 0)
                        return -1;
        return 0;
}

/* Until a look at all processes finds nothing that is not tracked. */
static int attach_rounds(struct attach *attach, struct error *error) {
        const struct handover_options options = {
                .domain = attach->domain,
                .discard = attach->options->discard,
                .tracking = attach->options->tracking,
                .strict = attach->options->strict,
        };
        struct victims *victims = &attach->victims;
        char comm[PROC_COMM_SIZE];

        for (unsigned round = 0; round < ROUNDS_MAX; round++) {
                struct error failure = { 0 };

                if (victims_find(victims, error) < 0)
                        return -1;
                if (!victims->n_items)
                        return 0;
                if (attach_implant(attach, error) < 0)
                        return -1;
                if (!handover_attach(attach->livesnap, &options, victims, &attach->reply, &failure)) {
                        if (attach_report(attach) < 0)
                                return error_set(error, ERROR_INTERNAL, "out of memory");
                } else if (failure.kind != ERROR_BAD_MAPPING || ++attach->failures > FAILURES_MAX ||
                           !proc_is_alive(victims->target)) {
                        *error = failure;
                        return -1;
                }
        }
        return error_set(error, ERROR_UNTRACKED_WRITER,
                         "process %d (%s) maps the same memory and was not tracked after %u rounds: processes come "
                         "faster than they can be attached; try again when there are fewer new ones",
                         (int) victims->items[0].pid, proc_comm(victims->items[0].pid, comm), ROUNDS_MAX);
}

int attach_process(const struct attach_options *options, json_t **ret, struct error *error) {
        CLEANUP(attach_deinit) struct attach attach = { .options = options, .device = -1 };
        char comm[PROC_COMM_SIZE];
        json_t *result;

        attach.processes = json_array();
        if (attach_prepare(&attach, error) < 0)
                return -1;
        if (attach_rounds(&attach, error) < 0) {
                /* What is half attached must not look as if it could be snapshotted. */
                if (attach.domain_is_ours && attach.reply)
                        handover_detach(attach.livesnap, attach.domain);
                return -1;
        }
        if (!attach.reply && victims_check(options->pid, error) < 0)
                return -1;
        if (!attach.reply)
                return error_set(
                        error, ERROR_BUSY,
                        "the shared memory of process %d (%s) is tracked already, by livesnap or another user of "
                        "userfaultfd; see 'livesnap domains', and 'livesnap detach' to start anew",
                        (int) options->pid, proc_comm(options->pid, comm));
        result = json_pack("{s:s,s:O,s:O}", "domain", attach.domain, "regions",
                           json_object_get(attach.reply, "regions"), "processes", attach.processes);
        if (!result)
                return error_set(error, ERROR_INTERNAL, "the daemon's reply to Attach names no regions");
        *ret = result;
        return 0;
}
