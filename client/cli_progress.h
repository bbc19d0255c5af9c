/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_PROGRESS_H
#define LIVESNAP_CLIENT_CLI_PROGRESS_H

/* A progress bar on a terminal; nothing where stderr is none. */

#include <stdbool.h>
#include <stdint.h>

struct cli_progress {
        bool on_terminal;
        bool drawn;
        uint64_t started_ns;
        uint64_t drawn_ns;
};

/** cli_progress_init() - begin; the rate that is shown counts from here */
void cli_progress_init(struct cli_progress *progress);

/** cli_progress_show() - draw, but not more often than the eye can follow; @what: what is being done */
void cli_progress_show(struct cli_progress *progress, const char *what, uint64_t bytes_done, uint64_t bytes_total);

/** cli_progress_clear() - leave the line empty for what comes next */
void cli_progress_clear(struct cli_progress *progress);

#endif
