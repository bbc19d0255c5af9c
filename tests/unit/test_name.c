/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/name.h"

static void refused(const char *name, const char *reason) {
        struct error error = { .kind = ERROR_NONE };

        assert_false(name_is_valid(name));
        assert_int_equal(name_check("region", name, &error), -1);
        assert_int_equal(error.kind, ERROR_INVALID_NAME);
        if (!strstr(error.message, reason) || !strstr(error.message, "region"))
                fail_msg("'%s' does not say '%s'", error.message, reason);
        for (const char *c = error.message; *c; c++)
                assert_in_range(*c, ' ', '~');
}

static void accepted(const char *name) {
        struct error error = { .kind = ERROR_NONE };

        assert_int_equal(name_check("domain", name, &error), 0);
        assert_int_equal(error.kind, ERROR_NONE);
}

static void test_accepted(void **state) {
        char longest[NAME_LENGTH_MAX + 1];

        memset(longest, 'x', NAME_LENGTH_MAX);
        longest[NAME_LENGTH_MAX] = '\0';
        accepted("a");
        accepted("0");
        accepted("_");
        accepted("a.b-c_d:e@f+g");
        accepted("20261122T204505Z-2");
        accepted("+x");
        accepted(longest);
}

static void test_refused(void **state) {
        char too_long[NAME_LENGTH_MAX + 2];

        memset(too_long, 'x', NAME_LENGTH_MAX + 1);
        too_long[NAME_LENGTH_MAX + 1] = '\0';
        refused("", "empty");
        refused(too_long, "too long");
        refused(".", "start with '.'");
        refused("..", "start with '.'");
        refused(".work", "start with '.'");
        refused("-rf", "start with '-'");
        refused("a/b", "contains '/'");
        refused("a b", "contains ' '");
        refused("a\nb", "0x0a");
        refused("\x1b[31m", "0x1b");
        refused("n\xc3\xa4me", "0xc3");
        refused("a\\b", "contains '\\'");
}

static void test_every_byte(void **state) {
        for (int c = 1; c < 256; c++) {
                const char name[] = { 'a', (char) c, '\0' };

                assert_int_equal(name_is_valid(name), (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                                              (c >= '0' && c <= '9') || strchr("._:@+-", c) != NULL);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_accepted),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_every_byte),
        };

        return cmocka_run_group_tests_name("name", tests, NULL, NULL);
}
