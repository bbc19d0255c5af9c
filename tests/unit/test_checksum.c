/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <endian.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "common/checksum.h"

static uint8_t page[4096];

static void test_zero_page(void **state) {
        memset(page, 0, sizeof(page));
        assert_int_equal(checksum_page(page), 0);
}

/* One bit anywhere makes a page that is not zero, and its sum the plain hash in little-endian. */
static void test_every_bit(void **state) {
        memset(page, 0, sizeof(page));
        for (unsigned bit = 0; bit < 8 * sizeof(page); bit++) {
                page[bit / 8] = (uint8_t) (1 << bit % 8);
                assert_int_not_equal(checksum_page(page), 0);
                assert_int_equal(le64toh(checksum_page(page)), XXH3_64bits(page, sizeof(page)));
                page[bit / 8] = 0;
        }
}

static void test_chunk(void **state) {
        uint8_t *data = calloc(512, 4096);
        uint64_t sums[512];

        data[3 * 4096 + 4095] = 1;
        data[511 * 4096] = 2;
        memset(sums, 0xff, sizeof(sums));
        assert_int_equal(checksum_chunk(data, 512, sums), 2);
        for (unsigned i = 0; i < 512; i++)
                assert_int_equal(sums[i], checksum_page(data + i * 4096));
        memset(sums, 0xff, sizeof(sums));
        assert_int_equal(checksum_chunk(data, 4, sums), 1);
        for (unsigned i = 4; i < 512; i++)
                assert_int_equal(sums[i], 0);
        free(data);
}

static void test_block(void **state) {
        uint64_t sums[512] = { 0 };

        assert_int_equal(checksum_block(sums, 0), 0);
        assert_int_equal(checksum_block(sums, 7), 0);
        sums[511] = 1;
        assert_int_not_equal(checksum_block(sums, 0), 0);
        assert_int_not_equal(checksum_block(sums, 0), checksum_block(sums, 1)); /* a block that moved is found */
        assert_int_equal(checksum_block(sums, 9), XXH3_64bits_withSeed(sums, sizeof(sums), 9));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_zero_page),
                cmocka_unit_test(test_every_bit),
                cmocka_unit_test(test_chunk),
                cmocka_unit_test(test_block),
        };

        return cmocka_run_group_tests_name("checksum", tests, NULL, NULL);
}
