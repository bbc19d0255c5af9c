/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What a program does to its own address space, and what is heard of it. */

#include "tests/platform/platform.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define PAGES 16

/* What a child forked by fork_and_touch() does with page 1. */
static int fork_and_touch(void *argument) {
        struct arena *arena = argument;
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                arena->memory[PAGE_BYTES] = 0x77;
                _exit(0);
        }
        return pid < 0 || waitpid(pid, &status, 0) != pid ? -1 : status;
}

static void test_fork_without_the_event_is_untracked(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);

        assert_int_equal(fork_and_touch(&arena), 0);
        assert_no_message(arena.uffd);
        assert_int_equal(arena.memory[PAGE_BYTES], 0x77);
        arena_free(&arena);
}

static void test_fork_gives_a_descriptor_of_the_child(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct actor parent;
        struct uffd_msg message;
        int child;

        actor_start(&parent, fork_and_touch, &arena);
        message = next_message(arena.uffd, UFFD_EVENT_FORK);
        child = (int) message.arg.fork.ufd;
        message = next_message(child, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(message.arg.pagefault.address / PAGE_BYTES, arena_address(&arena, 1) / PAGE_BYTES);
        assert_int_equal(arena.memory[PAGE_BYTES], 2);
        assert_int_equal(uffd_disarm(child, arena_address(&arena, 1), PAGE_BYTES), 0);
        assert_int_equal(actor_join(&parent), 0);
        assert_int_equal(arena.memory[PAGE_BYTES], 0x77);
        /* The parent's own protection is untouched by what was done for the child. */
        assert_true(arena_is_armed(&arena, 1));
        assert_false(uffd_owner_is_alive(child));
        close(child);
        arena_free(&arena);
}

/* The reason for reading all messages before and between the arm calls. */
static void test_arm_is_refused_while_a_fork_is_pending(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct pollfd fd = { .fd = arena.uffd, .events = POLLIN };
        struct actor parent;
        struct uffd_msg message;
        int r;

        actor_start(&parent, fork_and_touch, &arena);
        assert_int_equal(poll(&fd, 1, SOON_MS), 1);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), -EAGAIN);
        assert_int_equal(uffd_wake(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        message = next_message(arena.uffd, UFFD_EVENT_FORK);
        do
                r = uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes);
        while (r == -EAGAIN);
        assert_int_equal(r, 0);
        close((int) message.arg.fork.ufd);
        assert_int_equal(actor_join(&parent), 0);
        arena_free(&arena);
}

/* Moves the arena to where the test has reserved a place. */
struct move {
        struct arena *arena;
        void *target;
};

static struct move move_prepare(struct arena *arena) {
        void *target = mmap(NULL, arena->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        assert_ptr_not_equal(target, MAP_FAILED);
        return (struct move){ .arena = arena, .target = target };
}

static int move_do(void *argument) {
        struct move *move = argument;
        size_t bytes = move->arena->bytes;
        void *moved = mremap(move->arena->memory, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, move->target);

        return moved == move->target ? 0 : -errno;
}

/* It takes two messages: the new place, and that the old one is gone. */
static void test_remap_takes_the_protection_along(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct move move = move_prepare(&arena);
        struct actor mover;
        struct uffd_msg message;

        actor_start(&mover, move_do, &move);
        message = next_message(arena.uffd, UFFD_EVENT_REMAP);
        assert_int_equal(message.arg.remap.from, arena_address(&arena, 0));
        assert_int_equal(message.arg.remap.to, (uintptr_t) move.target);
        assert_int_equal(message.arg.remap.len, arena.bytes);
        message = next_message(arena.uffd, UFFD_EVENT_UNMAP);
        assert_int_equal(message.arg.remove.start, arena_address(&arena, 0));
        assert_int_equal(actor_join(&mover), 0);
        arena.memory = move.target;
        assert_write_is_caught(&arena, 3);
        arena_free(&arena);
}

static void test_remap_without_the_event_loses_it(void **state) {
        struct arena arena = arena_make(PAGES, PLAIN_FEATURES);
        struct move move = move_prepare(&arena);

        assert_int_equal(move_do(&move), 0);
        arena.memory = move.target;
        assert_int_equal(touch(arena.memory), 0);
        assert_no_message(arena.uffd);
        arena_free(&arena);
}

/* mremap() in the ways that leave memory behind which nobody protects: what is heard of them must suffice to see to it.
 */
struct stretch {
        struct arena *arena;
        size_t old_bytes;
        size_t new_bytes;
        int flags;
        uint8_t *result;
};

static int stretch_do(void *argument) {
        struct stretch *stretch = argument;

        stretch->result = mremap(stretch->arena->memory, stretch->old_bytes, stretch->new_bytes, stretch->flags);
        return stretch->result == MAP_FAILED ? -errno : 0;
}

/* Carries it out and reads what is told meanwhile; returns whether there was a REMAP, and which in *remap. */
static bool stretch_and_listen(struct stretch *stretch, struct uffd_msg *remap) {
        struct pollfd fd = { .fd = stretch->arena->uffd, .events = POLLIN };
        struct actor actor;
        struct uffd_msg message;
        bool was_told = false;

        actor_start(&actor, stretch_do, stretch);
        while (!actor_is_done(&actor, 1) || poll(&fd, 1, NEVER_MS) == 1) {
                if (uffd_read(fd.fd, &message, 1) != 1 || message.event != UFFD_EVENT_REMAP)
                        continue;
                *remap = message;
                was_told = true;
        }
        assert_int_equal(actor_join(&actor), 0);
        return was_told;
}

static void assert_can_be_armed(struct arena *arena, uint8_t *memory, size_t page) {
        struct arena part = *arena;

        part.memory = memory;
        assert_int_equal(uffd_register_wp(arena->uffd, (uintptr_t) memory, arena->bytes), 0);
        assert_int_equal(uffd_arm(arena->uffd, (uintptr_t) memory, arena->bytes), 0);
        assert_write_is_caught(&part, page);
}

static void test_remap_that_leaves_the_old_place(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES), left;
        struct stretch stretch = { .arena = &arena,
                                   .old_bytes = arena.bytes,
                                   .new_bytes = arena.bytes,
                                   .flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP };
        struct uffd_msg remap;

        assert_true(stretch_and_listen(&stretch, &remap));
        assert_int_equal(remap.arg.remap.from, arena_address(&arena, 0));
        assert_int_equal(remap.arg.remap.to, (uintptr_t) stretch.result);
        assert_int_equal(remap.arg.remap.len, arena.bytes);
        left = arena;
        arena.memory = stretch.result;
        platform_found("the new place: %s; the old one: %s", arena_mechanism(&arena, 0), arena_mechanism(&left, 0));
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        assert_can_be_armed(&arena, left.memory, 1);
        close(arena.uffd);
        arena.uffd = -1;
        munmap(left.memory, left.bytes);
        arena_free(&arena);
}

static void test_remap_of_old_size_0_makes_a_second_mapping(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES), second;
        struct stretch stretch = { .arena = &arena, .old_bytes = 0, .new_bytes = arena.bytes, .flags = MREMAP_MAYMOVE };
        struct uffd_msg remap;

        assert_true(stretch_and_listen(&stretch, &remap));
        assert_int_equal(remap.arg.remap.len, 0);
        assert_int_equal(remap.arg.remap.to, (uintptr_t) stretch.result);
        second = arena;
        second.memory = stretch.result;
        platform_found("the second mapping: %s", arena_mechanism(&second, 0));
        assert_int_equal(arena_count_armed(&arena, 0, PAGES), PAGES);
        assert_can_be_armed(&arena, second.memory, 1);
        close(arena.uffd);
        arena.uffd = -1;
        munmap(second.memory, second.bytes);
        arena_free(&arena);
}

/* Half of the object is mapped first, then all of it. @barrier: a mapping that is in the way, so that it must move. */
static void grow(bool barrier) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct stretch stretch = { .arena = &arena, .new_bytes = arena.bytes, .flags = MREMAP_MAYMOVE };
        uint8_t *end = arena.memory + arena.bytes / 2;
        struct uffd_msg remap;
        bool was_told;

        stretch.old_bytes = arena.bytes / 2;
        close(arena.uffd);
        munmap(end, arena.bytes / 2);
        if (barrier)
                assert_ptr_equal(
                        mmap(end, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
                        end);
        arena.uffd = uffd_new(-1);
        assert_true(arena.uffd >= 0);
        assert_int_equal(uffd_handshake(arena.uffd, DAEMON_FEATURES, NULL), 0);
        assert_int_equal(uffd_register_wp(arena.uffd, arena_address(&arena, 0), arena.bytes / 2), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes / 2), 0);
        was_told = stretch_and_listen(&stretch, &remap);
        assert_int_equal(was_told, stretch.result != arena.memory);
        arena.memory = stretch.result;
        platform_found("%s; the first part: %s, the grown one: %s",
                       was_told ? "moved, with an event" : "in place, no event", arena_mechanism(&arena, 0),
                       arena_mechanism(&arena, PAGES / 2));
        assert_int_equal(arena_count_armed(&arena, 0, PAGES / 2), PAGES / 2);
        assert_can_be_armed(&arena, arena.memory, PAGES / 2 + 1);
        if (barrier)
                munmap(end, PAGE_BYTES);
        arena_free(&arena);
}

static void test_growing_where_there_is_room(void **state) {
        grow(false);
}

static void test_growing_where_there_is_none(void **state) {
        grow(true);
}

static int zap(void *argument) {
        struct arena *arena = argument;

        return madvise(arena->memory, PAGE_BYTES, MADV_DONTNEED) < 0 ? -errno : 0;
}

/* The caller sleeps until it is heard: what is about to go can still be read. */
static void test_remove_waits_for_its_reader(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct actor zapper;
        struct uffd_msg message;

        actor_start(&zapper, zap, &arena);
        assert_false(actor_is_done(&zapper, NEVER_MS));
        message = next_message(arena.uffd, UFFD_EVENT_REMOVE);
        assert_int_equal(message.arg.remove.start, arena_address(&arena, 0));
        assert_int_equal(message.arg.remove.end, arena_address(&arena, 1));
        assert_int_equal(actor_join(&zapper), 0);
        arena_free(&arena);
}

static int unmap(void *argument) {
        struct arena *arena = argument;

        return munmap(arena->memory, PAGE_BYTES) < 0 ? -errno : 0;
}

static void test_unmap_is_told(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct actor unmapper;
        struct uffd_msg message;

        actor_start(&unmapper, unmap, &arena);
        message = next_message(arena.uffd, UFFD_EVENT_UNMAP);
        assert_int_equal(message.arg.remove.start, arena_address(&arena, 0));
        assert_int_equal(actor_join(&unmapper), 0);
        /* A gap is passed over in silence by newer kernels; somebody else's mapping in it is not. */
        assert_ptr_equal(mmap(arena.memory, PAGE_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
                         arena.memory);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), -ENOENT);
        arena_free(&arena);
}

static void test_faults_are_read_before_events(void **state) {
        struct arena arena = arena_make(PAGES, DAEMON_FEATURES);
        struct actor zapper, writer;

        actor_start(&zapper, zap, &arena);
        assert_false(actor_is_done(&zapper, NEVER_MS));
        actor_start(&writer, touch, arena.memory + PAGE_BYTES);
        assert_false(actor_is_done(&writer, NEVER_MS));
        next_message(arena.uffd, UFFD_EVENT_PAGEFAULT);
        next_message(arena.uffd, UFFD_EVENT_REMOVE);
        assert_int_equal(actor_join(&zapper), 0);
        while (uffd_disarm(arena.uffd, arena_address(&arena, 1), PAGE_BYTES) == -EAGAIN)
                ;
        assert_int_equal(actor_join(&writer), 0);
        arena_free(&arena);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_fork_without_the_event_is_untracked),
                cmocka_unit_test(test_fork_gives_a_descriptor_of_the_child),
                cmocka_unit_test(test_arm_is_refused_while_a_fork_is_pending),
                cmocka_unit_test(test_remap_takes_the_protection_along),
                cmocka_unit_test(test_remap_without_the_event_loses_it),
                cmocka_unit_test(test_remap_that_leaves_the_old_place),
                cmocka_unit_test(test_remap_of_old_size_0_makes_a_second_mapping),
                cmocka_unit_test(test_growing_where_there_is_room),
                cmocka_unit_test(test_growing_where_there_is_none),
                cmocka_unit_test(test_remove_waits_for_its_reader),
                cmocka_unit_test(test_unmap_is_told),
                cmocka_unit_test(test_faults_are_read_before_events),
        };

        return cmocka_run_group_tests(tests, platform_require, NULL);
}
