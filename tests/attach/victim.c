/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A program that is attached to while it is in one particular situation, and that tells whether it noticed.
 *
 *     victim SITUATION
 *
 * It prints "ready", gets into the situation for about a second, checks what came of it, waits for a line on standard
 * input, compares itself with what it was before, and prints "ok", or what is wrong. The situations are in waits.c,
 * signals.c, ipc.c and runs.c.
 */
#include "victim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "observe.h"

static struct observation before, after;
uint32_t *victim_shared;

void victim_fail(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        printf("FAIL: ");
        vprintf(format, arguments);
        putchar('\n');
        va_end(arguments);
        fflush(stdout);
        _exit(1);
}

void victim_skip(const char *why) {
        printf("skip: %s\n", why);
        fflush(stdout);
        _exit(77);
}

uint64_t victim_now_ns(void) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

struct timespec victim_timespec(uint64_t ns) {
        return (struct timespec){ .tv_sec = (time_t) (ns / 1000000000u), .tv_nsec = (long) (ns % 1000000000u) };
}

void victim_check_elapsed(uint64_t start_ns, uint64_t expected_ns, uint64_t late_ns) {
        uint64_t elapsed_ns = victim_now_ns() - start_ns;

        if (elapsed_ns < expected_ns || elapsed_ns > expected_ns + late_ns)
                victim_fail("%.3f ms instead of %.3f ms", (double) elapsed_ns / 1e6, (double) expected_ns / 1e6);
}

void victim_later(void (*action)(void *), void *data) {
        if (fork())
                return;
        munmap(victim_shared, VICTIM_SHARED_BYTES);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        usleep(3500000);
        action(data);
        _exit(0);
}

void victim_later_write(void *data) {
        CHECK(write(*(int *) data, "x", 1) == 1);
}

void victim_observe(void) {
        observe(&before);
}

void victim_ready(void) {
        victim_observe();
        puts("ready");
        fflush(stdout);
}

static void check_after(const unsigned char *stack, size_t size) {
        const char *difference;

        observe(&after);
        difference = observe_compare(&before, &after);
        if (difference)
                victim_fail("not as before: %.200s", difference);
        for (size_t at = 0; at < size; at++)
                CHECK(stack[at] == 0xa5);
        for (size_t at = 4; at < VICTIM_SHARED_BYTES; at += 4)
                CHECK(victim_shared[at / 4] == 0x5a5a5a5a);
}

int main(int argc, char **argv) {
        unsigned char stack[65536];
        int memory;
        char byte;

        setvbuf(stdout, malloc(4096), _IOFBF, 4096);
        memory = memfd_create("victim", 0);
        CHECK(memory >= 0 && !ftruncate(memory, VICTIM_SHARED_BYTES));
        victim_shared = mmap(NULL, VICTIM_SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        CHECK(victim_shared != MAP_FAILED);
        memset(victim_shared, 0x5a, VICTIM_SHARED_BYTES);
        memset(stack, 0xa5, sizeof(stack));
        __asm__ volatile("" ::: "memory");

        for (const struct victim_situation *const *list =
                     (const struct victim_situation *const[]){ victim_waits, victim_signals, victim_ipc, victim_runs,
                                                               NULL };
             argc == 2 && *list; list++)
                for (const struct victim_situation *situation = *list; situation->name; situation++) {
                        if (strcmp(argv[1], situation->name))
                                continue;
                        situation->run();
                        CHECK(read(0, &byte, 1) == 1);
                        check_after(stack, sizeof(stack));
                        puts("ok");
                        return 0;
                }
        fputs("usage: victim SITUATION\n", stderr);
        return 2;
}
