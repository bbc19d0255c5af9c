/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_DELTA_H
#define LIVESNAP_COMMON_DELTA_H

/* The files of a delta by themselves, without what it builds on. */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/manifest.h"

/**
 * delta_verify() - read all pages of a region of a delta, and compare each with its sum
 * @pages, @map: descriptors of its REGION.pages and REGION.map; borrowed
 * @progress: is told the place in the region that was reached, and stops the work by returning false
 *
 * Return: 0, or -1 with *error set (ERROR_SNAPSHOT_CORRUPT, ERROR_STORE_FAILED, ERROR_CANCELLED).
 */
int delta_verify(const struct manifest *manifest, unsigned region, int pages, int map,
                 bool (*progress)(void *data, uint64_t offset), void *data, struct error *error);

#endif
