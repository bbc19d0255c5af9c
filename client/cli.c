/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/error.h"

static const struct cli_command *const commands[] = {
        &cli_command_doctor,   &cli_command_attach, &cli_command_detach, &cli_command_domains, &cli_command_tracking,
        &cli_command_snapshot, &cli_command_list,   &cli_command_show,   &cli_command_verify,  &cli_command_delete,
        &cli_command_compact,  &cli_command_prune,  &cli_command_watch,  &cli_command_diff,    &cli_command_restore,
        &cli_command_jobs,     &cli_command_cancel,
};

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* Values of struct option for what all commands share; those of a command count from 0. */
enum { SHARED_SOCKET = CLI_OPTIONS_MAX, SHARED_JSON, SHARED_HELP, SHARED_VERSION };

static int n_options(const struct cli_command *command) {
        int n = 0;

        while (command->options && command->options[n].name)
                n++;
        return n;
}

const char *cli_get_option(const struct cli *cli, const char *name) {
        for (int i = 0; i < n_options(cli->command); i++)
                if (!strcmp(cli->command->options[i].name, name))
                        return cli->values[i];
        return NULL;
}

static bool ends_sentence(const char *message) {
        size_t length = strlen(message);

        return length > 0 && strchr(".!?", message[length - 1]);
}

static int say_failure(const struct cli *cli, int status, const char *name, const char *message) {
        if (cli->json)
                cli_print_json(cli, json_pack("{s:s, s:s}", "error", name, "message", message));
        fprintf(stderr, "livesnap: %s%s\n", message, ends_sentence(message) ? "" : ".");
        return status;
}

int cli_usage(const struct cli *cli, const char *format, ...) {
        CLEANUP_FREE char *message = NULL;
        CLEANUP_FREE char *whole = NULL;
        va_list arguments;
        int r;

        va_start(arguments, format);
        r = vasprintf(&message, format, arguments);
        va_end(arguments);
        if (r < 0)
                message = NULL;
        if (asprintf(&whole, "%s; see 'livesnap %s%s--help'", message ? message : "bad usage",
                     cli->command ? cli->command->name : "", cli->command ? " " : "") < 0)
                whole = NULL;
        return say_failure(cli, CLI_USAGE, LIVESNAP_ERROR_BAD_ARGUMENT, whole ? whole : "bad usage");
}

int cli_fail(const struct cli *cli, const char *name, const char *format, ...) {
        CLEANUP_FREE char *message = NULL;
        va_list arguments;
        int r;

        va_start(arguments, format);
        r = vasprintf(&message, format, arguments);
        va_end(arguments);
        if (r < 0)
                message = NULL;
        return say_failure(cli, CLI_FAILED, name, message ? message : strerror(ENOMEM));
}

int cli_fail_library(const struct cli *cli) {
        return say_failure(cli, CLI_FAILED, livesnap_get_error_name(), livesnap_get_error());
}

int cli_connect(struct cli *cli) {
        if (!cli->livesnap)
                cli->livesnap = livesnap_connect(cli->socket);
        return cli->livesnap ? CLI_OK : cli_fail_library(cli);
}

int cli_call(struct cli *cli, const char *method, json_t *parameters, json_t **ret) {
        CLEANUP_FREE char *text = parameters ? json_dumps(parameters, JSON_COMPACT) : NULL;
        struct livesnap_reply *reply;
        bool unusable = parameters && !text;
        json_t *json;

        json_decref(parameters);
        if (unusable)
                return cli_fail(cli, LIVESNAP_ERROR_BAD_ARGUMENT, "out of memory");
        if (cli_connect(cli) != CLI_OK)
                return CLI_FAILED;
        if (livesnap_call(cli->livesnap, method, text, NULL, 0, NULL, &reply) < 0)
                return cli_fail_library(cli);
        json = json_loads(livesnap_reply_get_parameters(reply), 0, NULL);
        livesnap_reply_free(reply);
        if (!json)
                return cli_fail(cli, LIVESNAP_ERROR_BAD_REPLY, "livesnapd's reply cannot be read");
        *ret = json;
        return CLI_OK;
}

int cli_print_json(const struct cli *cli, json_t *json) {
        bool printed =
                json && json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15)) == 0 && putchar('\n') != EOF;

        json_decref(json);
        if (!printed)
                fprintf(stderr, "livesnap: the result cannot be printed as JSON\n");
        return printed ? CLI_OK : CLI_FAILED;
}

int cli_split_snapshot(const struct cli *cli, const char *argument, char **ret_domain, const char **ret_name) {
        const char *slash = strchr(argument, '/');

        if (!slash || slash == argument || !slash[1])
                return cli_usage(cli, "'%s' does not name a snapshot: DOMAIN/NAME is expected", argument);
        *ret_domain = strndup(argument, (size_t) (slash - argument));
        if (!*ret_domain)
                return cli_fail(cli, LIVESNAP_ERROR_SYSTEM, "out of memory");
        *ret_name = slash + 1;
        return CLI_OK;
}

static void print_options(const struct cli_command *command) {
        printf("\nOptions:\n");
        for (int i = 0; command && i < n_options(command); i++) {
                const struct cli_option *option = &command->options[i];
                char left[64];

                snprintf(left, sizeof(left), "--%s%s%s", option->name, option->value ? " " : "",
                         option->value ? option->value : "");
                printf("  %-20s %s\n", left, option->help);
        }
        printf("  %-20s %s\n", "--socket PATH",
               "the daemon's socket (default: LIVESNAP_SOCKET, else the system's daemon)");
        printf("  %-20s %s\n", "--json", "print one JSON value instead of text");
        printf("  %-20s %s\n", "--help", "print this");
}

static int print_command_help(const struct cli_command *command) {
        printf("Usage: livesnap %s%s%s [OPTION...]\n\n%s.\n", command->name, *command->arguments ? " " : "",
               command->arguments, command->summary);
        if (command->details)
                printf("\n%s\n", command->details);
        print_options(command);
        return CLI_OK;
}

static int print_help(void) {
        printf("Usage: livesnap COMMAND [ARGUMENT...] [OPTION...]\n\n"
               "Takes point-in-time snapshots of the shared memory of running programs, without stopping them.\n\n"
               "Commands:\n");
        for (size_t i = 0; i < N_COMMANDS; i++) {
                char left[64];

                snprintf(left, sizeof(left), "%s %s", commands[i]->name, commands[i]->arguments);
                printf("  %-28s %s\n", left, commands[i]->summary);
        }
        print_options(NULL);
        printf("  %-20s %s\n", "--version", "print the version");
        printf("\n'livesnap COMMAND --help' says more. Exit status: 0 done, 1 failed, 2 wrong usage.\n");
        return CLI_OK;
}

static void make_long_options(const struct cli_command *command, struct option ret[CLI_OPTIONS_MAX + 5]) {
        int n = command ? n_options(command) : 0;

        for (int i = 0; i < n; i++)
                ret[i] = (struct option){
                        .name = command->options[i].name,
                        .has_arg = command->options[i].value ? required_argument : no_argument,
                        .val = i,
                };
        ret[n++] = (struct option){ "socket", required_argument, NULL, SHARED_SOCKET };
        ret[n++] = (struct option){ "json", no_argument, NULL, SHARED_JSON };
        ret[n++] = (struct option){ "help", no_argument, NULL, SHARED_HELP };
        if (!command)
                ret[n++] = (struct option){ "version", no_argument, NULL, SHARED_VERSION };
        ret[n] = (struct option){ 0 };
}

static bool wants_json(int argc, char **argv) {
        for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
                if (!strcmp(argv[i], "--json"))
                        return true;
        return false;
}

/*
 * Options up to the first argument that is none (@command NULL: before the command's name), or all of them. Return: -1
 * to go on, else the exit status.
 */
static int parse_options(struct cli *cli, const struct cli_command *command, int argc, char **argv) {
        struct option options[CLI_OPTIONS_MAX + 5];
        int c, at;

        make_long_options(command, options);
        /* Errors are ours to print: with --json they must be an object too. */
        opterr = 0;
        optind = 0;
        while (at = optind ? optind : 1, (c = getopt_long(argc, argv, command ? ":h" : "+:h", options, NULL)) != -1) {
                if (c == 'h' || c == SHARED_HELP)
                        return command ? print_command_help(command) : print_help();
                if (c == ':')
                        return cli_usage(cli, "option '%s' needs a value", argv[optind - 1]);
                if (c == '?')
                        return cli_usage(cli, "unknown option '%s'", at < argc ? argv[optind - 1] : "");
                if (c == SHARED_VERSION) {
                        printf("livesnap %s\n", livesnap_get_version());
                        return CLI_OK;
                }
                if (c == SHARED_SOCKET)
                        cli->socket = optarg;
                else if (c != SHARED_JSON)
                        cli->values[c] = optarg ? optarg : "";
        }
        return -1;
}

static const struct cli_command *find_command(const char *name) {
        for (size_t i = 0; i < N_COMMANDS; i++)
                if (!strcmp(commands[i]->name, name))
                        return commands[i];
        return NULL;
}

static int take_arguments(struct cli *cli, int argc, char **argv) {
        const struct cli_command *command = cli->command;

        if (argc < command->min_arguments)
                return cli_usage(cli, "%s: %s is missing", command->name, command->arguments);
        if (argc > command->max_arguments)
                return cli_usage(cli, "%s: '%s' is one argument too many", command->name, argv[command->max_arguments]);
        cli->n_arguments = argc;
        for (int i = 0; i < argc; i++)
                cli->arguments[i] = argv[i];
        return -1;
}

static int run(struct cli *cli, int argc, char **argv) {
        int status = parse_options(cli, NULL, argc, argv);

        if (status >= 0)
                return status;
        argc -= optind;
        argv += optind;
        if (argc < 1)
                return cli_usage(cli, "a command is missing");
        if (!strcmp(argv[0], "help"))
                return print_help();
        cli->command = find_command(argv[0]);
        if (!cli->command)
                return cli_usage(cli, "there is no command '%s'", argv[0]);
        status = parse_options(cli, cli->command, argc, argv);
        if (status < 0)
                status = take_arguments(cli, argc - optind, argv + optind);
        return status < 0 ? cli->command->run(cli) : status;
}

int main(int argc, char **argv) {
        struct cli cli = { .program = argc > 0 ? argv[0] : "livesnap", .json = wants_json(argc, argv) };
        int status;

        setlocale(LC_CTYPE, "");
        signal(SIGPIPE, SIG_IGN);
        status = run(&cli, argc, argv);
        livesnap_close(cli.livesnap);
        /* A result that did not get out is no success. */
        if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLI_OK) {
                fprintf(stderr, "livesnap: cannot write the result: %s\n", strerror(errno));
                status = CLI_FAILED;
        }
        return status;
}
