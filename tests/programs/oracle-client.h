/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_ORACLE_CLIENT_H
#define LIVESNAP_TESTS_ORACLE_CLIENT_H

#include "tests/programs/oracle-process.h"

/** oracle_client_configure() - say where oracle_client_attach() attaches; both are borrowed for good */
void oracle_client_configure(const char *domain, const char *socket_path);

/** oracle_client_attach() - attach all mappings of the calling process by liblivesnap; 0, or -1 and it says why not */
int oracle_client_attach(struct writer *writer);

/** oracle_client_offer() - have a thread stop all writes whenever a snapshot wants it; 0, or -1 and it says why not */
int oracle_client_offer(struct writer *writer);

#endif
