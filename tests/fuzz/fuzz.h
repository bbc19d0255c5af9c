/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_TESTS_FUZZ_FUZZ_H
#define LIVESNAP_TESTS_FUZZ_FUZZ_H

/*
 * What a fuzz target is: a function that is fed bytes. It is linked with libFuzzer, which makes them up, or with
 * replay.c, which takes them from files, so that the corpus is an ordinary test.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/** LLVMFuzzerTestOneInput() - try one input; returns 0, or does not return when something is wrong */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** FUZZ_REQUIRE() - what must hold whatever the input; also in a build without assertions */
#define FUZZ_REQUIRE(condition)                                                                        \
        do {                                                                                           \
                if (!(condition)) {                                                                    \
                        fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
                        abort();                                                                       \
                }                                                                                      \
        } while (0)

#endif
