/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_FORMAT_H
#define LIVESNAP_CLIENT_CLI_FORMAT_H

/* Figures as people read them, and tables of them. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** struct cli_text - a short text by value, so that several fit into one printf() */
struct cli_text {
        char text[64];
};

/** cli_format_bytes() - "1.0 GiB" */
struct cli_text cli_format_bytes(double bytes);

/** cli_format_count() - "2,310" */
struct cli_text cli_format_count(uint64_t count);

/** cli_format_us() - "44 µs", "12.3 ms", "1.2 s", "3 min 5 s" */
struct cli_text cli_format_us(double us);

/** cli_format_time() - local time of seconds since the epoch, to the millisecond */
struct cli_text cli_format_time(double seconds);

/** cli_parse_bytes() - "100M", "1.5GiB", "4096", "100M/s": powers of 1024. Return: 0, or -1 where it is none or 0. */
int cli_parse_bytes(const char *text, uint64_t *ret);

/** cli_parse_count() - a whole number from 1 on. Return: 0, or -1 where it is none. */
int cli_parse_count(const char *text, uint64_t *ret);

/** cli_parse_duration() - "5s", "10m", "1h", "2d", in seconds, at most 366 days. Return: 0, or -1 where it is none or
 * 0. */
int cli_parse_duration(const char *text, uint64_t *ret_s);

#define CLI_TABLE_COLUMNS_MAX 8

/** struct cli_table - rows of text whose columns are aligned when it is printed; owns its cells */
struct cli_table {
        unsigned n_columns;
        unsigned right; /* bit for each column that is aligned to the right */
        size_t n_cells;
        char **cells;
};

/** cli_table_init() - begin a table; @headings: NULL-terminated */
void cli_table_init(struct cli_table *table, unsigned right, const char *const *headings);

/** cli_table_add() - the next cell; row by row; NULL is shown as "-" */
void cli_table_add(struct cli_table *table, const char *cell);

/** cli_table_print() - print to stdout and release */
void cli_table_print(struct cli_table *table);

#endif
