/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Situations other than one thread in one call: it computes, has threads, makes processes, is under a filter. */
#include "victim.h"

#include <linux/filter.h>
#include <linux/rseq.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIME_NS VICTIM_SLEEP_NS

/* All registers hold what the sum is computed from; a single foreign value shows. */
static void compute(void) {
        static uint64_t sum;

        __asm__ volatile("sub $256, %%rsp\n"
                         "mov $1, %%rax\n mov $2, %%rbx\n mov $3, %%rcx\n mov $4, %%rdx\n mov $5, %%rsi\n"
                         "mov $6, %%rdi\n mov $7, %%r8\n mov $8, %%r9\n mov $9, %%r10\n mov $10, %%r11\n"
                         "mov $11, %%r12\n mov $12, %%r13\n mov $13, %%r14\n mov $100000, %%r15\n"
                         "movq %%r15, %%xmm0\n movq %%r14, %%xmm15\n"
                         "movq $0x1234, -8(%%rsp)\n" /* the red zone */
                         "1: dec %%r15\n jnz 1b\n"
                         "add -8(%%rsp), %%rax\n"
                         "add %%rbx, %%rax\n add %%rcx, %%rax\n add %%rdx, %%rax\n add %%rsi, %%rax\n"
                         "add %%rdi, %%rax\n add %%r8, %%rax\n add %%r9, %%rax\n add %%r10, %%rax\n"
                         "add %%r11, %%rax\n add %%r12, %%rax\n add %%r13, %%rax\n add %%r14, %%rax\n"
                         "movq %%xmm0, %%rbx\n add %%rbx, %%rax\n movq %%xmm15, %%rbx\n add %%rbx, %%rax\n"
                         "mov %%rax, %0\n add $256, %%rsp\n"
                         : "=m"(sum)
                         :
                         : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                           "r15", "xmm0", "xmm15", "memory", "cc");
        CHECK(sum == 91 + 0x1234 + 100000 + 13);
}

static void in_busy_loop(void) {
        uint64_t start_ns;

        victim_ready();
        start_ns = victim_now_ns();
        while (victim_now_ns() - start_ns < TIME_NS)
                compute();
}

/* Goes on until it is told to stop: now in user mode, now in this call, now in that. */
static void in_patience(void) {
        struct pollfd input = { .fd = 0, .events = POLLIN };
        struct epoll_event event = { .events = EPOLLIN };
        int epoll = epoll_create1(0);

        CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event));
        victim_ready();
        for (unsigned i = 0;; i++) {
                struct timespec time = { .tv_nsec = 3 * MS };
                int r = i % 2 ? poll(&input, 1, 3) : epoll_wait(epoll, &event, 1, 3);

                CHECK(r >= 0);
                if (r)
                        break;
                for (int j = 0; j < 10; j++)
                        compute();
                CHECK(!clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL));
        }
}

/*
 * Adds one to a counter, slowly and not atomically, in a restartable sequence. Another thread on the same CPU does the
 * same. One that is off the CPU in the middle of it and commits nevertheless loses what the other has added.
 */
static bool rseq_add(struct rseq *rseq, volatile uint64_t *counter) {
        __asm__ volatile goto(".pushsection __rseq_table, \"aw\"\n .balign 32\n"
                              "3: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n .popsection\n"
                              "lea 3b(%%rip), %%rax\n mov %%rax, %c[cs](%[rseq])\n"
                              "1: mov (%[counter]), %%rax\n inc %%rax\n"
                              "mov $300000, %%rcx\n 5: dec %%rcx\n jnz 5b\n"
                              "mov %%rax, (%[counter])\n"
                              "2:\n"
                              ".pushsection __rseq_abort, \"ax\"\n .byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
                              "4: jmp %l[aborted]\n .popsection\n"
                              :
                              : [rseq] "r"(rseq), [counter] "r"(counter), [cs] "i"(offsetof(struct rseq, rseq_cs))
                              : "rax", "rcx", "memory", "cc"
                              : aborted);
        return true;
aborted:
        return false;
}

static volatile uint64_t rseq_counter;

static void *rseq_loop(void *data) {
        struct rseq *rseq = (struct rseq *) ((char *) __builtin_thread_pointer() + __rseq_offset);
        uint64_t start_ns = victim_now_ns();
        uintptr_t n_added = 0;

        (void) data;
        while (victim_now_ns() - start_ns < TIME_NS)
                n_added += rseq_add(rseq, &rseq_counter);
        return (void *) n_added;
}

static void in_rseq(void) {
        pthread_t other;
        cpu_set_t cpu;
        uint64_t n_added;
        void *n_added_by_other;

        if (!__rseq_size)
                victim_skip("no restartable sequences here");
        CPU_ZERO(&cpu);
        CPU_SET(0, &cpu);
        CHECK(!sched_setaffinity(0, sizeof(cpu), &cpu));
        CHECK(!pthread_create(&other, NULL, rseq_loop, NULL));
        puts("ready");
        fflush(stdout);
        n_added = (uintptr_t) rseq_loop(NULL);
        CHECK(!pthread_join(other, &n_added_by_other));
        CHECK(n_added && n_added_by_other && rseq_counter == n_added + (uintptr_t) n_added_by_other);
        victim_observe();
}

static void *thread_waits(void *data) {
        struct timespec time = victim_timespec(TIME_NS);
        struct epoll_event event;

        switch ((uintptr_t) data % 4) {
        case 0:
                CHECK(!epoll_wait(epoll_create1(0), &event, 1, TIME_NS / MS));
                break;
        case 1:
                CHECK(!poll(NULL, 0, TIME_NS / MS));
                break;
        case 2:
                CHECK(!clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL));
                break;
        default:
                CHECK(!select(0, NULL, NULL, NULL, &(struct timeval){ .tv_sec = TIME_NS / (1000 * MS) }));
        }
        return NULL;
}

static void in_threads(void) {
        pthread_t threads[20];

        for (uintptr_t i = 0; i < 20; i++)
                CHECK(!pthread_create(&threads[i], NULL, thread_waits, (void *) i));
        usleep(50000);
        puts("ready");
        fflush(stdout);
        for (int i = 0; i < 20; i++)
                CHECK(!pthread_join(threads[i], NULL));
        victim_observe();
}

static void in_vfork(void) {
        struct timespec time = victim_timespec(TIME_NS);
        pid_t child;

        victim_ready();
        child = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork): it is what is tested */
        if (!child) {
                syscall(SYS_nanosleep, &time, NULL); /* NOLINT(clang-analyzer-unix.Vfork): raw, it changes nothing */
                _exit(7);
        }
        CHECK(child > 0);
}

/* Lets through what this program needs, and kills it for anything else, restart_syscall() above all. */
static void filter(void) {
        static const unsigned allowed[] = {
                SYS_read, SYS_write, SYS_close,     SYS_openat,     SYS_getdents64,
                SYS_poll, SYS_lseek, SYS_nanosleep, SYS_newfstatat, SYS_exit_group,
        };
        enum { N_ALLOWED = sizeof(allowed) / sizeof(*allowed) };
        struct sock_filter code[2 * N_ALLOWED + 2];
        struct sock_fprog program = { .len = sizeof(code) / sizeof(*code), .filter = code };
        unsigned n = 0;

        code[n++] = (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        for (unsigned i = 0; i < N_ALLOWED; i++) {
                code[n++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
                code[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        }
        code[n++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void in_seccomp_read(void) {
        filter();
        victim_ready();
}

static void in_seccomp_poll(void) {
        uint64_t start_ns;

        filter();
        victim_ready();
        start_ns = victim_now_ns();
        CHECK(!syscall(SYS_poll, NULL, 0, VICTIM_LONG_NS / MS));
        victim_check_elapsed(start_ns, VICTIM_LONG_NS, VICTIM_ANEW_NS);
}

static void in_seccomp_nanosleep_loop(void) {
        filter();
        victim_ready();
        for (int i = 0; i < 6; i++) {
                struct timespec time = { .tv_nsec = 800 * MS };
                uint64_t start_ns = victim_now_ns();

                CHECK(!syscall(SYS_nanosleep, &time, NULL));
                victim_check_elapsed(start_ns, 800 * MS, 500 * MS);
        }
}

/* Processes that share the memory come and go all the time; each writes, and some stay for a while. */
static void in_fork_storm(void) {
        uint64_t start_ns;

        puts("ready");
        fflush(stdout);
        start_ns = victim_now_ns();
        for (unsigned i = 0; victim_now_ns() - start_ns < 1500 * MS; i++) {
                pid_t child = fork();

                CHECK(child >= 0);
                if (!child) {
                        __atomic_add_fetch(victim_shared, 1, __ATOMIC_RELAXED);
                        usleep(i % 16 ? 3000 : 300000);
                        _exit(0);
                }
                usleep(4000);
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
        }
        while (waitpid(-1, NULL, 0) > 0)
                ;
        victim_observe();
}

const struct victim_situation victim_runs[] = {
        { "busy-loop", in_busy_loop },
        { "patience", in_patience },
        { "rseq", in_rseq },
        { "threads", in_threads },
        { "vfork", in_vfork },
        { "seccomp-read", in_seccomp_read },
        { "seccomp-poll", in_seccomp_poll },
        { "seccomp-nanosleep-loop", in_seccomp_nanosleep_loop },
        { "fork-storm", in_fork_storm },
        { 0 },
};
