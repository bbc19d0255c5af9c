/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/name.h"

/* How many names of regions that are gone are remembered. */
#define REGISTRY_NAMES_MAX 1024u

struct registry_name {
        char domain[REGION_NAME_MAX + 1];
        char region[REGION_NAME_MAX + 1];
        dev_t device;
        ino_t inode;
};

struct registry {
        TAILQ_HEAD(, registry_entry) entries;
        unsigned n_entries;
        void (*wake)(void *data);
        void *data;
        struct registry_name *names; /* a ring */
        unsigned n_names;
        unsigned next_name;
};

int registry_new(void (*wake)(void *data), void *data, struct registry **ret) {
        struct registry *registry = calloc(1, sizeof(*registry));

        if (!registry)
                return -ENOMEM;
        registry->names = calloc(REGISTRY_NAMES_MAX, sizeof(*registry->names));
        if (!registry->names) {
                free(registry);
                return -ENOMEM;
        }
        TAILQ_INIT(&registry->entries);
        registry->wake = wake;
        registry->data = data;
        *ret = registry;
        return 0;
}

void registry_free(struct registry *registry) {
        if (!registry)
                return;
        while (!TAILQ_EMPTY(&registry->entries))
                registry_remove(TAILQ_FIRST(&registry->entries));
        free(registry->names);
        free(registry);
}

/* On the fault thread. */
static void registry_on_unmapped(void *data) {
        struct registry_entry *entry = data;

        atomic_store(&entry->unmapped, true);
        entry->registry->wake(entry->registry->data);
}

static struct registry_entry *registry_look_up(struct registry *registry, const char *name) {
        struct registry_entry *entry;

        TAILQ_FOREACH (entry, &registry->entries, link)
                if (!strcmp(entry->domain->name, name))
                        return entry;
        return NULL;
}

static bool registry_may_use(const struct registry_entry *entry, uid_t uid) {
        return uid == 0 || uid == entry->domain->uid;
}

struct registry_entry *registry_find(struct registry *registry, const char *name, uid_t uid, struct error *error) {
        struct registry_entry *entry = registry_look_up(registry, name);

        if (!entry) {
                if (name_check("domain", name, error) < 0)
                        return NULL;
                error_set(error, ERROR_NO_SUCH_DOMAIN,
                          "there is no domain '%s': 'livesnap domains' lists those that are attached", name);
                return NULL;
        }
        if (!registry_may_use(entry, uid)) {
                error_set(error, ERROR_PERMISSION_DENIED,
                          "domain %s belongs to another user (uid %u): only that user and root may act on it", name,
                          (unsigned) entry->domain->uid);
                return NULL;
        }
        return entry;
}

static int registry_check_limits(const struct registry *registry, uid_t uid, struct error *error) {
        const struct registry_entry *entry;
        unsigned n_own = 0, n_users = 0;

        if (registry->n_entries >= REGISTRY_DOMAINS_MAX)
                return error_set(error, ERROR_LIMIT_EXCEEDED, "there are %u domains already: detach one first",
                                 registry->n_entries);
        if (uid == 0)
                return 0;
        TAILQ_FOREACH (entry, &registry->entries, link) {
                n_own += entry->domain->uid == uid;
                n_users += entry->domain->uid != 0;
        }
        if (n_own >= REGISTRY_DOMAINS_USER_MAX || n_users >= REGISTRY_DOMAINS_USERS_MAX)
                return error_set(error, ERROR_LIMIT_EXCEEDED,
                                 "user %u has %u domains, and all users %u: detach one first", (unsigned) uid, n_own,
                                 n_users);
        return 0;
}

const struct registry_entry *registry_find_object(struct registry *registry, dev_t device, ino_t inode) {
        struct registry_entry *entry;

        TAILQ_FOREACH (entry, &registry->entries, link)
                if (domain_find_region(entry->domain, device, inode))
                        return entry;
        return NULL;
}

static struct registry_entry *registry_add(struct registry *registry, const char *name, uid_t uid,
                                           struct error *error) {
        struct registry_entry *entry;

        if (registry_check_limits(registry, uid, error) < 0)
                return NULL;
        entry = calloc(1, sizeof(*entry));
        if (!entry || domain_new(name, uid, &entry->domain) < 0) {
                free(entry);
                error_set(error, ERROR_INTERNAL, "out of memory");
                return NULL;
        }
        entry->registry = registry;
        entry->quiesce = (struct quiesce) QUIESCE_INIT;
        if (quiesce_client_new(registry->wake, registry->data, &entry->quiesce_client) < 0 ||
            fault_thread_new(entry->domain, registry_on_unmapped, entry, &entry->thread) < 0) {
                quiesce_client_free(entry->quiesce_client);
                domain_free(entry->domain);
                free(entry);
                error_set(error, ERROR_INTERNAL, "cannot start a fault thread: too many threads or descriptors");
                return NULL;
        }
        entry->quiesce.client = entry->quiesce_client;
        TAILQ_INSERT_TAIL(&registry->entries, entry, link);
        registry->n_entries++;
        return entry;
}

struct registry_entry *registry_find_or_add(struct registry *registry, const char *name, uid_t uid,
                                            struct error *error) {
        if (name_check("domain", name, error) < 0)
                return NULL;
        return registry_look_up(registry, name) ? registry_find(registry, name, uid, error)
                                                : registry_add(registry, name, uid, error);
}

static void registry_remember(struct registry *registry, const struct domain *domain, const struct region *region) {
        struct registry_name *name = &registry->names[registry->next_name];

        for (unsigned i = 0; i < registry->n_names; i++)
                if (registry->names[i].device == region->device && registry->names[i].inode == region->inode &&
                    !strcmp(registry->names[i].domain, domain->name))
                        return;
        strcpy(name->domain, domain->name);
        strcpy(name->region, region->name);
        name->device = region->device;
        name->inode = region->inode;
        registry->next_name = (registry->next_name + 1) % REGISTRY_NAMES_MAX;
        if (registry->n_names < REGISTRY_NAMES_MAX)
                registry->n_names++;
}

void registry_name_region(struct registry_entry *entry, struct region *region, const char *wish) {
        const struct registry *registry = entry->registry;
        char plain[REGION_NAME_MAX + 1];

        for (unsigned i = 0; i < registry->n_names && !wish; i++) {
                const struct registry_name *name = &registry->names[i];

                if (name->device == region->device && name->inode == region->inode &&
                    !strcmp(name->domain, entry->domain->name) &&
                    !domain_find_region_by_name(entry->domain, name->region)) {
                        strcpy(region->name, name->region);
                        return;
                }
        }
        region_wish_name(region, wish, plain);
        strcpy(region->name, plain);
        /* The inode number tells objects of one name apart, in whatever order they are attached. */
        if (domain_find_region_by_name(entry->domain, region->name))
                snprintf(region->name, sizeof(region->name), "%.100s-%llu", plain, (unsigned long long) region->inode);
        for (unsigned i = 2; domain_find_region_by_name(entry->domain, region->name); i++)
                snprintf(region->name, sizeof(region->name), "%.90s-%llu-%u", plain, (unsigned long long) region->inode,
                         i);
}

/* On the fault thread. */
static int registry_on_release(struct fault_thread *thread, void *data) {
        changes_lose_parent(thread, "a region was let go");
        fault_release_all(thread, data);
        domain_remove_region(thread->domain, data);
        return 0;
}

void registry_detach_region(struct registry_entry *entry, struct region *region) {
        registry_remember(entry->registry, entry->domain, region);
        fault_call(entry->thread, registry_on_release, region);
}

void registry_remove(struct registry_entry *entry) {
        struct registry *registry = entry->registry;
        struct region *region;

        TAILQ_FOREACH (region, &entry->domain->regions, link)
                registry_remember(registry, entry->domain, region);
        TAILQ_REMOVE(&registry->entries, entry, link);
        registry->n_entries--;
        fault_thread_free(entry->thread);
        quiesce_client_free(entry->quiesce_client);
        quiesce_deinit(&entry->quiesce);
        domain_free(entry->domain);
        free(entry);
}

/* A region without mappings, or NULL. */
static struct region *registry_unmapped_region(struct registry_entry *entry) {
        struct region *region;

        TAILQ_FOREACH (region, &entry->domain->regions, link)
                if (domain_count(entry->domain, region).n_mappings == 0)
                        return region;
        return NULL;
}

static int registry_on_reap(struct fault_thread *thread, void *data) {
        fault_reap(thread);
        return 0;
}

void registry_drop_unmapped(struct registry_entry *entry) {
        struct region *region;

        fault_call(entry->thread, registry_on_reap, NULL);
        while ((region = registry_unmapped_region(entry)))
                registry_detach_region(entry, region);
}

void registry_check(struct registry *registry) {
        struct registry_entry *entry = TAILQ_FIRST(&registry->entries), *next;

        for (; entry; entry = next) {
                next = TAILQ_NEXT(entry, link);
                quiesce_client_check(entry->quiesce_client);
                if (entry->job || !atomic_exchange(&entry->unmapped, false))
                        continue;
                registry_drop_unmapped(entry);
                if (entry->domain->n_regions == 0)
                        registry_remove(entry);
        }
}

bool registry_answers(struct registry *registry) {
        struct registry_entry *entry;
        bool all = true;

        TAILQ_FOREACH (entry, &registry->entries, link)
                all &= fault_thread_answers(entry->thread);
        return all;
}

unsigned registry_count(const struct registry *registry) {
        return registry->n_entries;
}

json_t *registry_entry_json(struct registry_entry *entry) {
        struct domain *domain = entry->domain;
        json_t *regions = json_array(), *json;
        struct changes_parent parent;
        struct region *region;
        const char *why;

        TAILQ_FOREACH (region, &domain->regions, link)
                json_array_append_new(regions,
                                      json_pack("{s:s, s:s, s:I, s:i, s:i, s:s}", "name", region->name, "kind",
                                                region_kind_name(region->kind), "bytes", (json_int_t) region->bytes,
                                                "page_bytes", (int) region->page_bytes, "mappings",
                                                (int) domain_count(domain, region).n_mappings, "guarantee",
                                                guarantee_name(region->guarantee)));
        json = json_pack("{s:s, s:i, s:i, s:o, s:s}", "name", domain->name, "uid", (int) domain->uid, "processes",
                         (int) domain_count(domain, NULL).n_processes, "regions", regions, "tracking",
                         tracking_mode_name(changes_get_mode(entry->thread)));
        if (changes_get_mode(entry->thread) == TRACKING_ASYNC)
                json_object_set_new(json, "quiesce", json_string(quiesce_way_name(entry->quiesce.way)));
        if (changes_get_parent(entry->thread, &parent, &why))
                json_object_set_new(json, "changes_since", json_string(parent.name));
        if (entry->job)
                json_object_set_new(json, "job", json_integer((json_int_t) entry->job));
        return json;
}

json_t *registry_list(struct registry *registry, uid_t uid) {
        struct registry_entry *entry;
        json_t *list = json_array();

        TAILQ_FOREACH (entry, &registry->entries, link)
                if (registry_may_use(entry, uid))
                        json_array_append_new(list, registry_entry_json(entry));
        return list;
}
