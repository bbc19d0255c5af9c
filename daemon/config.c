/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <ini.h>

#include "common/cleanup.h"

#define CONFIG_SECTION "livesnapd"
#define CONFIG_SEEN_MAX 32u

struct config_reading {
        const char *path;
        FILE *file;
        unsigned line; /* the one that was read last */
        struct options *options;
        struct error *error;
        bool failed;
        struct {
                char name[32];
                unsigned line;
        } seen[CONFIG_SEEN_MAX];
        unsigned n_seen;
};

/* Bytes that are no text would end in a log. */
static const char *config_quote(const char *text, char quoted[64]) {
        snprintf(quoted, 64, "%s", text);
        for (char *c = quoted; *c; c++)
                if (*c < ' ' || *c > '~')
                        *c = '?';
        return quoted;
}

static int config_fail(struct config_reading *reading, const char *what) {
        if (!reading->failed)
                error_set(reading->error, ERROR_BAD_REQUEST, "%s, line %u: %s", reading->path, reading->line, what);
        reading->failed = true;
        return 0;
}

/* The parser does not tell lines, but asks for them one by one, and calls back for each before it asks for the next. */
static char *config_next_line(char *buffer, int bytes, void *data) {
        struct config_reading *reading = data;

        if (reading->failed || !fgets(buffer, bytes, reading->file))
                return NULL;
        reading->line++;
        if (!strchr(buffer, '\n') && !feof(reading->file)) {
                (void) config_fail(reading, "the line is too long");
                return NULL;
        }
        return buffer;
}

/* The line where the key was set before, or 0. */
static unsigned config_note(struct config_reading *reading, const char *name) {
        for (unsigned i = 0; i < reading->n_seen; i++)
                if (!strcmp(reading->seen[i].name, name))
                        return reading->seen[i].line;
        if (reading->n_seen < CONFIG_SEEN_MAX) {
                snprintf(reading->seen[reading->n_seen].name, sizeof(reading->seen->name), "%s", name);
                reading->seen[reading->n_seen++].line = reading->line;
        }
        return 0;
}

static int config_on_key(void *data, const char *section, const char *name, const char *value) {
        struct config_reading *reading = data;
        struct error error = { 0 };
        char quoted[64], message[sizeof(error.message) + 64];
        unsigned before;

        if (strcmp(section, CONFIG_SECTION)) {
                log_warning("%s, line %u: \"%s\" is not in the section [livesnapd]; it is passed over", reading->path,
                            reading->line, config_quote(name, quoted));
                return 1;
        }
        if (!options_has(name)) {
                log_warning("%s, line %u: there is no key \"%s\"; it is passed over, see livesnapd.conf(5)",
                            reading->path, reading->line, config_quote(name, quoted));
                return 1;
        }
        before = config_note(reading, name);
        if (before) {
                snprintf(message, sizeof(message), "%s is set already in line %u", name, before);
                return config_fail(reading, message);
        }
        if (options_set(reading->options, name, value, &error) < 0) {
                snprintf(message, sizeof(message), "%s: %s", name, error.message);
                return config_fail(reading, message);
        }
        return 1;
}

int config_read(const char *path, bool may_be_absent, struct options *options, struct error *error) {
        struct config_reading reading = { .path = path, .options = options, .error = error };
        bool has_read_error;
        int line;

        reading.file = fopen(path, "re");
        if (!reading.file && errno == ENOENT && may_be_absent)
                return 0;
        if (!reading.file)
                return error_set(error, ERROR_BAD_REQUEST, "cannot read %s: %s", path, strerror(errno));
        /* What is set in a line by itself is not part of the line before, however it is indented. */
        ini_allow_multiline = false;
        errno = 0;
        line = ini_parse_stream(config_next_line, &reading, config_on_key, &reading);
        has_read_error = ferror(reading.file);
        fclose(reading.file);
        if (reading.failed)
                return -1;
        if (has_read_error)
                return error_set(error, ERROR_BAD_REQUEST, "cannot read %s: %s", path, strerror(errno));
        if (line < 0)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        if (line > 0)
                return error_set(error, ERROR_BAD_REQUEST,
                                 "%s, line %d: this is neither \"key = value\" nor \"[livesnapd]\" nor a comment that "
                                 "begins with #",
                                 path, line);
        return 0;
}
