/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_ERROR_H
#define LIVESNAP_COMMON_ERROR_H

/*
 * What goes wrong, in the form in which a user sees it.
 *
 * Lower layers return 0 or -errno and say no more. A layer that knows what the operation was for fills a `struct
 * error`: the kind is the name of the Varlink error (include/io.livesnap.varlink lists them), the message a sentence
 * that says what failed, on what, and what to do. Nobody below main() prints it.
 */

enum error_kind {
        ERROR_NONE,
        ERROR_BAD_REQUEST,
        ERROR_PERMISSION_DENIED,
        ERROR_LIMIT_EXCEEDED,
        ERROR_INVALID_NAME,
        ERROR_NO_SUCH_DOMAIN,
        ERROR_NO_SUCH_REGION,
        ERROR_NO_SUCH_SNAPSHOT,
        ERROR_NO_SUCH_JOB,
        ERROR_SNAPSHOT_EXISTS,
        ERROR_BUSY,
        ERROR_BAD_MAPPING,
        ERROR_KERNEL_UNSUPPORTED,
        ERROR_ARM_FAILED,
        ERROR_HOLD_TOO_LONG,
        ERROR_NOT_CONVERGING,
        ERROR_CONTENT_LOST,
        ERROR_UNTRACKED_WRITER,
        ERROR_POOL_SPENT,
        ERROR_STORE_FAILED,
        ERROR_SNAPSHOT_CORRUPT,
        ERROR_CANCELLED,
        ERROR_INTERNAL,
        ERROR_KIND_MAX,
};

struct error {
        enum error_kind kind;
        char message[500];
};

/**
 * error_set() - say what went wrong
 * @error: where to say it; NULL is allowed, and the first thing said is kept
 * @kind: the Varlink error it becomes
 * @format: the sentence
 *
 * Return: -1, so that a caller can write `return error_set(...)`.
 */
int error_set(struct error *error, enum error_kind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** error_name() - the full Varlink name of a kind, such as "io.livesnap.NoSuchDomain" (static storage) */
const char *error_name(enum error_kind kind);

/** error_kind_from_name() - the reverse; ERROR_NONE for a name that is not one of ours */
enum error_kind error_kind_from_name(const char *name);

#endif
