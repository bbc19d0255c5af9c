/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_CLI_H
#define LIVESNAP_CLIENT_CLI_H

/*
 * The program `livesnap`: a table of commands over liblivesnap.
 *
 * Every command gets its arguments parsed, and returns its exit status: CLI_OK, CLI_FAILED after cli_fail*() has said
 * why, CLI_USAGE after cli_usage() has. With --json stdout gets exactly one JSON value, on one line.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "livesnap/livesnap.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

#define CLI_OPTIONS_MAX 12
#define CLI_ARGUMENTS_MAX 2

/** struct cli_option - an option of one command, besides --socket, --json and --help */
struct cli_option {
        const char *name;  /* without the dashes; NULL ends the list */
        const char *value; /* what its value is called in the help; NULL: it has none */
        const char *help;
};

struct cli;

/** struct cli_command - a row of the table */
struct cli_command {
        const char *name;
        const char *arguments; /* as in the usage line */
        int min_arguments;
        int max_arguments;
        const char *summary; /* for the list of commands */
        const char *details; /* for its own help; may be NULL */
        const struct cli_option *options;
        int (*run)(struct cli *cli);
};

/** struct cli - one invocation; everything borrowed from argv but the connection */
struct cli {
        const struct cli_command *command;
        const char *program; /* argv[0] */
        const char *socket;  /* NULL: the library's default */
        bool json;
        const char *values[CLI_OPTIONS_MAX]; /* by the index of the option; NULL: not given; "" for one without value */
        int n_arguments;
        const char *arguments[CLI_ARGUMENTS_MAX];
        struct livesnap *livesnap; /* from cli_connect(); owned */
};

/* Groups of commands, one a file. */
extern const struct cli_command cli_command_doctor;
extern const struct cli_command cli_command_attach;
extern const struct cli_command cli_command_detach;
extern const struct cli_command cli_command_tracking;
extern const struct cli_command cli_command_domains;
extern const struct cli_command cli_command_snapshot;
extern const struct cli_command cli_command_jobs;
extern const struct cli_command cli_command_cancel;
extern const struct cli_command cli_command_list;
extern const struct cli_command cli_command_show;
extern const struct cli_command cli_command_verify;
extern const struct cli_command cli_command_delete;
extern const struct cli_command cli_command_restore;
extern const struct cli_command cli_command_compact;
extern const struct cli_command cli_command_prune;
extern const struct cli_command cli_command_diff;
extern const struct cli_command cli_command_watch;

/** cli_get_option() - the value of an option that the command has; NULL where it was not given */
const char *cli_get_option(const struct cli *cli, const char *name);

/** cli_usage() - say what is wrong with the command line. Return: CLI_USAGE. */
int cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** cli_fail() - say what went wrong: on stderr, and as {"error", "message"} with --json. Return: CLI_FAILED. */
int cli_fail(const struct cli *cli, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** cli_fail_library() - the same for what the library failed with in this thread */
int cli_fail_library(const struct cli *cli);

/** cli_connect() - connect to the daemon, once. Return: CLI_OK or CLI_FAILED. */
int cli_connect(struct cli *cli);

/**
 * cli_call() - make a call and give its reply's parameters
 * @parameters: reference stolen; NULL for none
 * @ret: a new reference
 */
int cli_call(struct cli *cli, const char *method, json_t *parameters, json_t **ret);

/** cli_print_json() - print a JSON value on one line; the reference is stolen. Return: CLI_OK or CLI_FAILED. */
int cli_print_json(const struct cli *cli, json_t *json);

/** cli_split_snapshot() - DOMAIN/NAME in two; @ret_domain must be freed. Return: CLI_OK or CLI_USAGE. */
int cli_split_snapshot(const struct cli *cli, const char *argument, char **ret_domain, const char **ret_name);

#endif
