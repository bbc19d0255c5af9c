/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/lib_error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "livesnap/livesnap.h"

static _Thread_local struct {
        int errnum;
        char name[128];
        char message[1024];
} last_error;

static const int kind_errnos[ERROR_KIND_MAX] = {
        [ERROR_NONE] = EIO,
        [ERROR_BAD_REQUEST] = EINVAL,
        [ERROR_PERMISSION_DENIED] = EACCES,
        [ERROR_LIMIT_EXCEEDED] = EDQUOT,
        [ERROR_INVALID_NAME] = EINVAL,
        [ERROR_NO_SUCH_DOMAIN] = ENOENT,
        [ERROR_NO_SUCH_REGION] = ENOENT,
        [ERROR_NO_SUCH_SNAPSHOT] = ENOENT,
        [ERROR_NO_SUCH_JOB] = ENOENT,
        [ERROR_SNAPSHOT_EXISTS] = EEXIST,
        [ERROR_BUSY] = EBUSY,
        [ERROR_BAD_MAPPING] = EFAULT,
        [ERROR_KERNEL_UNSUPPORTED] = EOPNOTSUPP,
        [ERROR_ARM_FAILED] = EAGAIN,
        [ERROR_HOLD_TOO_LONG] = ETIMEDOUT,
        [ERROR_NOT_CONVERGING] = ETIMEDOUT,
        [ERROR_CONTENT_LOST] = ENODATA,
        [ERROR_UNTRACKED_WRITER] = ETXTBSY,
        [ERROR_POOL_SPENT] = ENOBUFS,
        [ERROR_STORE_FAILED] = EIO,
        [ERROR_SNAPSHOT_CORRUPT] = EBADMSG,
        [ERROR_CANCELLED] = ECANCELED,
        [ERROR_INTERNAL] = EIO,
};

static int errno_from_name(const char *name) {
        static const struct {
                const char *name;
                int errnum;
        } own[] = {
                { LIVESNAP_ERROR_UNREACHABLE, ECONNREFUSED },
                { LIVESNAP_ERROR_DISCONNECTED, ECONNRESET },
                { LIVESNAP_ERROR_BAD_REPLY, EPROTO },
                { LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL },
                { "org.varlink.service.MethodNotFound", ENOSYS },
                { "org.varlink.service.InvalidParameter", EINVAL },
        };

        for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
                if (!strcmp(own[i].name, name))
                        return own[i].errnum;
        return kind_errnos[error_kind_from_name(name)];
}

/* What another process says goes to a terminal sooner or later: no control characters. */
static void copy_printable(char *to, size_t size, const char *from) {
        snprintf(to, size, "%s", from);
        for (; *to; to++)
                if ((unsigned char) *to < ' ' || *to == 0x7f)
                        *to = ' ';
}

int lib_fail(const char *name, const char *format, ...) {
        va_list arguments;

        snprintf(last_error.name, sizeof(last_error.name), "%s", name);
        va_start(arguments, format);
        vsnprintf(last_error.message, sizeof(last_error.message), format, arguments);
        va_end(arguments);
        last_error.errnum = errno_from_name(name);
        return -1;
}

int lib_fail_errno(int errnum, const char *format, ...) {
        va_list arguments;
        size_t length;

        snprintf(last_error.name, sizeof(last_error.name), "%s", LIVESNAP_ERROR_SYSTEM);
        va_start(arguments, format);
        vsnprintf(last_error.message, sizeof(last_error.message), format, arguments);
        va_end(arguments);
        length = strlen(last_error.message);
        snprintf(last_error.message + length, sizeof(last_error.message) - length, ": %s", strerror(errnum));
        last_error.errnum = errnum;
        return -1;
}

int lib_fail_named(const char *name, const char *message) {
        copy_printable(last_error.name, sizeof(last_error.name), name);
        copy_printable(last_error.message, sizeof(last_error.message), message);
        last_error.errnum = errno_from_name(last_error.name);
        return -1;
}

int lib_fail_error(const struct error *error) {
        return lib_fail_named(error_name(error->kind), error->message);
}

const char *livesnap_get_error(void) {
        return last_error.message;
}

const char *livesnap_get_error_name(void) {
        return last_error.name;
}

int livesnap_get_errno(void) {
        return last_error.errnum;
}

const char *livesnap_get_version(void) {
        return LIVESNAP_VERSION;
}
