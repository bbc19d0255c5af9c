/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The command line of the daemon. What goes wrong is told on stderr, which the tests leave alone. */

#include <errno.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/socket.h"
#include "daemon/options.h"

#define WORDS_MAX 16

/* Read a command line of words with single spaces. */
static enum options_result read_line(const char *line, struct options *ret) {
        static char buffer[200];
        char *words[WORDS_MAX + 1] = { (char *) "livesnapd" }, *rest = buffer, *word;
        int n = 1;

        snprintf(buffer, sizeof(buffer), "%s", line);
        while (*buffer && (word = strsep(&rest, " "))) {
                assert_true(n < WORDS_MAX);
                words[n++] = word;
        }
        optind = 0; /* make getopt start anew */
        return options_read(n, words, ret);
}

static void test_defaults(void **state) {
        struct options options;

        unsetenv("LIVESNAP_SOCKET");
        assert_int_equal(read_line("", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, SOCKET_PATH_DEFAULT);
        assert_string_equal(options.store, "/var/lib/livesnap");
        assert_int_equal(options.pool_bytes, 256 << 20);
        assert_false(options.pool_abort);
        assert_int_equal(options.max_hold_ms, 250);
}

static void test_all(void **state) {
        struct options options;

        assert_int_equal(
                read_line("--socket s --store=d --pool-size 1G --pool-policy abort --max-hold 60000", &options),
                OPTIONS_RUN);
        assert_string_equal(options.socket, "s");
        assert_string_equal(options.store, "d");
        assert_int_equal(options.pool_bytes, 1 << 30);
        assert_true(options.pool_abort);
        assert_int_equal(options.max_hold_ms, 60000);
        assert_int_equal(read_line("--pool-policy abort --pool-policy throttle", &options), OPTIONS_RUN);
        assert_false(options.pool_abort);
}

static void test_environment(void **state) {
        struct options options;

        setenv("LIVESNAP_SOCKET", "from-environment", 1);
        assert_int_equal(read_line("", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "from-environment");
        assert_int_equal(read_line("--socket s", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, "s");
        setenv("LIVESNAP_SOCKET", "", 1);
        assert_int_equal(read_line("", &options), OPTIONS_RUN);
        assert_string_equal(options.socket, SOCKET_PATH_DEFAULT);
        unsetenv("LIVESNAP_SOCKET");
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
        };
        struct options options;

        for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
                assert_int_equal(read_line(lines[i], &options), OPTIONS_BAD);
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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults), cmocka_unit_test(test_all),   cmocka_unit_test(test_environment),
                cmocka_unit_test(test_wrong),    cmocka_unit_test(test_bytes),
        };

        return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
