/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The command line of the daemon, and its file. What goes wrong is told on stderr, which the tests leave alone. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/socket.h"
#include "daemon/config.h"
#include "daemon/options.h"

#define WORDS_MAX 16

static char config_path[] = "/tmp/livesnap-test-options-XXXXXX";

/* Read a command line of words with single spaces; what was read before into *ret is freed. */
static enum options_result read_line(const char *line, struct options *ret) {
        static char buffer[200];
        char *words[WORDS_MAX + 1] = { (char *) "livesnapd" }, *rest = buffer, *word;
        int n = 1;

        snprintf(buffer, sizeof(buffer), "%s", line);
        while (*buffer && (word = strsep(&rest, " "))) {
                assert_true(n < WORDS_MAX);
                words[n++] = word;
        }
        options_deinit(ret);
        return options_read(n, words, ret);
}

static void write_config(const char *text) {
        FILE *file = fopen(config_path, "w");

        assert_non_null(file);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
}

/* The same with a file of this content. */
static enum options_result read_with_config(const char *text, const char *line, struct options *ret) {
        char whole[200];

        write_config(text);
        snprintf(whole, sizeof(whole), "--config %s%s%s", config_path, *line ? " " : "", line);
        return read_line(whole, ret);
}

static void test_defaults(void **state) {
        struct options options = { 0 };

        unsetenv("LIVESNAP_SOCKET");
        assert_int_equal(read_line("", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, SOCKET_PATH_DEFAULT);
        assert_string_equal(options.store, "/var/lib/livesnap");
        assert_int_equal(options.pool_bytes, 256 << 20);
        assert_false(options.pool_abort);
        assert_int_equal(options.max_hold_ms, 250);
        assert_int_equal(options.log_level, LOG_LEVEL_INFO);
        options_deinit(&options);
}

static void test_all(void **state) {
        struct options options = { 0 };

        assert_int_equal(
                read_line("--socket s --store=d --pool-size 1G --pool-policy abort --max-hold 60000 --log-level error",
                          &options),
                OPTIONS_RUN);
        assert_string_equal(options.socket, "s");
        assert_string_equal(options.store, "d");
        assert_int_equal(options.pool_bytes, 1 << 30);
        assert_true(options.pool_abort);
        assert_int_equal(options.max_hold_ms, 60000);
        assert_int_equal(options.log_level, LOG_LEVEL_ERROR);
        assert_int_equal(read_line("--pool-policy abort --pool-policy throttle", &options), OPTIONS_RUN);
        assert_false(options.pool_abort);
        options_deinit(&options);
}

static void test_environment(void **state) {
        struct options options = { 0 };

        setenv("LIVESNAP_SOCKET", "from-environment", 1);
        assert_int_equal(read_line("", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "from-environment");
        assert_int_equal(read_line("--socket s", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "s");
        setenv("LIVESNAP_SOCKET", "", 1);
        assert_int_equal(read_line("", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, SOCKET_PATH_DEFAULT);
        unsetenv("LIVESNAP_SOCKET");
        options_deinit(&options);
}

static void test_wrong(void **state) {
        static const char *const lines[] = {
                "--nonsense",      "word",
                "--socket",        "--socket=",
                "--store=",        "--pool-size 7M",
                "--pool-size 2T",  "--pool-size 256MB",
                "--pool-size -1",  "--pool-size=",
                "--pool-policy x", "--max-hold 0",
                "--max-hold 1s",   "--max-hold 60001",
                "--max-hold -1",   "--max-hold 18446744073709551616",
                "--log-level x",   "--log-level=",
                "--config=",       "--config /nonexistent",
        };
        struct options options = { 0 };

        for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
                assert_int_equal(read_line(lines[i], &options), OPTIONS_BAD);
        options_deinit(&options);
}

static void test_file(void **state) {
        struct options options = { 0 };

        unsetenv("LIVESNAP_SOCKET");
        assert_int_equal(read_with_config("# comment\n"
                                          "[livesnapd]\n"
                                          "socket = /run/s # no comment\n"
                                          "  store=/var/tmp/d d ; comment\n"
                                          "\n"
                                          "pool-size = 1G\n"
                                          "pool-policy = abort\n"
                                          "max-hold = 100\n"
                                          "log-level = warning",
                                          "", &options),
                         OPTIONS_RUN);
        assert_string_equal(options.socket, "/run/s # no comment");
        assert_string_equal(options.store, "/var/tmp/d d");
        assert_int_equal(options.pool_bytes, 1 << 30);
        assert_true(options.pool_abort);
        assert_int_equal(options.max_hold_ms, 100);
        assert_int_equal(options.log_level, LOG_LEVEL_WARNING);
        options_deinit(&options);
}

static void test_file_is_overridden(void **state) {
        static const char file[] = "[livesnapd]\nsocket = f\nstore = f\nmax-hold = 100\n";
        struct options options = { 0 };

        unsetenv("LIVESNAP_SOCKET");
        assert_int_equal(read_with_config(file, "--store s --max-hold 250", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "f");
        assert_string_equal(options.store, "s");
        assert_int_equal(options.max_hold_ms, 250);
        setenv("LIVESNAP_SOCKET", "e", 1);
        assert_int_equal(read_with_config(file, "", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "e");
        assert_int_equal(read_with_config(file, "--socket s", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "s");
        unsetenv("LIVESNAP_SOCKET");
        options_deinit(&options);
}

/* What a newer version may have is no reason not to start. */
static void test_file_with_unknown_keys(void **state) {
        struct options options = { 0 };

        assert_int_equal(read_with_config("socket = no-section\n[other]\nstore = x\n[livesnapd]\n"
                                          "color = blue\nconfig = /nonexistent\nhelp = yes\nmax-hold = 7\n",
                                          "", &options),
                         OPTIONS_RUN);
        assert_string_equal(options.socket, SOCKET_PATH_DEFAULT);
        assert_string_equal(options.store, "/var/lib/livesnap");
        assert_int_equal(options.max_hold_ms, 7);
        options_deinit(&options);
}

static void test_file_is_wrong(void **state) {
        static const struct {
                const char *text;
                const char *message; /* a part of it */
        } cases[] = {
                { "[livesnapd]\n\nmax-hold = no\n", ", line 3: max-hold: \"no\" is not a number of milliseconds" },
                { "[livesnapd]\npool-size = 1\n\n\n", ", line 2: pool-size: \"1\" is not between" },
                { "[livesnapd]\npool-policy\n", ", line 2: this is neither" },
                { "[livesnapd\n", ", line 1: this is neither" },
                { "[livesnapd]\nstore = a\nmax-hold = 1\nstore = b\n", ", line 4: store is set already in line 2" },
                { "[livesnapd]\nstore =\n", ", line 2: store: \"\" is not a path" },
        };
        struct options options = { 0 };

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                struct error error = { 0 };

                assert_int_equal(read_with_config(cases[i].text, "", &options), OPTIONS_BAD);
                assert_int_equal(config_read(config_path, false, &options, &error), -1);
                assert_memory_equal(error.message, config_path, strlen(config_path));
                assert_memory_equal(error.message + strlen(config_path), cases[i].message, strlen(cases[i].message));
                options_deinit(&options);
        }
}

static void test_file_with_a_long_line(void **state) {
        struct options options = { 0 };
        struct error error = { 0 };
        char text[3000];

        memset(text, 'x', sizeof(text));
        memcpy(text, "[livesnapd]\nstore = /", 21);
        strcpy(text + sizeof(text) - 2, "\n");
        write_config(text);
        assert_int_equal(config_read(config_path, false, &options, &error), -1);
        assert_non_null(strstr(error.message, ", line 2: the line is too long"));
        options_deinit(&options);
}

static void test_file_is_absent(void **state) {
        struct options options = { 0 };
        struct error error = { 0 };

        assert_int_equal(config_read("/nonexistent", true, &options, &error), 0);
        assert_int_equal(config_read("/nonexistent", false, &options, &error), -1);
        assert_string_equal(error.message, "cannot read /nonexistent: No such file or directory");
        error = (struct error){ 0 };
        assert_int_equal(config_read("/", true, &options, &error), -1);
        assert_string_equal(error.message, "cannot read /: Is a directory");
}

static void test_bytes(void **state) {
        static const struct {
                const char *text;
                int r;
                uint64_t bytes;
        } cases[] = {
                { "0", 0, 0 },
                { "4096", 0, 4096 },
                { "64K", 0, 64 << 10 },
                { "3M", 0, 3 << 20 },
                { "1T", 0, 1ULL << 40 },
                { "18446744073709551615", 0, UINT64_MAX },
                { "18446744073709551616", -ERANGE, 0 },
                { "16777216T", -ERANGE, 0 },
                { "16777215T", 0, 16777215ULL << 40 },
                { "", -EINVAL, 0 },
                { "K", -EINVAL, 0 },
                { "1k", -EINVAL, 0 },
                { "1KB", -EINVAL, 0 },
                { " 1", -EINVAL, 0 },
                { "+1", -EINVAL, 0 },
                { "-1", -EINVAL, 0 },
                { "1.5G", -EINVAL, 0 },
                { "0x10", -EINVAL, 0 },
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                uint64_t bytes = 0;

                assert_int_equal(options_parse_bytes(cases[i].text, &bytes), cases[i].r);
                assert_int_equal(bytes, cases[i].bytes);
        }
}

static int make_config(void **state) {
        int fd = mkstemp(config_path);

        return fd < 0 ? -1 : close(fd);
}

static int remove_config(void **state) {
        return unlink(config_path);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_all),
                cmocka_unit_test(test_environment),
                cmocka_unit_test(test_wrong),
                cmocka_unit_test(test_file),
                cmocka_unit_test(test_file_is_overridden),
                cmocka_unit_test(test_file_with_unknown_keys),
                cmocka_unit_test(test_file_is_wrong),
                cmocka_unit_test(test_file_with_a_long_line),
                cmocka_unit_test(test_file_is_absent),
                cmocka_unit_test(test_bytes),
        };

        return cmocka_run_group_tests_name("options", tests, make_config, remove_config);
}
