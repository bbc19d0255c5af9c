/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_snapshot.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/lib_error.h"
#include "common/cleanup.h"
#include "livesnap/format.h"

static int fail_member(const char *key) {
        return lib_fail(LIVESNAP_ERROR_BAD_REPLY,
                        "livesnapd's reply has no usable member '%s'; are library and daemon of versions that fit?",
                        key);
}

int json_get_string(const json_t *object, const char *key, const char **ret) {
        const char *value = json_string_value(json_object_get(object, key));

        if (!value)
                return fail_member(key);
        *ret = value;
        return 0;
}

int json_get_u64(const json_t *object, const char *key, uint64_t *ret) {
        const json_t *value = json_object_get(object, key);

        if (!json_is_integer(value) || json_integer_value(value) < 0)
                return fail_member(key);
        *ret = (uint64_t) json_integer_value(value);
        return 0;
}

static int get_number(const json_t *object, const char *key, double *ret) {
        const json_t *value = json_object_get(object, key);

        if (!json_is_number(value))
                return fail_member(key);
        *ret = json_number_value(value);
        return 0;
}

/** struct snapshot - what the public part points to; owns it */
struct snapshot {
        struct livesnap_snapshot public;
        json_t *json;
        char *text;
        struct livesnap_snapshot_region *regions;
};

static void snapshot_free_p(struct snapshot **snapshot) {
        if (*snapshot)
                livesnap_snapshot_free(&(*snapshot)->public);
}

static int read_counts(const json_t *json, struct livesnap_snapshot *ret) {
        static const struct {
                const char *key;
                size_t offset;
        } counts[] = {
                { "arm_us", offsetof(struct livesnap_snapshot, arm_us) },
                { "hold_us", offsetof(struct livesnap_snapshot, hold_us) },
                { "duration_us", offsetof(struct livesnap_snapshot, duration_us) },
                { "pages_fault", offsetof(struct livesnap_snapshot, pages_fault) },
                { "pages_sweep", offsetof(struct livesnap_snapshot, pages_sweep) },
                { "pages_zero", offsetof(struct livesnap_snapshot, pages_zero) },
                { "bytes_written", offsetof(struct livesnap_snapshot, bytes_written) },
                { "throttled_us", offsetof(struct livesnap_snapshot, throttled_us) },
                { "pool_peak_bytes", offsetof(struct livesnap_snapshot, pool_peak_bytes) },
        };

        for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
                if (json_get_u64(json, counts[i].key, (uint64_t *) ((char *) ret + counts[i].offset)) < 0)
                        return -1;
        return 0;
}

static int read_latency(const json_t *json, struct livesnap_snapshot *ret) {
        const json_t *latency = json_object_get(json, "fault_us");

        if (get_number(latency, "p50", &ret->fault_p50_us) < 0 || get_number(latency, "p99", &ret->fault_p99_us) < 0 ||
            get_number(latency, "p999", &ret->fault_p999_us) < 0 || get_number(latency, "max", &ret->fault_max_us) < 0)
                return -1;
        return 0;
}

static int read_regions(const json_t *json, struct snapshot *ret) {
        const json_t *array = json_object_get(json, "regions");
        size_t n = json_array_size(array);

        if (!json_is_array(array) || n > LIVESNAP_FORMAT_REGIONS_MAX)
                return fail_member("regions");
        ret->regions = calloc(n ? n : 1, sizeof(*ret->regions));
        if (!ret->regions)
                return lib_fail_errno(ENOMEM, "cannot read a reply");
        for (size_t i = 0; i < n; i++) {
                const json_t *region = json_array_get(array, i);

                if (json_get_string(region, "name", &ret->regions[i].name) < 0 ||
                    json_get_string(region, "path", &ret->regions[i].path) < 0 ||
                    json_get_u64(region, "bytes", &ret->regions[i].bytes) < 0 ||
                    json_get_u64(region, "mappings", &ret->regions[i].mappings) < 0)
                        return -1;
        }
        ret->public.n_regions = n;
        ret->public.regions = ret->regions;
        return 0;
}

int snapshot_new(json_t *json, struct livesnap_snapshot **ret) {
        CLEANUP(snapshot_free_p) struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
        struct livesnap_snapshot *public;

        if (!snapshot)
                return lib_fail_errno(ENOMEM, "cannot read a reply");
        public = &snapshot->public;
        snapshot->json = json_incref(json);
        snapshot->text = json_dumps(json, JSON_COMPACT);
        public->json = snapshot->text;
        if (!snapshot->text)
                return fail_member("snapshot");
        if (json_get_string(json, "snapshot", &public->snapshot) < 0 ||
            json_get_string(json, "guarantee", &public->guarantee) < 0 ||
            get_number(json, "created", &public->created) < 0 || read_counts(json, public) < 0 ||
            read_latency(json, public) < 0 || read_regions(json, snapshot) < 0)
                return -1;
        *ret = public;
        STEAL_PTR(snapshot);
        return 0;
}

void livesnap_snapshot_free(struct livesnap_snapshot *public) {
        struct snapshot *snapshot = (struct snapshot *) public;

        if (!snapshot)
                return;
        json_decref(snapshot->json);
        free(snapshot->text);
        free(snapshot->regions);
        free(snapshot);
}

int job_init(struct job *job, const json_t *json) {
        struct livesnap_job public = { 0 };
        const char *domain, *name;

        *job = (struct job){ 0 };
        if (json_get_u64(json, "job", &public.job) < 0 || json_get_string(json, "state", &public.state) < 0 ||
            json_get_string(json, "domain", &domain) < 0 || json_get_string(json, "name", &name) < 0 ||
            json_get_u64(json, "bytes_done", &public.bytes_done) < 0 ||
            json_get_u64(json, "bytes_total", &public.bytes_total) < 0)
                return -1;
        job->text = json_dumps(json, JSON_COMPACT);
        if (!job->text || asprintf(&job->name, "%s/%s", domain, name) < 0) {
                free(job->text);
                *job = (struct job){ 0 };
                return lib_fail_errno(ENOMEM, "cannot read a reply");
        }
        public.snapshot = job->name;
        public.json = job->text;
        job->public = public;
        return 0;
}

void job_deinit(struct job *job) {
        free(job->name);
        free(job->text);
}
