/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_ATTACH_HANDOVER_H
#define LIVESNAP_CLIENT_ATTACH_HANDOVER_H

/* What livesnap-attach has to do with the daemon: to name a domain, fill it, and give it up. */

#include <stdbool.h>

#include <jansson.h>

#include "client/attach/victims.h"
#include "livesnap/livesnap.h"

/**
 * handover_choose_domain() - the domain of a process for which none was named
 *
 * That is its name, unless a domain of this name has other processes: then name-PID.
 *
 * Return: the name, to be freed, or NULL with *error set.
 */
char *handover_choose_domain(struct livesnap *livesnap, const struct victims *victims, struct error *error);

/** handover_domain_exists() - is there such a domain? -1 with *error set where the daemon does not say. */
int handover_domain_exists(struct livesnap *livesnap, const char *domain, struct error *error);

/** struct handover_options - how it is to be attached; borrowed */
struct handover_options {
        const char *domain;
        const char *discard;  /* "fail" or "zero", or NULL */
        const char *tracking; /* "off", "sync" or "async"; NULL: as the domain is */
        bool strict;          /* refuse what may be written untracked, now and in each snapshot */
};

/**
 * handover_attach() - give the daemon all mappings of @victims, each of which has its userfaultfd
 * @ret_domain: the Domain as the daemon has it then, a new reference; replaced
 *
 * Return: 0, or -1 with *error set; ERROR_BAD_MAPPING where a process ended or changed its mappings meanwhile.
 */
int handover_attach(struct livesnap *livesnap, const struct handover_options *options, const struct victims *victims,
                    json_t **ret_domain, struct error *error);

/** handover_detach() - give up a domain; errors are no matter */
void handover_detach(struct livesnap *livesnap, const char *domain);

#endif
