/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/api.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/uffd.h"
#include "common/uffd_probe.h"
#include "daemon/api_internal.h"

/* How often to look whether work has ended, while the main loop is not running any more. */
#define API_DRAIN_MS 10

void api_wake(struct api *api) {
        uint64_t one = 1;

        (void) !write(api->wake_fd, &one, sizeof(one));
}

static void api_on_wake(evutil_socket_t fd, short events, void *data) {
        struct api *api = data;
        uint64_t count;

        (void) !read(fd, &count, sizeof(count));
        jobs_check(api->jobs);
        registry_check(api->registry);
}

static void api_on_registry(void *data) {
        api_wake(data);
}

static int api_make_parts(struct api *api, struct error *error) {
        api->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (api->wake_fd < 0)
                return error_set(error, ERROR_INTERNAL, "cannot make an eventfd: %s", strerror(errno));
        api->wake = event_new(api->base, api->wake_fd, EV_READ | EV_PERSIST, api_on_wake, api);
        if (!api->wake || event_add(api->wake, NULL) < 0 || jobs_new(api->base, &api->jobs) < 0 ||
            registry_new(api_on_registry, api, &api->registry) < 0)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        return pool_new(api->config.pool_bytes, &api->pool, error);
}

int api_new(const struct api_config *config, struct store *store, struct event_base *base, struct api **ret,
            struct error *error) {
        struct uffd_probe probe;
        struct api *api;

        /* A kernel that forgets the protection of a page would give wrong images without a word. */
        if (uffd_probe_run(&probe, error) < 0)
                return -1;
        api = calloc(1, sizeof(*api));
        if (!api)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        api->config = *config;
        api->async_works = probe.wp_async && probe.pagemap_scan;
        api->store = store;
        api->base = base;
        api->wake_fd = -1;
        api->device = uffd_open_device();
        if (api_make_parts(api, error) < 0) {
                api_free(api);
                return -1;
        }
        *ret = api;
        return 0;
}

void api_set_config(struct api *api, const struct api_config *config) {
        api->config = *config;
}

/* The work that was cancelled ends on other threads, and says so to this one, whose loop has ended. */
static void api_wait_for_work(struct api *api) {
        while (jobs_count(api->jobs) > 0 || api->n_store_calls > 0) {
                struct pollfd poll_fds[] = {
                        { .fd = api->wake_fd, .events = POLLIN },
                        { .fd = store_get_fd(api->store), .events = POLLIN },
                };

                (void) poll(poll_fds, 2, API_DRAIN_MS);
                store_dispatch(api->store);
                jobs_check(api->jobs);
        }
}

void api_free(struct api *api) {
        if (!api)
                return;
        if (api->jobs && api->registry) {
                jobs_cancel_all(api->jobs);
                api_wait_for_work(api);
        }
        registry_free(api->registry);
        jobs_free(api->jobs);
        pool_free(api->pool);
        if (api->wake)
                event_free(api->wake);
        if (api->wake_fd >= 0)
                close(api->wake_fd);
        if (api->device >= 0)
                close(api->device);
        free(api);
}

bool api_answers(struct api *api) {
        return registry_answers(api->registry);
}

static void api_on_get_info(struct call *call, void *context) {
        struct api *api = context;
        struct utsname name;

        uname(&name);
        call_reply(call,
                   json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:s, s:i, s:i}", "version", LIVESNAP_VERSION, "pid",
                             (int) getpid(), "kernel", name.release, "store", store_path(api->store), "pool_bytes",
                             (json_int_t) pool_bytes(api->pool), "pool_free_bytes",
                             (json_int_t) pool_free_bytes(api->pool), "pool_policy",
                             api->config.pool_abort ? "abort" : "throttle", "domains",
                             (int) registry_count(api->registry), "jobs", (int) jobs_count(api->jobs)),
                   NULL, 0);
}

const struct server_method *api_methods(void) {
        static const struct server_method methods[] = {
                { "io.livesnap.GetInfo", api_on_get_info },
                { "io.livesnap.GetUserfaultfdDevice", api_on_get_userfaultfd_device },
                { "io.livesnap.Attach", api_on_attach },
                { "io.livesnap.Detach", api_on_detach },
                { "io.livesnap.ListDomains", api_on_list_domains },
                { "io.livesnap.SetTracking", api_on_set_tracking },
                { "io.livesnap.AwaitQuiesce", api_on_await_quiesce },
                { "io.livesnap.Quiesced", api_on_quiesced },
                { "io.livesnap.Snapshot", api_on_snapshot },
                { "io.livesnap.ListJobs", api_on_list_jobs },
                { "io.livesnap.WaitJob", api_on_wait_job },
                { "io.livesnap.CancelJob", api_on_cancel_job },
                { "io.livesnap.ListSnapshots", api_on_list_snapshots },
                { "io.livesnap.ShowSnapshot", api_on_show_snapshot },
                { "io.livesnap.OpenSnapshot", api_on_open_snapshot },
                { "io.livesnap.VerifySnapshot", api_on_verify_snapshot },
                { "io.livesnap.DeleteSnapshot", api_on_delete_snapshot },
                { "io.livesnap.CompactSnapshot", api_on_compact_snapshot },
                { "io.livesnap.Prune", api_on_prune },
                {},
        };

        return methods;
}
