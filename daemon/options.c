/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/socket.h"

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
        "  -h, --help                show this and exit\n"
        "  -V, --version             show the version and exit\n"
        "\n"
        "Exit status: 0 ended by SIGTERM or SIGINT, 1 could not start or go on, 2 wrong usage.\n";

enum {
        OPTION_SOCKET = 256,
        OPTION_STORE,
        OPTION_POOL_SIZE,
        OPTION_POOL_POLICY,
        OPTION_MAX_HOLD,
};

static const struct option long_options[] = {
        { "socket", required_argument, NULL, OPTION_SOCKET },
        { "store", required_argument, NULL, OPTION_STORE },
        { "pool-size", required_argument, NULL, OPTION_POOL_SIZE },
        { "pool-policy", required_argument, NULL, OPTION_POOL_POLICY },
        { "max-hold", required_argument, NULL, OPTION_MAX_HOLD },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        {},
};

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

static enum options_result bad(const char *option, const char *value, const char *wanted) {
        fprintf(stderr, "livesnapd: %s: \"%s\" is not %s.\nTry 'livesnapd --help'.\n", option, value, wanted);
        return OPTIONS_BAD;
}

static enum options_result read_pool_size(const char *text, struct options *options) {
        if (options_parse_bytes(text, &options->pool_bytes) < 0)
                return bad("--pool-size", text, "a number of bytes, such as 268435456 or 256M");
        if (options->pool_bytes < POOL_BYTES_SMALLEST || options->pool_bytes > POOL_BYTES_LARGEST)
                return bad("--pool-size", text, "between 8M and 1T");
        return OPTIONS_RUN;
}

static enum options_result read_pool_policy(const char *text, struct options *options) {
        if (strcmp(text, "throttle") && strcmp(text, "abort"))
                return bad("--pool-policy", text, "throttle or abort");
        options->pool_abort = !strcmp(text, "abort");
        return OPTIONS_RUN;
}

static enum options_result read_max_hold(const char *text, struct options *options) {
        const char *rest;
        uint64_t number;

        if (parse_number(text, &number, &rest) < 0 || *rest || number < 1 || number > MAX_HOLD_MS_LARGEST)
                return bad("--max-hold", text, "a number of milliseconds from 1 to 60000");
        options->max_hold_ms = (unsigned) number;
        return OPTIONS_RUN;
}

static enum options_result read_path(const char *name, const char *text, const char **ret) {
        if (!*text)
                return bad(name, text, "a path");
        *ret = text;
        return OPTIONS_RUN;
}

static enum options_result read_option(int option, const char *value, struct options *options) {
        switch (option) {
        case OPTION_SOCKET:
                return read_path("--socket", value, &options->socket);
        case OPTION_STORE:
                return read_path("--store", value, &options->store);
        case OPTION_POOL_SIZE:
                return read_pool_size(value, options);
        case OPTION_POOL_POLICY:
                return read_pool_policy(value, options);
        case OPTION_MAX_HOLD:
                return read_max_hold(value, options);
        case 'h':
                fputs(help, stdout);
                return OPTIONS_DONE;
        case 'V':
                puts("livesnapd " LIVESNAP_VERSION);
                return OPTIONS_DONE;
        default:
                /* getopt_long() has said what. */
                fputs("Try 'livesnapd --help'.\n", stderr);
                return OPTIONS_BAD;
        }
}

enum options_result options_read(int argc, char **argv, struct options *ret) {
        const char *environment = getenv("LIVESNAP_SOCKET");
        struct options options = {
                .socket = environment && *environment ? environment : SOCKET_PATH_DEFAULT,
                .store = STORE_DEFAULT,
                .pool_bytes = POOL_BYTES_DEFAULT,
                .max_hold_ms = MAX_HOLD_MS_DEFAULT,
        };
        int option;

        while ((option = getopt_long(argc, argv, "hV", long_options, NULL)) >= 0) {
                enum options_result result = read_option(option, optarg, &options);

                if (result != OPTIONS_RUN)
                        return result;
        }
        if (optind < argc) {
                fprintf(stderr, "livesnapd: \"%s\" is not an option.\nTry 'livesnapd --help'.\n", argv[optind]);
                return OPTIONS_BAD;
        }
        *ret = options;
        return OPTIONS_RUN;
}
