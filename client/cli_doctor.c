/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/cli.h"
#include "client/cli_checks.h"
#include "client/cli_format.h"
#include "client/cli_snapshot.h"
#include "common/cleanup.h"

/* The device as the daemon hands it to clients; -1 where it does not. */
static int device_from_daemon(struct livesnap *livesnap) {
        struct livesnap_reply *reply;
        int device;

        if (livesnap_call(livesnap, "GetUserfaultfdDevice", NULL, NULL, 0, NULL, &reply) < 0)
                return -1;
        device = livesnap_reply_take_fd(reply, 0);
        livesnap_reply_free(reply);
        return device;
}

static void add_daemon(struct checks *checks, struct livesnap *livesnap) {
        struct livesnap_reply *reply;
        json_t *info;

        if (!livesnap || livesnap_call(livesnap, "GetInfo", NULL, NULL, 0, NULL, &reply) < 0) {
                checks_add(checks, CHECK_WARNING, "daemon", "not reached");
                checks_remedy(checks, "%s", livesnap_get_error());
                return;
        }
        info = json_loads(livesnap_reply_get_parameters(reply), 0, NULL);
        livesnap_reply_free(reply);
        checks_add(checks, CHECK_OK, "daemon", "version %s, store %s, pool %s of %s free (%s), %.0f domains",
                   cli_json_text(info, "version"), cli_json_text(info, "store"),
                   cli_format_bytes(cli_json_count(info, "pool_free_bytes")).text,
                   cli_format_bytes(cli_json_count(info, "pool_bytes")).text, cli_json_text(info, "pool_policy"),
                   cli_json_count(info, "domains"));
        json_decref(info);
}

static const char *const status_names[] = {
        [CHECK_OK] = "ok",
        [CHECK_NOTE] = "note",
        [CHECK_WARNING] = "warning",
        [CHECK_FAILED] = "failed",
};

static json_t *checks_to_json(const struct checks *checks, const struct uffd_probe *probe, bool works) {
        json_t *array = json_array();

        for (size_t i = 0; i < checks->n; i++) {
                const struct check *check = &checks->list[i];

                json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:s*}", "name", check->name, "status",
                                                       status_names[check->status], "detail", check->detail, "remedy",
                                                       *check->remedy ? check->remedy : NULL));
        }
        return json_pack("{s:b, s:s, s:I, s:b, s:o}", "works", works, "kernel", probe->release, "features",
                         (json_int_t) probe->features, "unwp_restores_write", probe->disarm_restores_write, "checks",
                         array);
}

static void print_checks(const struct checks *checks) {
        const char *last_remedy = "";

        for (size_t i = 0; i < checks->n; i++) {
                const struct check *check = &checks->list[i];

                printf("%-8s %-17s %s\n", status_names[check->status], check->name, check->detail);
                /* One cause shows in several checks; its remedy is said once. */
                if (*check->remedy && strcmp(check->remedy, last_remedy))
                        printf("%-8s %-17s -> %s\n", "", "", check->remedy);
                if (*check->remedy)
                        last_remedy = check->remedy;
        }
}

static int run_doctor(struct cli *cli) {
        struct livesnap *livesnap = livesnap_connect(cli->socket);
        struct checks checks = { 0 };
        struct uffd_probe probe;
        struct error error = { 0 };
        CLEANUP_CLOSE int device = -1;
        bool works;

        add_daemon(&checks, livesnap);
        if (livesnap)
                device = device_from_daemon(livesnap);
        livesnap_close(livesnap);
        works = uffd_probe_run_with_device(device, &probe, &error) == 0;
        checks_add_kernel(&checks, &probe, &error);
        checks_add_system(&checks, &probe);

        if (cli->json) {
                json_t *json = checks_to_json(&checks, &probe, works);

                if (!works) {
                        json_object_set_new(json, "error", json_string(error_name(error.kind)));
                        json_object_set_new(json, "message", json_string(error.message));
                }
                if (cli_print_json(cli, json) != CLI_OK)
                        return CLI_FAILED;
        } else {
                print_checks(&checks);
        }
        if (!works)
                fprintf(stderr, "livesnap: livesnap cannot work here: %s.\n", error.message);
        return works ? CLI_OK : CLI_FAILED;
}

const struct cli_command cli_command_doctor = {
        .name = "doctor",
        .arguments = "",
        .summary = "Say what this kernel, this machine and this user can do",
        .details = "Tries on memory of its own whether write protection survives what the kernel does to page tables. "
                   "Where\n"
                   "livesnap cannot work it says what to do, and the exit status is 1.",
        .run = run_doctor,
};
