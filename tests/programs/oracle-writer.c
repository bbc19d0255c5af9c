/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * oracle-writer: a program whose shared memory tells at every instant how many writes were made to it (oracle.h).
 *
 * Takes one command a line on stdin and answers each with one JSON object a line on stdout:
 *
 *   (start)      {"event": "ready", "pid", "processes": [...], "regions": [{"name", "fd", "bytes"}, ...]}
 *   seq          {"completed", "issued"}: an instant in between has the state after that many writes
 *   worst        {"worst_us"}: the longest that one write took since the last "worst"
 *   pause, resume
 *   fork         one process more, forked from this one
 *   leave        the youngest process ends
 *   eat          the youngest process, which must have one thread only, takes memory until it is killed
 *   remap        every region's first mapping moves
 *   punch PAGE   the content of one page of the first region is removed
 *   stop         {"event": "result", "total", "intact": whether memory is exactly what was written, ...}, and it ends
 *
 * End of file on stdin and SIGTERM are "stop".
 *
 * Built with ORACLE_COOPERATIVE it is a client of liblivesnap: --domain NAME attaches the regions before "ready".
 */

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/programs/oracle-process.h"
#ifdef ORACLE_COOPERATIVE
#include "tests/programs/oracle-client.h"
#endif

struct arguments {
        struct writer_options writer;
        enum memory_kind kind;
        const char *directory;
        unsigned n_processes;
        unsigned n_regions;
        unsigned n_aliases;
        uint64_t pages;
        uint64_t data_pages;
        bool is_idle;
        bool offers;
        const char *domain;
        const char *socket;
};

static void say_ready(const struct writer *writer) {
        printf("{\"event\": \"ready\", \"pid\": %d, \"processes\": [", getpid());
        for (unsigned i = 0; i < writer->n_processes; i++)
                printf("%s%d", i ? ", " : "", writer->processes[i]);
        printf("], \"regions\": [");
        for (unsigned i = 0; i < writer->layout.n_regions; i++) {
                const struct memory_region *region = &writer->memory.regions[i];

                printf("%s{\"name\": \"%s\", \"fd\": %d, \"bytes\": %ju}", i ? ", " : "", region->name, region->fd,
                       (uintmax_t) region->bytes);
        }
        printf("]}\n");
}

static void say_result(struct writer *writer) {
        const struct writer_control *control = writer->control;
        struct oracle_state state;
        bool intact = false;

        if (oracle_state_init(&state, &writer->layout) == 0) {
                oracle_state_advance(&state, control->issued);
                intact = memory_equals(&writer->memory, &state);
                oracle_state_deinit(&state);
        }
        printf("{\"event\": \"result\", \"total\": %ju, \"completed\": %ju, \"intact\": %s, \"kernel_reads\": %ju, "
               "\"dontneed\": %ju, \"pageout\": %ju, \"cold\": %ju, \"worst_us\": %ju}\n",
               (uintmax_t) control->issued, (uintmax_t) control->completed, intact ? "true" : "false",
               (uintmax_t) control->kernel_reads, (uintmax_t) control->zaps[MEMORY_ZAP_DONTNEED],
               (uintmax_t) control->zaps[MEMORY_ZAP_PAGEOUT], (uintmax_t) control->zaps[MEMORY_ZAP_COLD],
               (uintmax_t) control->worst_ns / 1000);
}

/* The other threads use the mappings only under the lock, so this thread may move them when it has paused all. */
static int remap_all(struct writer *writer) {
        bool was_paused = writer->control->paused;
        int r = 0;

        writer_pause(writer);
        for (unsigned i = 0; i < writer->layout.n_regions && r == 0; i++)
                r = memory_remap(&writer->memory, i);
        if (!was_paused)
                writer_resume(writer);
        return r;
}

static int end_one(struct writer *writer, _Atomic bool *how) {
        unsigned process = writer->n_processes - 1;

        if (process == 0)
                return -ECHILD;
        how[process] = true;
        if (waitpid(writer->processes[process], NULL, 0) < 0)
                return -errno;
        how[process] = false;
        writer->n_processes--;
        return 0;
}

static void say_return(int r) {
        if (r < 0)
                printf("{\"error\": \"%s\"}\n", strerror(-r));
        else
                printf("{\"return\": %d}\n", r);
}

/* Returns false when it is time to end. */
static bool run_command(struct writer *writer, const char *command) {
        struct writer_control *control = writer->control;
        uint64_t completed = control->completed;

        if (strcmp(command, "stop") == 0)
                return false;
        if (strcmp(command, "seq") == 0) {
                printf("{\"completed\": %ju, \"issued\": %ju}\n", (uintmax_t) completed, (uintmax_t) control->issued);
        } else if (strcmp(command, "worst") == 0) {
                printf("{\"worst_us\": %ju}\n", (uintmax_t) atomic_exchange(&control->worst_ns, 0) / 1000);
        } else if (strcmp(command, "pause") == 0) {
                writer_pause(writer);
                say_return(0);
        } else if (strcmp(command, "resume") == 0) {
                writer_resume(writer);
                say_return(0);
        } else if (strcmp(command, "fork") == 0) {
                say_return(writer_fork(writer, false));
        } else if (strcmp(command, "leave") == 0) {
                say_return(end_one(writer, control->leave));
        } else if (strcmp(command, "eat") == 0) {
                say_return(end_one(writer, control->eat));
        } else if (strcmp(command, "remap") == 0) {
                say_return(remap_all(writer));
        } else if (strncmp(command, "punch ", 6) == 0) {
                say_return(memory_punch(&writer->memory, 0, strtoull(command + 6, NULL, 0)));
        } else {
                printf("{\"error\": \"unknown command\"}\n");
        }
        return true;
}

/* One line at a time from the descriptor itself: what stdio had read ahead, poll() would not see. */
static bool read_command(struct writer *writer) {
        char line[80];
        size_t length = 0;

        while (length < sizeof(line) - 1) {
                if (read(STDIN_FILENO, &line[length], 1) != 1)
                        return false;
                if (line[length] == '\n')
                        break;
                length++;
        }
        line[length] = '\0';
        return run_command(writer, line);
}

static void serve_commands(struct writer *writer, const sigset_t *signals) {
        struct pollfd fds[] = {
                { .fd = STDIN_FILENO, .events = POLLIN },
                { .fd = signalfd(-1, signals, SFD_CLOEXEC), .events = POLLIN },
        };

        while (poll(fds, 2, -1) >= 0 || errno == EINTR)
                if (fds[1].revents || (fds[0].revents && !read_command(writer)))
                        break;
        close(fds[1].fd);
}

static int run(struct writer *writer, const struct arguments *arguments) {
        sigset_t signals;
        int r = 0;

        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigprocmask(SIG_BLOCK, &signals, NULL);

        writer->processes[0] = getpid();
        writer->n_processes = 1;
        while (writer->n_processes < arguments->n_processes && r >= 0)
                r = writer_fork(writer, true);
        if (r < 0 || (writer->prepare && writer->prepare(writer) < 0) || (writer->offer && writer->offer(writer) < 0))
                return -1;
        writer->control->n_ready++;
        while (writer->control->n_ready < arguments->n_processes)
                if (waitpid(-1, NULL, WNOHANG) != 0 && arguments->n_processes > 1)
                        return -1;
        if (writer_start(writer, 0) < 0)
                return -1;
        say_ready(writer);

        serve_commands(writer, &signals);
        writer->control->stop = true;
        writer_join(writer);
        for (unsigned i = 1; i < writer->n_processes; i++)
                waitpid(writer->processes[i], NULL, 0);
        say_result(writer);
        return 0;
}

static int make(struct writer *writer, const struct arguments *arguments) {
        uint64_t unit = memory_page_bytes(arguments->kind) / ORACLE_PAGE_BYTES;
        uint64_t pages = (arguments->pages + unit - 1) / unit * unit;
        int r;

        /* Every region has a size of its own, so that their images cannot be mistaken for each other. */
        for (unsigned i = 0; i < arguments->n_regions; i++)
                if (oracle_layout_add(&writer->layout, pages + i * unit, arguments->data_pages) < 0)
                        return -EINVAL;
        r = writer_make_control(writer);
        if (r < 0)
                return r;
        writer->control->paused = arguments->is_idle;
        return memory_make(&writer->memory, &writer->layout, arguments->kind, arguments->directory,
                           arguments->n_aliases);
}

static void usage(FILE *stream) {
        fputs("usage: oracle-writer [--kind memfd|sealed|tmpfs|hugetlb|anonymous|sysv] [--dir DIR] [--regions N]\n"
              "                     [--pages N] [--data-pages N] [--fill pattern|zero] [--aliases 1|2] [--seed N]\n"
              "                     [--processes N] [--threads N] [--order lock|ticket] [--rate N] [--idle]\n"
              "                     [--zap] [--kernel-reads]\n"
#ifdef ORACLE_COOPERATIVE
              "                     --domain NAME [--socket PATH] [--quiesce]\n"
#endif
              ,
              stream);
}

static int parse(int argc, char **argv, struct writer *writer, struct arguments *arguments) {
        static const struct option options[] = {
                { "kind", required_argument, NULL, 'k' },
                { "dir", required_argument, NULL, 'D' },
                { "regions", required_argument, NULL, 'r' },
                { "pages", required_argument, NULL, 'p' },
                { "data-pages", required_argument, NULL, 'd' },
                { "fill", required_argument, NULL, 'f' },
                { "aliases", required_argument, NULL, 'a' },
                { "seed", required_argument, NULL, 's' },
                { "processes", required_argument, NULL, 'P' },
                { "threads", required_argument, NULL, 't' },
                { "order", required_argument, NULL, 'o' },
                { "rate", required_argument, NULL, 'R' },
                { "idle", no_argument, NULL, 'i' },
                { "zap", no_argument, NULL, 'z' },
                { "kernel-reads", no_argument, NULL, 'K' },
                { "domain", required_argument, NULL, 'n' },
                { "socket", required_argument, NULL, 'S' },
                { "quiesce", no_argument, NULL, 'q' },
                { "help", no_argument, NULL, 'h' },
                { NULL, 0, NULL, 0 },
        };

        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
                switch (c) {
                case 'k':
                        arguments->kind = memory_kind_from_name(optarg);
                        break;
                case 'D':
                        arguments->directory = optarg;
                        break;
                case 'r':
                        arguments->n_regions = strtoul(optarg, NULL, 0);
                        break;
                case 'p':
                        arguments->pages = strtoull(optarg, NULL, 0);
                        break;
                case 'd':
                        arguments->data_pages = strtoull(optarg, NULL, 0);
                        break;
                case 'f':
                        writer->layout.fill = strcmp(optarg, "zero") == 0 ? ORACLE_FILL_ZERO : ORACLE_FILL_PATTERN;
                        break;
                case 'a':
                        arguments->n_aliases = strtoul(optarg, NULL, 0);
                        break;
                case 's':
                        writer->layout.seed = strtoull(optarg, NULL, 0);
                        break;
                case 'P':
                        arguments->n_processes = strtoul(optarg, NULL, 0);
                        break;
                case 't':
                        arguments->writer.threads = strtoul(optarg, NULL, 0);
                        break;
                case 'o':
                        arguments->writer.order =
                                strcmp(optarg, "ticket") == 0 ? WRITER_ORDER_TICKET : WRITER_ORDER_LOCK;
                        break;
                case 'R':
                        arguments->writer.rate = strtoull(optarg, NULL, 0);
                        break;
                case 'i':
                        arguments->is_idle = true;
                        break;
                case 'z':
                        arguments->writer.zap = true;
                        break;
                case 'K':
                        arguments->writer.kernel_reads = true;
                        break;
                case 'n':
                        arguments->domain = optarg;
                        break;
                case 'S':
                        arguments->socket = optarg;
                        break;
                case 'q':
                        arguments->offers = true;
                        break;
                case 'h':
                        usage(stdout);
                        exit(0);
                default:
                        return -1;
                }
        }
        if (optind != argc || arguments->kind == MEMORY_KIND_MAX || arguments->writer.threads > THREADS_MAX ||
            arguments->n_processes < 1 || arguments->n_processes > PROCESSES_MAX || arguments->n_aliases < 1 ||
            arguments->n_aliases > 2 ||
            (arguments->writer.order == WRITER_ORDER_TICKET && arguments->writer.kernel_reads))
                return -1;
        return 0;
}

int main(int argc, char **argv) {
        static struct arguments arguments = {
                .writer = { .threads = 1 },
                .directory = "/dev/shm",
                .n_processes = 1,
                .n_regions = 1,
                .n_aliases = 1,
                .pages = 4096,
        };
        static struct writer writer = { .options = &arguments.writer };
        int r;

        setlinebuf(stdout);
        if (parse(argc, argv, &writer, &arguments) < 0) {
                usage(stderr);
                return 2;
        }
#ifdef ORACLE_COOPERATIVE
        oracle_client_configure(arguments.domain, arguments.socket);
        writer.prepare = oracle_client_attach;
        writer.offer = arguments.offers ? oracle_client_offer : NULL;
#endif
        r = make(&writer, &arguments);
        if (r < 0) {
                fprintf(stderr, "oracle-writer: cannot make its memory: %s\n", strerror(-r));
                return 1;
        }
        return run(&writer, &arguments) < 0;
}
