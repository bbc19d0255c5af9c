/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "livesnap/livesnap.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/lib_connection.h"
#include "client/lib_error.h"
#include "client/lib_region.h"
#include "common/cleanup.h"
#include "common/uffd.h"

/*
 * Handing over userfaultfds without keeping a copy: two, one for each way of tracking.
 *
 * The daemon must be the only holder: when it dies, the kernel wakes all threads only if that closes the last copy.
 * Were the descriptor made in the program's own table, a fork in another thread between its making and its closing
 * would copy it into a process that nobody knows of. So the whole conversation is held by a helper thread that has
 * unshared its table: what it makes exists in no other, and no process is forked from it.
 *
 * The helper's table starts as a copy of the program's. All of it that is not needed is closed at once, so that a pipe
 * or a socket that the program closes meanwhile is really closed. (POSIX record locks belong to the table: closing in a
 * copy does not release those of the program.)
 */

#define ATTACH_UFFDS 2u

struct attach {
        struct livesnap *livesnap;
        json_t *parameters;
        size_t n_objects;
        int *fds; /* n_objects descriptors of objects (borrowed), and room for the userfaultfds */
        int result;
        char error_name[128];
        char error_message[1024];
};

static int compare_ints(const void *a, const void *b) {
        return *(const int *) a - *(const int *) b;
}

/* Closes all descriptors but the standard ones and the @n in @keep, in this thread's own table. */
static int close_all_but(int *keep, size_t n) {
        unsigned first = 3;

        qsort(keep, n, sizeof(*keep), compare_ints);
        for (size_t i = 0; i < n; i++) {
                unsigned fd = (unsigned) keep[i];

                if (fd > first && syscall(SYS_close_range, first, fd - 1, 0) < 0)
                        return -errno;
                if (fd >= first)
                        first = fd + 1;
        }
        return syscall(SYS_close_range, first, ~0u, 0) < 0 ? -errno : 0;
}

static int isolate_descriptors(const struct attach *attach) {
        CLEANUP_FREE int *keep = malloc((attach->n_objects + 1) * sizeof(*keep));
        int r;

        if (!keep)
                return lib_fail_errno(ENOMEM, "cannot attach");
        memcpy(keep, attach->fds, attach->n_objects * sizeof(*keep));
        keep[attach->n_objects] = livesnap_get_fd(attach->livesnap);
        if (unshare(CLONE_FILES) < 0)
                return lib_fail_errno(errno, "cannot give a thread a descriptor table of its own (unshare)");
        r = close_all_but(keep, attach->n_objects + 1);
        return r < 0 ? lib_fail_errno(-r, "cannot close the descriptors of a thread (close_range)") : 0;
}

static int get_device(struct livesnap *livesnap) {
        struct livesnap_reply *reply;
        json_int_t index;
        int device;

        if (connection_call(livesnap, "GetUserfaultfdDevice", NULL, NULL, 0, NULL, &reply) < 0)
                return -1;
        index = json_is_integer(json_object_get(reply->parameters, "device"))
                        ? json_integer_value(json_object_get(reply->parameters, "device"))
                        : -1;
        device = varlink_message_take_fd(&reply->message, index);
        livesnap_reply_free(reply);
        if (device < 0)
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "livesnapd gave no descriptor of /dev/userfaultfd");
        return device;
}

static int make_userfaultfd(int device) {
        int uffd = uffd_new(device);

        if (uffd == -ENOTTY)
                return lib_fail(LIVESNAP_ERROR_BAD_REPLY, "what livesnapd gave is not /dev/userfaultfd");
        if (uffd < 0)
                return lib_fail_errno(-uffd, "cannot make a userfaultfd of this process%s",
                                      uffd == -EPERM ? " (does a seccomp filter or security module forbid it?)" : "");
        return uffd;
}

struct attach_reply {
        bool done;
        bool failed;
        char name[128];
        char message[1024];
};

static void attach_on_reply(void *data, struct livesnap_reply *reply) {
        struct attach_reply *result = data;

        result->done = true;
        result->failed = livesnap_reply_get_error_name(reply);
        if (!result->failed)
                return;
        snprintf(result->name, sizeof(result->name), "%s", livesnap_reply_get_error_name(reply));
        snprintf(result->message, sizeof(result->message), "%s", livesnap_reply_get_message(reply));
}

static int hand_over(struct attach *attach) {
        struct attach_reply result = { 0 };
        struct livesnap_callback callback = { .function = attach_on_reply, .data = &result };
        CLEANUP_CLOSE int device = get_device(attach->livesnap);
        int *uffds = attach->fds + attach->n_objects;
        int r;

        if (device < 0)
                return -1;
        uffds[0] = make_userfaultfd(device);
        if (uffds[0] < 0)
                return -1;
        uffds[1] = make_userfaultfd(device);
        if (uffds[1] < 0) {
                close(uffds[0]);
                return -1;
        }
        r = connection_start(attach->livesnap, "Attach", attach->parameters, attach->fds,
                             attach->n_objects + ATTACH_UFFDS, 0, &callback);
        /* The queue has its own until they are sent: when the daemon looks at this process, there is none left. */
        close(uffds[0]);
        close(uffds[1]);
        if (r == 0)
                r = connection_wait(attach->livesnap, &result.done);
        if (r < 0)
                return -1;
        return result.failed ? lib_fail_named(result.name, result.message) : 0;
}

static void *attach_run(void *data) {
        struct attach *attach = data;

        attach->result = isolate_descriptors(attach);
        if (attach->result == 0)
                attach->result = hand_over(attach);
        snprintf(attach->error_name, sizeof(attach->error_name), "%s", livesnap_get_error_name());
        snprintf(attach->error_message, sizeof(attach->error_message), "%s", livesnap_get_error());
        return NULL;
}

static int attach_in_thread(struct attach *attach) {
        sigset_t all, before;
        pthread_t thread;
        int r;

        /* The program's signals are for its own threads. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, NULL, attach_run, attach);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r)
                return lib_fail_errno(r, "cannot start the thread that attaches");
        pthread_join(thread, NULL);
        return attach->result < 0 ? lib_fail_named(attach->error_name, attach->error_message) : 0;
}

static int check_regions(struct livesnap_region *const *regions, size_t n_regions) {
        if (n_regions == 0 || n_regions > VARLINK_FDS_MAX - ATTACH_UFFDS)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "one call attaches 1 to %u regions, not %zu",
                                VARLINK_FDS_MAX - ATTACH_UFFDS, n_regions);
        for (size_t i = 0; i < n_regions; i++)
                if (regions[i]->n_mappings == 0)
                        return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT,
                                        "region '%s' has no mapping: name those of this program first",
                                        regions[i]->name ? regions[i]->name : "");
        return 0;
}

int livesnap_attach(struct livesnap *livesnap, const char *domain, struct livesnap_region *const *regions,
                    size_t n_regions) {
        int fds[VARLINK_FDS_MAX];
        struct attach attach = { .livesnap = livesnap, .n_objects = n_regions, .fds = fds };
        int r;

        /* The helper uses the connection alone: no call of before may be answered to it. */
        if (check_regions(regions, n_regions) < 0 || connection_drain(livesnap) < 0)
                return -1;
        attach.parameters = region_build_parameters(domain, regions, n_regions);
        if (!attach.parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "the names of domain and regions must be UTF-8");
        for (size_t i = 0; i < n_regions; i++)
                fds[i] = regions[i]->fd;
        r = attach_in_thread(&attach);
        json_decref(attach.parameters);
        return r;
}

int livesnap_detach(struct livesnap *livesnap, const char *domain, const char *region) {
        json_t *parameters = json_pack("{s:s, s:s*}", "domain", domain, "region", region);
        int r;

        if (!parameters)
                return lib_fail(LIVESNAP_ERROR_BAD_ARGUMENT, "the names of domain and region must be UTF-8");
        r = connection_call(livesnap, "Detach", parameters, NULL, 0, NULL, NULL);
        json_decref(parameters);
        return r;
}
