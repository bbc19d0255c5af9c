/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_HOLES_H
#define LIVESNAP_DAEMON_HOLES_H

#include "daemon/domain.h"
#include "daemon/run.h"

/**
 * holes_take() - note in the run which pages of its regions are not holes now, for those where it can matter
 *
 * One thread at a time, for it moves the objects' file offsets.
 */
void holes_take(const struct domain *domain, struct run *run);

#endif
