/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <stdlib.h>

#include "client/lib_connection.h"
#include "client/lib_error.h"
#include "client/lib_reply.h"

/* Calls by name: the one form that queues, and the one that waits. */

static int parse_parameters(const char *method, const char *text, json_t **ret) {
        json_error_t error;
        json_t *json;

        if (!text) {
                *ret = NULL;
                return 0;
        }
        json = json_loads(text, JSON_REJECT_DUPLICATES, &error);
        if (json_is_object(json)) {
                *ret = json;
                return 0;
        }
        lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "%s: the parameters are not a JSON object%s%s", method, json ? "" : ": ",
                 json ? "" : error.text);
        json_decref(json);
        return -1;
}

int livesnap_start_call(struct livesnap *livesnap, const char *method, const char *parameters, const int *fds,
                        size_t n_fds, unsigned flags, const struct livesnap_callback *callback) {
        json_t *json;
        int r;

        if (flags & ~LIVESNAP_CALL_MORE)
                r = lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "%s: flags that this version does not know", method);
        else
                r = parse_parameters(method, parameters, &json);
        if (r < 0) {
                if (callback->free)
                        callback->free(callback->data);
                return -1;
        }
        r = connection_start(livesnap, method, json, fds, n_fds, flags, callback);
        json_decref(json);
        return r;
}

/* A blocking call; on the stack of the caller, who waits until @done. */
struct sync_call {
        const struct livesnap_callback *progress;
        struct livesnap_reply *reply; /* owned; the last one, which may be an error */
        bool done;
};

static void sync_on_reply(void *data, struct livesnap_reply *reply) {
        struct sync_call *sync = data;

        if (reply->continues) {
                if (sync->progress)
                        sync->progress->function(sync->progress->data, reply);
                return;
        }
        sync->done = true;
        sync->reply = malloc(sizeof(*sync->reply));
        if (!sync->reply) {
                lib_fail_errno(ENOMEM, "cannot keep a reply");
                return;
        }
        *sync->reply = *reply;
        *reply = (struct livesnap_reply){ 0 };
}

int connection_call(struct livesnap *livesnap, const char *method, json_t *parameters, const int *fds, size_t n_fds,
                    const struct livesnap_callback *progress, struct livesnap_reply **ret) {
        struct sync_call sync = { .progress = progress };
        struct livesnap_callback callback = { .function = sync_on_reply, .data = &sync };
        int r;

        r = connection_start(livesnap, method, parameters, fds, n_fds, progress ? LIVESNAP_CALL_MORE : 0, &callback);
        if (r == 0)
                r = connection_wait(livesnap, &sync.done);
        if (progress && progress->free)
                progress->free(progress->data);
        if (r < 0 || !sync.reply)
                return -1;
        /* Judged only now: the error would not outlive whatever went wrong on the connection after it. */
        if (reply_check(sync.reply) < 0) {
                livesnap_reply_free(sync.reply);
                return -1;
        }
        if (ret)
                *ret = sync.reply;
        else
                livesnap_reply_free(sync.reply);
        return 0;
}

int livesnap_call(struct livesnap *livesnap, const char *method, const char *parameters, const int *fds, size_t n_fds,
                  const struct livesnap_callback *progress, struct livesnap_reply **ret) {
        json_t *json;
        int r;

        if (parse_parameters(method, parameters, &json) < 0) {
                if (progress && progress->free)
                        progress->free(progress->data);
                return -1;
        }
        r = connection_call(livesnap, method, json, fds, n_fds, progress, ret);
        json_decref(json);
        return r;
}
