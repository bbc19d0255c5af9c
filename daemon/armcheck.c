/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/armcheck.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "common/uffd.h"
#include "daemon/clock.h"

#define ARMCHECK_PRESENT (1ULL << 63)
#define ARMCHECK_PROTECTED (1ULL << 57)

#define ARMCHECK_SAMPLES 64u
#define ARMCHECK_BATCH 4096u   /* entries of pagemap in one read: of 16 MiB */
#define ARMCHECK_SUSPECTS 256u /* looked up together on the fault thread */
/* An unmap is told after it was done, so a mapping may be gone for a moment without our knowing. */
#define ARMCHECK_TRIES 20
#define ARMCHECK_TRY_NS (5 * NSEC_PER_MSEC)

struct armcheck_work {
        struct fault_thread *thread;
        struct run *run;
        bool all;
        struct armcheck *result;
        struct error *error;
        pid_t pagemap_pid; /* whose `pagemap` is open, or 0 */
        int pagemap;       /* owned, or -1 */
        uint64_t *entries; /* ARMCHECK_BATCH */

        struct domain_target *target;
        struct region *region;
        unsigned n_suspects;
        uint64_t suspects[ARMCHECK_SUSPECTS]; /* addresses of pages without protection */
};

bool armcheck_is_silent(const char *release) {
        unsigned major = 0, minor = 0;

        /* Not known is not trusted. */
        return sscanf(release, "%u.%u", &major, &minor) != 2 || major < 6 || (major == 6 && minor < 2);
}

/* Where changes are tracked there are pages that need not be saved, and are disarmed with a note. */
static bool armcheck_is_dirty(const struct region *region, uint64_t page) {
        return region->tracking && tracking_is_dirty(region->tracking, page);
}

/* On the fault thread, which alone knows what it has saved. Keeps of the suspects those that are not explained. */
static int armcheck_on_look_up(struct fault_thread *thread, void *data) {
        struct armcheck_work *work = data;
        const struct context *context = work->target->context;
        const struct capture *capture = &work->run->capture;
        unsigned n = 0;

        fault_drain(thread);
        for (unsigned i = 0; i < work->n_suspects; i++) {
                const struct mapping *mapping = context_find(context, work->suspects[i]);
                uint64_t offset;

                if (!mapping || mapping->region != work->region)
                        continue;
                offset = work->suspects[i] - mapping->address + mapping->offset;
                if (!capture_is_saved(capture, work->region->index, offset / work->region->page_bytes) &&
                    !armcheck_is_dirty(work->region, offset / work->region->page_bytes))
                        work->suspects[n++] = work->suspects[i];
        }
        work->n_suspects = n;
        return 0;
}

/* Are there suspects that nothing explains, also when it is asked again? */
static int armcheck_settle(struct armcheck_work *work) {
        const struct context *context = work->target->context;

        for (unsigned i = 0; work->n_suspects && i < ARMCHECK_TRIES; i++) {
                if (i > 0)
                        nanosleep(&(struct timespec){ .tv_nsec = ARMCHECK_TRY_NS }, NULL);
                fault_call(work->thread, armcheck_on_look_up, work);
                if (!run_goes_on(work->run) || !uffd_owner_is_alive(context->uffd))
                        work->n_suspects = 0;
        }
        if (work->n_suspects == 0)
                return 0;
        return error_set(work->error, ERROR_ARM_FAILED,
                         "the memory of process %d at %#llx (region %s) is not write-protected although the kernel "
                         "said so: the userfaultfd that was attached is of another process, or the kernel was out of "
                         "memory; detach and attach again, or try again",
                         (int) context->pid, (unsigned long long) work->suspects[0], work->region->name);
}

static int armcheck_suspect(struct armcheck_work *work, uint64_t address) {
        work->suspects[work->n_suspects++] = address;
        return work->n_suspects == ARMCHECK_SUSPECTS ? armcheck_settle(work) : 0;
}

/* Of huge pages the kernel shows the protection only where the page is there. */
static bool armcheck_is_good(const struct region *region, uint64_t entry) {
        return (entry & ARMCHECK_PROTECTED) || (region->kind == REGION_HUGETLBFS && !(entry & ARMCHECK_PRESENT));
}

/* Look at @n pages of 4 KiB from @address. */
static int armcheck_read(struct armcheck_work *work, uint64_t address, uint64_t n) {
        const uint64_t step = work->region->page_bytes / CHUNK_PAGE_BYTES;
        const ssize_t length =
                pread(work->pagemap, work->entries, n * sizeof(uint64_t), (off_t) (address / CHUNK_PAGE_BYTES * 8));

        /* No entries: the process is gone. */
        for (uint64_t i = 0; length > 0 && i < (uint64_t) length / sizeof(uint64_t); i += step) {
                work->result->n_pages++;
                if (!armcheck_is_good(work->region, work->entries[i]) &&
                    armcheck_suspect(work, address + i * CHUNK_PAGE_BYTES) < 0)
                        return -1;
        }
        return 0;
}

static int armcheck_all(struct armcheck_work *work, uint64_t address, uint64_t length) {
        for (uint64_t done = 0; done < length && run_goes_on(work->run);) {
                uint64_t n = (length - done) / CHUNK_PAGE_BYTES;

                n = n < ARMCHECK_BATCH ? n : ARMCHECK_BATCH;
                if (armcheck_read(work, address + done, n) < 0)
                        return -1;
                done += n * CHUNK_PAGE_BYTES;
        }
        return 0;
}

/* The first page, the last, and others between them at even distances. */
static int armcheck_sample(struct armcheck_work *work, uint64_t address, uint64_t length) {
        uint64_t page_bytes = work->region->page_bytes, n_pages = length / page_bytes;
        uint64_t n = n_pages < ARMCHECK_SAMPLES ? n_pages : ARMCHECK_SAMPLES;

        for (uint64_t i = 0; i < n && run_goes_on(work->run); i++) {
                uint64_t page = n < 2 ? 0 : i * (n_pages - 1) / (n - 1);

                if (armcheck_read(work, address + page * page_bytes, 1) < 0)
                        return -1;
        }
        return 0;
}

/* Is the process's pagemap at hand? */
static bool armcheck_open(struct armcheck_work *work, pid_t pid) {
        char path[64];

        if (work->pagemap_pid == pid)
                return work->pagemap >= 0;
        if (work->pagemap >= 0)
                close(work->pagemap);
        snprintf(path, sizeof(path), "/proc/%d/pagemap", (int) pid);
        work->pagemap = open(path, O_RDONLY | O_CLOEXEC);
        work->pagemap_pid = pid;
        if (work->pagemap < 0 && errno != ENOENT && errno != ESRCH)
                work->result->n_unreadable++;
        return work->pagemap >= 0;
}

static int armcheck_target(struct armcheck_work *work, struct domain_target *target) {
        uint64_t length = target->length / work->region->page_bytes * work->region->page_bytes;
        int r;

        if (target->context->pid == 0 || length == 0 || !armcheck_open(work, target->context->pid))
                return 0;
        work->target = target;
        work->n_suspects = 0;
        r = work->all ? armcheck_all(work, target->address, length) : armcheck_sample(work, target->address, length);
        return r < 0 ? r : armcheck_settle(work);
}

static int armcheck_region(struct armcheck_work *work, struct domain_targets *targets) {
        int r = 0;

        if (domain_find_targets(work->thread->domain, work->region, 0, work->region->bytes, targets) < 0)
                return error_set(work->error, ERROR_INTERNAL, "out of memory");
        for (unsigned i = 0; i < targets->n && r == 0; i++)
                r = armcheck_target(work, &targets->items[i]);
        return r;
}

int armcheck_run(struct fault_thread *thread, struct run *run, bool all, struct armcheck *ret, struct error *error) {
        struct armcheck_work work = { .thread = thread, .run = run, .result = ret, .error = error, .pagemap = -1 };
        struct domain_targets targets = { 0 };
        struct utsname name;
        int r = 0;

        *ret = (struct armcheck){ 0 };
        uname(&name);
        work.all = all || armcheck_is_silent(name.release);
        work.entries = calloc(ARMCHECK_BATCH, sizeof(*work.entries));
        if (!work.entries)
                return error_set(error, ERROR_INTERNAL, "out of memory");
        TAILQ_FOREACH (work.region, &thread->domain->regions, link) {
                r = armcheck_region(&work, &targets);
                if (r < 0)
                        break;
        }
        domain_targets_deinit(&targets);
        if (work.pagemap >= 0)
                close(work.pagemap);
        free(work.entries);
        return r;
}
