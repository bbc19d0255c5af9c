/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Calls that wait for signals, and signals that come in between. */
#include "victim.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t n_signals;

static void on_signal(int number) {
        (void) number;
        n_signals++;
}

static void handle(int number, int flags) {
        struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };

        CHECK(!sigaction(number, &action, NULL));
}

static void block_usr1(sigset_t *ret) {
        sigemptyset(ret);
        sigaddset(ret, SIGUSR1);
        CHECK(!sigprocmask(SIG_BLOCK, ret, NULL));
}

static void later_kill(void *data) {
        (void) data;
        kill(getppid(), SIGUSR1);
}

static void in_sigtimedwait(void) {
        struct timespec time = victim_timespec(VICTIM_SLEEP_NS);
        uint64_t start_ns;
        sigset_t set;

        block_usr1(&set);
        victim_ready();
        start_ns = victim_now_ns();
        CHECK(sigtimedwait(&set, NULL, &time) < 0 && errno == EAGAIN);
        victim_check_elapsed(start_ns, VICTIM_SLEEP_NS, VICTIM_LATE_NS);
}

static void in_sigtimedwait_long(void) {
        struct timespec time = victim_timespec(VICTIM_LONG_NS);
        uint64_t start_ns;
        sigset_t set;

        block_usr1(&set);
        victim_ready();
        start_ns = victim_now_ns();
        CHECK(sigtimedwait(&set, NULL, &time) < 0 && errno == EAGAIN);
        victim_check_elapsed(start_ns, VICTIM_LONG_NS, VICTIM_ANEW_NS);
}

static void in_sigwaitinfo(void) {
        sigset_t set;

        block_usr1(&set);
        victim_later(later_kill, NULL);
        victim_ready();
        CHECK(sigwaitinfo(&set, NULL) == SIGUSR1);
}

static void in_sigsuspend(void) {
        sigset_t set;

        handle(SIGUSR1, 0);
        block_usr1(&set);
        victim_later(later_kill, NULL);
        victim_ready();
        sigemptyset(&set);
        CHECK(sigsuspend(&set) < 0 && errno == EINTR && n_signals == 1);
}

static void in_pause(void) {
        handle(SIGUSR1, SA_RESTART);
        victim_later(later_kill, NULL);
        victim_ready();
        CHECK(pause() < 0 && errno == EINTR && n_signals == 1);
}

/* A signal that had come before, blocked, stays pending. */
static void in_pending_signal(void) {
        struct timespec time = victim_timespec(VICTIM_SLEEP_NS);
        sigset_t set;

        block_usr1(&set);
        kill(getpid(), SIGUSR1);
        victim_ready();
        CHECK(!syscall(SYS_nanosleep, &time, NULL));
}

static void storm_start(int flags) {
        struct itimerval timer = { .it_interval.tv_usec = 500, .it_value.tv_usec = 500 };

        handle(SIGALRM, flags);
        victim_ready();
        CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
}

static void storm_stop(void) {
        struct itimerval timer = { 0 };

        CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
        CHECK(n_signals > 100);
}

static void in_storm_restart(void) {
        int pipe_fds[2];
        char byte;

        CHECK(!pipe(pipe_fds));
        victim_later(victim_later_write, &pipe_fds[1]);
        storm_start(SA_RESTART);
        CHECK(read(pipe_fds[0], &byte, 1) == 1);
        storm_stop();
}

/* Each EINTR must have a signal behind it. */
static void in_storm_interrupt(void) {
        uint64_t start_ns = victim_now_ns();
        int pipe_fds[2];
        char byte;

        CHECK(!pipe(pipe_fds));
        storm_start(0);
        while (victim_now_ns() - start_ns < 990 * MS) {
                int had = n_signals;

                CHECK(read(pipe_fds[0], &byte, 1) < 0 && errno == EINTR);
                CHECK(n_signals > had);
        }
        storm_stop();
}

const struct victim_situation victim_signals[] = {
        { "sigtimedwait", in_sigtimedwait },
        { "sigtimedwait-long", in_sigtimedwait_long },
        { "sigwaitinfo", in_sigwaitinfo },
        { "sigsuspend", in_sigsuspend },
        { "pause", in_pause },
        { "pending-signal", in_pending_signal },
        { "storm-restart", in_storm_restart },
        { "storm-interrupt", in_storm_interrupt },
        { 0 },
};
