/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const error_names[ERROR_KIND_MAX] = {
        [ERROR_NONE] = "",
        [ERROR_BAD_REQUEST] = "io.livesnap.BadRequest",
        [ERROR_PERMISSION_DENIED] = "io.livesnap.PermissionDenied",
        [ERROR_LIMIT_EXCEEDED] = "io.livesnap.LimitExceeded",
        [ERROR_INVALID_NAME] = "io.livesnap.InvalidName",
        [ERROR_NO_SUCH_DOMAIN] = "io.livesnap.NoSuchDomain",
        [ERROR_NO_SUCH_REGION] = "io.livesnap.NoSuchRegion",
        [ERROR_NO_SUCH_SNAPSHOT] = "io.livesnap.NoSuchSnapshot",
        [ERROR_NO_SUCH_JOB] = "io.livesnap.NoSuchJob",
        [ERROR_SNAPSHOT_EXISTS] = "io.livesnap.SnapshotExists",
        [ERROR_BUSY] = "io.livesnap.Busy",
        [ERROR_BAD_MAPPING] = "io.livesnap.BadMapping",
        [ERROR_KERNEL_UNSUPPORTED] = "io.livesnap.KernelUnsupported",
        [ERROR_ARM_FAILED] = "io.livesnap.ArmFailed",
        [ERROR_HOLD_TOO_LONG] = "io.livesnap.HoldTooLong",
        [ERROR_NOT_CONVERGING] = "io.livesnap.NotConverging",
        [ERROR_CONTENT_LOST] = "io.livesnap.ContentLost",
        [ERROR_UNTRACKED_WRITER] = "io.livesnap.UntrackedWriter",
        [ERROR_POOL_SPENT] = "io.livesnap.PoolSpent",
        [ERROR_STORE_FAILED] = "io.livesnap.StoreFailed",
        [ERROR_SNAPSHOT_CORRUPT] = "io.livesnap.SnapshotCorrupt",
        [ERROR_CANCELLED] = "io.livesnap.Cancelled",
        [ERROR_INTERNAL] = "io.livesnap.Internal",
};

int error_set(struct error *error, enum error_kind kind, const char *format, ...) {
        va_list arguments;

        if (!error || error->kind != ERROR_NONE)
                return -1;
        error->kind = kind;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof(error->message), format, arguments);
        va_end(arguments);
        return -1;
}

const char *error_name(enum error_kind kind) {
        return error_names[kind];
}

enum error_kind error_kind_from_name(const char *name) {
        for (int kind = ERROR_NONE + 1; kind < ERROR_KIND_MAX; kind++)
                if (!strcmp(error_names[kind], name))
                        return (enum error_kind) kind;
        return ERROR_NONE;
}
