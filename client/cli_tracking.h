/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_TRACKING_H
#define LIVESNAP_CLIENT_CLI_TRACKING_H

/** cli_tracking_mode() - the enum livesnap_tracking of that name, or -1 */
int cli_tracking_mode(const char *name);

#endif
