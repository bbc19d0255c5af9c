/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * unruly: a program that does to its shared memory, on command, whatever can lead out of tracking.
 *
 * usage: unruly [PAGES [FILE]]
 *
 * It maps one memfd (or a file on tmpfs) of so many pages, called "unruly", and fills word 0 of each page with the
 * page's number plus one; "write" puts WRITTEN there instead. So an image of the instant of the attach is known word by
 * word. Takes one command a line on stdin, and answers each with "ok" or "failed: why".
 *
 *   write WHERE FIRST COUNT   through a mapping: main, or one that a command below has made
 *   dontunmap                 move the second half elsewhere and keep it where it was: makes "moved" and "left"
 *   duplicate                 mremap with an old size of 0: makes "other"
 *   grow                      lengthen "short", a mapping of the first half that is there from the start
 *   unprotect                 make "readonly", a read-only mapping that is there from the start, writable
 *   map                       one mapping more: makes "other"
 *   unmap                     the second half of main
 *   punch FIRST COUNT HOW     remove content: madvise, fd or process (a forked one's descriptor)
 *   read FIRST COUNT          touch pages by reading
 *   truncate PAGES            change the object's size
 *   storm N | flood N         start N threads that fork, or that advise DONTNEED, without a pause until "calm"
 *   brood N                   start N children, one each 2 ms, that live until "calm"
 *   beat                      how often the threads came round: {"forks", "advices"} as two numbers
 *   alarm                     send the writing thread a signal each 500 us while it writes, until "calm"
 *   exec                      become another program
 *   check FIRST COUNT VALUE   is word 0 of these pages VALUE (0: as it was filled, 1: as it was written)?
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define THREADS_MAX 16u
#define ADVISED_PAGES 16u
#define ALARM_USEC 500
#define BROOD_MAX 256u
#define BROOD_INTERVAL_USEC 2000
#define WRITTEN UINT64_C(0x5752495454454e21)

enum place_index { PLACE_MAIN, PLACE_SHORT, PLACE_READONLY, PLACE_MOVED, PLACE_LEFT, PLACE_OTHER, N_PLACES };

/* One mapping: where it is, and which pages of the object are there. */
struct place {
        const char *name;
        uint8_t *address;
        uint64_t first;
        uint64_t n_pages;
};

static struct place places[N_PLACES] = {
        { .name = "main" },  { .name = "short" }, { .name = "readonly" },
        { .name = "moved" }, { .name = "left" },  { .name = "other" },
};
static uint64_t n_pages = 1024;
static int object;
static _Atomic bool is_calm;
static _Atomic uint64_t n_forks, n_advices;
static pthread_t threads[THREADS_MAX];
static unsigned n_threads;
static unsigned n_brood;

static uint64_t *word_of(const struct place *place, uint64_t page) {
        return (uint64_t *) (place->address + (page - place->first) * PAGE_BYTES);
}

static struct place *find_place(const char *name) {
        for (unsigned i = 0; i < N_PLACES; i++)
                if (!strcmp(places[i].name, name) && places[i].address)
                        return &places[i];
        return NULL;
}

static int map_at(enum place_index index, int protection, uint64_t length_pages) {
        void *address = mmap(NULL, length_pages * PAGE_BYTES, protection, MAP_SHARED, object, 0);

        if (address == MAP_FAILED)
                return -errno;
        places[index].address = address;
        places[index].n_pages = length_pages;
        return 0;
}

static int make(const char *path) {
        int r;

        object = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : memfd_create("unruly", MFD_CLOEXEC);
        if (object < 0 || ftruncate(object, (off_t) (n_pages * PAGE_BYTES)) < 0)
                return -errno;
        r = map_at(PLACE_MAIN, PROT_READ | PROT_WRITE, n_pages);
        if (r == 0)
                r = map_at(PLACE_SHORT, PROT_READ | PROT_WRITE, n_pages / 2);
        if (r == 0)
                r = map_at(PLACE_READONLY, PROT_READ, n_pages);
        for (uint64_t i = 0; i < n_pages && r == 0; i++)
                *word_of(&places[PLACE_MAIN], i) = i + 1;
        return r;
}

static int write_pages(const struct place *place, uint64_t first, uint64_t count) {
        if (!place || first < place->first || first + count > place->first + place->n_pages)
                return -EINVAL;
        for (uint64_t i = first; i < first + count; i++)
                __atomic_store_n(word_of(place, i), WRITTEN, __ATOMIC_RELEASE);
        return 0;
}

static int dontunmap(void) {
        uint64_t half = n_pages / 2;
        uint8_t *from = places[PLACE_MAIN].address + half * PAGE_BYTES;
        void *to = mremap(from, half * PAGE_BYTES, half * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

        if (to == MAP_FAILED)
                return -errno;
        places[PLACE_MAIN].n_pages = half;
        places[PLACE_MOVED] = (struct place){ "moved", to, half, half };
        places[PLACE_LEFT] = (struct place){ "left", from, half, half };
        return 0;
}

static int duplicate(void) {
        void *to = mremap(places[PLACE_MAIN].address, 0, n_pages * PAGE_BYTES, MREMAP_MAYMOVE);

        if (to == MAP_FAILED)
                return -errno;
        places[PLACE_OTHER].address = to;
        places[PLACE_OTHER].n_pages = n_pages;
        return 0;
}

static int grow(void) {
        struct place *place = &places[PLACE_SHORT];
        void *to = mremap(place->address, place->n_pages * PAGE_BYTES, n_pages * PAGE_BYTES, MREMAP_MAYMOVE);

        if (to == MAP_FAILED)
                return -errno;
        place->address = to;
        place->n_pages = n_pages;
        return 0;
}

static int unprotect(void) {
        return mprotect(places[PLACE_READONLY].address, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE) < 0 ? -errno : 0;
}

static int unmap(void) {
        uint64_t half = n_pages / 2;

        if (munmap(places[PLACE_MAIN].address + half * PAGE_BYTES, half * PAGE_BYTES) < 0)
                return -errno;
        places[PLACE_MAIN].n_pages = half;
        return 0;
}

static int punch_by_fd(uint64_t first, uint64_t count) {
        return fallocate(object, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) (first * PAGE_BYTES),
                         (off_t) (count * PAGE_BYTES)) < 0
                       ? -errno
                       : 0;
}

static int punch(uint64_t first, uint64_t count, const char *how) {
        int status;
        pid_t pid;

        if (!strcmp(how, "madvise"))
                return madvise(word_of(&places[PLACE_MAIN], first), count * PAGE_BYTES, MADV_REMOVE) < 0 ? -errno : 0;
        if (!strcmp(how, "fd"))
                return punch_by_fd(first, count);
        pid = fork();
        if (pid == 0)
                _exit(punch_by_fd(first, count) < 0);
        if (pid < 0 || waitpid(pid, &status, 0) < 0)
                return -errno;
        return status == 0 ? 0 : -EIO;
}

static int read_pages(uint64_t first, uint64_t count) {
        for (uint64_t i = first; i < first + count; i++)
                (void) __atomic_load_n(word_of(&places[PLACE_MAIN], i), __ATOMIC_ACQUIRE);
        return 0;
}

static void *run_storm(void *data) {
        while (!is_calm) {
                pid_t pid = fork();

                if (pid == 0) {
                        usleep(2000);
                        _exit(0);
                }
                if (pid > 0 && waitpid(pid, NULL, 0) == pid)
                        n_forks++;
        }
        return NULL;
}

/* The thread stays as long as its children: they die with the thread that forked them. */
static void *run_brood(void *data) {
        pid_t pids[BROOD_MAX];
        unsigned n = 0;

        for (; n < n_brood && !is_calm; n++) {
                pids[n] = fork();
                if (pids[n] == 0) {
                        prctl(PR_SET_PDEATHSIG, SIGKILL);
                        pause();
                        _exit(0);
                }
                if (pids[n] < 0)
                        break;
                n_forks++;
                usleep(BROOD_INTERVAL_USEC);
        }
        while (!is_calm)
                usleep(BROOD_INTERVAL_USEC);
        while (n > 0) {
                kill(pids[--n], SIGKILL);
                waitpid(pids[n], NULL, 0);
        }
        return NULL;
}

static void *run_flood(void *data) {
        while (!is_calm) {
                (void) madvise(places[PLACE_MAIN].address, ADVISED_PAGES * PAGE_BYTES, MADV_DONTNEED);
                n_advices++;
        }
        return NULL;
}

static int start(void *(*run)(void *data), uint64_t count) {
        is_calm = false;
        for (; count > 0 && n_threads < THREADS_MAX; count--)
                if (pthread_create(&threads[n_threads], NULL, run, NULL) == 0)
                        n_threads++;
        return count ? -E2BIG : 0;
}

static int calm_down(void) {
        static const struct itimerval never;

        is_calm = true;
        while (n_threads > 0)
                pthread_join(threads[--n_threads], NULL);
        setitimer(ITIMER_REAL, &never, NULL);
        return 0;
}

static void on_alarm(int number) {
}

static int start_alarm(void) {
        static const struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
        static const struct itimerval interval = { { 0, ALARM_USEC }, { 0, ALARM_USEC } };

        return sigaction(SIGALRM, &action, NULL) < 0 || setitimer(ITIMER_REAL, &interval, NULL) < 0 ? -errno : 0;
}

static int check(uint64_t first, uint64_t count, uint64_t value) {
        for (uint64_t i = first; i < first + count; i++)
                if (*word_of(&places[PLACE_MAIN], i) != (value ? WRITTEN : i + 1))
                        return -EILSEQ;
        return 0;
}

static int run(const char *line) {
        char verb[32] = "", word[32] = "";
        unsigned long long a = 0, b = 0, c = 0;

        if (sscanf(line, "write %31s %llu %llu", word, &a, &b) == 3)
                return write_pages(find_place(word), a, b);
        if (sscanf(line, "punch %llu %llu %31s", &a, &b, word) == 3)
                return punch(a, b, word);
        if (sscanf(line, "check %llu %llu %llu", &a, &b, &c) == 3)
                return check(a, b, c);
        sscanf(line, "%31s %llu %llu", verb, &a, &b);
        if (!strcmp(verb, "dontunmap"))
                return dontunmap();
        if (!strcmp(verb, "duplicate"))
                return duplicate();
        if (!strcmp(verb, "grow"))
                return grow();
        if (!strcmp(verb, "unprotect"))
                return unprotect();
        if (!strcmp(verb, "map"))
                return map_at(PLACE_OTHER, PROT_READ | PROT_WRITE, n_pages);
        if (!strcmp(verb, "unmap"))
                return unmap();
        if (!strcmp(verb, "read"))
                return read_pages(a, b);
        if (!strcmp(verb, "truncate"))
                return ftruncate(object, (off_t) (a * PAGE_BYTES)) < 0 ? -errno : 0;
        if (!strcmp(verb, "storm"))
                return start(run_storm, a);
        if (!strcmp(verb, "brood")) {
                n_brood = a < BROOD_MAX ? (unsigned) a : BROOD_MAX;
                return start(run_brood, 1);
        }
        if (!strcmp(verb, "flood"))
                return start(run_flood, a);
        if (!strcmp(verb, "alarm"))
                return start_alarm();
        if (!strcmp(verb, "calm"))
                return calm_down();
        if (!strcmp(verb, "exec"))
                return execlp("sleep", "sleep", "60", NULL) < 0 ? -errno : 0;
        return -ENOSYS;
}

int main(int argc, char **argv) {
        char line[128];
        int r;

        setlinebuf(stdout);
        if (argc > 1)
                n_pages = strtoull(argv[1], NULL, 0);
        r = make(argc > 2 ? argv[2] : NULL);
        if (r < 0) {
                fprintf(stderr, "unruly: cannot make its memory: %s\n", strerror(-r));
                return 1;
        }
        puts("ok");
        while (fgets(line, sizeof(line), stdin)) {
                if (!strcmp(line, "beat\n")) {
                        printf("ok %ju %ju\n", (uintmax_t) n_forks, (uintmax_t) n_advices);
                        continue;
                }
                r = run(line);
                if (r < 0)
                        printf("failed: %s\n", strerror(-r));
                else
                        puts("ok");
        }
        calm_down();
        return 0;
}
