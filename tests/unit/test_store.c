/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The store as a directory: what is shown, what is refused, what a crash leaves, and whose descriptors are where. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "snapshot_fixture.h"

static const struct fixture_region small = { "ram", 3 * CHUNK_PAGE_BYTES, page_random, NULL };

struct state {
        char *directory;
        struct store *store;
};

static int setup(void **state) {
        struct state *fixture = calloc(1, sizeof(*fixture));

        fixture->directory = fixture_directory();
        fixture->store = fixture_store(fixture->directory);
        *state = fixture;
        return 0;
}

static int teardown(void **state) {
        struct state *fixture = *state;

        store_free(fixture->store);
        fixture_remove(fixture->directory);
        free(fixture);
        return 0;
}

static void publish(struct store *store, const char *domain, const char *name) {
        struct error error = { .kind = ERROR_NONE };

        if (fixture_write(store, domain, name, &small, 1, 0, NULL, &error) < 0)
                fail_msg("%s", error.message);
}

static char *__attribute__((format(printf, 2, 3))) path_in(const char *directory, const char *format, ...) {
        va_list arguments;
        char *name, *path;

        va_start(arguments, format);
        assert_true(vasprintf(&name, format, arguments) > 0);
        va_end(arguments);
        assert_true(asprintf(&path, "%s/%s", directory, name) > 0);
        free(name);
        return path;
}

static void make_file(const char *directory, const char *name, const char *content) {
        char *path = path_in(directory, "%s", name);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, content, strlen(content)), strlen(content));
        close(fd);
        free(path);
}

static void make_directory(const char *directory, const char *name) {
        char *path = path_in(directory, "%s", name);

        assert_int_equal(mkdir(path, 0700), 0);
        free(path);
}

/* One operation on the store, and what it said. */
struct request {
        const char *domain, *name, *region;
        uint32_t uid;
        json_t *answer;
        struct store_opened opened;
        int result;
        struct error error;
};

static void do_list(struct store *store, void *data) {
        struct request *request = data;

        request->result = store_list(store, request->domain, &request->answer, &request->error);
}

static void do_show(struct store *store, void *data) {
        struct request *request = data;

        request->result = store_show(store, request->domain, request->name, &request->answer, &request->error);
}

static void do_delete(struct store *store, void *data) {
        struct request *request = data;

        request->result = store_delete(store, request->domain, request->name, request->uid, &request->error);
}

static void do_open(struct store *store, void *data) {
        struct request *request = data;

        request->result = store_open(store, request->domain, request->name, request->region, request->uid,
                                     &request->opened, &request->error);
        if (request->result == 0)
                request->result = store_opened_send(store, &request->opened, &request->error);
}

static void ask(struct state *fixture, void (*what)(struct store *store, void *data), struct request *request,
                enum error_kind expected) {
        fixture_on_store(fixture->store, what, request);
        if (request->error.kind != expected || (request->result == 0) != (expected == ERROR_NONE))
                fail_msg("%d: '%s'", request->error.kind, request->error.message);
}

static void refused(struct state *fixture, void (*what)(struct store *store, void *data), const char *domain,
                    const char *name, uint32_t uid, enum error_kind expected) {
        ask(fixture, what, &(struct request){ .domain = domain, .name = name, .uid = uid }, expected);
}

static const char *name_at(const json_t *list, unsigned i) {
        return json_string_value(json_object_get(json_array_get(list, i), "snapshot"));
}

static void test_list_and_show(void **state) {
        struct state *fixture = *state;
        struct request all = { 0 }, one = { .domain = "b" }, none = { .domain = "c" },
                       shown = { .domain = "a", .name = "z" };

        publish(fixture->store, "b", "first");
        publish(fixture->store, "a", "z");
        publish(fixture->store, "a", "y");
        ask(fixture, do_list, &all, ERROR_NONE);
        assert_int_equal(json_array_size(all.answer), 3);
        assert_string_equal(name_at(all.answer, 0), "a/z"); /* the older one */
        assert_string_equal(name_at(all.answer, 1), "a/y");
        assert_string_equal(name_at(all.answer, 2), "b/first");
        ask(fixture, do_list, &one, ERROR_NONE);
        assert_int_equal(json_array_size(one.answer), 1);
        ask(fixture, do_list, &none, ERROR_NONE);
        assert_int_equal(json_array_size(none.answer), 0);
        ask(fixture, do_show, &shown, ERROR_NONE);
        assert_true(json_equal(shown.answer, json_array_get(all.answer, 0)));
        refused(fixture, do_show, "a", "nothing", 0, ERROR_NO_SUCH_SNAPSHOT);
        refused(fixture, do_show, "nothing", "z", 0, ERROR_NO_SUCH_SNAPSHOT);
        refused(fixture, do_show, "..", "z", 0, ERROR_INVALID_NAME);
        refused(fixture, do_show, "a", "../b/first", 0, ERROR_INVALID_NAME);
        json_decref(all.answer);
        json_decref(one.answer);
        json_decref(none.answer);
        json_decref(shown.answer);
}

/* What others put there is neither shown nor harmed. */
static void test_foreign_files(void **state) {
        struct state *fixture = *state;
        struct request all = { 0 };
        char *fifo, *link;

        publish(fixture->store, "vm", "good");
        make_file(fixture->directory, "a-file", "x");
        make_file(fixture->directory, "vm/a-file", "x");
        make_directory(fixture->directory, "lost+found");
        make_directory(fixture->directory, "vm/no-manifest");
        make_directory(fixture->directory, "vm/.hidden");
        make_directory(fixture->directory, "vm/name with blanks");
        make_directory(fixture->directory, "vm/fifo");
        fifo = path_in(fixture->directory, "vm/fifo/manifest.json");
        assert_int_equal(mkfifo(fifo, 0600), 0);
        link = path_in(fixture->directory, "vm/link");
        assert_int_equal(symlink("good", link), 0);

        ask(fixture, do_list, &all, ERROR_NONE);
        assert_int_equal(json_array_size(all.answer), 2);
        assert_string_equal(name_at(all.answer, 0), "vm/good");
        assert_string_equal(name_at(all.answer, 1), "vm/fifo"); /* damaged: its manifest is no file */
        refused(fixture, do_show, "vm", "link", 0, ERROR_NO_SUCH_SNAPSHOT);
        refused(fixture, do_delete, "vm", "no-manifest", 0, ERROR_NO_SUCH_SNAPSHOT);
        refused(fixture, do_delete, "vm", "link", 0, ERROR_NO_SUCH_SNAPSHOT);
        refused(fixture, do_delete, "a-file", "x", 0, ERROR_NO_SUCH_SNAPSHOT);
        free(fifo);
        free(link);
        json_decref(all.answer);
}

static void test_damaged(void **state) {
        struct state *fixture = *state;
        struct request all = { 0 };
        struct error error = { .kind = ERROR_NONE };
        const json_t *warnings;

        publish(fixture->store, "vm", "damaged");
        make_file(fixture->directory, "vm/damaged/manifest.json", "{}");
        refused(fixture, do_show, "vm", "damaged", 0, ERROR_SNAPSHOT_CORRUPT);
        ask(fixture, do_list, &all, ERROR_NONE);
        assert_int_equal(json_array_size(all.answer), 1);
        warnings = json_object_get(json_array_get(all.answer, 0), "warnings");
        assert_non_null(strstr(json_string_value(json_array_get(warnings, 0)), "damaged"));
        assert_int_equal(json_object_size(json_array_get(all.answer, 0)), 16);
        json_decref(all.answer);
        assert_int_equal(fixture_verify(fixture->store, "vm", "damaged", &error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
        refused(fixture, do_delete, "vm", "damaged", 1000, ERROR_SNAPSHOT_CORRUPT); /* whose it is cannot be told */
        refused(fixture, do_delete, "vm", "damaged", 0, ERROR_NONE);

        publish(fixture->store, "vm", "no-image");
        char *image = path_in(fixture->directory, "vm/no-image/ram.mem");
        assert_int_equal(unlink(image), 0);
        error.kind = ERROR_NONE;
        assert_int_equal(fixture_verify(fixture->store, "vm", "no-image", &error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
        free(image);
}

static void test_delete(void **state) {
        struct state *fixture = *state;

        publish(fixture->store, "vm", "one");
        publish(fixture->store, "vm", "two");
        refused(fixture, do_delete, "vm", "one", 1001, ERROR_PERMISSION_DENIED);
        refused(fixture, do_delete, "vm", "one", 1000, ERROR_NONE);
        refused(fixture, do_delete, "vm", "one", 1000, ERROR_NO_SUCH_SNAPSHOT);
        assert_int_equal(fixture_entries("%s/vm", fixture->directory), 1);
        refused(fixture, do_delete, "vm", "two", 0, ERROR_NONE);
        assert_int_equal(fixture_entries("%s/vm", fixture->directory), -1);
        assert_int_equal(fixture_entries("%s/.work", fixture->directory), 0);
}

static void test_open_and_pass(void **state) {
        struct state *fixture = *state;
        const struct fixture_region regions[] = { small, { "rom", 5000, page_random, NULL } };
        struct request request = { .domain = "vm", .name = "one", .uid = 1000 };
        struct request single = { .domain = "vm", .name = "one", .region = "rom" };
        struct error error = { .kind = ERROR_NONE };
        uint8_t expected[CHUNK_PAGE_BYTES], found[CHUNK_PAGE_BYTES];

        assert_int_equal(fixture_write(fixture->store, "vm", "one", regions, 2, 0, NULL, &error), 0);
        ask(fixture, do_open, &request, ERROR_NONE);
        assert_int_equal(request.opened.manifest, -1);
        assert_int_equal(store_opened_receive(fixture->store, &request.opened, &error), 0);
        assert_int_equal(request.opened.n_regions, 2);
        assert_string_equal(request.opened.regions[1].name, "rom");
        assert_int_equal(request.opened.regions[1].bytes, 5000);
        page_random(1, expected);
        assert_int_equal(pread(request.opened.regions[1].image, found, 904, 4096), 904);
        assert_memory_equal(found, expected, 904);
        assert_int_equal(fcntl(request.opened.manifest, F_GETFD), FD_CLOEXEC);
        assert_int_equal(fcntl(request.opened.regions[0].sums, F_GETFL) & O_ACCMODE, O_RDONLY);
        store_opened_done(&request.opened);

        ask(fixture, do_open, &single, ERROR_NONE);
        assert_int_equal(store_opened_receive(fixture->store, &single.opened, &error), 0);
        assert_int_equal(single.opened.n_regions, 1);
        store_opened_done(&single.opened);

        ask(fixture, do_open, &(struct request){ .domain = "vm", .name = "one", .uid = 5 }, ERROR_PERMISSION_DENIED);
        ask(fixture, do_open, &(struct request){ .domain = "vm", .name = "one", .region = "x" }, ERROR_NO_SUCH_REGION);
        ask(fixture, do_open, &(struct request){ .domain = "vm", .name = "one", .region = "/" }, ERROR_INVALID_NAME);
}

/* More descriptors than fit in one message. */
static void test_pass_many(void **state) {
        struct state *fixture = *state;
        static struct image_writer_region regions[300];
        static char names[300][8];
        struct request request = { .domain = "vm", .name = "many" };
        struct error error = { .kind = ERROR_NONE };
        json_t *figures = fixture_figures(300), *snapshot;
        struct image_writer_spec spec = { .domain = "vm", .name = "many", .n_regions = 300, .regions = regions };
        struct image_writer *writer;

        for (unsigned i = 0; i < 300; i++) {
                snprintf(names[i], sizeof(names[i]), "r%u", i);
                regions[i] = (struct image_writer_region){ names[i], 4096 };
        }
        assert_int_equal(image_writer_new(fixture->store, &spec, &writer, &error), 0);
        assert_int_equal(image_writer_publish(writer, figures, 0, &snapshot, &error), 0);
        image_writer_free(writer);
        store_dispatch(fixture->store);
        json_decref(snapshot);
        json_decref(figures);

        ask(fixture, do_open, &request, ERROR_NONE);
        assert_int_equal(store_opened_receive(fixture->store, &request.opened, &error), 0);
        assert_int_equal(request.opened.n_regions, 300);
        for (unsigned i = 0; i < 300; i++) {
                assert_true(fcntl(request.opened.regions[i].image, F_GETFD) >= 0);
                assert_true(fcntl(request.opened.regions[i].sums, F_GETFD) >= 0);
        }
        store_opened_done(&request.opened);
}

static void test_bad_directories(void **state) {
        char *directory = fixture_directory(), *missing, *file;
        struct error error = { .kind = ERROR_NONE };
        struct store *store = NULL;

        missing = path_in(directory, "not/there");
        assert_int_equal(store_new(missing, &store, &error), -1);
        assert_int_equal(error.kind, ERROR_STORE_FAILED);
        assert_non_null(strstr(error.message, missing));
        assert_null(store);

        error.kind = ERROR_NONE;
        make_file(directory, "file", "");
        file = path_in(directory, "file");
        assert_int_equal(store_new(file, &store, &error), -1);
        assert_non_null(strstr(error.message, "Not a directory"));
        free(missing);
        free(file);
        fixture_remove(directory);
}

static void test_lock(void **state) {
        struct state *fixture = *state;
        struct error error = { .kind = ERROR_NONE };
        struct store *second = NULL;
        char pid[32];

        assert_int_equal(store_new(fixture->directory, &second, &error), -1);
        assert_int_equal(error.kind, ERROR_BUSY);
        snprintf(pid, sizeof(pid), "process %d", (int) getpid());
        assert_non_null(strstr(error.message, pid));
        for (unsigned i = 0; i < 20; i++) { /* the lock is free as soon as store_free() is back */
                store_free(fixture->store);
                fixture->store = fixture_store(fixture->directory);
        }
}

static void nothing(void *data, struct chunk *chunk) {
}

/* Killed in the middle of a write: what is published stays, what is not goes with the next start. */
static void test_killed_writer(void **state) {
        char *directory = fixture_directory();
        struct error error = { .kind = ERROR_NONE };
        struct store *store;
        char *nested;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                const struct image_writer_region region = { "ram", UINT64_C(1) << 30 };
                const struct image_writer_spec spec = {
                        .domain = "vm", .n_regions = 1, .regions = &region, .release = nothing
                };
                static struct chunk chunks[8];
                struct image_writer *writer;

                store = fixture_store(directory);
                publish(store, "vm", "before");
                if (image_writer_new(store, &spec, &writer, &error) < 0)
                        _exit(1);
                for (unsigned i = 0; i < 8; i++) {
                        chunks[i] = (struct chunk){ .bytes = CHUNK_BYTES, .index = i };
                        if (posix_memalign((void **) &chunks[i].data, 4096, CHUNK_BYTES))
                                _exit(1);
                        memset(chunks[i].data, 5, CHUNK_BYTES);
                        image_writer_submit(writer, &chunks[i]);
                }
                raise(SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(fixture_entries("%s/.work", directory), 1);
        nested = path_in(directory, ".work/more");
        assert_int_equal(mkdir(nested, 0700), 0);
        free(nested);
        make_file(directory, ".work/more/file", "x");

        store = fixture_store(directory);
        assert_int_equal(fixture_entries("%s/.work", directory), 0);
        assert_int_equal(fixture_entries("%s/vm", directory), 1);
        assert_int_equal(fixture_verify(store, "vm", "before", &error), 0);
        store_free(store);
        fixture_remove(directory);
}

static bool stop_at_once(void *data, uint64_t done, uint64_t total) {
        return false;
}

static void do_cancelled_verify(struct store *store, void *data) {
        struct request *request = data;

        request->result = store_verify(store, "vm", "one", 0, stop_at_once, NULL, &request->error);
}

static void test_cancelled_verify(void **state) {
        struct state *fixture = *state;
        struct request request = { 0 };

        publish(fixture->store, "vm", "one");
        ask(fixture, do_cancelled_verify, &request, ERROR_CANCELLED);
}

/* Looks at the table of the thread that it runs on. */
static void find_descriptor(struct store *store, void *data) {
        int *fd = data;

        *fd = fcntl(*fd, F_GETFD) < 0 && errno == EBADF ? -1 : *fd;
}

struct lasting {
        struct store_call call;
        int fd;
        bool done;
};

static void lasting_run(struct store *store, struct store_call *call) {
        find_descriptor(store, &((struct lasting *) call)->fd);
}

static void lasting_done(struct store_call *call) {
        ((struct lasting *) call)->done = true;
}

static void test_descriptor_tables(void **state) {
        char *directory = fixture_directory();
        int before = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 500), after, seen;
        struct store *store = fixture_store(directory);
        struct lasting lasting = { .call = { .run = lasting_run, .done = lasting_done, .lasting = true } };
        struct pollfd ready = { .fd = store_get_fd(store), .events = POLLIN };

        after = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 600);
        seen = after;
        fixture_on_store(store, find_descriptor, &seen);
        assert_int_equal(seen, -1);
        seen = before; /* copies of what was open before have been closed */
        fixture_on_store(store, find_descriptor, &seen);
        assert_int_equal(seen, -1);

        lasting.fd = after;
        store_submit(store, &lasting.call);
        while (!lasting.done) {
                poll(&ready, 1, -1);
                store_dispatch(store);
        }
        assert_int_equal(lasting.fd, -1);
        close(before);
        close(after);
        store_free(store);
        fixture_remove(directory);
}

static void count(struct store *store, struct store_call *call) {
}

struct counted {
        struct store_call call;
        unsigned *done;
};

static void counted_done(struct store_call *call) {
        ++*((struct counted *) call)->done;
        free(call);
}

/* What has been submitted is run and told, also when the store ends. */
static void test_calls_at_the_end(void **state) {
        char *directory = fixture_directory();
        struct store *store = fixture_store(directory);
        unsigned done = 0;

        for (unsigned i = 0; i < 50; i++) {
                struct counted *counted = calloc(1, sizeof(*counted));

                *counted = (struct counted){ { .run = count, .done = counted_done, .lasting = i % 2 }, &done };
                store_submit(store, &counted->call);
        }
        store_free(store);
        assert_int_equal(done, 50);
        fixture_remove(directory);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_list_and_show, setup, teardown),
                cmocka_unit_test_setup_teardown(test_foreign_files, setup, teardown),
                cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
                cmocka_unit_test_setup_teardown(test_delete, setup, teardown),
                cmocka_unit_test_setup_teardown(test_open_and_pass, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pass_many, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cancelled_verify, setup, teardown),
                cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
                cmocka_unit_test(test_bad_directories),
                cmocka_unit_test(test_killed_writer),
                cmocka_unit_test(test_descriptor_tables),
                cmocka_unit_test(test_calls_at_the_end),
        };

        return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
