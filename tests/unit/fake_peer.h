/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_UNIT_FAKE_PEER_H
#define LIVESNAP_TESTS_UNIT_FAKE_PEER_H

/* A daemon that says what a test tells it to say, right or wrong, from a thread of the test. */

#include <stddef.h>

enum fake_kind {
        FAKE_EXPECT,  /* receive a call; the test fails unless it contains the text */
        FAKE_SAY,     /* send the text and a NUL, with descriptors */
        FAKE_FLOOD,   /* send so many MiB of spaces, which are no message ever */
        FAKE_HANG_UP, /* close the connection; the next step is on the next one */
};

struct fake_step {
        enum fake_kind kind;
        const char *text;
        unsigned n; /* descriptors, or MiB */
        int fds[4]; /* borrowed until fake_peer_stop() */
};

#define EXPECT(part) \
        { .kind = FAKE_EXPECT, .text = (part) }
#define SAY(message) \
        { .kind = FAKE_SAY, .text = (message) }
#define FLOOD(mebibytes) \
        { .kind = FAKE_FLOOD, .n = (mebibytes) }
#define HANG_UP \
        { .kind = FAKE_HANG_UP }

struct fake_peer;

/** fake_peer_start() - listen on a socket of its own; @steps are borrowed until fake_peer_stop() */
struct fake_peer *fake_peer_start(const struct fake_step *steps, size_t n_steps);

/** fake_peer_path() - of its socket */
const char *fake_peer_path(const struct fake_peer *peer);

/** fake_peer_stop() - wait until all steps are done, and free it; fails the test where one went wrong */
void fake_peer_stop(struct fake_peer *peer);

#endif
