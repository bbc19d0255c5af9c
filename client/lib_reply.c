/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_reply.h"

#include <errno.h>
#include <string.h>

#include "client/lib_error.h"
#include "common/cleanup.h"

static const char *find_message(const json_t *parameters, const char *error_name) {
        const char *message = json_string_value(json_object_get(parameters, "message"));

        if (message)
                return message;
        /* The errors of org.varlink.service carry one name and no sentence. */
        message = json_string_value(json_object_get(parameters, "parameter"));
        if (message)
                return message;
        message = json_string_value(json_object_get(parameters, "method"));
        return message ? message : error_name;
}

int reply_init(struct livesnap_reply *ret, struct varlink_message *message) {
        json_t *parameters, *error, *continues;

        *ret = (struct livesnap_reply){ .message = *message };
        *message = (struct varlink_message){ 0 };

        parameters = json_object_get(ret->message.json, "parameters");
        error = json_object_get(ret->message.json, "error");
        continues = json_object_get(ret->message.json, "continues");
        if ((parameters && !json_is_object(parameters) && !json_is_null(parameters)) ||
            (error && !json_is_string(error)) || (continues && !json_is_boolean(continues)) ||
            (error && json_is_true(continues)))
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd sent something that is not a Varlink reply");

        ret->parameters = json_is_object(parameters) ? json_incref(parameters) : json_object();
        if (!ret->parameters)
                return lib_fail_errno(ENOMEM, "cannot read a reply");
        ret->continues = json_is_true(continues);
        if (error) {
                ret->error_name = json_string_value(error);
                ret->error_message = find_message(ret->parameters, ret->error_name);
        }
        return 0;
}

void reply_deinit(struct livesnap_reply *reply) {
        json_decref(reply->parameters);
        varlink_message_deinit(&reply->message);
        free(reply->text);
        *reply = (struct livesnap_reply){ 0 };
}

int reply_check(const struct livesnap_reply *reply) {
        return reply->error_name ? lib_fail_named(reply->error_name, reply->error_message) : 0;
}

bool livesnap_reply_continues(const struct livesnap_reply *reply) {
        return reply->continues;
}

const char *livesnap_reply_get_parameters(const struct livesnap_reply *reply) {
        /* A reply is not shared between threads: a text made late is no visible change. */
        struct livesnap_reply *cache = (struct livesnap_reply *) reply;

        if (!reply->text && reply->parameters)
                cache->text = json_dumps(reply->parameters, JSON_COMPACT);
        return reply->text ? reply->text : "{}";
}

const char *livesnap_reply_get_error_name(const struct livesnap_reply *reply) {
        return reply->error_name;
}

const char *livesnap_reply_get_message(const struct livesnap_reply *reply) {
        return reply->error_name ? reply->error_message : "";
}

size_t livesnap_reply_get_n_fds(const struct livesnap_reply *reply) {
        return reply->message.n_fds;
}

int livesnap_reply_take_fd(struct livesnap_reply *reply, size_t index) {
        return index < VARLINK_FDS_MAX ? varlink_message_take_fd(&reply->message, (json_int_t) index) : -1;
}

void livesnap_reply_free(struct livesnap_reply *reply) {
        if (!reply)
                return;
        reply_deinit(reply);
        free(reply);
}
