/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/attach/threads.h"

#include <dirent.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client/attach/proc.h"
#include "common/cleanup.h"

/* Watched at this interval, which is also what a timeout that starts anew is late by. */
#define WATCH_INTERVAL_NS 200000
#define WATCH_TIMED_NS 1000000000ull
#define WATCH_WOKEN_NS 50000000ull
#define WATCH_UNFIT_NS 3000000000ull
#define THREADS_MAX 256

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define IO_URING_ENTER_EXT_ARG 8u

enum rank {
        RANK_RESTARTS, /* runs, or is in a call that the kernel restarts as if nothing had been */
        RANK_REPEATS,  /* in a call that returns EINTR but has no timeout: we have it made again */
        RANK_TIMED,    /* in a call whose timeout would start anew */
        RANK_OTHER,    /* in a call of which some may be done already, or that we know nothing about */
        RANK_UNFIT,    /* cannot be stopped */
        RANK_GONE,     /* has exited */
};

struct call {
        long number;
        uint64_t arguments[6];
};

bool threads_call_can_be_repeated(long number) {
        switch (number) {
        case SYS_read:
        case SYS_readv:
        case SYS_write:
        case SYS_writev:
        case SYS_accept:
        case SYS_accept4:
        case SYS_connect:
        case SYS_recvfrom:
        case SYS_recvmsg:
        case SYS_recvmmsg:
        case SYS_sendto:
        case SYS_sendmsg:
        case SYS_sendmmsg:
        case SYS_poll:
        case SYS_ppoll:
        case SYS_select:
        case SYS_pselect6:
        case SYS_epoll_wait:
        case SYS_epoll_pwait:
        case SYS_epoll_pwait2:
        case SYS_io_getevents:
        case SYS_io_pgetevents:
        case SYS_io_uring_enter:
        case SYS_semop:
        case SYS_semtimedop:
        case SYS_msgsnd:
        case SYS_msgrcv:
        case SYS_mq_timedsend:
        case SYS_mq_timedreceive:
        case SYS_rt_sigtimedwait:
        case SYS_rt_sigsuspend:
        case SYS_pause:
        case SYS_nanosleep:
        case SYS_clock_nanosleep:
        case SYS_futex:
        case SYS_futex_waitv:
                return true;
        default:
                return false;
        }
}

bool threads_has_seccomp(pid_t process, pid_t thread) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int) process, (int) thread);
        return proc_status_number(path, "Seccomp:") > 0;
}

/* Has the socket a timeout? One look at it through a copy of the descriptor. */
static bool socket_has_timeout(pid_t process, uint64_t fd, int option) {
        CLEANUP_CLOSE int pidfd = (int) syscall(SYS_pidfd_open, process, 0);
        CLEANUP_CLOSE int copy = pidfd < 0 ? -1 : (int) syscall(SYS_pidfd_getfd, pidfd, (int) fd, 0);
        struct timeval timeout = { 0 };
        socklen_t size = sizeof(timeout);

        return copy >= 0 && !getsockopt(copy, SOL_SOCKET, option, &timeout, &size) &&
               (timeout.tv_sec || timeout.tv_usec);
}

static enum rank call_rank(pid_t process, const struct call *call, bool filtered) {
        const uint64_t *arguments = call->arguments;

        switch (call->number) {
        case SYS_read:
        case SYS_readv:
        case SYS_accept:
        case SYS_accept4:
        case SYS_recvfrom:
        case SYS_recvmsg:
                return socket_has_timeout(process, arguments[0], SO_RCVTIMEO) ? RANK_TIMED : RANK_RESTARTS;
        case SYS_recvmmsg:
                return arguments[4] || socket_has_timeout(process, arguments[0], SO_RCVTIMEO) ? RANK_TIMED
                                                                                              : RANK_REPEATS;
        case SYS_connect:
                return socket_has_timeout(process, arguments[0], SO_SNDTIMEO) ? RANK_TIMED : RANK_RESTARTS;
        /* The time that is left is written back for the restart. */
        case SYS_select:
        case SYS_pselect6:
        case SYS_ppoll:
        case SYS_pause:
        case SYS_rt_sigsuspend:
        case SYS_wait4:
        case SYS_waitid:
        case SYS_msgrcv:
        case SYS_msgsnd:
        case SYS_flock:
        case SYS_fcntl:
        case SYS_futex_waitv:
        case SYS_restart_syscall:
                return RANK_RESTARTS;
        /* The time that is left is in the restart block, of no use where restart_syscall() may be forbidden. */
        case SYS_poll:
                return filtered && (int) arguments[2] >= 0 ? RANK_TIMED : RANK_RESTARTS;
        case SYS_nanosleep:
                return filtered ? RANK_TIMED : RANK_RESTARTS;
        case SYS_clock_nanosleep:
                return filtered && !(arguments[1] & TIMER_ABSTIME) ? RANK_TIMED : RANK_RESTARTS;
        case SYS_futex:
                return filtered && (arguments[1] & (uint64_t) FUTEX_CMD_MASK) == FUTEX_WAIT && arguments[3]
                               ? RANK_TIMED
                               : RANK_RESTARTS;
        case SYS_epoll_wait:
        case SYS_epoll_pwait:
                return (int) arguments[3] >= 0 ? RANK_TIMED : RANK_REPEATS;
        case SYS_semop:
                return RANK_REPEATS;
        case SYS_epoll_pwait2:
        case SYS_semtimedop:
                return arguments[3] ? RANK_TIMED : RANK_REPEATS;
        case SYS_rt_sigtimedwait:
                return arguments[2] ? RANK_TIMED : RANK_REPEATS;
        case SYS_io_getevents:
        case SYS_io_pgetevents:
                return arguments[4] ? RANK_TIMED : RANK_REPEATS;
        case SYS_io_uring_enter:
                if (arguments[1]) /* what it has submitted it returns, without waiting for what it was to wait for */
                        return RANK_OTHER;
                return arguments[3] & IO_URING_ENTER_EXT_ARG ? RANK_TIMED : RANK_REPEATS;
        default:
                return RANK_OTHER;
        }
}

static enum rank thread_rank(pid_t process, pid_t tid) {
        struct call call;
        char path[64], text[256], state;
        uint64_t *arguments = call.arguments;

        state = proc_thread_state(process, tid);
        if (state == 'R')
                return RANK_RESTARTS;
        if (!state || state == 'Z' || state == 'X')
                return RANK_GONE;
        if (state != 'S' && state != 'T')
                return RANK_UNFIT;
        snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", (int) process, (int) tid);
        if (proc_read(path, text, sizeof(text)) < 0)
                return RANK_OTHER;
        if (!strncmp(text, "running", strlen("running")))
                return RANK_RESTARTS;
        if (sscanf(text, "%ld %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, &call.number,
                   &arguments[0], &arguments[1], &arguments[2], &arguments[3], &arguments[4], &arguments[5]) != 7)
                return RANK_OTHER;
        return call_rank(process, &call, threads_has_seccomp(process, tid));
}

static void cleanup_closedir_p(DIR **directory) {
        if (*directory)
                closedir(*directory);
}

static enum rank process_best(pid_t process, pid_t *ret_tid) {
        CLEANUP(cleanup_closedir_p) DIR *directory = NULL;
        enum rank best = RANK_GONE;
        struct dirent *entry;
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/task", (int) process);
        directory = opendir(path);
        if (!directory)
                return RANK_GONE;
        for (unsigned i = 0; best > RANK_RESTARTS && i < THREADS_MAX && (entry = readdir(directory)); i++) {
                pid_t tid = atoi(entry->d_name);
                enum rank rank = tid > 0 ? thread_rank(process, tid) : RANK_GONE;

                if (rank < best) {
                        best = rank;
                        *ret_tid = tid;
                }
        }
        return best;
}

static long switches(pid_t process, pid_t tid) {
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/task/%d/status", (int) process, (int) tid);
        return proc_status_number(path, "voluntary_ctxt_switches:");
}

/* A thread in a call with a timeout that is waited for to begin another one. */
struct watch {
        pid_t tid;
        long switches;
        uint64_t woken_ns; /* when it was first seen to run; 0: it sleeps */
};

/* Return: is now the moment? */
static bool watch_look(struct watch *watch, pid_t process, pid_t tid, enum rank rank) {
        long now = switches(process, tid);

        if (rank <= RANK_REPEATS) {
                /* One that has been woken and waits for a CPU is in its call still: it would make all of it again. */
                if (tid != watch->tid || now != watch->switches)
                        return true;
                if (!watch->woken_ns)
                        watch->woken_ns = proc_now_ns();
                return proc_now_ns() - watch->woken_ns > WATCH_WOKEN_NS;
        }
        if (tid == watch->tid && watch->switches >= 0 && now != watch->switches)
                return true; /* it has just gone to sleep again */
        *watch = (struct watch){ .tid = tid, .switches = now };
        return false;
}

int threads_choose(pid_t process, pid_t twin, pid_t *ret_process, pid_t *ret_thread, struct error *error) {
        const struct timespec interval = { .tv_nsec = WATCH_INTERVAL_NS };
        uint64_t start_ns = proc_now_ns();
        pid_t owner = process, tid = 0;
        struct watch watch = { 0 };
        enum rank rank;

        for (;;) {
                uint64_t waited_ns = proc_now_ns() - start_ns;

                owner = process;
                rank = process_best(process, &tid);
                if (rank >= RANK_UNFIT && twin) {
                        owner = twin;
                        rank = process_best(twin, &tid);
                }
                if (rank < RANK_UNFIT && (watch_look(&watch, owner, tid, rank) || waited_ns >= WATCH_TIMED_NS))
                        break;
                if (rank == RANK_GONE)
                        return error_set(error, ERROR_BAD_MAPPING, "process %d exited while livesnap attached to it",
                                         (int) process);
                if (waited_ns >= WATCH_UNFIT_NS)
                        return error_set(
                                error, ERROR_BUSY,
                                "process %d cannot be stopped, not even for a moment: it waits for a disk or a "
                                "vfork() child, or is being traced; try again later",
                                (int) process);
                nanosleep(&interval, NULL);
        }
        *ret_process = owner;
        *ret_thread = tid;
        return 0;
}
