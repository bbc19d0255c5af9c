/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_COMMON_UFFD_PROBE_H
#define LIVESNAP_COMMON_UFFD_PROBE_H

/*
 * What the running kernel really does with write protection, found out by doing it.
 *
 * Versions lie: distributions backport, and a feature bit says that code exists, not that it works. So a page of a
 * throwaway memfd is protected and then taken out of the page table in the ways in which reclaim does it; what livesnap
 * stands on is that the protection is still there afterwards and still stops a writer.
 */

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/** enum uffd_probe_access - how this process came by a userfaultfd that also catches faults inside system calls */
enum uffd_probe_access {
        UFFD_PROBE_ACCESS_NONE,
        UFFD_PROBE_ACCESS_GIVEN,   /* from the descriptor of the device that the caller passed */
        UFFD_PROBE_ACCESS_DEVICE,  /* by opening /dev/userfaultfd */
        UFFD_PROBE_ACCESS_SYSCALL, /* by userfaultfd(2): capability or sysctl */
};

/** enum uffd_probe_zap - what became of the protection of a page that was taken out of the page table */
enum uffd_probe_zap {
        UFFD_PROBE_ZAP_UNKNOWN,   /* the probe did not get that far */
        UFFD_PROBE_ZAP_LOST,      /* the protection went with the page-table entry */
        UFFD_PROBE_ZAP_UNTOUCHED, /* the kernel left the page where it was (no swap), protection and all */
        UFFD_PROBE_ZAP_KEPT,      /* entry gone, protection still there, and a writer was stopped by it */
};

struct uffd_probe {
        char release[65]; /* of the kernel, as uname(2) says */
        enum uffd_probe_access access;
        int device_errno;             /* of opening /dev/userfaultfd; 0: it opened; unused where one was passed */
        int syscall_errno;            /* of userfaultfd(2); 0: it worked or was not needed */
        int unprivileged_userfaultfd; /* the sysctl; -1: unknown */
        bool has_ptrace;              /* CAP_SYS_PTRACE is effective */
        bool has_admin;               /* CAP_SYS_ADMIN is effective */
        bool under_seccomp;           /* a seccomp filter is installed in this process */
        uint64_t features;            /* UFFD_FEATURE_*; 0 where there is no access */
        bool wp_shmem;                /* shared memory can be registered and protected */
        bool write_faults;            /* a write to a protected page is reported, and goes on when it is answered */
        enum uffd_probe_zap dontneed; /* after MADV_DONTNEED */
        enum uffd_probe_zap pageout;  /* after MADV_PAGEOUT */
        bool disarm_restores_write;   /* a disarmed page can be written without another minor fault */
        bool event_fork;              /* forks can be followed (needs CAP_SYS_PTRACE) */
        bool wp_async;                /* WP_ASYNC registers */
        bool pagemap_scan;            /* PAGEMAP_SCAN works on this process */
        bool minor_shmem;             /* minor faults of shared memory, for a lazy restore */
        bool wp_hugetlbfs;            /* huge pages too, where there are any */
};

/**
 * uffd_probe_run() - see what the kernel does, and whether livesnap can work on it
 * @ret: what was found; filled in as far as the probe got, also on failure
 * @error: where livesnap cannot work: the reason and its remedy. ERROR_PERMISSION_DENIED where this process has no
 * right to a userfaultfd, ERROR_KERNEL_UNSUPPORTED where the kernel cannot, ERROR_INTERNAL where the probe itself
 * failed
 *
 * Takes some milliseconds, a helper thread, and a few descriptors, which are all closed before it returns. Only the
 * capability for following forks is not required here: unmodified single processes can do without.
 *
 * Return: 0 where everything that livesnap needs was seen to work, else -1.
 */
int uffd_probe_run(struct uffd_probe *ret, struct error *error);

/** uffd_probe_run_with_device() - the same, from a descriptor of /dev/userfaultfd (borrowed); -1: find one */
int uffd_probe_run_with_device(int device, struct uffd_probe *ret, struct error *error);

#endif
