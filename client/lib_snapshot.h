/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_SNAPSHOT_H
#define LIVESNAP_CLIENT_LIB_SNAPSHOT_H

/* The types Snapshot and Job of io.livesnap as structs. The daemon is not believed blindly: wrong types are an error.
 */

#include <jansson.h>

#include "livesnap/livesnap.h"

/** json_get_string() - a member that must be text; fails in this thread otherwise */
int json_get_string(const json_t *object, const char *key, const char **ret);

/** json_get_u64() - a member that must be an integer and not negative; fails in this thread otherwise */
int json_get_u64(const json_t *object, const char *key, uint64_t *ret);

/** snapshot_new() - read an object of the type Snapshot. Return: 0, or -1 with the error of this thread set. */
int snapshot_new(json_t *json, struct livesnap_snapshot **ret);

/** struct job - what a job callback is shown; owns the texts that the public part points to */
struct job {
        struct livesnap_job public;
        char *name; /* DOMAIN/NAME */
        char *text;
};

/** job_init() - read an object of the type Job, which must outlive it. Return: 0, or -1 with the error set. */
int job_init(struct job *job, const json_t *json);

/** job_deinit() - release a job; one that is all zero is allowed */
void job_deinit(struct job *job);

#endif
