/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Feeds files to a fuzz target: each file that is named, and each in a directory that is named. Of each it also tries
 * every beginning, up to a limit, since what ends too early is what parsers get wrong.
 */

#include <fts.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

#define REPLAY_BYTES_MAX ((size_t) 16 << 20)
/* With a sanitizer what makes files of an input takes minutes otherwise. */
#ifdef __SANITIZE_ADDRESS__
#define REPLAY_BEGINNINGS 12u
#else
#define REPLAY_BEGINNINGS 64u
#endif

static unsigned long n_inputs;

/* A copy that is exactly as long as the input, so that a sanitizer sees what reads behind it. */
static void try_input(const uint8_t *data, size_t size) {
        uint8_t *copy = malloc(size ? size : 1);

        FUZZ_REQUIRE(copy);
        memcpy(copy, data, size);
        LLVMFuzzerTestOneInput(copy, size);
        free(copy);
        n_inputs++;
}

static bool try_file(const char *path) {
        FILE *file = fopen(path, "re");
        uint8_t *data = malloc(REPLAY_BYTES_MAX);
        size_t size;

        if (!file || !data) {
                fprintf(stderr, "cannot read %s\n", path);
                free(data);
                if (file)
                        fclose(file);
                return false;
        }
        size = fread(data, 1, REPLAY_BYTES_MAX, file);
        fclose(file);
        try_input(data, size);
        for (size_t i = 0; i < REPLAY_BEGINNINGS && i < size; i++)
                try_input(data, size * i / REPLAY_BEGINNINGS);
        free(data);
        return true;
}

int main(int argc, char **argv) {
        unsigned n_files = 0;
        bool good = true;
        FTSENT *entry;
        FTS *walk;

        if (argc < 2) {
                fprintf(stderr, "usage: %s FILE_OR_DIRECTORY...\n", argv[0]);
                return 2;
        }
        walk = fts_open(argv + 1, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
        while (walk && (entry = fts_read(walk))) {
                if (entry->fts_info == FTS_D || entry->fts_info == FTS_DP)
                        continue;
                n_files++;
                good &= entry->fts_info == FTS_F && try_file(entry->fts_accpath);
        }
        if (walk)
                fts_close(walk);
        printf("%u files, %lu inputs\n", n_files, n_inputs);
        return good && n_files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
