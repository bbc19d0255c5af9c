/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Manifests. The input is a manifest's text. It is read as it is; then with its checksum put right, or else hardly any
 * change would come further than to the checksum; then, if it is JSON, as the members that a daemon would write.
 *
 * Of what is accepted all that common/manifest.h promises must hold, and every single flipped bit must be found.
 */

#include <string.h>

#include "common/checksum.h"
#include "common/manifest.h"
#include "common/name.h"
#include "tests/fuzz/fuzz.h"

#define DIGITS 16
#define DIGITS_BEFORE_END (DIGITS + sizeof("\"\n}\n") - 1)

static void look_at(const struct manifest *manifest) {
        json_t *snapshot;

        FUZZ_REQUIRE(manifest->n_regions <= LIVESNAP_FORMAT_REGIONS_MAX);
        for (unsigned i = 0; i < manifest->n_regions; i++) {
                FUZZ_REQUIRE(name_is_valid(manifest->regions[i].name));
                FUZZ_REQUIRE(manifest->regions[i].bytes <= LIVESNAP_FORMAT_REGION_BYTES_MAX);
                for (unsigned j = 0; j < i; j++)
                        FUZZ_REQUIRE(strcmp(manifest->regions[i].name, manifest->regions[j].name) != 0);
        }
        snapshot = manifest_snapshot(manifest, "domain/name", "/store/domain/name");
        FUZZ_REQUIRE(json_object_size(snapshot) == 16);
        json_decref(snapshot);
}

static void parse(const char *text, size_t size) {
        struct error error = { .kind = ERROR_NONE };
        struct manifest *manifest;

        if (manifest_parse(text, size, &manifest, &error) < 0) {
                FUZZ_REQUIRE(error.kind != ERROR_NONE && error.message[0] != '\0');
                return;
        }
        FUZZ_REQUIRE(error.kind == ERROR_NONE);
        look_at(manifest);
        manifest_free(manifest);
}

/* One bit somewhere, which depends on the text alone so that a finding is found again. */
static void flip_a_bit(char *text, size_t size) {
        struct error error = { .kind = ERROR_NONE };
        struct manifest *manifest;
        uint64_t where = checksum_bytes(text, size);

        if (manifest_parse(text, size, &manifest, &error) < 0)
                return;
        manifest_free(manifest);
        text[where / 8 % size] ^= (char) (1 << where % 8);
        FUZZ_REQUIRE(manifest_parse(text, size, &manifest, &error) < 0);
}

static void parse_with_right_checksum(const char *data, size_t size) {
        char *text = malloc(size), digits[DIGITS + 1];

        FUZZ_REQUIRE(text);
        memcpy(text, data, size);
        if (size >= DIGITS_BEFORE_END) {
                memset(text + size - DIGITS_BEFORE_END, '0', DIGITS);
                snprintf(digits, sizeof(digits), "%016llx", (unsigned long long) checksum_bytes(text, size));
                memcpy(text + size - DIGITS_BEFORE_END, digits, DIGITS);
                parse(text, size);
                flip_a_bit(text, size);
        }
        free(text);
}

static void render(const char *data, size_t size) {
        struct error error = { .kind = ERROR_NONE };
        json_t *members = json_loadb(data, size, 0, NULL);
        struct manifest *manifest;
        char *text;
        size_t bytes;

        if (json_is_object(members) && json_object_size(members) > 0) {
                json_object_del(members, "checksum");
                if (json_object_size(members) > 0 && manifest_render(members, &text, &bytes, &error) == 0) {
                        FUZZ_REQUIRE(manifest_parse(text, bytes, &manifest, &error) == 0);
                        look_at(manifest);
                        manifest_free(manifest);
                        flip_a_bit(text, bytes);
                        free(text);
                }
        }
        json_decref(members);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        parse((const char *) data, size);
        parse_with_right_checksum((const char *) data, size);
        render((const char *) data, size);
        return 0;
}
