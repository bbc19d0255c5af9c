/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_PLATFORM_H
#define LIVESNAP_TESTS_PLATFORM_H

/* What the tests of kernel assumptions have in common: protected memory, and threads that run into it. */

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/uffd.h"

#define PAGE_BYTES 4096u
/* Enough for anything that will happen, and little enough to wait for what must not. */
#define SOON_MS 20000
#define NEVER_MS 100
#define DAEMON_FEATURES                                                                               \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EVENT_FORK | \
         UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)
#define PLAIN_FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

/* A memfd, mapped and under a userfaultfd of this process. Byte 0 of page i is 1 + i % 100. */
struct arena {
        int fd;
        int uffd;
        size_t bytes;
        uint8_t *memory;
};

/** arena_make() - of so many pages, populated, registered and armed; ends the test where that does not work */
struct arena arena_make(size_t pages, uint64_t features);
void arena_free(struct arena *arena);

/** arena_address() - of a page, as the userfaultfd's calls want it */
uint64_t arena_address(const struct arena *arena, size_t page);

/** arena_is_armed() - bit 57 of the page in /proc/self/pagemap: a page table's bit or a marker */
bool arena_is_armed(const struct arena *arena, size_t page);

/** arena_mechanism() - how the page is protected now, in words: by a bit in its entry, a marker in its place, not at
 * all
 */
const char *arena_mechanism(const struct arena *arena, size_t page);

/** arena_count_armed() - of @n pages from @first on, those that are */
size_t arena_count_armed(const struct arena *arena, size_t first, size_t n);

/** arena_is_resident() - whether the object has a page there (not whether it is mapped) */
bool arena_is_resident(const struct arena *arena, size_t page);

/* A thread that does one thing which may block. */
struct actor {
        pthread_t thread;
        int (*act)(void *argument);
        void *argument;
        int result;
        _Atomic bool done;
};

void actor_start(struct actor *actor, int (*act)(void *argument), void *argument);
/** actor_is_done() - whether it has ended within @timeout_ms */
bool actor_is_done(struct actor *actor, int timeout_ms);
/** actor_join() - the result of what it did; fails the test if it still blocks */
int actor_join(struct actor *actor);

/** touch() - store one byte at @argument; to be an actor's act */
int touch(void *argument);

/** next_message() - the next message of a userfaultfd; its event is @event or the test fails */
struct uffd_msg next_message(int uffd, uint8_t event);

/** assert_no_message() - none comes within NEVER_MS */
void assert_no_message(int uffd);

/** assert_write_is_caught() - a write to the page faults, and goes on when it is disarmed */
void assert_write_is_caught(const struct arena *arena, size_t page);

/**
 * serve_writes() - one thread writes to each of the pages in turn; each write must be caught before it changes the
 * object
 *
 * Fails the test where one is not, or where the object's first byte of a page is not what arena_make() put there.
 */
void serve_writes(const struct arena *arena, size_t first, size_t n);

/** platform_found() - say what this kernel does where kernels may differ, or by which mechanism it does it */
void platform_found(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** platform_skip() - leave the test and say why */
void platform_skip(const char *reason) __attribute__((noreturn));

/** platform_require() - skip where this process cannot have a userfaultfd that catches faults of the kernel's */
int platform_require(void **state);

#endif
