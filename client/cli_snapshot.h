/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_SNAPSHOT_H
#define LIVESNAP_CLIENT_CLI_SNAPSHOT_H

#include <jansson.h>

/** cli_json_text() - a member that is text; "-" where it is none */
const char *cli_json_text(const json_t *object, const char *key);

/** cli_json_count() - a member that is a number; 0 where it is none */
double cli_json_count(const json_t *object, const char *key);

/** cli_print_warnings() - those of a Snapshot, on stderr */
void cli_print_warnings(const json_t *snapshot);

/** cli_json_bytes() - sum of the member "bytes" of an array of objects */
double cli_json_bytes(const json_t *array);

#endif
