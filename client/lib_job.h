/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_JOB_H
#define LIVESNAP_CLIENT_LIB_JOB_H

/* Calls that are jobs of the daemon's: any number of replies {job: Job} that continue, and a last one. */

#include <jansson.h>

#include "livesnap/livesnap.h"

#define JOB_WANTS_SNAPSHOT 1u /* the job must end with one */
#define JOB_TELLS_END 2u      /* progress is told once more when the job is done, with what came of it */

/** job_start() - queue a call that is followed to the end of its job; steals @parameters, NULL: names that were none */
int job_start(struct livesnap *livesnap, const char *method, json_t *parameters, unsigned flags,
              const struct livesnap_job_callback *callback);

/** job_call() - the same, and wait for it; @ret: NULL where it is not wanted */
int job_call(struct livesnap *livesnap, const char *method, json_t *parameters, unsigned flags,
             const struct livesnap_job_callback *callback, struct livesnap_snapshot **ret);

#endif
