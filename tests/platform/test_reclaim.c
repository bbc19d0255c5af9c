/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Pages that the kernel takes because memory is short: to swap and back, and the programs that it kills. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 512
#define CGROUP_ROOT "/sys/fs/cgroup"
#define OOM_LIMIT "16M"
#define OOM_BYTES (64u << 20)

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static char cgroup[64];

static int write_file(const char *directory, const char *name, const char *text) {
        char path[128];
        int fd, r;

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
        close(fd);
        return r;
}

static void cgroup_leave(void) {
        write_file(CGROUP_ROOT, "cgroup.procs", "0");
        rmdir(cgroup);
}

/* A group of its own with the memory controller; this process is in it when it returns. */
static void cgroup_enter(void) {
        snprintf(cgroup, sizeof(cgroup), CGROUP_ROOT "/livesnap-platform-%d", getpid());
        if (mkdir(cgroup, 0755) < 0)
                platform_skip("there is no cgroup hierarchy of version 2 at " CGROUP_ROOT);
        if (write_file(cgroup, "memory.max", "max") < 0 || write_file(cgroup, "cgroup.procs", "0") < 0) {
                cgroup_leave();
                platform_skip("there is no memory controller at " CGROUP_ROOT);
        }
}

static void require_swap(void) {
        struct sysinfo info;

        if (sysinfo(&info) < 0 || info.totalswap == 0)
                platform_skip("there is no swap");
}

static size_t count_in_memory(const struct arena *arena) {
        size_t n = arena->bytes / PAGE_BYTES, n_in = 0;
        unsigned char *residency = test_malloc(n);

        assert_int_equal(mincore(arena->memory, arena->bytes, residency), 0);
        for (size_t i = 0; i < n; i++)
                n_in += residency[i] & 1;
        test_free(residency);
        return n_in;
}

static void assert_swapped_and_protected(const struct arena *arena) {
        size_t n_in = count_in_memory(arena);

        if (n_in > PAGES / 2)
                platform_skip("the kernel keeps the pages in memory");
        platform_found("%zu of %d pages in swap, each a %s", PAGES - n_in, PAGES, arena_mechanism(arena, 0));
        assert_int_equal(arena_count_armed(arena, 0, PAGES), PAGES);
        /* A read brings a page in, protected; a write to what is still out there is caught with the content intact. */
        for (size_t i = 0; i < PAGES; i += 2)
                assert_int_equal(*(volatile uint8_t *) (arena->memory + i * PAGE_BYTES), 1 + i % 100);
        assert_int_equal(arena_count_armed(arena, 0, PAGES), PAGES);
        serve_writes(arena, 0, PAGES);
}

static void test_reclaim_to_swap_and_back(void **state) {
        struct arena arena;

        require_swap();
        cgroup_enter();
        arena = arena_make(PAGES, PLAIN_FEATURES);
        assert_int_equal(write_file(cgroup, "memory.high", "256K"), 0);
        assert_int_equal(write_file(cgroup, "memory.high", "max"), 0);
        cgroup_leave();
        assert_swapped_and_protected(&arena);
        arena_free(&arena);
}

static void test_pageout_to_swap_and_back(void **state) {
        struct arena arena;

        require_swap();
        arena = arena_make(PAGES, PLAIN_FEATURES);
        assert_int_equal(madvise(arena.memory, arena.bytes, MADV_PAGEOUT), 0);
        assert_swapped_and_protected(&arena);
        arena_free(&arena);
}

static int touch_first_page(void *argument) {
        struct arena *arena = argument;

        return touch(arena->memory);
}

/* One of its threads waits at a protected page; another takes memory until the kernel has had enough. */
static void take_memory_until_killed(struct arena *arena) {
        struct actor waiting;
        void *memory = mmap(NULL, OOM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (write_file(cgroup, "cgroup.procs", "0") < 0 || write_file(cgroup, "memory.max", OOM_LIMIT) < 0)
                _exit(1);
        write_file(cgroup, "memory.swap.max", "0");
        actor_start(&waiting, touch_first_page, arena);
        usleep(NEVER_MS * 1000);
        memset(memory, 1, OOM_BYTES);
        _exit(2);
}

static int fork_victim(void *argument) {
        pid_t pid = fork();

        if (pid == 0)
                take_memory_until_killed(argument);
        return pid;
}

static void test_oom_kill_of_one_client_leaves_the_other(void **state) {
        struct arena arena;
        struct actor parent;
        int child, status;
        pid_t pid;

        cgroup_enter();
        write_file(CGROUP_ROOT, "cgroup.procs", "0");
        arena = arena_make(PAGES, DAEMON_FEATURES);
        actor_start(&parent, fork_victim, &arena);
        child = (int) next_message(arena.uffd, UFFD_EVENT_FORK).arg.fork.ufd;
        pid = actor_join(&parent);
        assert_true(pid > 0);
        next_message(child, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGKILL);
        assert_false(uffd_owner_is_alive(child));
        assert_int_equal(uffd_arm(child, arena_address(&arena, 0), PAGE_BYTES), -ESRCH);
        close(child);
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        serve_writes(&arena, 0, PAGES);
        arena_free(&arena);
        cgroup_leave();
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_reclaim_to_swap_and_back),
                cmocka_unit_test(test_pageout_to_swap_and_back),
                cmocka_unit_test(test_oom_kill_of_one_client_leaves_the_other),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
