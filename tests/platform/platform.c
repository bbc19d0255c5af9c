/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/platform/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGEMAP_PRESENT (1ULL << 63)

struct arena arena_make(size_t pages, uint64_t features) {
        struct arena arena = { .bytes = pages * PAGE_BYTES };

        arena.fd = memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_true(arena.fd >= 0);
        assert_int_equal(ftruncate(arena.fd, arena.bytes), 0);
        arena.memory = mmap(NULL, arena.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0);
        assert_ptr_not_equal(arena.memory, MAP_FAILED);
        for (size_t i = 0; i < pages; i++)
                arena.memory[i * PAGE_BYTES] = 1 + i % 100;
        arena.uffd = uffd_new(-1);
        assert_true(arena.uffd >= 0);
        assert_int_equal(uffd_handshake(arena.uffd, features, NULL), 0);
        assert_int_equal(uffd_register_wp(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        assert_int_equal(uffd_arm(arena.uffd, arena_address(&arena, 0), arena.bytes), 0);
        return arena;
}

void arena_free(struct arena *arena) {
        /* The last descriptor goes first: with one open, munmap would wait for somebody to read its event. */
        if (arena->uffd >= 0)
                close(arena->uffd);
        munmap(arena->memory, arena->bytes);
        close(arena->fd);
}

uint64_t arena_address(const struct arena *arena, size_t page) {
        return (uintptr_t) arena->memory + page * PAGE_BYTES;
}

static void read_pagemap(uint64_t address, uint64_t *entries, size_t n) {
        int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(pread(fd, entries, n * sizeof(*entries), address / PAGE_BYTES * sizeof(*entries)),
                         n * sizeof(*entries));
        close(fd);
}

bool arena_is_armed(const struct arena *arena, size_t page) {
        uint64_t entry;

        read_pagemap(arena_address(arena, page), &entry, 1);
        return entry & PAGEMAP_UFFD_WP;
}

const char *arena_mechanism(const struct arena *arena, size_t page) {
        uint64_t entry;

        read_pagemap(arena_address(arena, page), &entry, 1);
        if (!(entry & PAGEMAP_UFFD_WP))
                return "not protected";
        return entry & PAGEMAP_PRESENT ? "bit in the page table" : "marker";
}

size_t arena_count_armed(const struct arena *arena, size_t first, size_t n) {
        uint64_t *entries = test_calloc(n, sizeof(*entries));
        size_t n_armed = 0;

        read_pagemap(arena_address(arena, first), entries, n);
        for (size_t i = 0; i < n; i++)
                n_armed += (entries[i] & PAGEMAP_UFFD_WP) != 0;
        test_free(entries);
        return n_armed;
}

bool arena_is_resident(const struct arena *arena, size_t page) {
        off_t offset = page * PAGE_BYTES;

        return lseek(arena->fd, offset, SEEK_DATA) == offset;
}

static void *actor_run(void *argument) {
        struct actor *actor = argument;

        actor->result = actor->act(actor->argument);
        actor->done = true;
        return NULL;
}

void actor_start(struct actor *actor, int (*act)(void *argument), void *argument) {
        actor->act = act;
        actor->argument = argument;
        actor->done = false;
        assert_int_equal(pthread_create(&actor->thread, NULL, actor_run, actor), 0);
}

bool actor_is_done(struct actor *actor, int timeout_ms) {
        const struct timespec interval = { .tv_nsec = 1000000 };

        for (int i = 0; i < timeout_ms && !actor->done; i++)
                nanosleep(&interval, NULL);
        return actor->done;
}

int actor_join(struct actor *actor) {
        assert_true(actor_is_done(actor, SOON_MS));
        pthread_join(actor->thread, NULL);
        return actor->result;
}

int touch(void *argument) {
        *(volatile uint8_t *) argument = 0xee;
        return 0;
}

struct uffd_msg next_message(int uffd, uint8_t event) {
        struct pollfd fd = { .fd = uffd, .events = POLLIN };
        struct uffd_msg message;

        assert_int_equal(poll(&fd, 1, SOON_MS), 1);
        assert_int_equal(uffd_read(uffd, &message, 1), 1);
        assert_int_equal(message.event, event);
        return message;
}

void assert_no_message(int uffd) {
        struct pollfd fd = { .fd = uffd, .events = POLLIN };

        assert_int_equal(poll(&fd, 1, NEVER_MS), 0);
}

void assert_write_is_caught(const struct arena *arena, size_t page) {
        struct actor writer;
        struct uffd_msg message;

        actor_start(&writer, touch, arena->memory + page * PAGE_BYTES);
        message = next_message(arena->uffd, UFFD_EVENT_PAGEFAULT);
        assert_int_equal(message.arg.pagefault.address / PAGE_BYTES, arena_address(arena, page) / PAGE_BYTES);
        assert_true(message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
        assert_false(writer.done);
        assert_int_equal(uffd_disarm(arena->uffd, arena_address(arena, page), PAGE_BYTES), 0);
        assert_int_equal(actor_join(&writer), 0);
}

struct sequence {
        const struct arena *arena;
        size_t first;
        size_t n;
};

static int write_sequence(void *argument) {
        const struct sequence *sequence = argument;

        for (size_t i = 0; i < sequence->n; i++)
                touch(sequence->arena->memory + (sequence->first + i) * PAGE_BYTES);
        return 0;
}

void serve_writes(const struct arena *arena, size_t first, size_t n) {
        struct sequence sequence = { .arena = arena, .first = first, .n = n };
        struct actor writer;
        uint8_t byte;

        actor_start(&writer, write_sequence, &sequence);
        for (size_t i = first; i < first + n; i++) {
                struct uffd_msg message = next_message(arena->uffd, UFFD_EVENT_PAGEFAULT);

                assert_int_equal(message.arg.pagefault.address / PAGE_BYTES, arena_address(arena, i) / PAGE_BYTES);
                assert_true(message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
                assert_int_equal(pread(arena->fd, &byte, 1, i * PAGE_BYTES), 1);
                assert_int_equal(byte, 1 + i % 100);
                assert_int_equal(uffd_disarm(arena->uffd, arena_address(arena, i), PAGE_BYTES), 0);
        }
        assert_int_equal(actor_join(&writer), 0);
}

void platform_found(const char *format, ...) {
        char text[256];
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        print_message("found: %s\n", text);
}

void platform_skip(const char *reason) {
        print_message("skipped: %s\n", reason);
        skip();
        abort();
}

int platform_require(void **state) {
        const char *timeout_s = getenv("LIVESNAP_TEST_TIMEOUT_S");
        int uffd = uffd_new(-1);

        /* A test that hangs is a test that fails. */
        alarm(timeout_s ? strtoul(timeout_s, NULL, 10) : 60);
        if (uffd < 0) {
                print_message("skipped: no userfaultfd for this user: %s\n", strerror(-uffd));
                exit(77);
        }
        close(uffd);
        return 0;
}
