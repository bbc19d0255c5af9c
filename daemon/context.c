/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/context.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int context_new(int uffd, bool async, pid_t pid, struct context **ret) {
        struct context *context = calloc(1, sizeof(*context));

        if (!context)
                return -ENOMEM;
        context->uffd = uffd;
        context->spare = -1;
        context->async = async;
        context->pid = pid;
        context->n_refs = 1;
        *ret = context;
        return 0;
}

struct context *context_ref(struct context *context) {
        atomic_fetch_add_explicit(&context->n_refs, 1, memory_order_relaxed);
        return context;
}

void context_unref(struct context *context) {
        /* acq_rel: what others did through the descriptor is over before it is closed */
        if (!context || atomic_fetch_sub_explicit(&context->n_refs, 1, memory_order_acq_rel) > 1)
                return;
        close(context->uffd);
        if (context->spare >= 0)
                close(context->spare);
        free(context->mappings);
        free(context);
}

/* Index of the first mapping that ends after the address. */
static unsigned context_search(const struct context *context, uint64_t address) {
        unsigned low = 0, high = context->n_mappings;

        while (low < high) {
                unsigned middle = low + (high - low) / 2;
                const struct mapping *m = &context->mappings[middle];

                if (m->address + m->length <= address)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

struct mapping *context_find(const struct context *context, uint64_t address) {
        unsigned i = context_search(context, address);

        if (i == context->n_mappings || context->mappings[i].address > address)
                return NULL;
        return &context->mappings[i];
}

const struct mapping *context_next(const struct context *context, uint64_t address) {
        unsigned i = context_search(context, address);

        return i < context->n_mappings ? &context->mappings[i] : NULL;
}

bool context_maps(const struct mapping *mappings, unsigned n_mappings, const struct region *region, uint64_t start,
                  uint64_t end, uint64_t offset) {
        uint64_t at = start;

        /* They are sorted; one VMA may be covered by several. */
        for (unsigned i = 0; i < n_mappings && at < end; i++) {
                const struct mapping *m = &mappings[i];

                if (m->region == region && m->address <= at && at < m->address + m->length &&
                    m->offset + (at - m->address) == offset + (at - start))
                        at = m->address + m->length;
        }
        return at >= end;
}

static int context_reserve(struct context *context, unsigned n) {
        unsigned n_allocated = context->n_allocated ? context->n_allocated : 4;
        struct mapping *mappings;

        if (n > CONTEXT_MAPPINGS_MAX)
                return -E2BIG;
        if (n <= context->n_allocated)
                return 0;
        while (n_allocated < n)
                n_allocated *= 2;
        mappings = reallocarray(context->mappings, n_allocated, sizeof(*mappings));
        if (!mappings)
                return -ENOMEM;
        context->mappings = mappings;
        context->n_allocated = n_allocated;
        return 0;
}

static void context_insert(struct context *context, unsigned at, const struct mapping *mapping) {
        memmove(&context->mappings[at + 1], &context->mappings[at],
                (context->n_mappings - at) * sizeof(*context->mappings));
        context->mappings[at] = *mapping;
        context->n_mappings++;
}

static void context_erase(struct context *context, unsigned at) {
        context->n_mappings--;
        memmove(&context->mappings[at], &context->mappings[at + 1],
                (context->n_mappings - at) * sizeof(*context->mappings));
}

int context_add(struct context *context, const struct mapping *mapping) {
        unsigned i = context_search(context, mapping->address);
        int r;

        if (i < context->n_mappings && context->mappings[i].address < mapping->address + mapping->length)
                return -EEXIST;
        r = context_reserve(context, context->n_mappings + 1);
        if (r < 0)
                return r;
        context_insert(context, i, mapping);
        return 0;
}

int context_remove(struct context *context, uint64_t address, uint64_t length) {
        uint64_t end = address + length;
        /* Cutting the middle out of one mapping makes two of it. */
        int r = context_reserve(context, context->n_mappings + 1);

        if (r < 0)
                return r;
        for (unsigned i = context_search(context, address); i < context->n_mappings;) {
                struct mapping *m = &context->mappings[i], tail = *m;
                uint64_t m_end = m->address + m->length;

                if (m->address >= end)
                        break;
                tail.address = end;
                tail.offset = m->offset + (end - m->address);
                tail.length = m_end > end ? m_end - end : 0;
                if (m->address < address) {
                        m->length = address - m->address;
                        if (tail.length)
                                context_insert(context, i + 1, &tail);
                        i++;
                } else if (tail.length) {
                        *m = tail;
                        break;
                } else {
                        context_erase(context, i);
                }
        }
        return 0;
}

void context_remove_region(struct context *context, const struct region *region) {
        for (unsigned i = context->n_mappings; i-- > 0;)
                if (context->mappings[i].region == region)
                        context_erase(context, i);
}

int context_move(struct context *context, uint64_t from, uint64_t to, uint64_t length) {
        struct mapping *moved = NULL;
        unsigned n = 0;
        int r = 0;

        moved = calloc(context->n_mappings + 1, sizeof(*moved));
        if (!moved)
                return -ENOMEM;
        for (unsigned i = context_search(context, from); i < context->n_mappings; i++) {
                struct mapping m = context->mappings[i];
                uint64_t start = m.address > from ? m.address : from;
                uint64_t end = m.address + m.length < from + length ? m.address + m.length : from + length;

                if (start >= end)
                        break;
                moved[n++] = (struct mapping){
                        .address = start - from + to,
                        .length = end - start,
                        .offset = m.offset + (start - m.address),
                        .region = m.region,
                        .unarmed = m.unarmed,
                };
        }
        r = context_remove(context, from, length);
        if (r == 0)
                r = context_remove(context, to, length); /* what was mapped there before is gone */
        for (unsigned i = 0; i < n && r == 0; i++)
                r = context_add(context, &moved[i]);
        free(moved);
        return r;
}

int context_copy_mappings(struct context *context, const struct context *parent) {
        int r = context_reserve(context, parent->n_mappings);

        if (r < 0)
                return r;
        if (parent->n_mappings)
                memcpy(context->mappings, parent->mappings, parent->n_mappings * sizeof(*parent->mappings));
        context->n_mappings = parent->n_mappings;
        return 0;
}
