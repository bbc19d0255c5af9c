/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * livesnap-attach: puts a userfaultfd into a running process and gives it to the daemon. See livesnap-attach(8).
 *
 * The work is done by a child in a session of its own, with all signals blocked: whoever interrupts or kills
 * livesnap-attach hits the parent, which only waits. The child notices, never in the middle of something, and ends; the
 * descriptors that it has made go with it. See tracee.c for what is at stake.
 */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/attach/attach.h"
#include "common/cleanup.h"
#include "common/name.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

static pid_t parent;

static bool parent_is_gone(void) {
        return getppid() != parent;
}

static void print_note(const char *sentence) {
        fprintf(stderr, "livesnap-attach: %s\n", sentence);
}

static void print_help(void) {
        puts("usage: livesnap-attach --pid PID [OPTION]...\n"
             "\n"
             "Puts the shared memory of a running process, and of all processes that share it, under livesnap's care.\n"
             "The processes go on meanwhile and do not notice.\n"
             "\n"
             "  --pid PID            the process\n"
             "  --domain NAME        name of the domain; default: the name of the process\n"
             "  --object GLOB        only shared memory objects whose name matches\n"
             "  --discard fail|zero  what to do with a page whose content is removed before it is saved\n"
             "  --tracking MODE      how writes are known between snapshots: off, sync or async\n"
             "  --strict             refuse what may be written untracked, now and in each snapshot\n"
             "  --socket PATH        the daemon's socket; default: $LIVESNAP_SOCKET, /run/livesnap/livesnapd.sock\n"
             "  --json               print the result as JSON\n"
             "  --help               print this and exit\n"
             "  --version            print the version and exit");
}

static int usage(const char *what) {
        fprintf(stderr, "livesnap-attach: %s; see livesnap-attach --help\n", what);
        return EXIT_USAGE;
}

static int parse_pid(const char *text, pid_t *ret) {
        char *end;
        long value;

        errno = 0;
        value = strtol(text, &end, 10);
        if (errno || end == text || *end || value <= 0 || value > INT32_MAX)
                return -EINVAL;
        *ret = (pid_t) value;
        return 0;
}

/* Return: -1 go on, else the exit status. */
static int parse_options(int argc, char **argv, struct attach_options *options, bool *ret_json) {
        static const struct option long_options[] = {
                { "pid", required_argument, NULL, 'p' },
                { "domain", required_argument, NULL, 'd' },
                { "object", required_argument, NULL, 'o' },
                { "discard", required_argument, NULL, 'D' },
                { "strict", no_argument, NULL, 'S' },
                { "socket", required_argument, NULL, 's' },
                { "json", no_argument, NULL, 'j' },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, 'v' },
                { "tracking", required_argument, NULL, 't' },
                { 0 },
        };
        struct error error = { 0 };
        int option;

        while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
                switch (option) {
                case 'p':
                        if (parse_pid(optarg, &options->pid) < 0)
                                return usage("--pid takes the number of a process");
                        break;
                case 'd':
                        if (name_check("domain", optarg, &error) < 0)
                                return usage(error.message);
                        options->domain = optarg;
                        break;
                case 'o':
                        options->glob = optarg;
                        break;
                case 'D':
                        if (strcmp(optarg, "fail") && strcmp(optarg, "zero"))
                                return usage("--discard takes 'fail' or 'zero'");
                        options->discard = optarg;
                        break;
                case 't':
                        if (strcmp(optarg, "off") && strcmp(optarg, "sync") && strcmp(optarg, "async"))
                                return usage("--tracking takes 'off', 'sync' or 'async'");
                        options->tracking = optarg;
                        break;
                case 'S':
                        options->strict = true;
                        break;
                case 's':
                        options->socket = optarg;
                        break;
                case 'j':
                        *ret_json = true;
                        break;
                case 'h':
                        print_help();
                        return EXIT_SUCCESS;
                case 'v':
                        puts("livesnap-attach " LIVESNAP_VERSION);
                        return EXIT_SUCCESS;
                default:
                        return usage("wrong usage");
                }
        if (optind < argc)
                return usage("there is an argument too many");
        if (!options->pid)
                return usage("--pid is missing");
        return -1;
}

static void print_result(json_t *result, bool json) {
        json_t *regions = json_object_get(result, "regions"), *processes = json_object_get(result, "processes"), *item;
        size_t i;

        if (json) {
                json_dumpf(result, stdout, JSON_COMPACT);
                putchar('\n');
                return;
        }
        printf("attached domain %s\n", json_string_value(json_object_get(result, "domain")));
        json_array_foreach (regions, i, item)
                printf("  region %s, %lld bytes\n", json_string_value(json_object_get(item, "name")),
                       (long long) json_integer_value(json_object_get(item, "bytes")));
        json_array_foreach (processes, i, item)
                printf("  process %lld, %lld mappings\n", (long long) json_integer_value(json_object_get(item, "pid")),
                       (long long) json_integer_value(json_object_get(item, "mappings")));
}

static int work(const struct attach_options *options, bool json) {
        struct error error = { 0 };
        json_t *result;
        sigset_t all;
        FILE *file;

        setsid();
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        prctl(PR_SET_NAME, "livesnap-implant");
        /* Neither a page of ours that must be read from a disk nor the lack of memory may come between two stops. */
        mlockall(MCL_CURRENT | MCL_FUTURE);
        file = fopen("/proc/self/oom_score_adj", "we");
        if (file) {
                fputs("-1000", file);
                fclose(file);
        }
        if (attach_process(options, &result, &error) < 0) {
                fprintf(stderr, "livesnap-attach: %s\n", error.message);
                return EXIT_FAILED;
        }
        print_result(result, json);
        json_decref(result);
        return fflush(stdout) ? EXIT_FAILED : EXIT_SUCCESS;
}

int main(int argc, char **argv) {
        struct attach_options options = { .note = print_note, .abandoned = parent_is_gone };
        bool json = false;
        int status;
        pid_t child;

        status = parse_options(argc, argv, &options, &json);
        if (status >= 0)
                return status;
        parent = getpid();
        child = fork();
        if (child < 0) {
                fprintf(stderr, "livesnap-attach: cannot make a process: %s\n", strerror(errno));
                return EXIT_FAILED;
        }
        if (!child)
                return work(&options, json);
        while (waitpid(child, &status, 0) < 0)
                if (errno != EINTR)
                        return EXIT_FAILED;
        if (WIFEXITED(status))
                return WEXITSTATUS(status);
        fprintf(stderr, "livesnap-attach: the process that does the work was killed\n");
        return EXIT_FAILED;
}
