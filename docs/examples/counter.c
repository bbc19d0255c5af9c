/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The shortest useful client of liblivesnap: it counts in shared memory, takes a snapshot of itself while it goes on
 * counting in another thread, and reads the count of that instant back.
 *
 *     cc counter.c -o counter $(pkg-config --cflags --libs livesnap) -pthread
 */

#include <livesnap/livesnap.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STATE_BYTES 4096

struct state {
        _Atomic unsigned long count;
        _Atomic bool stop;
};

static void *count(void *data) {
        struct state *state = data;

        while (!atomic_load(&state->stop))
                atomic_fetch_add(&state->count, 1);
        return NULL;
}

static void __attribute__((noreturn)) fail(void) {
        fprintf(stderr, "counter: %s\n", livesnap_get_error());
        exit(1);
}

int main(int argc, char **argv) {
        struct livesnap *livesnap = livesnap_connect(NULL);
        struct livesnap_region *region = livesnap_region_create("state", STATE_BYTES, 0);
        struct livesnap_snapshot *snapshot;
        struct state *state, *then;
        unsigned long before, after;
        pthread_t thread;

        if (!livesnap || !region || livesnap_attach(livesnap, "counter", &region, 1) < 0)
                fail();
        state = livesnap_region_get_address(region);
        if (pthread_create(&thread, NULL, count, state))
                return 1;

        before = atomic_load(&state->count);
        if (livesnap_snapshot(livesnap, "counter", NULL, 0, NULL, &snapshot) < 0)
                fail();
        after = atomic_load(&state->count);

        then = mmap(NULL, STATE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (then == MAP_FAILED)
                return 1;
        /* snapshot->snapshot is DOMAIN/NAME, and the domain is ours. */
        if (livesnap_restore_to_memory(livesnap, "counter", strchr(snapshot->snapshot, '/') + 1, "state", then,
                                       STATE_BYTES, NULL) < 0)
                fail();
        printf("%s: asked at %lu, frozen at %lu, done at %lu\n", snapshot->snapshot, before, atomic_load(&then->count),
               after);

        atomic_store(&state->stop, true);
        pthread_join(thread, NULL);
        livesnap_snapshot_free(snapshot);
        livesnap_detach(livesnap, "counter", NULL);
        livesnap_region_free(region);
        livesnap_close(livesnap);
        return 0;
}
