/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_UNIT_DESCRIPTORS_H
#define LIVESNAP_TESTS_UNIT_DESCRIPTORS_H

/* Descriptors for tests: that can be told apart, sent, and counted to find the ones that leaked. */

#include <stddef.h>

/** descriptors_new() - a memfd that knows its number */
int descriptors_new(unsigned number);

/** descriptors_number() - which one it is, though it came through a socket */
unsigned descriptors_number(int fd);

/** descriptors_count() - how many this process has open */
unsigned descriptors_count(void);

/** descriptors_send() - send bytes, and descriptors_new(0..n_fds-1) with the first of them, all in one sendmsg() */
void descriptors_send(int socket, const char *data, size_t bytes, unsigned n_fds);

#endif
