/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_CLEANUP_H
#define LIVESNAP_COMMON_CLEANUP_H

/* Scope guards: a guarded local is released at the end of its block unless it was given away with STEAL_*(). */

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_close_p(int *fd) {
        if (*fd >= 0)
                close(*fd);
}

static inline void cleanup_free_p(void *pointer) {
        free(*(void **) pointer);
}

#define CLEANUP(function) __attribute__((cleanup(function)))
#define CLEANUP_CLOSE CLEANUP(cleanup_close_p)
#define CLEANUP_FREE CLEANUP(cleanup_free_p)

static inline int steal_fd(int *fd) {
        int stolen = *fd;

        *fd = -1;
        return stolen;
}

#define STEAL_PTR(pointer)                               \
        ({                                               \
                __typeof__(pointer) stolen_ = (pointer); \
                (pointer) = NULL;                        \
                stolen_;                                 \
        })

#endif
