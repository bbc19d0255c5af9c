/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The library against a daemon that misbehaves. No test may leave a descriptor behind. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "livesnap/livesnap.h"
#include "tests/unit/descriptors.h"
#include "tests/unit/fake_peer.h"

#define SNAPSHOT                                                                                                 \
        "{\"snapshot\":\"d/n\",\"created\":1.5,\"uid\":0,\"guarantee\":\"sealed\",\"regions\":[{\"name\":\"r\"," \
        "\"bytes\":4096,\"mappings\":1,\"path\":\"/p\"}],\"arm_us\":1,\"hold_us\":2,\"duration_us\":3,"          \
        "\"pages_fault\":4,\"pages_sweep\":5,\"pages_zero\":6,\"bytes_written\":7,\"fault_us\":{\"p50\":1.5,"    \
        "\"p99\":2,\"p999\":3,\"max\":4},\"throttled_us\":8,\"pool_peak_bytes\":9,\"warnings\":[]}"

#define JOB(state, snapshot)                                                                  \
        "{\"job\":7,\"kind\":\"snapshot\",\"domain\":\"d\",\"name\":\"n\",\"state\":\"" state \
        "\",\"bytes_done\":1,\"bytes_total\":2,\"error\":null,\"snapshot\":" snapshot "}"

struct fixture {
        struct fake_peer *peer;
        struct livesnap *livesnap;
        unsigned n_descriptors;
};

static int setup(void **state) {
        struct fixture *fixture = calloc(1, sizeof(*fixture));

        assert_non_null(fixture);
        fixture->n_descriptors = descriptors_count();
        *state = fixture;
        return 0;
}

static int teardown(void **state) {
        struct fixture *fixture = *state;

        livesnap_close(fixture->livesnap);
        if (fixture->peer)
                fake_peer_stop(fixture->peer);
        assert_int_equal(descriptors_count(), fixture->n_descriptors);
        free(fixture);
        return 0;
}

static void start(struct fixture *fixture, const struct fake_step *steps, size_t n_steps) {
        fixture->peer = fake_peer_start(steps, n_steps);
        fixture->livesnap = livesnap_connect(fake_peer_path(fixture->peer));
        assert_non_null(fixture->livesnap);
}

#define START(fixture, ...)                                      \
        static const struct fake_step steps[] = { __VA_ARGS__ }; \
        start(fixture, steps, sizeof(steps) / sizeof(steps[0]))

static void assert_failure(const char *name, int errnum, const char *part) {
        assert_string_equal(livesnap_get_error_name(), name);
        assert_int_equal(livesnap_get_errno(), errnum);
        if (!strstr(livesnap_get_error(), part))
                fail_msg("'%s' is not in '%s'", part, livesnap_get_error());
}

static int call(struct fixture *fixture) {
        return livesnap_call(fixture->livesnap, "GetInfo", NULL, NULL, 0, NULL, NULL);
}

static void test_no_daemon(void **state) {
        assert_null(livesnap_connect("/nonexistent/livesnapd.sock"));
        assert_failure(LIVESNAP_ERROR_UNREACHABLE, ECONNREFUSED, "/nonexistent/livesnapd.sock");
}

static void test_call(void **state) {
        struct livesnap_reply *reply;

        START(*state, EXPECT("\"io.livesnap.GetInfo\""), SAY("{\"parameters\":{\"pid\":5}}"));
        assert_int_equal(livesnap_call(((struct fixture *) *state)->livesnap, "GetInfo", "{}", NULL, 0, NULL, &reply),
                         0);
        assert_string_equal(livesnap_reply_get_parameters(reply), "{\"pid\":5}");
        assert_false(livesnap_reply_continues(reply));
        assert_int_equal(livesnap_reply_take_fd(reply, 0), -1);
        livesnap_reply_free(reply);
}

static void test_descriptors(void **state) {
        struct fixture *fixture = *state;
        struct livesnap_reply *reply;
        struct fake_step steps[] = {
                EXPECT("org.example.Get"),
                { FAKE_SAY, "{}", 2, { descriptors_new(0), descriptors_new(1) } },
        };
        int fd;

        start(fixture, steps, 2);
        assert_int_equal(livesnap_call(fixture->livesnap, "org.example.Get", NULL, NULL, 0, NULL, &reply), 0);
        assert_int_equal(livesnap_reply_get_n_fds(reply), 2);
        fd = livesnap_reply_take_fd(reply, 1);
        assert_int_equal(descriptors_number(fd), 1);
        assert_int_equal(livesnap_reply_take_fd(reply, 1), -1);
        assert_int_equal(livesnap_reply_take_fd(reply, 2), -1);
        close(fd);
        livesnap_reply_free(reply);
        close(steps[1].fds[0]);
        close(steps[1].fds[1]);
}

static void test_error(void **state) {
        START(*state, EXPECT("GetInfo"),
              SAY("{\"error\":\"io.livesnap.Busy\",\"parameters\":{\"message\":\"wait\\u001b[1m\"}}"), HANG_UP);
        /* The connection that breaks behind the answer does not hide it. */
        assert_int_equal(call(*state), -1);
        assert_failure("io.livesnap.Busy", EBUSY, "wait [1m");
        assert_int_equal(call(*state), -1);
}

static void test_foreign_error(void **state) {
        START(*state, EXPECT("GetInfo"),
              SAY("{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"X\"}}"));
        assert_int_equal(call(*state), -1);
        assert_failure("org.varlink.service.MethodNotFound", ENOSYS, "X");
}

static void test_server_death(void **state) {
        START(*state, EXPECT("GetInfo"), HANG_UP);
        assert_int_equal(call(*state), -1);
        assert_failure(LIVESNAP_ERROR_DISCONNECTED, ECONNRESET, "GetInfo");
        assert_int_equal(call(*state), -1);
        assert_failure(LIVESNAP_ERROR_DISCONNECTED, ECONNRESET, "closed the connection");
        assert_int_equal(livesnap_dispatch(((struct fixture *) *state)->livesnap), -1);
}

static void test_not_json(void **state) {
        START(*state, EXPECT("GetInfo"), SAY("HTTP/1.1 400 Bad Request"));
        assert_int_equal(call(*state), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "Varlink");
}

static void test_wrong_types(void **state) {
        START(*state, EXPECT("GetInfo"), SAY("{\"parameters\":[1]}"));
        assert_int_equal(call(*state), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "Varlink");
}

static void test_too_large(void **state) {
        START(*state, EXPECT("GetInfo"), FLOOD(20));
        assert_int_equal(call(*state), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "too much");
}

static void test_continues_unasked(void **state) {
        START(*state, EXPECT("GetInfo"), SAY("{\"continues\":true}"));
        assert_int_equal(call(*state), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "nobody asked");
}

static void test_bad_parameters(void **state) {
        struct livesnap *livesnap;

        START(*state, HANG_UP);
        livesnap = ((struct fixture *) *state)->livesnap;
        assert_int_equal(livesnap_call(livesnap, "X", "[]", NULL, 0, NULL, NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL, "not a JSON object");
        assert_int_equal(livesnap_call(livesnap, "X", "{", NULL, 0, NULL, NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL, "not a JSON object");
        assert_int_equal(livesnap_call(livesnap, "\xff", NULL, NULL, 0, NULL, NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL, "UTF-8");
}

struct record {
        unsigned n_replies;
        unsigned n_errors;
        unsigned n_freed;
};

static void record_reply(void *data, struct livesnap_reply *reply) {
        struct record *record = data;

        record->n_replies++;
        record->n_errors += livesnap_reply_get_error_name(reply) != NULL;
}

static void record_free(void *data) {
        ((struct record *) data)->n_freed++;
}

static int start_recorded(struct livesnap *livesnap, struct record *record) {
        struct livesnap_callback callback = { record_reply, record, record_free };

        return livesnap_start_call(livesnap, "GetInfo", NULL, NULL, 0, 0, &callback);
}

static int dispatch_until_broken(struct livesnap *livesnap) {
        struct pollfd pollfd = { .fd = livesnap_get_fd(livesnap) };
        int r;

        do {
                pollfd.events = (short) livesnap_get_events(livesnap);
                assert_true(poll(&pollfd, 1, 10000) > 0);
                r = livesnap_dispatch(livesnap);
        } while (r == 0);
        return r;
}

static void test_pipelined_death(void **state) {
        struct record first = { 0 }, second = { 0 }, third = { 0 };
        struct livesnap *livesnap;

        START(*state, EXPECT("GetInfo"), SAY("{}"), HANG_UP);
        livesnap = ((struct fixture *) *state)->livesnap;
        assert_int_equal(start_recorded(livesnap, &first), 0);
        assert_int_equal(start_recorded(livesnap, &second), 0);
        assert_true(livesnap_get_events(livesnap) & POLLOUT);
        assert_int_equal(dispatch_until_broken(livesnap), -1);
        assert_int_equal(first.n_replies, 1);
        assert_int_equal(first.n_errors, 0);
        assert_int_equal(first.n_freed, 1);
        assert_int_equal(second.n_replies, 1);
        assert_int_equal(second.n_errors, 1);
        assert_int_equal(second.n_freed, 1);
        /* What is refused is freed, and not called back. */
        assert_int_equal(start_recorded(livesnap, &third), -1);
        assert_int_equal(third.n_replies, 0);
        assert_int_equal(third.n_freed, 1);
}

static void test_close_frees(void **state) {
        struct fixture *fixture = *state;
        struct record record = { 0 };

        START(fixture, HANG_UP);
        assert_int_equal(start_recorded(fixture->livesnap, &record), 0);
        livesnap_close(fixture->livesnap);
        fixture->livesnap = NULL;
        assert_int_equal(record.n_replies, 0);
        assert_int_equal(record.n_freed, 1);
}

static void count_progress(void *data, const struct livesnap_job *job) {
        assert_int_equal(job->job, 7);
        assert_string_equal(job->snapshot, "d/n");
        ++*(unsigned *) data;
}

static void test_snapshot(void **state) {
        struct livesnap_snapshot *snapshot;
        unsigned n_progress = 0;
        struct livesnap_job_callback callback = { .progress = count_progress, .data = &n_progress };

        START(*state, EXPECT("\"more\":true"),
              SAY("{\"continues\":true,\"parameters\":{\"job\":" JOB("draining", "null") "}}"),
              SAY("{\"continues\":true,\"parameters\":{\"job\":\"what?\"}}"),
              SAY("{\"parameters\":{\"job\":" JOB("done", SNAPSHOT) "}}"));
        assert_int_equal(livesnap_snapshot(((struct fixture *) *state)->livesnap, "d", NULL, 0, &callback, &snapshot),
                         0);
        assert_int_equal(n_progress, 1);
        assert_string_equal(snapshot->snapshot, "d/n");
        assert_int_equal(snapshot->pool_peak_bytes, 9);
        assert_true(snapshot->fault_p50_us > 1.4 && snapshot->fault_p50_us < 1.6);
        assert_int_equal(snapshot->n_regions, 1);
        assert_string_equal(snapshot->regions[0].path, "/p");
        livesnap_snapshot_free(snapshot);
}

static void test_snapshot_missing(void **state) {
        START(*state, EXPECT("Snapshot"), SAY("{\"parameters\":{\"job\":" JOB("done", "null") "}}"));
        assert_int_equal(livesnap_snapshot(((struct fixture *) *state)->livesnap, "d", NULL, 0, NULL, NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "not which");
}

static void test_snapshot_malformed(void **state) {
        START(*state, EXPECT("Snapshot"),
              SAY("{\"parameters\":{\"job\":" JOB("done", "{\"snapshot\":\"d/n\",\"guarantee\":5}") "}}"));
        assert_int_equal(livesnap_snapshot(((struct fixture *) *state)->livesnap, "d", NULL, 0, NULL, NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "guarantee");
}

static void test_snapshot_cut_off(void **state) {
        START(*state, EXPECT("Snapshot"),
              SAY("{\"continues\":true,\"parameters\":{\"job\":" JOB("draining", "null") "}}"), HANG_UP);
        assert_int_equal(livesnap_snapshot(((struct fixture *) *state)->livesnap, "d", NULL, 0, NULL, NULL), -1);
        assert_failure(LIVESNAP_ERROR_DISCONNECTED, ECONNRESET, "io.livesnap.Snapshot");
}

#define PRUNE_JOB(state, lists)                                                           \
        "{\"job\":7,\"kind\":\"prune\",\"domain\":\"d\",\"name\":\"\",\"state\":\"" state \
        "\",\"bytes_done\":1,\"bytes_total\":2" lists "}"

static void count_ends(void *data, const struct livesnap_job *job) {
        *(unsigned *) data += !strcmp(job->state, "done");
}

static void test_prune(void **state) {
        const struct livesnap_prune_options options = { sizeof(options), .keep_last = 2, .prefix = "p-" };
        struct livesnap_pruned *pruned;
        unsigned n_ends = 0;
        struct livesnap_job_callback callback = { .progress = count_ends, .data = &n_ends };

        START(*state, EXPECT("\"prefix\":\"p-\""),
              SAY("{\"continues\":true,\"parameters\":{\"job\":" PRUNE_JOB("pruning", "") "}}"),
              SAY("{\"parameters\":{\"job\":" PRUNE_JOB("done",
                                                        ",\"kept\":[\"c\",\"b\"],\"needed\":[],\"folded\":[\"b\"],"
                                                        "\"deleted\":[\"a\"]") "}}"));
        assert_int_equal(livesnap_prune(((struct fixture *) *state)->livesnap, "d", &options, &callback, &pruned), 0);
        assert_int_equal(n_ends, 1); /* it is told as progress, too */
        assert_int_equal(pruned->kept.n, 2);
        assert_string_equal(pruned->kept.names[1], "b");
        assert_int_equal(pruned->needed.n, 0);
        assert_int_equal(pruned->folded.n, 1);
        assert_int_equal(pruned->deleted.n, 1);
        assert_string_equal(pruned->deleted.names[0], "a");
        livesnap_pruned_free(pruned);
        livesnap_pruned_free(NULL);
}

static void test_prune_malformed(void **state) {
        struct livesnap_prune_options options = { sizeof(options), .keep_last = 2 };
        struct livesnap_pruned *pruned = NULL;
        struct livesnap *livesnap;

        START(*state, EXPECT("Prune"), SAY("{\"parameters\":{\"job\":" PRUNE_JOB("done", ",\"kept\":[\"c\",5]") "}}"));
        livesnap = ((struct fixture *) *state)->livesnap;
        assert_int_equal(livesnap_prune(livesnap, "d", &options, NULL, &pruned), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "kept");
        options.flags = 64;
        assert_int_equal(livesnap_prune(livesnap, "d", &options, NULL, &pruned), -1);
        assert_int_equal(livesnap_start_prune(livesnap, "d", &options, NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL, "not known");
        assert_null(pruned);
}

static void test_compact(void **state) {
        struct livesnap *livesnap;

        START(*state, EXPECT("CompactSnapshot"), SAY("{\"parameters\":{\"job\":" JOB("done", SNAPSHOT) "}}"),
              EXPECT("\"fold\":true"), SAY("{\"parameters\":{\"job\":" JOB("done", "null") "}}"),
              EXPECT("CompactSnapshot"), SAY("{\"parameters\":{\"job\":" JOB("done", "null") "}}"));
        livesnap = ((struct fixture *) *state)->livesnap;
        assert_int_equal(livesnap_compact(livesnap, "d", "n", NULL), 0);
        assert_int_equal(livesnap_delete_fold(livesnap, "d", "n", NULL), 0);
        assert_int_equal(livesnap_compact(livesnap, "d", "n", NULL), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "not which");
}

static struct livesnap_region *new_region(void) {
        struct livesnap_region *region = livesnap_region_create("r", 8192, 0);

        assert_non_null(region);
        return region;
}

static void test_region_is_sealed(void **state) {
        struct livesnap_region *region = new_region();
        int fd = livesnap_region_get_fd(region);

        ((char *) livesnap_region_get_address(region))[8191] = 'x';
        assert_int_equal(ftruncate(fd, 4096), -1);
        assert_int_equal(pwrite(fd, "y", 1, 0), -1);
        assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
        livesnap_region_free(region);
}

static void test_region_refused(void **state) {
        struct livesnap_region *region;
        int pipes[2];

        assert_null(livesnap_region_create("r", 4097, 0));
        assert_failure(LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL, "multiple");
        assert_null(livesnap_region_create("r", 0, 0));
        assert_null(livesnap_region_create(NULL, 4096, 0));
        assert_null(livesnap_region_create("r", 4096, 64));
        assert_null(livesnap_region_new("r", -1));
        assert_failure(LIVESNAP_ERROR_SYSTEM, EBADF, "descriptor");
        assert_int_equal(pipe(pipes), 0);
        assert_null(livesnap_region_new("r", pipes[0]));
        assert_failure(LIVESNAP_ERROR_BAD_ARGUMENT, EINVAL, "no shared memory");
        close(pipes[0]);
        close(pipes[1]);
        region = new_region();
        assert_int_equal(livesnap_region_add_mapping(region, (void *) 4097, 4096, 0), -1);
        assert_int_equal(livesnap_region_add_mapping(region, (void *) 4096, 4096, INT64_MAX & ~4095ll), -1);
        livesnap_region_free(region);
}

/* Pages that are there but not mapped for writing: what a disarm leaves behind, without a need for a userfaultfd. */
static void test_region_made_writable(void **state) {
        int fd = memfd_create("r", MFD_CLOEXEC);
        struct livesnap_region *region;
        struct rusage before, after;
        volatile char *address;
        struct stat status;

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, 4 << 20), 0);
        for (unsigned page = 0; page < 3; page++)
                assert_int_equal(pwrite(fd, "x", 1, page * 500 * 4096), 1);
        address = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(address != MAP_FAILED);
        region = livesnap_region_new("r", fd);
        assert_non_null(region);
        assert_int_equal(livesnap_region_add_mapping(region, (void *) address, 4 << 20, 0), 0);

        assert_int_equal(livesnap_region_make_writable(region), 0);
        /* A sanitizer has memory of its own for each page, which is touched here and not below. Reading maps no page
         * for writing. */
        for (unsigned page = 0; page < 3; page++)
                assert_int_equal(address[page * 500 * 4096], 'x');
        getrusage(RUSAGE_THREAD, &before);
        for (unsigned page = 0; page < 3; page++)
                address[page * 500 * 4096] = 'y';
        getrusage(RUSAGE_THREAD, &after);
        assert_int_equal(after.ru_minflt, before.ru_minflt);
        assert_int_equal(fstat(fd, &status), 0);
        assert_int_equal(status.st_blocks * 512, 3 * 4096);

        munmap((void *) address, 4 << 20);
        assert_int_equal(livesnap_region_make_writable(region), -1);
        assert_int_equal(livesnap_get_errno(), ENOMEM);
        livesnap_region_free(region);
        close(fd);
}

static void test_attach_no_device(void **state) {
        struct livesnap_region *region = new_region();

        START(*state, EXPECT("GetUserfaultfdDevice"), SAY("{\"parameters\":{\"device\":0}}"));
        assert_int_equal(livesnap_attach(((struct fixture *) *state)->livesnap, "d", &region, 1), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "no descriptor");
        livesnap_region_free(region);
}

static void test_attach_wrong_device(void **state) {
        struct livesnap_region *region = new_region();
        struct fake_step steps[] = {
                EXPECT("GetUserfaultfdDevice"),
                { FAKE_SAY, "{\"parameters\":{\"device\":0}}", 1, { open("/dev/null", O_RDWR | O_CLOEXEC) } },
        };

        start(*state, steps, 2);
        assert_int_equal(livesnap_attach(((struct fixture *) *state)->livesnap, "d", &region, 1), -1);
        assert_failure(LIVESNAP_ERROR_BAD_REPLY, EPROTO, "not /dev/userfaultfd");
        livesnap_region_free(region);
        close(steps[1].fds[0]);
}

static void test_attach_denied(void **state) {
        struct livesnap_region *region = new_region();

        START(*state, EXPECT("GetUserfaultfdDevice"),
              SAY("{\"error\":\"io.livesnap.KernelUnsupported\",\"parameters\":{\"message\":\"old\"}}"));
        assert_int_equal(livesnap_attach(((struct fixture *) *state)->livesnap, "d", &region, 1), -1);
        assert_failure("io.livesnap.KernelUnsupported", EOPNOTSUPP, "old");
        livesnap_region_free(region);
}

static void test_cancel_beside(void **state) {
        struct fixture *fixture = *state;

        START(fixture, HANG_UP, EXPECT("CancelJob"), SAY("{}"));
        /* By a connection of its own: the first one is gone. */
        assert_int_equal(livesnap_cancel_job(fixture->livesnap, 3), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_no_daemon),
                TEST(test_call),
                TEST(test_descriptors),
                TEST(test_error),
                TEST(test_foreign_error),
                TEST(test_server_death),
                TEST(test_not_json),
                TEST(test_wrong_types),
                TEST(test_too_large),
                TEST(test_continues_unasked),
                TEST(test_bad_parameters),
                TEST(test_pipelined_death),
                TEST(test_close_frees),
                TEST(test_snapshot),
                TEST(test_snapshot_missing),
                TEST(test_snapshot_malformed),
                TEST(test_snapshot_cut_off),
                TEST(test_region_is_sealed),
                TEST(test_region_refused),
                TEST(test_region_made_writable),
                TEST(test_attach_no_device),
                TEST(test_attach_wrong_device),
                TEST(test_attach_denied),
                TEST(test_cancel_beside),
                TEST(test_prune),
                TEST(test_prune_malformed),
                TEST(test_compact),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
