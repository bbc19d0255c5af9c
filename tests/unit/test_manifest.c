/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/manifest.h"

#define UUID "01234567-89ab-4def-8123-456789abcdef"

static json_t *members(void) {
        json_t *made = json_pack("{s:s, s:i, s:i, s:s, s:s, s:i, s:s, s:s, s:f, s:i, s:s, s:[{s:s, s:i, s:i, s:s}, "
                                 "{s:s, s:i, s:i, s:s}]}",
                                 "format", "livesnap-snapshot", "version", 1, "compatible", 1, "uuid", UUID, "hash",
                                 "xxh3-64", "page_bytes", 4096, "kernel", "6.1", "snapshot", "vm/one", "created", 1.5,
                                 "uid", 1000, "guarantee", "exclusive", "regions", "name", "ram", "bytes", 8192,
                                 "mappings", 1, "sums_digest", "00000000000000ff", "name", "rom", "bytes", 4096,
                                 "mappings", 2, "sums_digest", "0000000000000000");
        json_t *figures = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:{s:f, s:f, s:f, s:f}, s:i, s:i, s:[s]}",
                                    "arm_us", 1, "hold_us", 2, "duration_us", 3, "pages_fault", 4, "pages_sweep", 5,
                                    "pages_zero", 6, "bytes_written", 7, "fault_us", "p50", 1.0, "p99", 2.0, "p999",
                                    3.0, "max", 4.0, "throttled_us", 8, "pool_peak_bytes", 9, "warnings", "careful");

        assert_non_null(made);
        assert_non_null(figures);
        json_object_update_new(made, figures);
        return made;
}

static void refused(json_t *made, const char *reason) {
        struct error error = { .kind = ERROR_NONE };
        size_t bytes;
        char *text;

        assert_int_equal(manifest_render(made, &text, &bytes, &error), -1);
        if (!strstr(error.message, reason))
                fail_msg("'%s' does not say '%s'", error.message, reason);
        json_decref(made);
}

static json_t *with(const char *member, json_t *value) {
        json_t *made = members();

        json_object_set_new(made, member, value);
        return made;
}

static json_t *with_region(const char *member, json_t *value) {
        json_t *made = members();

        json_object_set_new(json_array_get(json_object_get(made, "regions"), 1), member, value);
        return made;
}

static void test_round_trip(void **state) {
        struct error error = { .kind = ERROR_NONE };
        json_t *made = members(), *snapshot;
        struct manifest *manifest;
        char uuid[MANIFEST_UUID_CHARS + 1], *text;
        size_t bytes;

        assert_int_equal(manifest_render(made, &text, &bytes, &error), 0);
        assert_memory_equal(text + bytes - 3, "\n}\n", 3);
        assert_int_equal(manifest_parse(text, bytes, &manifest, &error), 0);
        manifest_uuid_format(manifest->uuid, uuid);
        assert_string_equal(uuid, UUID);
        assert_int_equal(manifest->uid, 1000);
        assert_int_equal(manifest->n_regions, 2);
        assert_string_equal(manifest->regions[0].name, "ram");
        assert_int_equal(manifest->regions[0].bytes, 8192);
        assert_int_equal(manifest->regions[0].sums_digest, 255);

        snapshot = manifest_snapshot(manifest, "other/name", "/store/other/name");
        assert_int_equal(json_object_size(snapshot), 16);
        assert_string_equal(json_string_value(json_object_get(snapshot, "snapshot")), "other/name");
        assert_string_equal(
                json_string_value(json_object_get(json_array_get(json_object_get(snapshot, "regions"), 1), "path")),
                "/store/other/name/rom.mem");
        assert_null(json_object_get(snapshot, "uuid"));
        json_decref(snapshot);
        manifest_free(manifest);
        free(text);
        json_decref(made);
}

static void test_every_bit(void **state) {
        struct manifest *manifest;
        json_t *made = members();
        size_t bytes;
        char *text;

        assert_int_equal(manifest_render(made, &text, &bytes, NULL), 0);
        for (size_t bit = 0; bit < bytes * 8; bit++) {
                struct error error = { .kind = ERROR_NONE };

                text[bit / 8] = (char) (text[bit / 8] ^ (1 << bit % 8));
                assert_int_equal(manifest_parse(text, bytes, &manifest, &error), -1);
                assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
                text[bit / 8] = (char) (text[bit / 8] ^ (1 << bit % 8));
        }
        free(text);
        json_decref(made);
}

static void test_every_length(void **state) {
        struct manifest *manifest;
        json_t *made = members();
        size_t bytes;
        char *text, *longer;

        assert_int_equal(manifest_render(made, &text, &bytes, NULL), 0);
        for (size_t shorter = 0; shorter < bytes; shorter++) {
                char *exact = malloc(shorter + !shorter); /* the sanitizer sees reads behind it */

                memcpy(exact, text, shorter);
                assert_int_equal(manifest_parse(exact, shorter, &manifest, NULL), -1);
                free(exact);
        }
        longer = malloc(bytes + 1);
        memcpy(longer, text, bytes);
        longer[bytes] = '\n';
        assert_int_equal(manifest_parse(longer, bytes + 1, &manifest, NULL), -1);
        free(longer);
        free(text);
        json_decref(made);
}

/* With a right checksum, but written by somebody who means harm. */
static void test_hostile(void **state) {
        json_t *regions = json_array();
        json_t *made = members();
        const char *member;
        json_t *value;

        json_object_foreach (made, member, value) {
                json_t *without = json_copy(made);

                json_object_del(without, member);
                refused(without, "");
                refused(with(member, json_null()), "");
                refused(with(member, json_true()), "");
        }
        json_decref(made);

        refused(with("format", json_string("other")), "not the manifest");
        refused(with("compatible", json_integer(3)), "newer livesnap");
        refused(with("hash", json_string("md5")), "does not know");
        refused(with("page_bytes", json_integer(16384)), "does not know");
        refused(with("uuid", json_string("")), "uuid");
        refused(with("uuid", json_string("01234567-89AB-4def-8123-456789abcdef")), "uuid");
        refused(with("uuid", json_string(" 1234567-89ab-4def-8123-456789abcdef")), "uuid");
        refused(with("uuid", json_string("0123456789ab4def8123456789abcdef----")), "uuid");
        refused(with("uid", json_integer(UINT32_MAX + INT64_C(1))), "uid");
        refused(with("uid", json_integer(-1)), "uid");
        refused(with("guarantee", json_string("none")), "guarantee");
        refused(with("warnings", json_pack("[i]", 1)), "warning");
        refused(with("fault_us", json_object()), "p50");
        refused(with_region("name", json_string("../../etc/passwd")), "name");
        refused(with_region("name", json_string("ram")), "two regions");
        refused(with_region("bytes", json_integer(INT64_MAX)), "too large");
        refused(with_region("bytes", json_integer(-1)), "bytes");
        refused(with_region("sums_digest", json_string("0000000000000FFF")), "digest");
        refused(with_region("sums_digest", json_string("0")), "digest");
        refused(with_region("mappings", json_string("1")), "mappings");

        for (unsigned i = 0; i <= LIVESNAP_FORMAT_REGIONS_MAX; i++)
                json_array_append_new(regions, json_pack("{s:o, s:i, s:i, s:s}", "name", json_sprintf("r%u", i),
                                                         "bytes", 1, "mappings", 1, "sums_digest", "0000000000000000"));
        refused(with("regions", regions), "regions");

        made = json_array();
        refused(made, "");
        refused(json_object(), "");
}

static void test_read(void **state) {
        int fd = memfd_create("manifest", MFD_CLOEXEC), pipe_fds[2];
        struct error error = { .kind = ERROR_NONE };
        struct manifest *manifest;
        json_t *made = members();
        size_t bytes;
        char *text;

        assert_int_equal(manifest_render(made, &text, &bytes, NULL), 0);
        assert_int_equal(write(fd, text, bytes), bytes);
        assert_int_equal(manifest_read(fd, &manifest, &error), 0);
        manifest_free(manifest);

        assert_int_equal(ftruncate(fd, LIVESNAP_MANIFEST_BYTES_MAX + 1), 0);
        assert_int_equal(manifest_read(fd, &manifest, &error), -1);
        assert_int_equal(error.kind, ERROR_SNAPSHOT_CORRUPT);
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(manifest_read(fd, &manifest, NULL), -1);
        close(fd);

        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        assert_int_equal(manifest_read(pipe_fds[0], &manifest, NULL), -1);
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        free(text);
        json_decref(made);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_every_bit),
                cmocka_unit_test(test_every_length), cmocka_unit_test(test_hostile),
                cmocka_unit_test(test_read),
        };

        return cmocka_run_group_tests_name("manifest", tests, NULL, NULL);
}
