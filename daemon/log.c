/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define LOG_LINE_BYTES 1024

static const struct {
        const char *name;
        const char *priority;
} levels[] = {
        [LOG_LEVEL_ERROR] = { "error", SD_ERR },
        [LOG_LEVEL_WARNING] = { "warning", SD_WARNING },
        [LOG_LEVEL_INFO] = { "info", SD_INFO },
};

/* Relaxed: nothing else depends on when a thread sees it change. */
static _Atomic int level_wanted = LOG_LEVEL_INFO;

int log_parse_level(const char *text, enum log_level *ret) {
        for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++)
                if (!strcmp(text, levels[i].name)) {
                        *ret = (enum log_level) i;
                        return 0;
                }
        return -EINVAL;
}

void log_set_level(enum log_level level) {
        atomic_store_explicit(&level_wanted, level, memory_order_relaxed);
}

/* systemd names the stream that it connected us to, so that one knows when stderr has been redirected since. */
static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long device, inode;
        struct stat status;

        return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &status) == 0 &&
               status.st_dev == device && status.st_ino == inode;
}

/* In one write, so that the lines of several threads do not mix. */
__attribute__((format(printf, 2, 0))) static void log_line(enum log_level level, const char *format,
                                                           va_list arguments) {
        char text[LOG_LINE_BYTES];

        if ((int) level > atomic_load_explicit(&level_wanted, memory_order_relaxed))
                return;
        vsnprintf(text, sizeof(text), format, arguments);
        for (char *c = text; *c; c++)
                if (*c == '\n')
                        *c = ' ';
        dprintf(STDERR_FILENO, "%s%s\n", stderr_is_journal() ? levels[level].priority : "livesnapd: ", text);
}

void log_error(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        log_line(LOG_LEVEL_ERROR, format, arguments);
        va_end(arguments);
}

void log_warning(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        log_line(LOG_LEVEL_WARNING, format, arguments);
        va_end(arguments);
}

void log_info(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        log_line(LOG_LEVEL_INFO, format, arguments);
        va_end(arguments);
}
