/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Calls that wait for time to pass or for a descriptor. */
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TIME_NS VICTIM_SLEEP_NS

static void in_read(void) {
        victim_ready();
}

static void in_read_of_pipe(void) {
        int pipe_fds[2];
        char byte;

        CHECK(!pipe(pipe_fds));
        victim_later(victim_later_write, &pipe_fds[1]);
        victim_ready();
        CHECK(read(pipe_fds[0], &byte, 1) == 1);
}

static void in_nanosleep(void) {
        struct timespec time = victim_timespec(TIME_NS);
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!syscall(SYS_nanosleep, &time, NULL));
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static void in_clock_nanosleep_relative(void) {
        struct timespec time = victim_timespec(TIME_NS);
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL));
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static void in_clock_nanosleep_absolute(void) {
        struct timespec time;
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        time = victim_timespec(start_ns + TIME_NS);
        CHECK(!clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL));
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static void in_poll(void) {
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!syscall(SYS_poll, NULL, 0, TIME_NS / MS));
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static void in_ppoll(void) {
        struct timespec time = victim_timespec(TIME_NS);
        uint64_t start_ns;
        sigset_t none;

        sigemptyset(&none);
        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!ppoll(NULL, 0, &time, &none));
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static void in_select(void) {
        struct timeval time = { .tv_sec = TIME_NS / (1000 * MS) };
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!syscall(SYS_select, 0, NULL, NULL, NULL, &time));
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static int epoll_of(int fd) {
        struct epoll_event event = { .events = EPOLLIN };
        int epoll = epoll_create1(0);

        CHECK(epoll >= 0 && (fd < 0 || !epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)));
        return epoll;
}

static void in_epoll_wait(void) {
        struct epoll_event event;
        int pipe_fds[2], epoll;

        CHECK(!pipe(pipe_fds));
        epoll = epoll_of(pipe_fds[0]);
        victim_later(victim_later_write, &pipe_fds[1]);
        victim_ready();
        CHECK(epoll_wait(epoll, &event, 1, -1) == 1);
}

/* The usual event loop: none of its timeouts may become longer, so it must be stopped when one begins. */
static void in_epoll_wait_loop(void) {
        struct epoll_event event;
        int epoll = epoll_of(-1);

        victim_ready();
        for (int i = 0; i < 6; i++) {
                uint64_t start_ns = victim_now_ns();

                CHECK(!epoll_wait(epoll, &event, 1, 800));
                victim_check_elapsed(start_ns, 800 * MS, 500 * MS);
        }
}

/* Longer than anybody waits for a good moment: it starts anew, but still there is no EINTR. */
static void in_epoll_wait_long(void) {
        struct epoll_event event;
        int epoll = epoll_of(-1);
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!epoll_wait(epoll, &event, 1, VICTIM_LONG_NS / MS));
        victim_check_elapsed(start_ns, VICTIM_LONG_NS, VICTIM_ANEW_NS);
}

static void in_futex_relative(void) {
        struct timespec time = victim_timespec(TIME_NS);
        uint32_t word = 0;
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        CHECK(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0) < 0 && errno == ETIMEDOUT);
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

static void in_futex_absolute(void) {
        struct timespec time;
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        time = victim_timespec(start_ns + TIME_NS);
        /* In the shared memory itself. */
        CHECK(syscall(SYS_futex, victim_shared, FUTEX_WAIT_BITSET, *victim_shared, &time, NULL,
                      FUTEX_BITSET_MATCH_ANY) < 0 &&
              errno == ETIMEDOUT);
        victim_check_elapsed(start_ns, TIME_NS, VICTIM_LATE_NS);
}

const struct victim_situation victim_waits[] = {
        { "read", in_read },
        { "read-of-pipe", in_read_of_pipe },
        { "nanosleep", in_nanosleep },
        { "clock-nanosleep-relative", in_clock_nanosleep_relative },
        { "clock-nanosleep-absolute", in_clock_nanosleep_absolute },
        { "poll", in_poll },
        { "ppoll", in_ppoll },
        { "select", in_select },
        { "epoll-wait", in_epoll_wait },
        { "epoll-wait-loop", in_epoll_wait_loop },
        { "epoll-wait-long", in_epoll_wait_long },
        { "futex-relative", in_futex_relative },
        { "futex-absolute", in_futex_absolute },
        { 0 },
};
