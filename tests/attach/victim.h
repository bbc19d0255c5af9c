/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_ATTACH_VICTIM_H
#define LIVESNAP_TESTS_ATTACH_VICTIM_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

#define VICTIM_SHARED_BYTES (64u << 10)
#define MS 1000000ull
/*
 * Programs are attached to 2.4 s after they are ready. What sleeps for 3 s then, and had its timeout begun anew, would
 * be late by 2.4 s or more; less than that is a busy machine. A sleeper may be woken late, but never early.
 */
#define VICTIM_SLEEP_NS (3000 * MS)
#define VICTIM_LATE_NS (1700 * MS)
/* Longer than livesnap-attach waits for a good moment, and what it may be late by when it starts anew. */
#define VICTIM_LONG_NS (4000 * MS)
#define VICTIM_ANEW_NS (4700 * MS)

struct victim_situation {
        const char *name;
        void (*run)(void);
};

/* Ended by one without a name. */
extern const struct victim_situation victim_waits[], victim_signals[], victim_ipc[], victim_runs[];

/* The shared memory: 0x5a in all bytes but the first four. */
extern uint32_t *victim_shared;

void victim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void victim_skip(const char *why) __attribute__((noreturn));

#define CHECK(condition)                                                                            \
        do {                                                                                        \
                if (!(condition))                                                                   \
                        victim_fail("%s:%d: %s (errno %d)", __FILE__, __LINE__, #condition, errno); \
        } while (0)

uint64_t victim_now_ns(void);
struct timespec victim_timespec(uint64_t ns);
void victim_check_elapsed(uint64_t start_ns, uint64_t expected_ns, uint64_t late_ns);

/** victim_later() - a process without the shared memory does something in 3.5 s */
void victim_later(void (*action)(void *), void *data);
/** victim_later_write() - an action: write to the descriptor that @data points to */
void victim_later_write(void *data);

/** victim_observe() - this is what is to be compared with at the end */
void victim_observe(void);
/** victim_ready() - the same, and say that it can be attached to */
void victim_ready(void);

#endif
