/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_QUOTA_H
#define LIVESNAP_DAEMON_QUOTA_H

/*
 * What the users of the socket may hold of the daemon, each and together.
 *
 * Root has an account of its own, as large as all others together: it is not limited for the daemon's safety but for
 * its own mistakes, and no crowd of users can keep it out. Main thread only.
 */

#include <stddef.h>
#include <sys/types.h>

enum quota_resource {
        QUOTA_SESSIONS, /* connections */
        QUOTA_CALLS,    /* method calls in progress, also those whose caller is gone */
        QUOTA_BYTES,    /* of messages that are buffered */
        QUOTA_FDS,      /* descriptors that are buffered */
        QUOTA_RESOURCE_MAX,
};

struct quota_limits {
        size_t all[QUOTA_RESOURCE_MAX];
        size_t user[QUOTA_RESOURCE_MAX];
};

/** What a daemon uses. */
extern const struct quota_limits quota_limits_default;

struct quota;
struct quota_user;

/** quota_new() - start with nobody holding anything; @limits is copied. Return: 0 or -ENOMEM. */
int quota_new(const struct quota_limits *limits, struct quota **ret);

/** quota_free() - goes away when the last user has been released; NULL is allowed */
void quota_free(struct quota *quota);

/** quota_get_user() - the account of a user; a new reference. Return: 0 or -ENOMEM. */
int quota_get_user(struct quota *quota, uid_t uid, struct quota_user **ret);

/** quota_user_ref() - one more reference; returns @user */
struct quota_user *quota_user_ref(struct quota_user *user);

/** quota_user_unref() - give a reference back; what was charged must have been given back by then; NULL is allowed */
void quota_user_unref(struct quota_user *user);

/** quota_charge() - take @n of a resource. Return: 0, or -EDQUOT where that is over a limit, and nothing is taken. */
int quota_charge(struct quota_user *user, enum quota_resource resource, size_t n);

/** quota_discharge() - give @n back */
void quota_discharge(struct quota_user *user, enum quota_resource resource, size_t n);

/** quota_recharge() - change what one holder has from *@held to @n. Return as quota_charge(); *@held is updated. */
int quota_recharge(struct quota_user *user, enum quota_resource resource, size_t *held, size_t n);

#endif
