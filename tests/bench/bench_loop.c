/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The barest loop that can serve write-protection faults: blocking read, pread, take the protection away. No page
 * state, no list, no clock, one page buffer. It is what the daemon's fault path is measured against.
 *
 *     bench-loop BYTES
 *
 * Two processes, as with the daemon: the client has the memory, the server (its child) has the userfaultfd. Commands:
 *
 *     arm      protect all of it with one call and say how long that took
 *     first N  write to N protected pages and time each (see bench_touch_protected())
 *     disarm   take all protection away
 *     quit
 */
#include "tests/bench/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

struct loop {
        uint8_t *address;
        uint64_t bytes;
        int object;
        int uffd;
        int commands[2]; /* client to server: one byte */
        int answers[2];  /* server to client: nanoseconds */
};

static void *serve_faults(void *data) {
        static uint8_t page[BENCH_PAGE_BYTES] __attribute__((aligned(BENCH_PAGE_BYTES)));
        struct loop *loop = data;
        struct uffd_msg message;

        memset(page, 1, sizeof(page));
        while (read(loop->uffd, &message, sizeof(message)) == sizeof(message)) {
                uint64_t address = message.arg.pagefault.address & ~(uint64_t) (BENCH_PAGE_BYTES - 1);

                if (pread(loop->object, page, sizeof(page), (off_t) (address - (uintptr_t) loop->address)) < 0 ||
                    uffd_disarm(loop->uffd, address, BENCH_PAGE_BYTES) < 0)
                        bench_fail("serve");
        }
        return NULL;
}

static void __attribute__((noreturn)) serve(struct loop *loop) {
        pthread_t thread;
        char command;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (pthread_create(&thread, NULL, serve_faults, loop))
                bench_fail("thread");
        while (read(loop->commands[0], &command, 1) == 1) {
                uint64_t ns = bench_now_ns();
                int r = command == 'a' ? uffd_arm(loop->uffd, (uintptr_t) loop->address, loop->bytes)
                                       : uffd_disarm(loop->uffd, (uintptr_t) loop->address, loop->bytes);

                ns = bench_now_ns() - ns;
                errno = -r;
                if (r < 0 || write(loop->answers[1], &ns, sizeof(ns)) != sizeof(ns))
                        bench_fail("protect");
        }
        _exit(0);
}

static uint64_t ask(const struct loop *loop, char command) {
        uint64_t ns;

        if (write(loop->commands[1], &command, 1) != 1 || read(loop->answers[0], &ns, sizeof(ns)) != sizeof(ns))
                bench_fail("server");
        return ns;
}

static void loop_make(struct loop *loop) {
        int r;

        loop->object = memfd_create("bench-loop", MFD_CLOEXEC);
        if (loop->object < 0 || ftruncate(loop->object, (off_t) loop->bytes) < 0)
                bench_fail("memfd");
        loop->address = mmap(NULL, loop->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, loop->object, 0);
        if (loop->address == MAP_FAILED)
                bench_fail("mmap");
        bench_fill(loop->address, loop->bytes);

        loop->uffd = uffd_new(uffd_open_device());
        errno = -loop->uffd;
        if (loop->uffd < 0)
                bench_fail("userfaultfd");
        if (fcntl(loop->uffd, F_SETFL, 0) < 0) /* reads wait */
                bench_fail("userfaultfd");
        r = uffd_handshake(loop->uffd, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL);
        if (r == 0)
                r = uffd_register_wp(loop->uffd, (uintptr_t) loop->address, loop->bytes);
        errno = -r;
        if (r < 0)
                bench_fail("register");
        if (pipe2(loop->commands, O_CLOEXEC) < 0 || pipe2(loop->answers, O_CLOEXEC) < 0)
                bench_fail("pipe");
}

int main(int argc, char **argv) {
        struct loop loop = { 0 };
        char line[64];
        pid_t server;

        if (argc != 2) {
                fprintf(stderr, "usage: bench-loop BYTES\n");
                return 2;
        }
        loop.bytes = bench_parse_bytes(argv[1]);
        loop_make(&loop);
        setvbuf(stdout, NULL, _IOLBF, 0);
        server = fork();
        if (server < 0)
                bench_fail("fork");
        if (server == 0)
                serve(&loop);
        close(loop.uffd);
        printf("{\"pid\": %d}\n", (int) getpid());
        while (fgets(line, sizeof(line), stdin)) {
                if (!strncmp(line, "arm", 3))
                        printf("{\"us\": %.1f}\n", (double) ask(&loop, 'a') / 1e3);
                else if (!strncmp(line, "disarm", 6))
                        printf("{\"us\": %.1f}\n", (double) ask(&loop, 'd') / 1e3);
                else if (!strncmp(line, "first ", 6))
                        bench_touch_protected(loop.address, loop.bytes,
                                              (unsigned) bench_parse_bytes(strtok(line + 6, "\n")), 1000);
                else
                        break;
        }
        kill(server, SIGKILL);
        return 0;
}
