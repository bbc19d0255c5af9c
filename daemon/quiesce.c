/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/quiesce.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/cgroup.h"
#include "daemon/clock.h"

#define QUIESCE_LOOK_NS (100 * NSEC_PER_USEC)

/* Flags of a task, in its stat: threads of io_uring and vhost, which take no signal. */
#define TASK_IO_WORKER 0x00000010u
#define TASK_USER_WORKER 0x00004000u

struct quiesce_process {
        pid_t pid;
        int pidfd;       /* owned, or -1 */
        bool is_new;     /* to be signalled */
        bool is_ours;    /* signalled by us */
        bool is_stopped; /* seen to be, or gone */
};

static const char *const quiesce_way_names[] = { "signal", "cgroup", "client", "none" };

const char *quiesce_way_name(enum quiesce_way way) {
        return quiesce_way_names[way];
}

bool quiesce_way_from_name(const char *name, enum quiesce_way *ret) {
        for (unsigned i = 0; i < sizeof(quiesce_way_names) / sizeof(quiesce_way_names[0]); i++)
                if (!strcmp(name, quiesce_way_names[i])) {
                        *ret = (enum quiesce_way) i;
                        return true;
                }
        return false;
}

void quiesce_deinit(struct quiesce *quiesce) {
        if (quiesce->freezer >= 0)
                close(quiesce->freezer);
        if (quiesce->events >= 0)
                close(quiesce->events);
        quiesce->freezer = quiesce->events = -1;
}

void quiesce_set_way(struct quiesce *quiesce, enum quiesce_way way) {
        quiesce_deinit(quiesce);
        quiesce->way = way;
}

/*
 * The freezer
 */

int quiesce_set_cgroup(struct quiesce *quiesce, int freezer, int events, struct error *error) {
        char cgroup[sizeof(quiesce->cgroup)], beside[sizeof(quiesce->cgroup)];
        enum cgroup_version version = cgroup_identify(freezer);
        bool good = false;

        if (version == CGROUP_V2)
                good = cgroup_path(freezer, "cgroup.freeze", cgroup, sizeof(cgroup)) &&
                       cgroup_identify(events) == CGROUP_V2 &&
                       cgroup_path(events, "cgroup.events", beside, sizeof(beside)) && !strcmp(cgroup, beside);
        else if (version == CGROUP_V1)
                good = cgroup_path(freezer, "freezer.state", cgroup, sizeof(cgroup));
        if (!good || !strcmp(cgroup, "/")) {
                if (freezer >= 0)
                        close(freezer);
                if (events >= 0)
                        close(events);
                return error_set(error, ERROR_BAD_REQUEST,
                                 "what should be a freezer is none: it takes cgroup.freeze and cgroup.events of one "
                                 "cgroup, or freezer.state of a hierarchy of version 1, but not of its root");
        }
        if (version == CGROUP_V1 && events >= 0)
                close(steal_fd(&events));
        quiesce_set_way(quiesce, QUIESCE_CGROUP);
        quiesce->freezer = freezer;
        quiesce->events = events;
        quiesce->freezer_kind = version == CGROUP_V2 ? GUARDIAN_FREEZER_V2 : GUARDIAN_FREEZER_V1;
        snprintf(quiesce->cgroup, sizeof(quiesce->cgroup), "%s", cgroup);
        return 0;
}

/* Is the process in the cgroup, or in one below it? One that is gone is no matter. */
static bool freezer_has(const struct quiesce *quiesce, pid_t pid) {
        size_t length = strlen(quiesce->cgroup);
        char path[64], line[PATH_MAX + 64];
        bool has = false;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/cgroup", (int) pid);
        file = fopen(path, "re");
        if (!file)
                return true;
        while (!has && fgets(line, sizeof(line), file)) {
                char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;

                if (!at)
                        continue;
                *at++ = '\0';
                at[strcspn(at, "\n")] = '\0';
                if (quiesce->freezer_kind == GUARDIAN_FREEZER_V2 ? controllers[1] != '\0'
                                                                 : !strstr(controllers + 1, "freezer"))
                        continue;
                has = !strncmp(at, quiesce->cgroup, length) && (at[length] == '\0' || at[length] == '/');
        }
        fclose(file);
        return has;
}

static bool freezer_is_frozen(const struct quiesce *quiesce) {
        char text[256];
        ssize_t n = pread(quiesce->freezer_kind == GUARDIAN_FREEZER_V2 ? quiesce->events : quiesce->freezer, text,
                          sizeof(text) - 1, 0);

        text[n < 0 ? 0 : n] = '\0';
        return quiesce->freezer_kind == GUARDIAN_FREEZER_V2 ? strstr(text, "frozen 1") != NULL
                                                            : !strncmp(text, "FROZEN", 6);
}

static bool freezer_freeze(const struct quiesce *quiesce) {
        return quiesce->freezer_kind == GUARDIAN_FREEZER_V2 ? pwrite(quiesce->freezer, "1", 1, 0) == 1
                                                            : pwrite(quiesce->freezer, "FROZEN", 6, 0) == 6;
}

static void look_again_soon(void) {
        nanosleep(&(struct timespec){ .tv_nsec = QUIESCE_LOOK_NS }, NULL);
}

static enum quiesce_result fail_guardian(int r, struct error *error) {
        error_set(error, ERROR_INTERNAL,
                  "nothing was stopped, since nobody would let it go on if livesnapd died: its guardian process %s%s",
                  r == -EPIPE ? "is gone; restart livesnapd" : "cannot take it: ", r == -EPIPE ? "" : strerror(-r));
        return QUIESCE_FAILED;
}

static enum quiesce_result quiesce_freeze(struct quiesce_stop *stop, uint64_t deadline_ns, struct error *error) {
        const struct quiesce *quiesce = stop->quiesce;
        int r;

        for (unsigned i = 0; i < stop->n; i++)
                if (!freezer_has(quiesce, stop->processes[i].pid)) {
                        error_set(error, ERROR_BAD_REQUEST,
                                  "process %d is not in the cgroup %s that is to be frozen: move it there, or choose "
                                  "another way to quiesce",
                                  (int) stop->processes[i].pid, quiesce->cgroup);
                        return QUIESCE_FAILED;
                }
        if (!stop->stopped) {
                /* Somebody else's freeze is not ours to end. */
                if (freezer_is_frozen(quiesce))
                        return QUIESCE_STOPPED;
                r = guardian_hold(stop->guardian, stop->id, quiesce->freezer_kind, &quiesce->freezer, 1);
                if (r < 0)
                        return fail_guardian(r, error);
                stop->stopped = true;
                if (!freezer_freeze(quiesce)) {
                        error_set(error, ERROR_INTERNAL, "cannot freeze the cgroup %s: %s", quiesce->cgroup,
                                  strerror(errno));
                        return QUIESCE_FAILED;
                }
        }
        while (!freezer_is_frozen(quiesce)) {
                if (clock_now_ns() > deadline_ns) {
                        error_set(error, ERROR_NOT_CONVERGING,
                                  "the cgroup %s was not frozen in time: a process in it waits in the kernel",
                                  quiesce->cgroup);
                        return QUIESCE_NOT_NOW;
                }
                look_again_soon();
        }
        return QUIESCE_STOPPED;
}

/*
 * Signals
 */

enum task_state {
        TASK_RUNS,
        TASK_STOPPED,
        TASK_GONE,
        TASK_WORKER,
};

static enum task_state task_look(int directory, const char *tid) {
        char path[64], text[512], *at, state;
        unsigned flags;
        ssize_t n;
        CLEANUP_CLOSE int fd = -1;

        snprintf(path, sizeof(path), "%.20s/stat", tid);
        fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return TASK_GONE;
        text[n] = '\0';
        at = strrchr(text, ')');
        if (!at || sscanf(at + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
                return TASK_RUNS;
        if (flags & (TASK_IO_WORKER | TASK_USER_WORKER))
                return TASK_WORKER;
        if (state == 'Z' || state == 'X')
                return TASK_GONE;
        return state == 'T' || state == 't' ? TASK_STOPPED : TASK_RUNS;
}

/* Are all threads of the process stopped, or gone? @ret_tid: one that is not. */
static bool process_is_stopped(pid_t pid, unsigned *ret_n_workers, pid_t *ret_tid) {
        char path[64];
        bool stopped = true;
        struct dirent *entry;
        DIR *tasks;

        snprintf(path, sizeof(path), "/proc/%d/task", (int) pid);
        tasks = opendir(path);
        *ret_n_workers = 0;
        while (tasks && stopped && (entry = readdir(tasks))) {
                enum task_state state;

                if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
                        continue;
                state = task_look(dirfd(tasks), entry->d_name);
                *ret_n_workers += state == TASK_WORKER;
                if (state == TASK_RUNS) {
                        *ret_tid = (pid_t) atoi(entry->d_name);
                        stopped = false;
                }
        }
        if (tasks)
                closedir(tasks);
        return stopped;
}

/* Have the guardian know of those that are new. @fds: room for all. */
static enum quiesce_result quiesce_hold(struct quiesce_stop *stop, int *fds, struct error *error) {
        unsigned n_fds = 0, n_workers;
        pid_t tid;
        int r;

        for (unsigned i = 0; i < stop->n; i++) {
                struct quiesce_process *process = &stop->processes[i];

                if (process->pidfd >= 0 || process->is_stopped)
                        continue;
                process->pidfd = (int) syscall(SYS_pidfd_open, process->pid, 0);
                process->is_stopped = process->pidfd < 0; /* it is gone */
                /* One that somebody else has stopped is theirs to let go on. */
                process->is_new = !process->is_stopped && !process_is_stopped(process->pid, &n_workers, &tid);
                if (process->is_new)
                        fds[n_fds++] = process->pidfd;
        }
        r = guardian_hold(stop->guardian, stop->id, GUARDIAN_PIDFD, fds, n_fds);
        return r < 0 ? fail_guardian(r, error) : QUIESCE_STOPPED;
}

static enum quiesce_result quiesce_send(struct quiesce_stop *stop, struct error *error) {
        for (unsigned i = 0; i < stop->n; i++) {
                struct quiesce_process *process = &stop->processes[i];
                int r;

                if (!process->is_new)
                        continue;
                process->is_new = false;
                r = syscall(SYS_pidfd_send_signal, process->pidfd, SIGSTOP, NULL, 0) < 0 ? -errno : 0;
                process->is_ours = r == 0;
                if (r < 0 && r != -ESRCH) {
                        error_set(error, ERROR_PERMISSION_DENIED,
                                  "cannot stop process %d: %s; livesnapd needs CAP_KILL, or choose another way to "
                                  "quiesce",
                                  (int) process->pid, strerror(-r));
                        return QUIESCE_FAILED;
                }
        }
        return QUIESCE_STOPPED;
}

static enum quiesce_result quiesce_signal(struct quiesce_stop *stop, uint64_t deadline_ns, struct error *error) {
        CLEANUP_FREE int *fds = calloc(stop->n + 1, sizeof(*fds));

        if (!fds) {
                error_set(error, ERROR_INTERNAL, "out of memory");
                return QUIESCE_FAILED;
        }
        if (quiesce_hold(stop, fds, error) != QUIESCE_STOPPED || quiesce_send(stop, error) != QUIESCE_STOPPED)
                return QUIESCE_FAILED;
        for (unsigned i = 0; i < stop->n; i++) {
                struct quiesce_process *process = &stop->processes[i];
                unsigned n_workers = 0;
                pid_t tid = 0;

                while (!process->is_stopped && !process_is_stopped(process->pid, &n_workers, &tid)) {
                        if (clock_now_ns() > deadline_ns) {
                                error_set(error, ERROR_NOT_CONVERGING,
                                          "thread %d of process %d did not stop in time: it waits in the kernel",
                                          (int) tid, (int) process->pid);
                                return QUIESCE_NOT_NOW;
                        }
                        look_again_soon();
                }
                if (!process->is_stopped)
                        stop->n_workers += n_workers;
                process->is_stopped = true;
        }
        return QUIESCE_STOPPED;
}

static enum quiesce_result quiesce_ask(struct quiesce_stop *stop, uint64_t deadline_ns, struct error *error) {
        int r;

        if (stop->stopped)
                return QUIESCE_STOPPED;
        stop->stopped = true;
        r = quiesce_client_stop(stop->quiesce->client, deadline_ns, error);
        return r < 0 ? QUIESCE_FAILED : r == 0 ? QUIESCE_NOT_NOW : QUIESCE_STOPPED;
}

/*
 * All ways
 */

void quiesce_stop_init(struct quiesce_stop *stop, const struct quiesce *quiesce, struct guardian *guardian) {
        static _Atomic uint64_t last_id;

        *stop = (struct quiesce_stop){
                .quiesce = quiesce,
                .guardian = guardian,
                /* relaxed: it only has to be another one each time */
                .id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1,
        };
}

bool quiesce_has(const struct quiesce_stop *stop, pid_t pid) {
        for (unsigned i = 0; i < stop->n; i++)
                if (stop->processes[i].pid == pid)
                        return true;
        return false;
}

static int quiesce_add(struct quiesce_stop *stop, pid_t pid) {
        if (quiesce_has(stop, pid))
                return 0;
        if (stop->n == stop->n_allocated) {
                unsigned n = stop->n_allocated ? stop->n_allocated * 2 : 16;
                struct quiesce_process *processes = reallocarray(stop->processes, n, sizeof(*processes));

                if (!processes)
                        return -ENOMEM;
                stop->processes = processes;
                stop->n_allocated = n;
        }
        stop->processes[stop->n++] = (struct quiesce_process){ .pid = pid, .pidfd = -1 };
        return 0;
}

enum quiesce_result quiesce_processes(struct quiesce_stop *stop, const pid_t *pids, unsigned n_pids,
                                      uint64_t deadline_ns, struct error *error) {
        for (unsigned i = 0; i < n_pids; i++)
                if (quiesce_add(stop, pids[i]) < 0) {
                        error_set(error, ERROR_INTERNAL, "out of memory");
                        return QUIESCE_FAILED;
                }
        switch (stop->quiesce->way) {
        case QUIESCE_SIGNAL:
                return quiesce_signal(stop, deadline_ns, error);
        case QUIESCE_CGROUP:
                return quiesce_freeze(stop, deadline_ns, error);
        case QUIESCE_CLIENT:
                return quiesce_ask(stop, deadline_ns, error);
        case QUIESCE_NONE:
                break;
        }
        return QUIESCE_STOPPED;
}

bool quiesce_is_intact(const struct quiesce_stop *stop) {
        return stop->quiesce->way != QUIESCE_CLIENT || quiesce_client_is_intact(stop->quiesce->client);
}

void quiesce_resume(struct quiesce_stop *stop) {
        for (unsigned i = 0; i < stop->n; i++) {
                struct quiesce_process *process = &stop->processes[i];

                if (process->pidfd < 0)
                        continue;
                if (process->is_ours)
                        guardian_let_go(GUARDIAN_PIDFD, process->pidfd);
                close(process->pidfd);
        }
        if (stop->stopped && stop->quiesce->way == QUIESCE_CGROUP)
                guardian_let_go(stop->quiesce->freezer_kind, stop->quiesce->freezer);
        if (stop->stopped && stop->quiesce->way == QUIESCE_CLIENT)
                quiesce_client_resume(stop->quiesce->client);
        guardian_release(stop->guardian, stop->id);
        free(stop->processes);
        *stop = (struct quiesce_stop){ 0 };
}
