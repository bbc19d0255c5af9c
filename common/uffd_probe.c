/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/uffd_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "common/cleanup.h"
#include "common/uffd.h"

/* How long a writer may take to run into the protection. Only a machine that is about to stall needs more. */
#define PROBE_TIMEOUT_MS 2000

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_SWAPPED (1ULL << 62)

/* The first page is for MADV_DONTNEED, the second for MADV_PAGEOUT, the third is only armed and disarmed. */
enum { PAGE_DONTNEED, PAGE_PAGEOUT, PAGE_PLAIN, N_PAGES };

/** struct arena - the throwaway memory; owns all it names */
struct arena {
        int uffd;
        int memfd;
        int pagemap;
        uint8_t *memory; /* N_PAGES pages */
        size_t page_bytes;
};

static void arena_deinit(struct arena *arena) {
        /* In the order that leaves nobody asleep, though the probe waits for its writers anyway. */
        if (arena->uffd >= 0 && arena->memory) {
                uffd_disarm(arena->uffd, (uintptr_t) arena->memory, N_PAGES * arena->page_bytes);
                uffd_unregister(arena->uffd, (uintptr_t) arena->memory, N_PAGES * arena->page_bytes);
        }
        cleanup_close_p(&arena->uffd);
        if (arena->memory)
                munmap(arena->memory, N_PAGES * arena->page_bytes);
        cleanup_close_p(&arena->memfd);
        cleanup_close_p(&arena->pagemap);
}

static int arena_init(struct arena *arena) {
        void *memory;

        *arena = (struct arena){ .uffd = -1, .memfd = -1, .pagemap = -1, .page_bytes = (size_t) sysconf(_SC_PAGESIZE) };
        arena->memfd = memfd_create("livesnap-probe", MFD_CLOEXEC);
        if (arena->memfd < 0 || ftruncate(arena->memfd, (off_t) (N_PAGES * arena->page_bytes)) < 0)
                return -errno;
        memory = mmap(NULL, N_PAGES * arena->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena->memfd, 0);
        if (memory == MAP_FAILED)
                return -errno;
        arena->memory = memory;
        munlock(memory, N_PAGES * arena->page_bytes); /* a program that has called mlockall() could not zap it */
        for (unsigned page = 0; page < N_PAGES; page++)
                arena->memory[page * arena->page_bytes] = (uint8_t) (page + 1);
        arena->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        return arena->pagemap < 0 ? -errno : 0;
}

static uint8_t *arena_page(const struct arena *arena, unsigned page) {
        return arena->memory + page * arena->page_bytes;
}

/* An entry of pagemap, or 0 where it cannot be read. */
static uint64_t arena_entry(const struct arena *arena, unsigned page) {
        uint64_t entry = 0;
        off_t offset = (off_t) ((uintptr_t) arena_page(arena, page) / arena->page_bytes * sizeof(entry));

        return pread(arena->pagemap, &entry, sizeof(entry), offset) == (ssize_t) sizeof(entry) ? entry : 0;
}

static void *writer_run(void *data) {
        volatile uint8_t *byte = data;

        *byte = 0xff;
        return NULL;
}

static int writer_start(uint8_t *byte, pthread_t *ret) {
        sigset_t all, before;
        int r;

        /* The thread is the probe's own affair: the program's signals are not for it. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(ret, NULL, writer_run, byte);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return -r;
}

/*
 * Does a write to the page stop and is it reported? Whatever comes of it the page is disarmed and the writer gone
 * afterwards. Return: 1 or 0, or -errno.
 */
static int arena_write_faults(struct arena *arena, unsigned page) {
        struct pollfd pollfd = { .fd = arena->uffd, .events = POLLIN };
        uintptr_t address = (uintptr_t) arena_page(arena, page);
        struct uffd_msg messages[4];
        bool reported = false;
        pthread_t writer;
        int r;

        r = writer_start(arena_page(arena, page), &writer);
        if (r < 0)
                return r;
        /* A writer that was not stopped sends no message, and then this waits once for the timeout. */
        if (poll(&pollfd, 1, PROBE_TIMEOUT_MS) > 0) {
                int n = uffd_read(arena->uffd, messages, sizeof(messages) / sizeof(messages[0]));

                for (int i = 0; i < n; i++)
                        if (messages[i].event == UFFD_EVENT_PAGEFAULT &&
                            messages[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP &&
                            messages[i].arg.pagefault.address - address < arena->page_bytes)
                                reported = true;
        }
        r = uffd_disarm(arena->uffd, address, arena->page_bytes);
        if (r < 0)
                cleanup_close_p(&arena->uffd); /* what always wakes the writer */
        pthread_join(writer, NULL);
        return r < 0 ? r : reported && *arena_page(arena, page) == 0xff;
}

static enum uffd_probe_zap arena_zap(struct arena *arena, unsigned page, int advice, bool *ret_faults) {
        bool gone;
        int r;

        if (uffd_arm(arena->uffd, (uintptr_t) arena_page(arena, page), arena->page_bytes) < 0)
                return UFFD_PROBE_ZAP_UNKNOWN;
        if (!(arena_entry(arena, page) & PAGEMAP_UFFD_WP))
                return UFFD_PROBE_ZAP_UNKNOWN;
        if (madvise(arena_page(arena, page), arena->page_bytes, advice) < 0)
                return UFFD_PROBE_ZAP_UNKNOWN;
        gone = !(arena_entry(arena, page) & PAGEMAP_PRESENT);
        if (!(arena_entry(arena, page) & PAGEMAP_UFFD_WP))
                return UFFD_PROBE_ZAP_LOST;
        r = arena_write_faults(arena, page);
        if (r < 0)
                return UFFD_PROBE_ZAP_UNKNOWN;
        if (r == 0)
                return UFFD_PROBE_ZAP_LOST;
        *ret_faults = true;
        return gone ? UFFD_PROBE_ZAP_KEPT : UFFD_PROBE_ZAP_UNTOUCHED;
}

/* A page that is armed and disarmed without a fault in between: does its next writer pay a minor fault? */
static bool arena_disarm_restores_write(const struct arena *arena) {
        volatile uint8_t *byte = arena_page(arena, PAGE_PLAIN);
        uintptr_t address = (uintptr_t) byte;
        struct rusage before, after;

        *byte = 1;
        if (uffd_arm(arena->uffd, address, arena->page_bytes) < 0 ||
            uffd_disarm(arena->uffd, address, arena->page_bytes) < 0)
                return false;
        if (getrusage(RUSAGE_THREAD, &before) < 0)
                return false;
        *byte = 2;
        return getrusage(RUSAGE_THREAD, &after) == 0 && after.ru_minflt == before.ru_minflt;
}

static bool pagemap_scan_works(const struct arena *arena) {
        struct page_region region;
        struct pm_scan_arg scan = {
                .size = sizeof(scan),
                .start = (uintptr_t) arena->memory,
                .end = (uintptr_t) arena->memory + arena->page_bytes,
                .vec = (uintptr_t) &region,
                .vec_len = 1,
                .category_mask = PAGE_IS_WRITTEN,
                .return_mask = PAGE_IS_WRITTEN,
        };

        return ioctl(arena->pagemap, PAGEMAP_SCAN, &scan) >= 0;
}

/* The number behind @prefix in the first line that starts with it; -1 where there is none. */
static long long read_number(const char *path, const char *prefix, int base) {
        CLEANUP(cleanup_free_p) char *line = NULL;
        long long number = -1;
        size_t size = 0;
        FILE *file = fopen(path, "re");

        if (!file)
                return -1;
        while (number < 0 && getline(&line, &size, file) > 0)
                if (!strncmp(line, prefix, strlen(prefix)))
                        number = strtoll(line + strlen(prefix), NULL, base);
        fclose(file);
        return number;
}

static bool has_capability(unsigned capability) {
        long long effective = read_number("/proc/thread-self/status", "CapEff:", 16);

        return effective > 0 && effective & (1LL << capability);
}

/*
 * Why there is no userfaultfd. The kernel says EPERM for five different reasons, each with a remedy of its own, so what
 * is known beside it decides.
 */
static int explain_access(const struct uffd_probe *probe, struct error *error) {
        bool allowed = probe->has_ptrace || probe->unprivileged_userfaultfd == 1;

        if (probe->syscall_errno == ENOSYS)
                return error_set(error, ERROR_KERNEL_UNSUPPORTED, "this process has no userfaultfd(2): %s",
                                 probe->under_seccomp
                                         ? "a seccomp filter (of a container or a service) hides it; allow the system "
                                           "call 'userfaultfd' there"
                                         : "the kernel was built without CONFIG_USERFAULTFD; boot one that has it");
        if (allowed && probe->under_seccomp)
                return error_set(error, ERROR_PERMISSION_DENIED,
                                 "a seccomp filter (of a container or a service) forbids userfaultfd(2); allow the "
                                 "system call 'userfaultfd' there, or pass the device /dev/userfaultfd in");
        if (probe->device_errno == ENOENT)
                return error_set(
                        error, ERROR_PERMISSION_DENIED,
                        "there is no /dev/userfaultfd here (kernels before 6.1 lack it, containers hide it) and "
                        "userfaultfd(2) is refused: pass the device in, or grant CAP_SYS_PTRACE, or set the "
                        "sysctl vm.unprivileged_userfaultfd=1");
        if (probe->device_errno == EACCES)
                return error_set(
                        error, ERROR_PERMISSION_DENIED,
                        "this user may not open /dev/userfaultfd: go through livesnapd, or join the group that "
                        "owns the device (the installed udev rule sets one), or run as root");
        if (probe->device_errno == EPERM)
                return error_set(
                        error, ERROR_PERMISSION_DENIED,
                        "opening /dev/userfaultfd is refused by a device policy (a container's or a service's): "
                        "allow that device there (systemd: DeviceAllow=/dev/userfaultfd rw)");
        return error_set(error, ERROR_PERMISSION_DENIED,
                         "no userfaultfd can be made: /dev/userfaultfd: %s; userfaultfd(2): %s",
                         strerror(probe->device_errno), strerror(probe->syscall_errno));
}

/* A userfaultfd by whatever way there is, handshaken for @features; -errno. */
static int open_uffd(int device, uint64_t features, uint64_t *ret_features) {
        CLEANUP_CLOSE int uffd = uffd_new(device);
        int r;

        if (uffd < 0)
                return uffd;
        r = uffd_handshake(uffd, features, ret_features);
        return r < 0 ? r : steal_fd(&uffd);
}

static int find_access(int given, int *ret_device, struct uffd_probe *probe, struct error *error) {
        CLEANUP_CLOSE int device = -1;
        CLEANUP_CLOSE int uffd = -1;

        if (given >= 0) {
                device = fcntl(given, F_DUPFD_CLOEXEC, 0);
                uffd = uffd_new(device);
                if (uffd >= 0) {
                        probe->access = UFFD_PROBE_ACCESS_GIVEN;
                        *ret_device = steal_fd(&device);
                        return 0;
                }
                cleanup_close_p(&device);
        }
        device = uffd_open_device();
        probe->device_errno = device < 0 ? -device : 0;
        if (device >= 0) {
                uffd = uffd_new(device);
                if (uffd >= 0) {
                        probe->access = UFFD_PROBE_ACCESS_DEVICE;
                        *ret_device = steal_fd(&device);
                        return 0;
                }
                probe->device_errno = -uffd;
        }
        uffd = uffd_new(-1);
        if (uffd >= 0) {
                probe->access = UFFD_PROBE_ACCESS_SYSCALL;
                *ret_device = -1;
                return 0;
        }
        probe->syscall_errno = -uffd;
        return explain_access(probe, error);
}

static void probe_surroundings(struct uffd_probe *probe) {
        struct utsname names;

        if (uname(&names) == 0)
                snprintf(probe->release, sizeof(probe->release), "%s", names.release);
        probe->unprivileged_userfaultfd = (int) read_number("/proc/sys/vm/unprivileged_userfaultfd", "", 10);
        probe->has_ptrace = has_capability(CAP_SYS_PTRACE);
        probe->has_admin = has_capability(CAP_SYS_ADMIN);
        probe->under_seccomp = read_number("/proc/thread-self/status", "Seccomp:", 10) > 0;
}

static bool features_register(int device, uint64_t features, const struct arena *arena) {
        CLEANUP_CLOSE int uffd = open_uffd(device, features, NULL);

        return uffd >= 0 && uffd_register_wp(uffd, (uintptr_t) arena->memory, N_PAGES * arena->page_bytes) == 0;
}

static int refuse_markers(const struct uffd_probe *probe, struct error *error) {
        return error_set(
                error, ERROR_KERNEL_UNSUPPORTED,
                "kernel %s forgets write protection when a page of shared memory is reclaimed, so that a snapshot "
                "could be wrong without a sign; boot a kernel >= 5.19 built with CONFIG_PTE_MARKER_UFFD_WP",
                probe->release);
}

static int judge(const struct uffd_probe *probe, struct error *error) {
        if (!probe->write_faults)
                return error_set(error, ERROR_KERNEL_UNSUPPORTED,
                                 "kernel %s let a write into a protected page pass without reporting it; boot another",
                                 probe->release);
        if (probe->dontneed == UFFD_PROBE_ZAP_LOST || probe->pageout == UFFD_PROBE_ZAP_LOST)
                return refuse_markers(probe, error);
        if (probe->dontneed != UFFD_PROBE_ZAP_KEPT)
                return error_set(error, ERROR_INTERNAL,
                                 "it could not be proved that kernel %s keeps write protection when a page is zapped; "
                                 "livesnap does not work on a guess",
                                 probe->release);
        return 0;
}

/* The experiments proper, once there is a way to a userfaultfd. */
static int probe_kernel(int device, struct arena *arena, struct uffd_probe *probe, struct error *error) {
        size_t length = N_PAGES * arena->page_bytes;
        int r;

        r = open_uffd(device, 0, &probe->features);
        if (r < 0)
                return error_set(error, ERROR_KERNEL_UNSUPPORTED, "kernel %s does not speak the userfaultfd API: %s",
                                 probe->release, strerror(-r));
        close(r);
        probe->minor_shmem = probe->features & UFFD_FEATURE_MINOR_SHMEM;
        probe->wp_hugetlbfs = probe->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        if (!(probe->features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) || !(probe->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM))
                return refuse_markers(probe, error);

        probe->event_fork = features_register(device, UFFD_FEATURE_EVENT_FORK, arena);
        probe->wp_async = features_register(device, UFFD_FEATURE_WP_ASYNC, arena);
        probe->pagemap_scan = pagemap_scan_works(arena);

        arena->uffd = open_uffd(device, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM, NULL);
        if (arena->uffd < 0)
                return error_set(error, ERROR_KERNEL_UNSUPPORTED, "kernel %s does not offer write protection: %s",
                                 probe->release, strerror(-arena->uffd));
        r = uffd_register_wp(arena->uffd, (uintptr_t) arena->memory, length);
        if (r < 0)
                return error_set(
                        error, ERROR_KERNEL_UNSUPPORTED,
                        "kernel %s does not register shared memory for write protection: %s; boot a kernel >= 5.19",
                        probe->release, strerror(-r));
        probe->wp_shmem = true;
        probe->disarm_restores_write = arena_disarm_restores_write(arena);
        probe->dontneed = arena_zap(arena, PAGE_DONTNEED, MADV_DONTNEED, &probe->write_faults);
        probe->pageout = arena_zap(arena, PAGE_PAGEOUT, MADV_PAGEOUT, &probe->write_faults);
        return judge(probe, error);
}

int uffd_probe_run_with_device(int given, struct uffd_probe *ret, struct error *error) {
        CLEANUP(arena_deinit) struct arena arena;
        CLEANUP_CLOSE int device = -1;
        int r;

        *ret = (struct uffd_probe){ .unprivileged_userfaultfd = -1 };
        probe_surroundings(ret);
        r = arena_init(&arena);
        if (r < 0)
                return error_set(error, ERROR_INTERNAL, "cannot set up a probe of the kernel: %s", strerror(-r));
        if (find_access(given, &device, ret, error) < 0)
                return -1;
        return probe_kernel(device, &arena, ret, error);
}

int uffd_probe_run(struct uffd_probe *ret, struct error *error) {
        return uffd_probe_run_with_device(-1, ret, error);
}
