/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * loop-client DOMAIN SOCKET: takes a snapshot of its own sealed region from an event loop that also does the program's
 * work. Says in one JSON object how much work was done while the snapshot was under way, and how often it was called
 * back.
 */

#include <livesnap/livesnap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REGION_BYTES (64u << 20)
#define WORK_BYTES 4096
/* Slow enough for the loop to turn many times meanwhile. */
#define MAX_RATE_BYTES (128u << 20)

struct loop {
        struct livesnap *livesnap;
        unsigned long n_work;
        unsigned n_progress;
        unsigned n_done;
        unsigned n_free;
        bool failed;
        char snapshot[300];
};

static void on_progress(void *data, const struct livesnap_job *job) {
        struct loop *loop = data;

        loop->n_progress++;
}

static void on_done(void *data, bool failed, struct livesnap_snapshot **snapshot) {
        struct loop *loop = data;

        loop->n_done++;
        loop->failed = failed;
        if (failed)
                fprintf(stderr, "loop-client: %s\n", livesnap_get_error());
        else
                snprintf(loop->snapshot, sizeof(loop->snapshot), "%s", (*snapshot)->snapshot);
}

static void on_free(void *data) {
        struct loop *loop = data;

        loop->n_free++;
}

static void __attribute__((noreturn)) fail(const char *what) {
        fprintf(stderr, "loop-client: %s: %s (%s)\n", what, livesnap_get_error(), livesnap_get_error_name());
        exit(1);
}

static void do_work(struct loop *loop, unsigned char *memory) {
        size_t offset = loop->n_work * WORK_BYTES % REGION_BYTES;

        memset(memory + offset, 1 + loop->n_work % 255, WORK_BYTES);
        loop->n_work++;
}

static void run(struct loop *loop, unsigned char *memory) {
        while (loop->n_done == 0) {
                struct pollfd fd = {
                        .fd = livesnap_get_fd(loop->livesnap),
                        .events = livesnap_get_events(loop->livesnap),
                };

                if (poll(&fd, 1, 1) > 0 && livesnap_dispatch(loop->livesnap) < 0)
                        fail("dispatch");
                do_work(loop, memory);
        }
}

int main(int argc, char **argv) {
        struct loop loop = { 0 };
        const struct livesnap_job_callback callback = {
                .progress = on_progress,
                .done = on_done,
                .data = &loop,
                .free = on_free,
        };
        struct livesnap_region *region;

        if (argc != 3) {
                fputs("usage: loop-client DOMAIN SOCKET\n", stderr);
                return 2;
        }
        loop.livesnap = livesnap_connect(argv[2]);
        if (!loop.livesnap)
                fail("connect");
        region = livesnap_region_create("state", REGION_BYTES, 0);
        if (!region)
                fail("region");
        memset(livesnap_region_get_address(region), 7, REGION_BYTES);
        if (livesnap_attach(loop.livesnap, argv[1], &region, 1) < 0)
                fail("attach");
        if (livesnap_start_snapshot(loop.livesnap, argv[1], "from-a-loop", MAX_RATE_BYTES, &callback) < 0)
                fail("start");
        run(&loop, livesnap_region_get_address(region));
        livesnap_close(loop.livesnap);
        livesnap_region_free(region);

        printf("{\"snapshot\": \"%s\", \"work\": %lu, \"progress\": %u, \"done\": %u, \"free\": %u}\n", loop.snapshot,
               loop.n_work, loop.n_progress, loop.n_done, loop.n_free);
        return loop.failed;
}
