/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program with memory worth a snapshot, which writes to random pages of it as fast as it can, when told to.
 *
 *     bench-writer --bytes=N [--memory=sealed|memfd|private] [--data=N] [--regions=N] [--name=NAME]
 *                  [--domain=NAME --socket=PATH]
 *
 * Memory is made by liblivesnap (sealed) or by the program itself; with --domain it is attached by liblivesnap. Of each
 * region --data bytes are populated with random content, in pieces of 2 MiB spread evenly (default: all). Commands:
 *
 *     write [RATE]    start to write; so many times a second, or as fast as can be
 *     rate            how many writes were done until when: [[ns, count], ...] since this was last asked
 *     worst           quantiles of the time that a write took since this was last asked
 *     pause           stop writing
 *     first N MS      write to N protected pages and time each, waiting MS for the protection
 *     save PATH       fork, and let the child save (private memory only)
 *     saved           wait for the child
 *     copy            copy all memory into a buffer that is warm, and say how much processor time that took
 *     help            have the library make all pages writable again that the snapshot left read-only
 *     blocks          how much memory the objects have
 *     touch N clustered|scattered   write once to each of N pages of the first region, which lie together or apart
 *     restore DOMAIN NAME REGION   into memory that was not used before
 *     quit
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <livesnap/livesnap.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define REGIONS_MAX 64
#define PIECE_BYTES (2u << 20)
#define RATE_SAMPLES_MAX (1u << 16)
#define RATE_SAMPLE_NS 5000000
/* Times of writes, as a histogram: eight buckets to each power of two of nanoseconds. */
#define BUCKETS (40 * 8)

struct sample {
        uint64_t at_ns;
        uint64_t count;
};

struct program {
        /* set at the start */
        uint64_t bytes, data_bytes; /* of each region */
        unsigned n_regions;
        const char *name, *memory, *domain, *socket;
        struct livesnap_region *described[REGIONS_MAX];
        uint8_t *addresses[REGIONS_MAX];
        int fds[REGIONS_MAX];

        /* the writing thread's, and after it was joined the main thread's */
        uint64_t random, count;
        uint64_t rate; /* writes a second; 0: as fast as can be */
        pthread_t thread;
        bool writes;
        atomic_bool stop;

        pthread_mutex_t lock; /* guards what follows; the writer takes it some 200 times a second */
        struct sample samples[RATE_SAMPLES_MAX];
        unsigned n_samples;
        uint64_t published[BUCKETS], worst_ns;

        pid_t saver;
};

static void library_fail(const char *what) {
        fprintf(stderr, "bench-writer: %s: %s\n", what, livesnap_get_error());
        exit(1);
}

static unsigned bucket_of(uint64_t ns) {
        unsigned shift = ns < 16 ? 0 : 60 - (unsigned) __builtin_clzll(ns),
                 bucket = shift * 8 + (unsigned) (ns >> shift);

        return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double bucket_us(unsigned bucket) {
        unsigned shift = bucket < 16 ? 0 : bucket / 8 - 1;

        return (double) ((uint64_t) (bucket - shift * 8) << shift) / 1e3;
}

static void writer_publish(struct program *program, uint64_t now_ns, uint64_t *buckets, uint64_t *worst_ns) {
        pthread_mutex_lock(&program->lock);
        if (program->n_samples < RATE_SAMPLES_MAX)
                program->samples[program->n_samples++] = (struct sample){ now_ns, program->count };
        for (unsigned i = 0; i < BUCKETS; i++)
                program->published[i] += buckets[i];
        if (*worst_ns > program->worst_ns)
                program->worst_ns = *worst_ns;
        pthread_mutex_unlock(&program->lock);
        memset(buckets, 0, BUCKETS * sizeof(*buckets));
        *worst_ns = 0;
}

/* Sleep until the number of writes is due, some of them at a time. */
static void writer_hold_back(const struct program *program, uint64_t start_ns, uint64_t n) {
        uint64_t due_ns = start_ns + n * 1000000000 / program->rate, now_ns = bench_now_ns();

        if (due_ns > now_ns + 1000000)
                usleep((unsigned) ((due_ns - now_ns) / 1000));
}

static void *writer_main(void *data) {
        struct program *program = data;
        uint64_t buckets[BUCKETS] = { 0 }, worst_ns = 0, pages = program->bytes / BENCH_PAGE_BYTES;
        uint64_t then_ns = bench_now_ns(), published_ns = then_ns, start_ns = then_ns, n = 0;

        while (!atomic_load_explicit(&program->stop, memory_order_relaxed)) {
                uint64_t random = bench_random(&program->random), now_ns, took_ns;
                volatile uint64_t *page =
                        (volatile uint64_t *) (program->addresses[(random >> 48) % program->n_regions] +
                                               (random & 0xffffffffffff) % pages * BENCH_PAGE_BYTES);

                *page = ++program->count;
                now_ns = bench_now_ns();
                took_ns = now_ns - then_ns;
                buckets[bucket_of(took_ns)]++;
                if (took_ns > worst_ns)
                        worst_ns = took_ns;
                then_ns = now_ns;
                if (now_ns - published_ns > RATE_SAMPLE_NS) {
                        published_ns = now_ns;
                        writer_publish(program, now_ns, buckets, &worst_ns);
                }
                if (program->rate) {
                        writer_hold_back(program, start_ns, ++n);
                        then_ns = bench_now_ns();
                }
        }
        return NULL;
}

static void command_write(struct program *program, const char *rate) {
        if (!program->writes) {
                program->rate = rate ? bench_parse_bytes(rate) : 0;
                atomic_store(&program->stop, false);
                if (pthread_create(&program->thread, NULL, writer_main, program))
                        bench_fail("thread");
                program->writes = true;
        }
        printf("{}\n");
}

static void command_pause(struct program *program) {
        atomic_store(&program->stop, true);
        if (program->writes)
                pthread_join(program->thread, NULL);
        program->writes = false;
        printf("{}\n");
}

static void command_rate(struct program *program) {
        pthread_mutex_lock(&program->lock);
        printf("{\"samples\": [");
        for (unsigned i = 0; i < program->n_samples; i++)
                printf("%s[%llu, %llu]", i ? ", " : "", (unsigned long long) program->samples[i].at_ns,
                       (unsigned long long) program->samples[i].count);
        printf("]}\n");
        program->n_samples = 0;
        pthread_mutex_unlock(&program->lock);
}

static double worst_quantile_us(const struct program *program, uint64_t n, double q) {
        uint64_t seen = 0;
        unsigned i = 0;

        for (; i < BUCKETS - 1; i++) {
                seen += program->published[i];
                if ((double) seen >= q * (double) n)
                        break;
        }
        return bucket_us(i);
}

static void command_worst(struct program *program) {
        uint64_t n = 0;

        pthread_mutex_lock(&program->lock);
        for (unsigned i = 0; i < BUCKETS; i++)
                n += program->published[i];
        printf("{\"n\": %llu, \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.1f}\n",
               (unsigned long long) n, worst_quantile_us(program, n, 0.5), worst_quantile_us(program, n, 0.99),
               worst_quantile_us(program, n, 0.999), (double) program->worst_ns / 1e3);
        memset(program->published, 0, sizeof(program->published));
        program->worst_ns = 0;
        pthread_mutex_unlock(&program->lock);
}

static void command_first(struct program *program, const char *n, const char *wait_ms) {
        bench_touch_protected(program->addresses[0], program->bytes, (unsigned) bench_parse_bytes(n),
                              (unsigned) bench_parse_bytes(wait_ms));
}

static void command_save(struct program *program, const char *path) {
        uint64_t fork_ns;

        program->saver = bench_save(path, program->addresses[0], program->bytes, &fork_ns);
        printf("{\"fork_us\": %.1f}\n", (double) fork_ns / 1e3);
}

static void command_saved(struct program *program) {
        int status;

        if (waitpid(program->saver, &status, 0) != program->saver || status != 0)
                bench_fail("saver");
        printf("{\"done_ns\": %llu}\n", (unsigned long long) bench_now_ns());
}

static void command_copy(const struct program *program) {
        uint8_t *buffer = malloc(PIECE_BYTES);
        struct timespec start, end;

        if (!buffer)
                bench_fail("copy");
        memset(buffer, 1, PIECE_BYTES);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
        for (unsigned i = 0; i < program->n_regions; i++)
                for (uint64_t at = 0; at + PIECE_BYTES <= program->bytes; at += PIECE_BYTES) {
                        memcpy(buffer, program->addresses[i] + at, PIECE_BYTES);
                        __asm__ volatile("" : : "r"(buffer) : "memory");
                }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
        free(buffer);
        printf("{\"cpu_us\": %.1f}\n",
               (double) (end.tv_sec - start.tv_sec) * 1e6 + (double) (end.tv_nsec - start.tv_nsec) / 1e3);
}

static void command_help(const struct program *program) {
        uint64_t start_ns = bench_now_ns();

        for (unsigned i = 0; i < program->n_regions; i++)
                if (!program->described[i] || livesnap_region_make_writable(program->described[i]) < 0)
                        library_fail("make writable");
        printf("{\"us\": %.1f}\n", (double) (bench_now_ns() - start_ns) / 1e3);
}

static void command_blocks(const struct program *program) {
        unsigned long long bytes = 0;
        struct stat status;

        for (unsigned i = 0; i < program->n_regions; i++)
                if (fstat(program->fds[i], &status) == 0)
                        bytes += (unsigned long long) status.st_blocks * 512;
        printf("{\"bytes\": %llu}\n", bytes);
}

static void command_touch(struct program *program, const char *number, bool clustered) {
        uint64_t n = strtoull(number, NULL, 10), pages = program->bytes / 4096;
        uint64_t start_ns = bench_now_ns();

        if (n == 0 || n > pages)
                bench_fail("touch");
        for (uint64_t i = 0; i < n; i++) {
                uint64_t page = clustered ? i : i * (pages / n);

                *(volatile uint64_t *) (program->addresses[0] + page * 4096) = ++program->random;
        }
        printf("{\"us\": %.1f}\n", (double) (bench_now_ns() - start_ns) / 1e3);
}

static void command_restore(const struct program *program, const char *domain, const char *name, const char *region) {
        struct livesnap *livesnap = livesnap_connect(program->socket);
        void *memory = mmap(NULL, program->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t start_ns = bench_now_ns();

        if (memory == MAP_FAILED)
                bench_fail("mmap");
        if (!livesnap || livesnap_restore_to_memory(livesnap, domain, name, region, memory, program->bytes, NULL) < 0)
                library_fail("restore");
        printf("{\"us\": %.1f}\n", (double) (bench_now_ns() - start_ns) / 1e3);
        munmap(memory, program->bytes);
        livesnap_close(livesnap);
}

static void memory_fill(const struct program *program, uint8_t *address) {
        uint64_t n_pieces = (program->data_bytes + PIECE_BYTES - 1) / PIECE_BYTES, stride;

        if (program->data_bytes >= program->bytes) {
                bench_fill(address, program->bytes);
                return;
        }
        stride = n_pieces ? program->bytes / n_pieces / PIECE_BYTES * PIECE_BYTES : 0;
        for (uint64_t i = 0; i < n_pieces; i++)
                bench_fill(address + i * stride, PIECE_BYTES);
}

static void memory_make(struct program *program, unsigned i) {
        bool is_private = !strcmp(program->memory, "private");
        char name[64];

        snprintf(name, sizeof(name), "%s-%u", program->name, i);
        if (!strcmp(program->memory, "sealed")) {
                program->described[i] = livesnap_region_create(name, program->bytes, 0);
                if (!program->described[i])
                        library_fail(name);
                program->addresses[i] = livesnap_region_get_address(program->described[i]);
                program->fds[i] = livesnap_region_get_fd(program->described[i]);
        } else {
                program->fds[i] = is_private ? -1 : memfd_create(name, MFD_CLOEXEC);
                if (!is_private && (program->fds[i] < 0 || ftruncate(program->fds[i], (off_t) program->bytes) < 0))
                        bench_fail(name);
                program->addresses[i] = mmap(NULL, program->bytes, PROT_READ | PROT_WRITE,
                                             is_private ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, program->fds[i], 0);
                if (program->addresses[i] == MAP_FAILED)
                        bench_fail(name);
                /* Pages of 4 KiB on both sides of the comparison */
                (void) madvise(program->addresses[i], program->bytes, MADV_NOHUGEPAGE);
                if (program->domain) {
                        program->described[i] = livesnap_region_new(name, program->fds[i]);
                        if (!program->described[i] ||
                            livesnap_region_add_mapping(program->described[i], program->addresses[i], program->bytes,
                                                        0) < 0)
                                library_fail(name);
                }
        }
        memory_fill(program, program->addresses[i]);
}

static void attach(struct program *program) {
        struct livesnap *livesnap = livesnap_connect(program->socket);

        if (!livesnap || livesnap_attach(livesnap, program->domain, program->described, program->n_regions) < 0)
                library_fail("attach");
        livesnap_close(livesnap);
}

static void parse_arguments(struct program *program, int argc, char **argv) {
        static const struct option options[] = {
                { "bytes", required_argument, NULL, 'b' },  { "memory", required_argument, NULL, 'm' },
                { "data", required_argument, NULL, 'd' },   { "regions", required_argument, NULL, 'r' },
                { "name", required_argument, NULL, 'n' },   { "domain", required_argument, NULL, 'D' },
                { "socket", required_argument, NULL, 's' }, {},
        };
        int option;

        program->data_bytes = UINT64_MAX;
        while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
                switch (option) {
                case 'b':
                        program->bytes = bench_parse_bytes(optarg) / PIECE_BYTES * PIECE_BYTES;
                        break;
                case 'm':
                        program->memory = optarg;
                        break;
                case 'd':
                        program->data_bytes = bench_parse_bytes(optarg);
                        break;
                case 'r':
                        program->n_regions = (unsigned) bench_parse_bytes(optarg);
                        break;
                case 'n':
                        program->name = optarg;
                        break;
                case 'D':
                        program->domain = optarg;
                        break;
                case 's':
                        program->socket = optarg;
                        break;
                default:
                        exit(2);
                }
        }
        if (program->bytes == 0 || program->n_regions == 0 || program->n_regions > REGIONS_MAX) {
                fprintf(stderr, "bench-writer: --bytes must be at least %u, and there are 1 to %u regions\n",
                        PIECE_BYTES, REGIONS_MAX);
                exit(2);
        }
}

static bool obey(struct program *program, char *line) {
        char *words[4] = { NULL };
        unsigned n = 0;

        for (char *word = strtok(line, " \n"); word && n < 4; word = strtok(NULL, " \n"))
                words[n++] = word;
        if ((n == 1 || n == 2) && !strcmp(words[0], "write"))
                command_write(program, words[1]);
        else if (n == 1 && !strcmp(words[0], "pause"))
                command_pause(program);
        else if (n == 1 && !strcmp(words[0], "rate"))
                command_rate(program);
        else if (n == 1 && !strcmp(words[0], "worst"))
                command_worst(program);
        else if (n == 3 && !strcmp(words[0], "first"))
                command_first(program, words[1], words[2]);
        else if (n == 2 && !strcmp(words[0], "save"))
                command_save(program, words[1]);
        else if (n == 1 && !strcmp(words[0], "saved"))
                command_saved(program);
        else if (n == 1 && !strcmp(words[0], "copy"))
                command_copy(program);
        else if (n == 1 && !strcmp(words[0], "help"))
                command_help(program);
        else if (n == 1 && !strcmp(words[0], "blocks"))
                command_blocks(program);
        else if (n == 3 && !strcmp(words[0], "touch"))
                command_touch(program, words[1], !strcmp(words[2], "clustered"));
        else if (n == 4 && !strcmp(words[0], "restore"))
                command_restore(program, words[1], words[2], words[3]);
        else
                return false;
        return true;
}

int main(int argc, char **argv) {
        static struct program program = {
                .n_regions = 1,
                .name = "bench",
                .memory = "sealed",
                .random = 1181783497276652981,
                .lock = PTHREAD_MUTEX_INITIALIZER,
        };
        char line[4096];

        parse_arguments(&program, argc, argv);
        for (unsigned i = 0; i < program.n_regions; i++)
                memory_make(&program, i);
        if (program.domain)
                attach(&program);
        setvbuf(stdout, NULL, _IOLBF, 0);
        printf("{\"pid\": %d}\n", (int) getpid());
        while (fgets(line, sizeof(line), stdin) && obey(&program, line))
                ;
        for (unsigned i = 0; i < program.n_regions; i++)
                livesnap_region_free(program.described[i]);
        return 0;
}
