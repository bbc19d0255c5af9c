/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_LOG_H
#define LIVESNAP_DAEMON_LOG_H

/*
 * What the daemon tells its operator: a line on stderr, with the priority that sd-daemon(3) defines in front of it
 * where stderr is the journal's. Never to be used on the way of a fault: stderr may block. Thread-safe.
 */

enum log_level {
        LOG_LEVEL_ERROR,
        LOG_LEVEL_WARNING,
        LOG_LEVEL_INFO,
};

/** log_parse_level() - "error", "warning" or "info". Return: 0 or -EINVAL. */
int log_parse_level(const char *text, enum log_level *ret);

/** log_set_level() - say no more than this; LOG_LEVEL_INFO at the start */
void log_set_level(enum log_level level);

/** log_error() - the daemon cannot go on */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** log_warning() - it goes on, but somebody should look at it */
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** log_info() - what it does */
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
