/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_ATTACH_OBSERVE_H
#define LIVESNAP_TESTS_ATTACH_OBSERVE_H

/* What a process can find out about itself: had it a visitor? Uses raw files and static memory only. */

struct observation {
        char descriptors[2048];
        char threads[2048];
        char signals[1024]; /* blocked, pending, ignored and caught */
        char maps[32768];
};

void observe(struct observation *ret);

/** observe_compare() - what is different in @a, or NULL; borrowed */
const char *observe_compare(const struct observation *a, const struct observation *b);

#endif
