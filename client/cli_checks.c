/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/cli_checks.h"

#include <errno.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "client/cli_format.h"
#include "common/uffd_compat.h"

void checks_add(struct checks *checks, enum check_status status, const char *name, const char *format, ...) {
        struct check *check = &checks->list[checks->n];
        va_list arguments;

        if (checks->n == CHECKS_MAX)
                return;
        checks->n++;
        *check = (struct check){ .status = status, .name = name };
        va_start(arguments, format);
        vsnprintf(check->detail, sizeof(check->detail), format, arguments);
        va_end(arguments);
}

void checks_remedy(struct checks *checks, const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        vsnprintf(checks->list[checks->n - 1].remedy, sizeof(checks->list[0].remedy), format, arguments);
        va_end(arguments);
}

static void add_access(struct checks *checks, const struct uffd_probe *probe, const struct error *error) {
        static const char *const ways[] = {
                [UFFD_PROBE_ACCESS_NONE] = "none",
                [UFFD_PROBE_ACCESS_GIVEN] = "from livesnapd, which opens /dev/userfaultfd for its clients",
                [UFFD_PROBE_ACCESS_DEVICE] = "this user may open /dev/userfaultfd",
                [UFFD_PROBE_ACCESS_SYSCALL] = "by the system call (CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1)",
        };

        if (probe->access != UFFD_PROBE_ACCESS_NONE) {
                checks_add(checks, CHECK_OK, "userfaultfd", "%s", ways[probe->access]);
                return;
        }
        checks_add(checks, CHECK_FAILED, "userfaultfd", "%s", "this user cannot make a userfaultfd");
        checks_remedy(checks, "%s", error->message);
}

static void add_zap(struct checks *checks, const char *name, enum uffd_probe_zap zap, const struct error *error) {
        switch (zap) {
        case UFFD_PROBE_ZAP_KEPT:
                checks_add(checks, CHECK_OK, name,
                           "proved: entry gone, protection still there, a writer was stopped by it");
                return;
        case UFFD_PROBE_ZAP_UNTOUCHED:
                checks_add(checks, CHECK_NOTE, name, "the kernel left the page in place (no swap?); protection kept");
                return;
        case UFFD_PROBE_ZAP_LOST:
                checks_add(checks, CHECK_FAILED, name, "the kernel forgets the protection when it takes a page out");
                checks_remedy(checks, "%s", error->message);
                return;
        case UFFD_PROBE_ZAP_UNKNOWN:
                checks_add(checks, CHECK_WARNING, name, "could not be tried");
                checks_remedy(checks, "%s", error->message);
        }
}

static void add_feature(struct checks *checks, bool there, const char *name, const char *good, const char *missing) {
        checks_add(checks, there ? CHECK_OK : CHECK_NOTE, name, "%s", there ? good : missing);
}

static void add_protection(struct checks *checks, const struct uffd_probe *probe, const struct error *error) {
        if (!probe->wp_shmem) {
                checks_add(checks, CHECK_FAILED, "write protection", "shared memory cannot be write-protected here");
                checks_remedy(checks, "%s", error->message);
                return;
        }
        checks_add(checks, CHECK_OK, "write protection", "shared memory can be write-protected (features 0x%llx)",
                   (unsigned long long) probe->features);
        add_zap(checks, "MADV_DONTNEED", probe->dontneed, error);
        add_zap(checks, "MADV_PAGEOUT", probe->pageout, error);
        add_feature(checks, probe->disarm_restores_write, "disarming", "a disarmed page can be written at once",
                    "the first write to a page that was disarmed costs one more minor fault on this kernel");
        if (probe->event_fork) {
                checks_add(checks, CHECK_OK, "forks", "children of a program can be followed");
        } else {
                checks_add(checks, CHECK_NOTE, "forks",
                           "this user cannot follow forks; livesnapd can (CAP_SYS_PTRACE)");
        }
        add_feature(checks, probe->wp_async, "WP_ASYNC", "there; not needed for full snapshots",
                    "not in this kernel (6.7); not needed for full snapshots");
        add_feature(checks, probe->pagemap_scan, "PAGEMAP_SCAN", "there; not needed for full snapshots",
                    "not in this kernel (6.7); not needed for full snapshots");
        add_feature(checks, probe->minor_shmem, "minor faults", "there; not needed for full snapshots",
                    "not in this kernel; not needed for full snapshots");
}

void checks_add_kernel(struct checks *checks, const struct uffd_probe *probe, const struct error *error) {
        bool unsupported = error->kind == ERROR_KERNEL_UNSUPPORTED;

        checks_add(checks, unsupported ? CHECK_FAILED : CHECK_OK, "kernel", "Linux %s", probe->release);
        if (unsupported)
                checks_remedy(checks, "%s", error->message);
        add_access(checks, probe, error);
        if (probe->access != UFFD_PROBE_ACCESS_NONE)
                add_protection(checks, probe, error);
        if (error->kind == ERROR_INTERNAL) {
                checks_add(checks, CHECK_FAILED, "probe", "%s", error->message);
                checks_remedy(checks, "is /proc mounted, and is there memory?");
        }
}

static long read_long(const char *path) {
        FILE *file = fopen(path, "re");
        long value = -1;

        if (!file)
                return -1;
        if (fscanf(file, "%ld", &value) != 1)
                value = -1;
        fclose(file);
        return value;
}

static void add_hugetlb(struct checks *checks, const struct uffd_probe *probe) {
        long total = read_long("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
        long unused = read_long("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");

        if (total < 0)
                checks_add(checks, CHECK_NOTE, "huge pages", "the system has none of 2 MiB");
        else if (total == 0)
                checks_add(checks, CHECK_NOTE, "huge pages",
                           "none reserved (vm.nr_hugepages); needed by nobody but their users");
        else
                checks_add(checks, probe->wp_hugetlbfs ? CHECK_OK : CHECK_WARNING, "huge pages",
                           "%ld of %ld of 2 MiB free%s", unused, total,
                           probe->wp_hugetlbfs ? "" : "; the kernel cannot protect them");
}

static void add_io_uring(struct checks *checks) {
        struct io_uring ring;
        int r = io_uring_queue_init(4, &ring, 0);

        if (r == 0) {
                io_uring_queue_exit(&ring);
                checks_add(checks, CHECK_OK, "io_uring", "there");
                return;
        }
        checks_add(checks, CHECK_WARNING, "io_uring",
                   "cannot be used: %s; writing and reading images is slower without", strerror(-r));
        checks_remedy(checks, "%s",
                      r == -ENOSYS
                              ? "build the kernel with CONFIG_IO_URING"
                              : "look at the sysctl kernel.io_uring_disabled, and at a container's seccomp filter");
}

static void add_memlock(struct checks *checks) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
                return;
        if (limit.rlim_cur == RLIM_INFINITY)
                checks_add(checks, CHECK_OK, "locked memory", "no limit");
        else
                checks_add(checks, CHECK_NOTE, "locked memory",
                           "at most %s for this user; the daemon's own limit must exceed its --pool-size",
                           cli_format_bytes((double) limit.rlim_cur).text);
}

static void add_capabilities(struct checks *checks, const struct uffd_probe *probe) {
        bool all = probe->has_ptrace && probe->has_admin;

        checks_add(checks, all ? CHECK_OK : CHECK_NOTE, "capabilities", "CAP_SYS_PTRACE %s, CAP_SYS_ADMIN %s%s",
                   probe->has_ptrace ? "yes" : "no", probe->has_admin ? "yes" : "no",
                   all ? "" : ": 'livesnap attach --pid' is for root; programs that use liblivesnap need neither");
        if (probe->under_seccomp)
                checks_add(checks, CHECK_NOTE, "seccomp",
                           "a filter is installed here: 'attach --pid' needs to be without");
}

void checks_add_system(struct checks *checks, const struct uffd_probe *probe) {
        add_hugetlb(checks, probe);
        add_io_uring(checks);
        add_memlock(checks);
        add_capabilities(checks, probe);
}
