/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/domain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int domain_new(const char *name, uid_t uid, struct domain **ret) {
        struct domain *domain = calloc(1, sizeof(*domain));

        if (!domain)
                return -ENOMEM;
        snprintf(domain->name, sizeof(domain->name), "%s", name);
        domain->uid = uid;
        pthread_mutex_init(&domain->lock, NULL);
        TAILQ_INIT(&domain->regions);
        *ret = domain;
        return 0;
}

void domain_free(struct domain *domain) {
        struct region *region;

        if (!domain)
                return;
        while (domain->n_contexts > 0)
                domain_drop_context(domain, domain->n_contexts - 1);
        free(domain->contexts);
        while ((region = TAILQ_FIRST(&domain->regions)))
                domain_remove_region(domain, region);
        pthread_mutex_destroy(&domain->lock);
        free(domain);
}

void domain_add_region(struct domain *domain, struct region *region) {
        pthread_mutex_lock(&domain->lock);
        region->index = domain->n_regions++;
        TAILQ_INSERT_TAIL(&domain->regions, region, link);
        pthread_mutex_unlock(&domain->lock);
}

void domain_remove_region(struct domain *domain, struct region *region) {
        struct region *other;
        unsigned index = 0;

        pthread_mutex_lock(&domain->lock);
        for (unsigned i = 0; i < domain->n_contexts; i++)
                context_remove_region(domain->contexts[i], region);
        TAILQ_REMOVE(&domain->regions, region, link);
        domain->n_regions--;
        TAILQ_FOREACH (other, &domain->regions, link)
                other->index = index++;
        pthread_mutex_unlock(&domain->lock);
        region_free(region);
}

int domain_add_context(struct domain *domain, struct context *context) {
        struct context **contexts = domain->contexts;
        int r = 0;

        if (domain->n_contexts >= (domain->uid ? DOMAIN_CONTEXTS_USER_MAX : DOMAIN_CONTEXTS_MAX))
                return -E2BIG;
        pthread_mutex_lock(&domain->lock);
        if (domain->n_contexts == domain->n_allocated) {
                unsigned n = domain->n_allocated ? domain->n_allocated * 2 : 8;

                contexts = reallocarray(contexts, n, sizeof(struct context *));
                if (contexts) {
                        domain->contexts = contexts;
                        domain->n_allocated = n;
                } else {
                        r = -ENOMEM;
                }
        }
        if (r == 0)
                domain->contexts[domain->n_contexts++] = context;
        pthread_mutex_unlock(&domain->lock);
        return r;
}

void domain_drop_context(struct domain *domain, unsigned at) {
        struct context *context = domain->contexts[at];

        pthread_mutex_lock(&domain->lock);
        domain->n_contexts--;
        memmove(&domain->contexts[at], &domain->contexts[at + 1], (domain->n_contexts - at) * sizeof(struct context *));
        pthread_mutex_unlock(&domain->lock);
        context_unref(context);
}

struct region *domain_find_region(struct domain *domain, dev_t device, ino_t inode) {
        struct region *region;

        pthread_mutex_lock(&domain->lock);
        TAILQ_FOREACH (region, &domain->regions, link)
                if (region->device == device && region->inode == inode)
                        break;
        pthread_mutex_unlock(&domain->lock);
        return region;
}

struct region *domain_find_region_by_name(struct domain *domain, const char *name) {
        struct region *region;

        pthread_mutex_lock(&domain->lock);
        TAILQ_FOREACH (region, &domain->regions, link)
                if (!strcmp(region->name, name))
                        break;
        pthread_mutex_unlock(&domain->lock);
        return region;
}

struct domain_counts domain_count(struct domain *domain, const struct region *region) {
        struct domain_counts counts = { 0 };

        pthread_mutex_lock(&domain->lock);
        for (unsigned i = 0; i < domain->n_contexts; i++) {
                const struct context *context = domain->contexts[i];
                bool seen = false;

                for (unsigned j = 0; j < context->n_mappings; j++)
                        counts.n_mappings += !region || context->mappings[j].region == region;
                for (unsigned j = 0; context->pid && j < i && !seen; j++)
                        seen = domain->contexts[j]->pid == context->pid;
                counts.n_processes += !seen;
        }
        pthread_mutex_unlock(&domain->lock);
        return counts;
}

static void domain_targets_clear(struct domain_targets *targets) {
        for (unsigned i = 0; i < targets->n; i++)
                context_unref(targets->items[i].context);
        targets->n = 0;
}

void domain_targets_deinit(struct domain_targets *targets) {
        domain_targets_clear(targets);
        free(targets->items);
        *targets = (struct domain_targets){ 0 };
}

static int domain_targets_add(struct domain_targets *targets, struct context *context, uint64_t address,
                              uint64_t length) {
        if (targets->n == targets->n_allocated) {
                unsigned n = targets->n_allocated ? targets->n_allocated * 2 : 8;
                struct domain_target *items = reallocarray(targets->items, n, sizeof(*items));

                if (!items)
                        return -ENOMEM;
                targets->items = items;
                targets->n_allocated = n;
        }
        targets->items[targets->n++] = (struct domain_target){ context_ref(context), address, length };
        return 0;
}

int domain_find_targets(struct domain *domain, const struct region *region, uint64_t offset, uint64_t length,
                        struct domain_targets *targets) {
        int r = 0;

        domain_targets_clear(targets);
        pthread_mutex_lock(&domain->lock);
        for (unsigned i = 0; i < domain->n_contexts && r == 0; i++) {
                struct context *context = domain->contexts[i];

                for (unsigned j = 0; j < context->n_mappings && r == 0; j++) {
                        const struct mapping *m = &context->mappings[j];
                        uint64_t start = m->offset > offset ? m->offset : offset;
                        uint64_t m_end = m->offset + m->length, end = offset + length;

                        if (m->region != region || start >= (end < m_end ? end : m_end))
                                continue;
                        end = end < m_end ? end : m_end;
                        r = domain_targets_add(targets, context, m->address + (start - m->offset), end - start);
                }
        }
        pthread_mutex_unlock(&domain->lock);
        return r;
}
