/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SAVE_DEPTH 16
#define SAVE_BYTES (2u << 20)

static void save_wait(struct io_uring *ring) {
        struct io_uring_cqe *cqe;

        if (io_uring_wait_cqe(ring, &cqe) < 0 || cqe->res <= 0) {
                errno = EIO;
                bench_fail("write");
        }
        io_uring_cqe_seen(ring, cqe);
}

/* Lengths are multiples of the page; the disk has no reason to take less than is asked, and if it does we fail. */
static void save_write(int fd, const uint8_t *address, uint64_t bytes) {
        struct io_uring ring;
        unsigned in_flight = 0;

        if (io_uring_queue_init(SAVE_DEPTH, &ring, 0) < 0)
                bench_fail("io_uring");
        for (uint64_t offset = 0; offset < bytes; offset += SAVE_BYTES) {
                unsigned length = bytes - offset < SAVE_BYTES ? (unsigned) (bytes - offset) : SAVE_BYTES;

                if (in_flight == SAVE_DEPTH) {
                        save_wait(&ring);
                        in_flight--;
                }
                io_uring_prep_write(io_uring_get_sqe(&ring), fd, address + offset, length, offset);
                io_uring_submit(&ring);
                in_flight++;
        }
        while (in_flight--)
                save_wait(&ring);
        io_uring_queue_exit(&ring);
}

int bench_save(const char *path, const uint8_t *address, uint64_t bytes, uint64_t *ret_fork_ns) {
        uint64_t start_ns = bench_now_ns();
        pid_t pid = fork();
        int fd;

        if (pid < 0)
                bench_fail("fork");
        if (pid > 0) {
                *ret_fork_ns = bench_now_ns() - start_ns;
                return pid;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, (off_t) bytes) < 0)
                bench_fail(path);
        save_write(fd, address, bytes);
        if (fsync(fd) < 0)
                bench_fail(path);
        _exit(0);
}
