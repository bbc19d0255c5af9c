/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/programs/oracle-client.h"

#include <livesnap/livesnap.h>
#include <poll.h>
#include <stdio.h>

static const char *client_domain;
static const char *client_socket_path;

void oracle_client_configure(const char *domain, const char *socket_path) {
        client_domain = domain;
        client_socket_path = socket_path;
}

static struct livesnap_region *describe_region(const struct memory_region *region) {
        struct livesnap_region *described = livesnap_region_new(region->name, region->fd);

        for (unsigned i = 0; described && i < region->n_aliases; i++) {
                if (livesnap_region_add_mapping(described, region->aliases[i], region->bytes, 0) < 0) {
                        livesnap_region_free(described);
                        return NULL;
                }
        }
        return described;
}

int oracle_client_attach(struct writer *writer) {
        struct livesnap_region *regions[ORACLE_REGIONS_MAX] = { NULL };
        struct livesnap *livesnap = livesnap_connect(client_socket_path);
        unsigned n = writer->layout.n_regions;
        bool ok = livesnap;

        for (unsigned i = 0; i < n && ok; i++) {
                regions[i] = describe_region(&writer->memory.regions[i]);
                ok = regions[i];
        }
        ok = ok && livesnap_attach(livesnap, client_domain, regions, n) == 0;
        if (!ok)
                fprintf(stderr, "oracle-client: %s (%s)\n", livesnap_get_error(), livesnap_get_error_name());
        for (unsigned i = 0; i < n; i++)
                livesnap_region_free(regions[i]);
        livesnap_close(livesnap);
        return ok ? 0 : -1;
}

static void stop_writes(void *data) {
        writer_pause(data);
}

static void resume_writes(void *data) {
        writer_resume(data);
}

static void *serve_offer(void *data) {
        struct livesnap *livesnap = data;
        int r = 0;

        while (r == 0) {
                struct pollfd fd = { .fd = livesnap_get_fd(livesnap), .events = (short) livesnap_get_events(livesnap) };

                (void) poll(&fd, 1, -1);
                r = livesnap_dispatch(livesnap);
        }
        livesnap_close(livesnap);
        return NULL;
}

int oracle_client_offer(struct writer *writer) {
        const struct livesnap_quiesce_callback callback = {
                .stop = stop_writes,
                .resume = resume_writes,
                .data = writer,
        };
        struct livesnap *livesnap = livesnap_connect(client_socket_path);
        pthread_t thread;

        if (!livesnap || livesnap_start_quiesce(livesnap, client_domain, &callback) < 0) {
                fprintf(stderr, "oracle-client: %s (%s)\n", livesnap_get_error(), livesnap_get_error_name());
                livesnap_close(livesnap);
                return -1;
        }
        return pthread_create(&thread, NULL, serve_offer, livesnap) || pthread_detach(thread) ? -1 : 0;
}
