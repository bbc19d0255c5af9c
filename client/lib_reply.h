/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_REPLY_H
#define LIVESNAP_CLIENT_LIB_REPLY_H

#include "client/lib_connection.h"

/**
 * reply_init() - make a reply of what was received
 * @message: taken over, also on failure
 *
 * Return: 0, or -1 where it is not what a Varlink reply may be; *ret is then empty, and may be deinited all the same.
 */
int reply_init(struct livesnap_reply *ret, struct varlink_message *message);

/** reply_deinit() - release what is in a reply */
void reply_deinit(struct livesnap_reply *reply);

/** reply_check() - fail in this thread as the reply fails; 0 where it is no error */
int reply_check(const struct livesnap_reply *reply);

#endif
