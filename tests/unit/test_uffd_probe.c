/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The probe of the kernel: that it sees what it should, also in a program that has locked its memory, and cleans up. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/uffd.h"
#include "common/uffd_probe.h"
#include "tests/unit/descriptors.h"

static void probe(struct uffd_probe *ret) {
        unsigned n_descriptors = descriptors_count();
        struct error error = { 0 };
        int r = uffd_probe_run(ret, &error);

        assert_int_equal(descriptors_count(), n_descriptors);
        if (r < 0) {
                /* No right to a userfaultfd, or a kernel that cannot: then there must be a sentence, and no claim. */
                assert_int_not_equal(error.kind, ERROR_NONE);
                assert_true(strlen(error.message) > 20);
                assert_false(ret->write_faults && ret->dontneed == UFFD_PROBE_ZAP_KEPT);
                skip();
        }
}

static void test_probe(void **state) {
        struct uffd_probe found;

        probe(&found);
        assert_true(found.access != UFFD_PROBE_ACCESS_NONE);
        assert_true(found.features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
        assert_true(found.wp_shmem && found.write_faults);
        assert_int_equal(found.dontneed, UFFD_PROBE_ZAP_KEPT);
        assert_true(found.pageout == UFFD_PROBE_ZAP_KEPT || found.pageout == UFFD_PROBE_ZAP_UNTOUCHED);
}

static void test_probe_locked(void **state) {
        struct uffd_probe found;

        if (mlockall(MCL_FUTURE) < 0)
                skip();
        probe(&found);
        assert_int_equal(found.dontneed, UFFD_PROBE_ZAP_KEPT);
        munlockall();
}

static void test_probe_given(void **state) {
        struct error error = { 0 };
        struct uffd_probe found;
        int device = uffd_open_device();

        if (device < 0)
                skip();
        assert_int_equal(uffd_probe_run_with_device(device, &found, &error), 0);
        assert_int_equal(found.access, UFFD_PROBE_ACCESS_GIVEN);
        close(device);
}

/* Without a free descriptor nothing can be found out, and that is what it must say. */
static void test_probe_exhausted(void **state) {
        struct rlimit before, none;
        struct error error = { 0 };
        struct uffd_probe found;
        int r;

        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        none = before;
        none.rlim_cur = 3;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        r = uffd_probe_run(&found, &error);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        assert_int_equal(r, -1);
        assert_int_equal(error.kind, ERROR_INTERNAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_probe),
                cmocka_unit_test(test_probe_locked),
                cmocka_unit_test(test_probe_given),
                cmocka_unit_test(test_probe_exhausted),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
