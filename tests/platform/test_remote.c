/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A userfaultfd in the hands of another process, or of one without rights. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 16

/* Takes a descriptor out of a child, as a daemon gets one over its socket. */
static int take_descriptor(pid_t pid, int fd) {
        int pidfd = syscall(SYS_pidfd_open, pid, 0);
        int taken = syscall(SYS_pidfd_getfd, pidfd, fd, 0);

        close(pidfd);
        return taken;
}

struct child {
        pid_t pid;
        int uffd;
        int go; /* a byte written here lets it touch its memory and end */
        struct arena arena;
};

/* A process that makes a userfaultfd and does nothing with it but write to its memory. */
static struct child child_make(const char *program) {
        struct child child = { .uffd = -1 };
        int to_parent[2], to_child[2], uffd;

        assert_int_equal(pipe(to_parent), 0);
        assert_int_equal(pipe(to_child), 0);
        child.arena.bytes = PAGES * PAGE_BYTES;
        child.arena.fd = memfd_create("child", 0);
        assert_int_equal(ftruncate(child.arena.fd, child.arena.bytes), 0);
        child.arena.memory = mmap(NULL, child.arena.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, child.arena.fd, 0);
        memset(child.arena.memory, 1, child.arena.bytes);
        child.pid = fork();
        if (child.pid == 0) {
                char byte;

                uffd = uffd_new(-1);
                if (uffd < 0 || write(to_parent[1], &uffd, sizeof(uffd)) < 0 || read(to_child[0], &byte, 1) != 1)
                        _exit(1);
                close(uffd);
                if (program)
                        execl(program, program, "5", NULL);
                child.arena.memory[0] = 0x55;
                _exit(0);
        }
        assert_int_equal(read(to_parent[0], &uffd, sizeof(uffd)), sizeof(uffd));
        child.uffd = take_descriptor(child.pid, uffd);
        assert_true(child.uffd >= 0);
        child.go = to_child[1];
        close(to_child[0]);
        close(to_parent[0]);
        close(to_parent[1]);
        return child;
}

static void child_arm(const struct child *child) {
        assert_int_equal(uffd_handshake(child->uffd, DAEMON_FEATURES, NULL), 0);
        assert_int_equal(uffd_register_wp(child->uffd, arena_address(&child->arena, 0), child->arena.bytes), 0);
        assert_int_equal(uffd_arm(child->uffd, arena_address(&child->arena, 0), child->arena.bytes), 0);
}

static void child_free(struct child *child) {
        close(child->uffd);
        close(child->go);
        munmap(child->arena.memory, child->arena.bytes);
        close(child->arena.fd);
}

/* The whole protocol from outside; the child's memory is meant, though the same address is mapped here too. */
static void test_arm_and_serve_another_process(void **state) {
        struct child child = child_make(NULL);
        int status;

        child_arm(&child);
        assert_false(arena_is_armed(&child.arena, 0));
        assert_int_equal(write(child.go, "x", 1), 1);
        next_message(child.uffd, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(child.arena.memory[0], 1);
        assert_int_equal(uffd_disarm(child.uffd, arena_address(&child.arena, 0), PAGE_BYTES), 0);
        assert_int_equal(waitpid(child.pid, &status, 0), child.pid);
        assert_int_equal(status, 0);
        assert_int_equal(child.arena.memory[0], 0x55);
        child_free(&child);
}

static void test_exit_is_seen_as_esrch_only(void **state) {
        struct child child = child_make(NULL);

        child_arm(&child);
        assert_true(uffd_owner_is_alive(child.uffd));
        assert_int_equal(write(child.go, "x", 1), 1);
        next_message(child.uffd, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(uffd_disarm(child.uffd, arena_address(&child.arena, 0), PAGE_BYTES), 0);
        assert_int_equal(waitpid(child.pid, NULL, 0), child.pid);
        assert_no_message(child.uffd);
        assert_int_equal(uffd_arm(child.uffd, arena_address(&child.arena, 0), PAGE_BYTES), -ESRCH);
        assert_false(uffd_owner_is_alive(child.uffd));
        child_free(&child);
}

static void test_exec_is_seen_as_esrch_only(void **state) {
        struct child child = child_make("/bin/sleep");

        child_arm(&child);
        assert_int_equal(write(child.go, "x", 1), 1);
        for (int i = 0; i < SOON_MS && uffd_owner_is_alive(child.uffd); i++)
                usleep(1000);
        assert_false(uffd_owner_is_alive(child.uffd));
        assert_int_equal(waitpid(child.pid, NULL, WNOHANG), 0);
        kill(child.pid, SIGKILL);
        assert_int_equal(waitpid(child.pid, NULL, 0), child.pid);
        child_free(&child);
}

/* The probe changes nothing: what is armed stays armed, and no page appears. */
static void test_probe_of_the_owner_has_no_effect(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);

        assert_true(uffd_owner_is_alive(arena.uffd));
        for (size_t i = 0; i < PAGES; i++)
                assert_true(arena_is_armed(&arena, i));
        arena_free(&arena);
}

static int open_device(void) {
        int device = uffd_open_device();

        if (device == -ENOENT || device == -ENXIO)
                platform_skip("this kernel has no /dev/userfaultfd");
        assert_true(device >= 0);
        return device;
}

/* Runs in a child without rights, which has the descriptor of a device that it could not open. */
static int use_lent_device(int device, uint8_t *memory) {
        int uffd;

        if (setgid(65534) < 0 || setuid(65534) < 0)
                return 1;
        if (uffd_open_device() != -EACCES)
                return 2;
        uffd = uffd_new(device);
        if (uffd < 0)
                return 3;
        if (uffd_handshake(uffd, PLAIN_FEATURES, NULL) < 0)
                return 4;
        if (uffd_register_wp(uffd, (uintptr_t) memory, PAGE_BYTES) < 0)
                return 5;
        return uffd_arm(uffd, (uintptr_t) memory, PAGE_BYTES) < 0 ? 6 : 0;
}

static void test_device_can_be_lent(void **state) {
        int device = open_device();
        uint8_t *memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        int status;
        pid_t pid;

        if (faccessat(AT_FDCWD, "/dev/userfaultfd", R_OK, 0) < 0 || getuid() != 0)
                platform_skip("only root can give up its rights");
        pid = fork();
        if (pid == 0)
                _exit(use_lent_device(device, memory));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WEXITSTATUS(status) == 2)
                platform_skip("/dev/userfaultfd is open to everybody here");
        assert_int_equal(status, 0);
        munmap(memory, PAGE_BYTES);
        close(device);
}

static void test_fork_event_needs_ptrace(void **state) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                int uffd = uffd_new(-1);

                if (setgid(65534) < 0 || setuid(65534) < 0)
                        _exit(2);
                _exit(uffd_handshake(uffd, DAEMON_FEATURES, NULL) == -EPERM ? 0 : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_arm_and_serve_another_process),
                cmocka_unit_test(test_exit_is_seen_as_esrch_only),
                cmocka_unit_test(test_exec_is_seen_as_esrch_only),
                cmocka_unit_test(test_probe_of_the_owner_has_no_effect),
                cmocka_unit_test(test_device_can_be_lent),
                cmocka_unit_test(test_fork_event_needs_ptrace),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
