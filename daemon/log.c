/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define LOG_LINE_BYTES 1024

/* systemd names the stream that it connected us to, so that one knows when stderr has been redirected since. */
static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long device, inode;
        struct stat status;

        return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &status) == 0 &&
               status.st_dev == device && status.st_ino == inode;
}

/* In one write, so that the lines of several threads do not mix. */
__attribute__((format(printf, 2, 0))) static void log_line(const char *priority, const char *format,
                                                           va_list arguments) {
        char text[LOG_LINE_BYTES];

        vsnprintf(text, sizeof(text), format, arguments);
        for (char *c = text; *c; c++)
                if (*c == '\n')
                        *c = ' ';
        dprintf(STDERR_FILENO, "%s%s\n", stderr_is_journal() ? priority : "livesnapd: ", text);
}

void log_error(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        log_line(SD_ERR, format, arguments);
        va_end(arguments);
}

void log_warning(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        log_line(SD_WARNING, format, arguments);
        va_end(arguments);
}

void log_info(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        log_line(SD_INFO, format, arguments);
        va_end(arguments);
}
