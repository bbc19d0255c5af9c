/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/call.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"

struct call {
        struct varlink_message message; /* owned, with those of its descriptors that were not taken */
        const char *method;             /* borrowed from the message, as are the parameters */
        json_t *parameters;
        bool more;
        bool oneway;
        bool upgrade;

        struct quota_user *user; /* a reference, charged with one call */
        bool charged;
        uid_t uid;
        pid_t pid;

        const struct call_channel *channel;
        void *session; /* NULL once the caller is gone */
        void (*gone)(struct call *call, void *data);
        void *gone_data;
        json_t *progress; /* owned; the newest that could not be sent */
};

static void call_free(struct call *call) {
        if (!call)
                return;
        if (call->charged)
                quota_discharge(call->user, QUOTA_CALLS, 1);
        quota_user_unref(call->user);
        json_decref(call->progress);
        varlink_message_deinit(&call->message);
        free(call);
}

/* The members that every call has. Unlike parameters these are not extended by anybody, so nothing else is let in. */
static int read_envelope(struct call *call) {
        json_t *parameters = NULL;
        const struct parameter members[] = {
                { "method", .required = true, .string = &call->method },
                { "parameters", .object = &parameters },
                { "more", .boolean = &call->more },
                { "oneway", .boolean = &call->oneway },
                { "upgrade", .boolean = &call->upgrade },
                {},
        };

        if (parameters_read(call->message.json, members))
                return -EBADMSG;
        if (call->oneway && (call->more || call->upgrade))
                return -EBADMSG;
        if (!parameters) {
                parameters = json_object();
                if (!parameters || json_object_set_new(call->message.json, "parameters", parameters) < 0)
                        return -ENOMEM;
        }
        call->parameters = parameters;
        return 0;
}

int call_new(struct varlink_message *message, struct quota_user *user, uid_t uid, pid_t pid,
             const struct call_channel *channel, void *session, struct call **ret) {
        struct call *call = calloc(1, sizeof(*call));
        int r;

        if (!call)
                return -ENOMEM;
        *call = (struct call){ .message = *message,
                               .user = quota_user_ref(user),
                               .uid = uid,
                               .pid = pid,
                               .channel = channel,
                               .session = session };
        *message = (struct varlink_message){};
        r = read_envelope(call);
        if (r < 0) {
                call_free(call);
                return r;
        }
        *ret = call;
        return 0;
}

int call_charge(struct call *call) {
        int r = quota_charge(call->user, QUOTA_CALLS, 1);

        call->charged = r == 0;
        return r;
}

const char *call_method(const struct call *call) {
        return call->method;
}

json_t *call_parameters(const struct call *call) {
        return call->parameters;
}

bool call_wants_more(const struct call *call) {
        return call->more;
}

bool call_oneway(const struct call *call) {
        return call->oneway;
}

bool call_upgrade(const struct call *call) {
        return call->upgrade;
}

uid_t call_peer_uid(const struct call *call) {
        return call->uid;
}

pid_t call_peer_pid(const struct call *call) {
        return call->pid;
}

unsigned call_n_fds(const struct call *call) {
        return call->message.n_fds;
}

int call_take_fd(struct call *call, uint64_t index) {
        return index < VARLINK_FDS_MAX ? varlink_message_take_fd(&call->message, (json_int_t) index) : -1;
}

int call_read(struct call *call, const struct parameter *parameters) {
        const char *bad = parameters_read(call->parameters, parameters);

        if (!bad)
                return 0;
        call_fail_parameter(call, "%s", bad);
        return -1;
}

void call_on_gone(struct call *call, void (*gone)(struct call *call, void *data), void *data) {
        call->gone = gone;
        call->gone_data = data;
}

static bool wants_answer(const struct call *call) {
        return call->session && !call->oneway;
}

/* Reference to @message is taken over, @fds are consumed. */
static int send_message(struct call *call, json_t *message, const int *fds, unsigned n_fds) {
        int r = call->channel->send(call->session, message, fds, n_fds);

        json_decref(message);
        return r;
}

/* {"message" or "parameter": text}. A path in it may be no UTF-8, which JSON has to be. */
static json_t *make_text(const char *name, const char *text) {
        CLEANUP_FREE char *ascii = NULL;
        json_t *object = json_pack("{s:s}", name, text);

        if (object)
                return object;
        ascii = strdup(text);
        if (!ascii)
                return NULL;
        for (char *c = ascii; *c; c++)
                if (*c & 0x80)
                        *c = '?';
        return json_pack("{s:s}", name, ascii);
}

static json_t *make_error(const char *name, json_t *parameters) {
        return json_pack("{s:s, s:o}", "error", name, "parameters", parameters ? parameters : json_object());
}

static void answered(struct call *call) {
        if (call->session)
                call->channel->answered(call->session);
        call_free(call);
}

void call_reply(struct call *call, json_t *parameters, const int *fds, unsigned n_fds) {
        if (wants_answer(call)) {
                int r = send_message(call, json_pack("{s:o}", "parameters", parameters ? parameters : json_object()),
                                     fds, n_fds);

                if (r == -EMSGSIZE)
                        send_message(call,
                                     make_error(error_name(ERROR_LIMIT_EXCEEDED),
                                                make_text("message", "the answer is too large for one message; ask for "
                                                                     "less at once, for example for one domain")),
                                     NULL, 0);
        } else {
                json_decref(parameters);
                for (unsigned i = 0; i < n_fds; i++)
                        close(fds[i]);
        }
        answered(call);
}

void call_send_progress(struct call *call) {
        if (call->progress)
                send_message(call, json_pack("{s:o, s:b}", "parameters", STEAL_PTR(call->progress), "continues", 1),
                             NULL, 0);
}

void call_reply_continues(struct call *call, json_t *parameters) {
        if (!wants_answer(call) || !call->more) {
                json_decref(parameters);
                return;
        }
        json_decref(call->progress);
        call->progress = parameters;
        if (!call->channel->is_behind(call->session))
                call_send_progress(call);
}

void call_fail_with(struct call *call, const char *name, json_t *parameters) {
        if (wants_answer(call))
                send_message(call, make_error(name, parameters), NULL, 0);
        else
                json_decref(parameters);
        answered(call);
}

void call_fail(struct call *call, const struct error *error) {
        if (error->kind == ERROR_NONE)
                call_fail_with(call, error_name(ERROR_INTERNAL),
                               make_text("message", "the daemon failed without saying why"));
        else
                call_fail_with(call, error_name(error->kind), make_text("message", error->message));
}

void call_fail_parameter(struct call *call, const char *format, ...) {
        char name[200];
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(name, sizeof(name), format, arguments);
        va_end(arguments);
        call_fail_with(call, VARLINK_ERROR_INVALID_PARAMETER, make_text("parameter", name));
}

void call_gone(struct call *call) {
        call->session = NULL;
        if (call->gone)
                call->gone(call, call->gone_data);
}
