/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/quota.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/queue.h>

const struct quota_limits quota_limits_default = {
        .all = {
                [QUOTA_SESSIONS] = 1024,
                [QUOTA_CALLS] = 512,
                [QUOTA_BYTES] = (size_t) 256 << 20,
                [QUOTA_FDS] = 8192,
        },
        .user = {
                [QUOTA_SESSIONS] = 256,
                [QUOTA_CALLS] = 64,
                [QUOTA_BYTES] = (size_t) 64 << 20,
                [QUOTA_FDS] = 1024,
        },
};

struct quota_user {
        LIST_ENTRY(quota_user) link;
        struct quota *quota;
        uid_t uid;
        unsigned n_refs;
        size_t used[QUOTA_RESOURCE_MAX];
};

struct quota {
        struct quota_limits limits;
        LIST_HEAD(, quota_user) users;
        size_t used[QUOTA_RESOURCE_MAX]; /* by all but root */
        bool freed;
};

int quota_new(const struct quota_limits *limits, struct quota **ret) {
        struct quota *quota = calloc(1, sizeof(*quota));

        if (!quota)
                return -ENOMEM;
        quota->limits = *limits;
        LIST_INIT(&quota->users);
        *ret = quota;
        return 0;
}

void quota_free(struct quota *quota) {
        if (!quota)
                return;
        quota->freed = true;
        if (LIST_EMPTY(&quota->users))
                free(quota);
}

/* The list is as long as there are users with a connection, which is short: no need for a better search. */
int quota_get_user(struct quota *quota, uid_t uid, struct quota_user **ret) {
        struct quota_user *user;

        LIST_FOREACH (user, &quota->users, link) {
                if (user->uid == uid) {
                        *ret = quota_user_ref(user);
                        return 0;
                }
        }
        user = calloc(1, sizeof(*user));
        if (!user)
                return -ENOMEM;
        user->quota = quota;
        user->uid = uid;
        user->n_refs = 1;
        LIST_INSERT_HEAD(&quota->users, user, link);
        *ret = user;
        return 0;
}

struct quota_user *quota_user_ref(struct quota_user *user) {
        user->n_refs++;
        return user;
}

void quota_user_unref(struct quota_user *user) {
        struct quota *quota;

        if (!user || --user->n_refs > 0)
                return;
        for (int i = 0; i < QUOTA_RESOURCE_MAX; i++)
                assert(user->used[i] == 0);
        quota = user->quota;
        LIST_REMOVE(user, link);
        free(user);
        if (quota->freed && LIST_EMPTY(&quota->users))
                free(quota);
}

int quota_charge(struct quota_user *user, enum quota_resource resource, size_t n) {
        struct quota *quota = user->quota;
        const struct quota_limits *limits = &quota->limits;

        if (user->uid == 0) {
                if (n > limits->all[resource] - user->used[resource])
                        return -EDQUOT;
        } else {
                if (n > limits->user[resource] - user->used[resource] ||
                    n > limits->all[resource] - quota->used[resource])
                        return -EDQUOT;
                quota->used[resource] += n;
        }
        user->used[resource] += n;
        return 0;
}

void quota_discharge(struct quota_user *user, enum quota_resource resource, size_t n) {
        assert(n <= user->used[resource]);
        user->used[resource] -= n;
        if (user->uid != 0)
                user->quota->used[resource] -= n;
}

int quota_recharge(struct quota_user *user, enum quota_resource resource, size_t *held, size_t n) {
        if (n > *held) {
                int r = quota_charge(user, resource, n - *held);

                if (r < 0)
                        return r;
        } else {
                quota_discharge(user, resource, *held - n);
        }
        *held = n;
        return 0;
}
