/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "client/cli_format.h"

#define REDRAW_NS UINT64_C(100000000)
#define TEXT_COLUMNS 64 /* what stands beside the bar, at most */
#define BAR_COLUMNS_MAX 40

static uint64_t now_ns(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

void cli_progress_init(struct cli_progress *progress) {
        *progress = (struct cli_progress){ .on_terminal = isatty(STDERR_FILENO), .started_ns = now_ns() };
}

static int bar_columns(void) {
        struct winsize size;
        int columns = 80;

        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
                columns = size.ws_col;
        columns -= TEXT_COLUMNS;
        return columns < 0 ? 0 : columns > BAR_COLUMNS_MAX ? BAR_COLUMNS_MAX : columns;
}

void cli_progress_show(struct cli_progress *progress, const char *what, uint64_t bytes_done, uint64_t bytes_total) {
        uint64_t now = now_ns();
        double part = bytes_total ? (double) bytes_done / (double) bytes_total : 0;
        double seconds = (double) (now - progress->started_ns) / 1e9;
        int columns, filled;

        if (!progress->on_terminal || (progress->drawn && now - progress->drawn_ns < REDRAW_NS))
                return;
        progress->drawn = true;
        progress->drawn_ns = now;
        part = part > 1 ? 1 : part;
        columns = bar_columns();
        filled = (int) (part * columns);
        fprintf(stderr, "\r\033[K%-10.10s ", what);
        if (columns > 0) {
                fputc('[', stderr);
                for (int i = 0; i < columns; i++)
                        fputc(i < filled ? '#' : '.', stderr);
                fputs("] ", stderr);
        }
        fprintf(stderr, "%3.0f%%  %s of %s  %s/s", part * 100, cli_format_bytes((double) bytes_done).text,
                cli_format_bytes((double) bytes_total).text,
                cli_format_bytes(seconds > 0 ? (double) bytes_done / seconds : 0).text);
        fflush(stderr);
}

void cli_progress_clear(struct cli_progress *progress) {
        if (progress->drawn)
                fputs("\r\033[K", stderr);
        progress->drawn = false;
}
