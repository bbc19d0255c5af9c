/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_SERVICE_H
#define LIVESNAP_DAEMON_SERVICE_H

/*
 * The interface org.varlink.service, by which clients learn what a service is and which interfaces it has.
 */

#include <stdbool.h>

#include "daemon/call.h"

/** service_find_interface() - the description of an interface of @len bytes, borrowed; NULL where we have no such one
 */
const char *service_find_interface(const char *name, size_t len);

/** service_get_info() - method org.varlink.service.GetInfo */
void service_get_info(struct call *call, void *context);

/** service_get_interface_description() - method org.varlink.service.GetInterfaceDescription */
void service_get_interface_description(struct call *call, void *context);

#endif
