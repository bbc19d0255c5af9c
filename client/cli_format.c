/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_format.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <wchar.h>

struct cli_text cli_format_bytes(double bytes) {
        static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
        struct cli_text ret;
        size_t unit = 0;

        while (bytes >= 1023.95 && unit < 5) {
                bytes /= 1024;
                unit++;
        }
        snprintf(ret.text, sizeof(ret.text), bytes >= 99.95 || unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
        return ret;
}

struct cli_text cli_format_count(uint64_t count) {
        struct cli_text ret;
        char digits[24];
        int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long) count);
        char *to = ret.text;

        for (int i = 0; i < n; i++) {
                if (i && (n - i) % 3 == 0)
                        *to++ = ',';
                *to++ = digits[i];
        }
        *to = '\0';
        return ret;
}

struct cli_text cli_format_us(double us) {
        struct cli_text ret;

        if (us <= 0)
                snprintf(ret.text, sizeof(ret.text), "0");
        else if (us < 999.5)
                snprintf(ret.text, sizeof(ret.text), us < 9.95 ? "%.1f µs" : "%.0f µs", us);
        else if (us < 999.5e3)
                snprintf(ret.text, sizeof(ret.text), us < 99.95e3 ? "%.1f ms" : "%.0f ms", us / 1e3);
        else if (us < 119.5e6)
                snprintf(ret.text, sizeof(ret.text), "%.1f s", us / 1e6);
        else
                snprintf(ret.text, sizeof(ret.text), "%.0f min %.0f s", floor(us / 60e6), fmod(us / 1e6, 60));
        return ret;
}

struct cli_text cli_format_time(double seconds) {
        struct cli_text ret = { "?" };
        time_t whole = (time_t) floor(seconds);
        struct tm tm;
        size_t n;

        if (!localtime_r(&whole, &tm))
                return ret;
        n = strftime(ret.text, sizeof(ret.text), "%Y-%m-%d %H:%M:%S", &tm);
        snprintf(ret.text + n, sizeof(ret.text) - n, ".%03d", (int) ((seconds - floor(seconds)) * 1000));
        return ret;
}

int cli_parse_bytes(const char *text, uint64_t *ret) {
        static const char units[] = "KMGT";
        char *end;
        double value = strtod(text, &end);
        const char *unit;

        if (end == text || !isfinite(value))
                return -1;
        if (*end && (unit = strchr("KMGTkmgt", *end))) {
                for (size_t i = 0; i <= (size_t) (unit - "KMGTkmgt") % (sizeof(units) - 1); i++)
                        value *= 1024;
                end++;
                if (!strncasecmp(end, "ib", 2))
                        end += 2;
        }
        if (*end == 'B' || *end == 'b')
                end++;
        if (!strcmp(end, "/s"))
                end += 2;
        if (*end || !(value >= 1) || value >= 9e18)
                return -1;
        *ret = (uint64_t) value;
        return 0;
}

int cli_parse_count(const char *text, uint64_t *ret) {
        char *end;
        unsigned long long value;

        errno = 0;
        value = strtoull(text, &end, 10);
        if (*text < '0' || *text > '9' || *end || errno || value == 0 || value > INT64_MAX)
                return -1;
        *ret = value;
        return 0;
}

int cli_parse_duration(const char *text, uint64_t *ret_s) {
        static const struct {
                char unit;
                uint64_t seconds;
        } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
        size_t digits = strspn(text, "0123456789");
        uint64_t value;

        if (digits == 0 || digits > 9 || !text[digits] || text[digits + 1])
                return -1;
        value = strtoull(text, NULL, 10);
        for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
                if (text[digits] == units[i].unit && value > 0 && value <= 366 * UINT64_C(86400) / units[i].seconds) {
                        *ret_s = value * units[i].seconds;
                        return 0;
                }
        return -1;
}

void cli_table_add(struct cli_table *table, const char *cell) {
        char **cells = reallocarray(table->cells, table->n_cells + 1, sizeof(*cells));

        /* Without memory a table is shorter; that its reader is short of it too is no reason to fail. */
        if (!cells)
                return;
        table->cells = cells;
        table->cells[table->n_cells] = strdup(cell ? cell : "-");
        if (table->cells[table->n_cells])
                table->n_cells++;
}

void cli_table_init(struct cli_table *table, unsigned right, const char *const *headings) {
        *table = (struct cli_table){ .right = right };
        for (; headings[table->n_columns]; table->n_columns++)
                cli_table_add(table, headings[table->n_columns]);
}

/* Columns on the terminal, not bytes: "µs" is three bytes and two columns. */
static size_t width_of(const char *text) {
        size_t n = mbstowcs(NULL, text, 0);

        return n == (size_t) -1 ? strlen(text) : n;
}

void cli_table_print(struct cli_table *table) {
        size_t widths[CLI_TABLE_COLUMNS_MAX] = { 0 };

        for (size_t i = 0; i < table->n_cells; i++) {
                size_t width = width_of(table->cells[i]);

                if (widths[i % table->n_columns] < width)
                        widths[i % table->n_columns] = width;
        }
        for (size_t i = 0; i < table->n_cells; i++) {
                unsigned column = (unsigned) (i % table->n_columns);
                bool last = column == table->n_columns - 1;
                int fill = (int) (widths[column] - width_of(table->cells[i]));

                if (table->right & (1u << column))
                        printf("%*s%s", fill, "", table->cells[i]);
                else
                        printf("%s%*s", table->cells[i], last ? 0 : fill, "");
                fputs(last ? "\n" : "  ", stdout);
                free(table->cells[i]);
        }
        free(table->cells);
        *table = (struct cli_table){ 0 };
}
