/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_ATTACH_H
#define LIVESNAP_CLIENT_ATTACH_ATTACH_H

#include <stdbool.h>
#include <sys/types.h>

#include <jansson.h>

#include "common/error.h"

struct attach_options {
        pid_t pid;
        const char *domain;                 /* NULL: named after the process */
        const char *glob;                   /* NULL: all objects */
        const char *discard;                /* NULL: the daemon's default */
        const char *tracking;               /* "off", "sync" or "async"; NULL: as it is */
        bool strict;                        /* refuse what may be written untracked, now and in each snapshot */
        const char *socket;                 /* NULL: the library's default */
        void (*note)(const char *sentence); /* is told of what is left out */
        bool (*abandoned)(void);            /* asked now and then: is nobody interested any more? */
};

/**
 * attach_process() - attach a process and all that share its memory to the daemon
 * @ret: {domain, regions, processes: [{pid, mappings}]}, a new reference
 *
 * Return: 0, or -1 with *error set; then nothing stays attached that was not before, and the processes are as they
 * were.
 */
int attach_process(const struct attach_options *options, json_t **ret, struct error *error);

#endif
