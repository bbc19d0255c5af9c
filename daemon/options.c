/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/socket.h"
#include "daemon/config.h"

#define STORE_DEFAULT "/var/lib/livesnap"
#define POOL_BYTES_DEFAULT (256ULL << 20)
#define POOL_BYTES_SMALLEST (8ULL << 20)
#define POOL_BYTES_LARGEST (1ULL << 40)
#define MAX_HOLD_MS_DEFAULT 250
#define MAX_HOLD_MS_LARGEST 60000

static const char help[] =
        "Usage: livesnapd [OPTION]...\n"
        "\n"
        "Takes point-in-time snapshots of the shared memory of running processes without stopping them.\n"
        "Runs in the foreground; livesnap(1) tells it what to do.\n"
        "\n"
        "      --config FILE         read the options from FILE first, see livesnapd.conf(5)\n"
        "                            (default " OPTIONS_CONFIG_DEFAULT ", if it is there)\n"
        "      --socket PATH         listen on PATH (default $LIVESNAP_SOCKET, or " SOCKET_PATH_DEFAULT ");\n"
        "                            not used where systemd passes a socket\n"
        "      --store DIR           keep snapshots in DIR (default " STORE_DEFAULT ")\n"
        "      --pool-size BYTES     memory for pages on their way to the disk, with K, M, G or T for powers of\n"
        "                            1024 (default 256M)\n"
        "      --pool-policy POLICY  what to do when it is spent: throttle, which lets the threads that write to\n"
        "                            protected memory wait for the disk, or abort, which fails the snapshot\n"
        "                            (default throttle)\n"
        "      --max-hold MS         fail a snapshot whose cut holds writers for longer than this and\n"
        "                            30 ms for each GiB mapped (default 250)\n"
        "      --log-level LEVEL     say no more than error, warning or info (default info)\n"
        "  -h, --help                show this and exit\n"
        "  -V, --version             show the version and exit\n"
        "\n"
        "On SIGHUP it reads its options again.\n"
        "Exit status: 0 ended by SIGTERM or SIGINT, 1 could not start or go on, 2 wrong usage.\n";

/* strtoull() takes signs and spaces, and makes -1 a great number. */
static int parse_number(const char *text, uint64_t *ret, const char **ret_rest) {
        unsigned long long number;
        char *end;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        errno = 0;
        number = strtoull(text, &end, 10);
        if (errno == ERANGE)
                return -ERANGE;
        *ret = number;
        *ret_rest = end;
        return 0;
}

int options_parse_bytes(const char *text, uint64_t *ret) {
        static const char suffixes[] = "KMGT";
        const char *rest, *suffix;
        unsigned shift = 0;
        uint64_t number;
        int r;

        r = parse_number(text, &number, &rest);
        if (r < 0)
                return r;
        if (*rest) {
                suffix = strchr(suffixes, *rest);
                if (!suffix || rest[1])
                        return -EINVAL;
                shift = 10 * ((unsigned) (suffix - suffixes) + 1);
        }
        if (number > UINT64_MAX >> shift)
                return -ERANGE;
        *ret = number << shift;
        return 0;
}

static int bad(struct error *error, const char *value, const char *wanted) {
        return error_set(error, ERROR_BAD_REQUEST, "\"%.200s\" is not %s", value, wanted);
}

static int set_string(const char *value, char **ret, struct error *error) {
        char *copy = strdup(value);

        if (!copy)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        free(*ret);
        *ret = copy;
        return 0;
}

static int set_path(const char *value, char **ret, struct error *error) {
        return *value ? set_string(value, ret, error) : bad(error, value, "a path");
}

static int set_config(struct options *options, const char *value, struct error *error) {
        return set_path(value, &options->config, error);
}

static int set_socket(struct options *options, const char *value, struct error *error) {
        return set_path(value, &options->socket, error);
}

static int set_store(struct options *options, const char *value, struct error *error) {
        return set_path(value, &options->store, error);
}

static int set_pool_size(struct options *options, const char *value, struct error *error) {
        uint64_t bytes;

        if (options_parse_bytes(value, &bytes) < 0)
                return bad(error, value, "a number of bytes, such as 268435456 or 256M");
        if (bytes < POOL_BYTES_SMALLEST || bytes > POOL_BYTES_LARGEST)
                return bad(error, value, "between 8M and 1T");
        options->pool_bytes = bytes;
        return 0;
}

static int set_pool_policy(struct options *options, const char *value, struct error *error) {
        if (strcmp(value, "throttle") && strcmp(value, "abort"))
                return bad(error, value, "throttle or abort");
        options->pool_abort = !strcmp(value, "abort");
        return 0;
}

static int set_max_hold(struct options *options, const char *value, struct error *error) {
        const char *rest;
        uint64_t number;

        if (parse_number(value, &number, &rest) < 0 || *rest || number < 1 || number > MAX_HOLD_MS_LARGEST)
                return bad(error, value, "a number of milliseconds from 1 to 60000");
        options->max_hold_ms = (unsigned) number;
        return 0;
}

static int set_log_level(struct options *options, const char *value, struct error *error) {
        if (log_parse_level(value, &options->log_level) < 0)
                return bad(error, value, "error, warning or info");
        return 0;
}

/* The index is what getopt_long() returns, from OPTION_FIRST on. */
#define OPTION_FIRST 256

static const struct {
        const char *name;
        int (*set)(struct options *options, const char *value, struct error *error);
        bool not_in_file;
} settings[] = {
        { "config", set_config, .not_in_file = true },
        { "socket", set_socket },
        { "store", set_store },
        { "pool-size", set_pool_size },
        { "pool-policy", set_pool_policy },
        { "max-hold", set_max_hold },
        { "log-level", set_log_level },
};

#define N_SETTINGS ((int) (sizeof(settings) / sizeof(*settings)))

bool options_has(const char *name) {
        for (int i = 0; i < N_SETTINGS; i++)
                if (!strcmp(settings[i].name, name))
                        return !settings[i].not_in_file;
        return false;
}

int options_set(struct options *options, const char *name, const char *value, struct error *error) {
        for (int i = 0; i < N_SETTINGS; i++)
                if (!strcmp(settings[i].name, name))
                        return settings[i].set(options, value, error);
        return error_set(error, ERROR_INTERNAL, "there is no option %s", name);
}

static enum options_result read_option(int option, const char *value, struct options *options) {
        struct error error = { 0 };

        switch (option) {
        case 'h':
                fputs(help, stdout);
                return OPTIONS_DONE;
        case 'V':
                puts("livesnapd " LIVESNAP_VERSION);
                return OPTIONS_DONE;
        case '?':
                /* getopt_long() has said what. */
                fputs("Try 'livesnapd --help'.\n", stderr);
                return OPTIONS_BAD;
        default:
                break;
        }
        if (settings[option - OPTION_FIRST].set(options, value, &error) == 0)
                return OPTIONS_RUN;
        fprintf(stderr, "livesnapd: --%s: %s.\nTry 'livesnapd --help'.\n", settings[option - OPTION_FIRST].name,
                error.message);
        return OPTIONS_BAD;
}

static enum options_result read_arguments(int argc, char **argv, struct options *options) {
        struct option long_options[N_SETTINGS + 3] = {
                [N_SETTINGS] = { "help", no_argument, NULL, 'h' },
                [N_SETTINGS + 1] = { "version", no_argument, NULL, 'V' },
        };
        int option;

        for (int i = 0; i < N_SETTINGS; i++)
                long_options[i] = (struct option){ settings[i].name, required_argument, NULL, OPTION_FIRST + i };
        optind = 0; /* begin anew */
        while ((option = getopt_long(argc, argv, "hV", long_options, NULL)) >= 0) {
                enum options_result result = read_option(option, optarg, options);

                if (result != OPTIONS_RUN)
                        return result;
        }
        if (optind < argc) {
                fprintf(stderr, "livesnapd: \"%s\" is not an option.\nTry 'livesnapd --help'.\n", argv[optind]);
                return OPTIONS_BAD;
        }
        return OPTIONS_RUN;
}

static int set_defaults(struct options *options, struct error *error) {
        options->pool_bytes = POOL_BYTES_DEFAULT;
        options->max_hold_ms = MAX_HOLD_MS_DEFAULT;
        options->log_level = LOG_LEVEL_INFO;
        return set_string(SOCKET_PATH_DEFAULT, &options->socket, error) < 0 ||
                               set_string(STORE_DEFAULT, &options->store, error) < 0
                       ? -1
                       : 0;
}

static int read_file(struct options *options, struct error *error) {
        bool is_default = !options->config;

        if (is_default && set_string(OPTIONS_CONFIG_DEFAULT, &options->config, error) < 0)
                return -1;
        return config_read(options->config, is_default, options, error);
}

static int read_environment(struct options *options, struct error *error) {
        const char *socket = getenv("LIVESNAP_SOCKET");

        return socket && *socket ? set_string(socket, &options->socket, error) : 0;
}

enum options_result options_read(int argc, char **argv, struct options *ret) {
        CLEANUP(options_deinit) struct options options = { 0 };
        struct error error = { 0 };
        /* The first time to know which file to read, and to answer --help whatever is in it. */
        enum options_result result = read_arguments(argc, argv, &options);

        if (result != OPTIONS_RUN)
                return result;
        if (set_defaults(&options, &error) < 0 || read_file(&options, &error) < 0 ||
            read_environment(&options, &error) < 0) {
                log_error("%s", error.message);
                return OPTIONS_BAD;
        }
        result = read_arguments(argc, argv, &options);
        if (result == OPTIONS_RUN) {
                *ret = options;
                options = (struct options){ 0 };
        }
        return result;
}

void options_deinit(struct options *options) {
        free(options->config);
        free(options->socket);
        free(options->store);
        *options = (struct options){ 0 };
}
