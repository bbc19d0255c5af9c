/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Figures as people write and read them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/cli_format.h"

static void test_parse_bytes(void **state) {
        static const struct {
                const char *text;
                uint64_t bytes;
        } good[] = {
                { "1", 1 },
                { "4096", 4096 },
                { "1K", 1024 },
                { "1k", 1024 },
                { "100M", UINT64_C(100) << 20 },
                { "100MiB/s", UINT64_C(100) << 20 },
                { "1.5G", UINT64_C(3) << 29 },
                { "2T/s", UINT64_C(2) << 40 },
                { "512B", 512 },
        };
        static const char *const bad[] = {
                "", "M", "fast", "0", "-1", "0.5", "10X", "10MM", "1e400", "nan", "inf", "10 M", "9E", "99999999T",
        };
        uint64_t bytes = 7;

        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
                if (cli_parse_bytes(bad[i], &bytes) != -1)
                        fail_msg("'%s' was taken", bad[i]);
                assert_int_equal(bytes, 7);
        }
        for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
                if (cli_parse_bytes(good[i].text, &bytes) != 0)
                        fail_msg("'%s' was refused", good[i].text);
                assert_int_equal(bytes, good[i].bytes);
        }
}

static void test_format_bytes(void **state) {
        assert_string_equal(cli_format_bytes(0).text, "0 B");
        assert_string_equal(cli_format_bytes(1023).text, "1023 B");
        assert_string_equal(cli_format_bytes(1024).text, "1.0 KiB");
        assert_string_equal(cli_format_bytes(99.96 * 1024).text, "100 KiB");
        assert_string_equal(cli_format_bytes(1048575).text, "1.0 MiB");
        assert_string_equal(cli_format_bytes(1 << 30).text, "1.0 GiB");
        assert_string_equal(cli_format_bytes(1e30).text[0] ? "ok" : "", "ok");
}

static void test_format_count(void **state) {
        assert_string_equal(cli_format_count(0).text, "0");
        assert_string_equal(cli_format_count(999).text, "999");
        assert_string_equal(cli_format_count(2310).text, "2,310");
        assert_string_equal(cli_format_count(1234567).text, "1,234,567");
        assert_string_equal(cli_format_count(UINT64_MAX).text, "18,446,744,073,709,551,615");
}

static void test_format_us(void **state) {
        assert_string_equal(cli_format_us(0).text, "0");
        assert_string_equal(cli_format_us(1.25).text, "1.2 µs");
        assert_string_equal(cli_format_us(44).text, "44 µs");
        assert_string_equal(cli_format_us(12345).text, "12.3 ms");
        assert_string_equal(cli_format_us(211000).text, "211 ms");
        assert_string_equal(cli_format_us(1234567).text, "1.2 s");
        assert_string_equal(cli_format_us(185e6).text, "3 min 5 s");
}

static void test_durations(void **state) {
        static const struct {
                const char *text;
                uint64_t seconds; /* 0: it is none */
        } durations[] = {
                { "5s", 5 },    { "10m", 600 }, { "1h", 3600 },      { "366d", 366 * 86400 },
                { "367d", 0 },  { "0s", 0 },    { "", 0 },           { "5", 0 },
                { "s", 0 },     { "5 s", 0 },   { "5s ", 0 },        { "-5s", 0 },
                { "1h30m", 0 }, { "5ms", 0 },   { "1.5h", 0 },       { "+5s", 0 },
                { "5w", 0 },    { "5S", 0 },    { "999999999s", 0 }, { "99999999999999999999s", 0 },
        };

        for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
                uint64_t seconds = 0;

                assert_int_equal(cli_parse_duration(durations[i].text, &seconds), durations[i].seconds ? 0 : -1);
                assert_int_equal(seconds, durations[i].seconds);
        }
}

static void test_counts(void **state) {
        static const char *const none[] = {
                "", "0", "-1", "+1", "1x", " 1", "x", "9223372036854775808", "1e3", "0x10"
        };
        uint64_t count = 0;

        for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
                assert_int_equal(cli_parse_count(none[i], &count), -1);
        assert_int_equal(count, 0);
        assert_int_equal(cli_parse_count("12", &count), 0);
        assert_int_equal(count, 12);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse_bytes),  cmocka_unit_test(test_format_bytes),
                cmocka_unit_test(test_format_count), cmocka_unit_test(test_format_us),
                cmocka_unit_test(test_durations),    cmocka_unit_test(test_counts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
