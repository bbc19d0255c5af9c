/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/privileges.h"

#include <errno.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * CAP_SYS_PTRACE: UFFD_FEATURE_EVENT_FORK is given only to who has it, and without that the writes of forked children
 * are lost; also for what /proc says of clients of other users.
 * CAP_DAC_READ_SEARCH: without it /proc/PID/fd and /proc/PID/pagemap of other users cannot be opened, CAP_SYS_PTRACE
 * notwithstanding, nor their tmpfs files be opened again to be watched.
 * CAP_KILL: to stop a program of another user, and let it go on, for the last moment of asynchronous tracking.
 *
 * The service runs as a user of its own, to whom the store, the socket and the locked memory are granted by the unit.
 */
static const cap_value_t service_capabilities[] = {
        CAP_SYS_PTRACE,
        CAP_DAC_READ_SEARCH,
        CAP_KILL,
};

/*
 * Root without a unit has only its capabilities to get at things, so it keeps besides:
 * CAP_DAC_OVERRIDE: a store or a socket directory that belongs to somebody else.
 * CAP_IPC_LOCK: the locked pool.
 * CAP_SYS_NICE: the fault threads must not lose their core to the sweep.
 * CAP_SYS_RESOURCE: descriptors in flight beyond RLIMIT_NOFILE.
 */
static const cap_value_t root_capabilities[] = {
        CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_DAC_OVERRIDE, CAP_IPC_LOCK, CAP_SYS_NICE, CAP_SYS_RESOURCE,
};

/* Of @wanted those that we have, as the new effective and permitted sets. Return: 0 or -errno. */
static int set_capabilities(const cap_value_t *wanted, size_t n_wanted, bool *ret_can_trace) {
        cap_t have = cap_get_proc(), want = cap_init();
        cap_flag_value_t value;
        int r = 0;

        if (!have || !want)
                r = -ENOMEM;
        for (size_t i = 0; r == 0 && i < n_wanted; i++) {
                if (cap_get_flag(have, wanted[i], CAP_PERMITTED, &value) < 0)
                        r = -errno;
                else if (value == CAP_SET && (cap_set_flag(want, CAP_PERMITTED, 1, &wanted[i], CAP_SET) < 0 ||
                                              cap_set_flag(want, CAP_EFFECTIVE, 1, &wanted[i], CAP_SET) < 0))
                        r = -errno;
                if (r == 0 && wanted[i] == CAP_SYS_PTRACE)
                        *ret_can_trace = value == CAP_SET;
        }
        if (r == 0 && cap_set_proc(want) < 0)
                r = -errno;
        cap_free(have);
        cap_free(want);
        return r;
}

int privileges_reduce(bool *ret_can_trace, struct error *error) {
        bool root = geteuid() == 0, can_trace = false;
        int r;

        /* The daemon executes nothing, so no program has to gain anything from it. */
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return error_set(error, ERROR_INTERNAL, "cannot give up privileges: %s", strerror(errno));
        r = root ? set_capabilities(root_capabilities, sizeof(root_capabilities) / sizeof(*root_capabilities),
                                    &can_trace)
                 : set_capabilities(service_capabilities, sizeof(service_capabilities) / sizeof(*service_capabilities),
                                    &can_trace);
        if (r < 0)
                return error_set(error, ERROR_INTERNAL, "cannot give up capabilities: %s", strerror(-r));
        *ret_can_trace = can_trace;
        return 0;
}

void privileges_raise_limits(void) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
                limit.rlim_cur = limit.rlim_max;
                setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* Past a limit every mapping that is made later would fail. */
static bool may_lock_all(void) {
        cap_flag_value_t value = CAP_CLEAR;
        cap_t have = cap_get_proc();
        struct rlimit limit;

        if (have)
                (void) cap_get_flag(have, CAP_IPC_LOCK, CAP_EFFECTIVE, &value);
        cap_free(have);
        return value == CAP_SET || (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY);
}

bool privileges_lock_memory(void) {
        if (!may_lock_all())
                return false;
        /*
         * Code too: a page of it that was dropped would have to be read from a disk while a client waits. What is
         * mapped later, such as the stacks of threads, is locked as far as it is used.
         */
        return mlockall(MCL_CURRENT) == 0 && mlockall(MCL_FUTURE | MCL_ONFAULT) == 0;
}
