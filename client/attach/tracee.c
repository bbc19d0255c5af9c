/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Theory of operation
 *
 * A userfaultfd belongs to the memory of the process that makes it, so somebody in the process has to make it. We do
 * not borrow one of its threads for that, but only to make a thread of our own, the helper. It is born of one injected
 * clone() that shares everything but the descriptor table: nothing the helper opens can be seen, inherited by a fork()
 * or left behind. It never returns to the program's code: all it executes are single system calls that we set up.
 *
 * The thread that is borrowed
 *
 * is stopped by PTRACE_SEIZE and PTRACE_INTERRUPT. Where that breaks off a system call, the thread stops on its way
 * out, inside the kernel's signal code, with -ERESTARTsomething in rax and the number of the call in orig_rax; from
 * there the kernel would restart the call by itself. After the clone we bring the thread back to this very place with a
 * second PTRACE_INTERRUPT, put its registers back, and leave all the rest to the kernel, which restarts the call, or
 * delivers a signal that came meanwhile, as if nothing had been. Timeouts of poll(), nanosleep() and futex() are kept
 * by the kernel in the thread's restart block, which clone() does not touch.
 *
 * - Calls that return EINTR after a stop (signal(7) lists them) have -EINTR in rax. We make it -ERESTARTNOHAND, which
 *   says just what is wanted: EINTR if a handler is to run, else make the call again. Its timeout starts anew;
 *   threads_choose() picks a moment at which little of it has passed.
 * - A seccomp filter need not let restart_syscall() pass, so where there is one, calls with a restart block are made
 *   again as well.
 * - A signal may be due before the thread executes the first injected instruction. It is delivered with the thread's
 * own registers, and we start again at the first instruction of its handler.
 * - A thread in a restartable sequence has been preempted by our stop, so it goes to the sequence's abort handler. The
 *   kernel would see to it, but on the way through injected code it forgets that there was a sequence.
 *
 * If this process dies
 *
 * the kernel lets every tracee go. PTRACE_O_EXITKILL is not set, so what counts is what the registers are then. The
 * borrowed thread is at risk while it has foreign registers, four stops: 100 µs, or milliseconds on a busy machine. So
 * main.c does the work in a process apart, with signals blocked, that outlives its parent. The helper's registers,
 * whenever it does not execute a call, are those of exit(); and its calls are made by a `syscall` instruction in a page
 * of its own, behind which follows an exit(). Before that page exists and after it is gone, for one call each, it uses
 * a `syscall` instruction found in the vdso.
 */

#include "client/attach/tracee.h"

#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include "client/attach/proc.h"
#include "client/attach/threads.h"
#include "common/cleanup.h"
#include "common/proc_maps.h"

#define STOP_TIMEOUT_NS 3000000000ull
#define CALL_TIMEOUT_NS 10000000000ull

/* What the kernel has in rax between a call that was broken off and its restart; include/linux/errno.h of the kernel.
 */
#define KERNEL_ERESTARTSYS 512
#define KERNEL_ERESTARTNOHAND 514
#define KERNEL_ERESTART_RESTARTBLOCK 516

#define HELPER_FLAGS (CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

/* syscall; 1: xor %edi,%edi; mov $SYS_exit,%eax; syscall; jmp 1b */
static const uint8_t trampoline_code[16] = { 0x0f, 0x05, 0x31, 0xff, 0xb8, 0x3c, 0x00, 0x00,
                                             0x00, 0x0f, 0x05, 0xeb, 0xf5, 0xcc, 0xcc, 0xcc };
#define TRAMPOLINE_EXIT 2u

enum stop {
        STOP_GONE,    /* it has exited */
        STOP_TIMEOUT, /* it does not stop */
        STOP_TRAP,    /* PTRACE_INTERRUPT, birth, or a stop of the whole process */
        STOP_SIGNAL,  /* a signal is about to be delivered */
        STOP_SYSCALL, /* entry or exit of a system call */
        STOP_CLONE,
        STOP_OTHER,
};

/*
 * Waits for the next stop of one tracee. Its death is reaped, without which an exec() by another thread would hang.
 * That of a process's first thread is not reported before all others are reaped, ours too, so its state is looked at as
 * well.
 */
static enum stop stop_wait(pid_t tid, uint64_t timeout_ns, int *ret_signal) {
        const struct timespec slice = { .tv_nsec = 5000000 };
        uint64_t deadline_ns = proc_now_ns() + timeout_ns;
        sigset_t child;
        int status;
        pid_t r;

        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        while (!(r = waitpid(tid, &status, WNOHANG | __WALL))) {
                char state = proc_thread_state(tid, tid);

                if (!state || state == 'Z' || state == 'X') {
                        waitpid(tid, &status, WNOHANG | __WALL);
                        return STOP_GONE;
                }
                if (proc_now_ns() > deadline_ns)
                        return STOP_TIMEOUT;
                sigtimedwait(&child, NULL, &slice);
        }
        if (r < 0 || !WIFSTOPPED(status))
                return STOP_GONE;
        *ret_signal = WSTOPSIG(status);
        switch (status >> 16) {
        case PTRACE_EVENT_STOP:
                return STOP_TRAP;
        case PTRACE_EVENT_CLONE:
                return STOP_CLONE;
        case 0:
                return WSTOPSIG(status) == (SIGTRAP | 0x80) ? STOP_SYSCALL : STOP_SIGNAL;
        default:
                return STOP_OTHER;
        }
}

/*
 * The same for a thread that has foreign registers: there is no giving up before it stops. One that is frozen does not
 * go on; PTRACE_INTERRUPT brings it to a stop there, if not at once, then when it thaws.
 */
static enum stop stop_insist(pid_t tid, int *ret_signal) {
        enum stop stop;

        while ((stop = stop_wait(tid, STOP_TIMEOUT_NS, ret_signal)) == STOP_TIMEOUT)
                ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
        return stop;
}

static int registers_get(pid_t tid, struct user_regs_struct *ret) {
        struct iovec all = { .iov_base = ret, .iov_len = sizeof(*ret) };

        if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &all) < 0)
                return -errno;
        return all.iov_len == sizeof(*ret) ? 0 : -ENOEXEC;
}

static int registers_set(pid_t tid, const struct user_regs_struct *registers) {
        struct iovec all = { .iov_base = (void *) registers, .iov_len = sizeof(*registers) };

        return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &all) < 0 ? -errno : 0;
}

static struct user_regs_struct registers_for_call(const struct user_regs_struct *base, uint64_t instruction,
                                                  long number, const uint64_t arguments[6]) {
        struct user_regs_struct registers = *base;

        registers.rip = instruction;
        registers.rax = (uint64_t) number;
        registers.orig_rax = (uint64_t) -1; /* nothing is to be restarted */
        registers.rdi = arguments[0];
        registers.rsi = arguments[1];
        registers.rdx = arguments[2];
        registers.r10 = arguments[3];
        registers.r8 = arguments[4];
        registers.r9 = arguments[5];
        return registers;
}

static int memory_read(pid_t tid, uint64_t address, void *buffer, size_t length) {
        struct iovec local = { .iov_base = buffer, .iov_len = length };
        struct iovec remote = { .iov_base = (void *) (uintptr_t) address, .iov_len = length };

        return process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t) length ? 0 : -EFAULT;
}

/* Any two bytes 0f 05 will do, be they part of another instruction: nothing behind them is executed. */
static int gadget_find(pid_t process, uint64_t *ret) {
        CLEANUP(proc_maps_deinit) struct proc_maps maps = { 0 };
        int r = proc_maps_read(process, 0, &maps);

        if (r < 0)
                return r;
        for (int vdso = 1; vdso >= 0; vdso--) /* the vdso first: it is what every program has */
                for (size_t i = 0; i < maps.n_items; i++) {
                        const struct proc_map *map = &maps.items[i];
                        uint8_t page[TRACEE_PAGE_BYTES], *found;

                        bool is_vdso = !strcmp(map->path, "[vdso]");

                        if (!map->executable || is_vdso != vdso)
                                continue;
                        for (uint64_t at = map->start; at < map->end; at += sizeof(page)) {
                                if (memory_read(process, at, page, sizeof(page)) < 0)
                                        break;
                                found = memmem(page, sizeof(page), "\x0f\x05", 2);
                                if (found) {
                                        *ret = at + (uint64_t) (found - page);
                                        return 0;
                                }
                        }
                }
        return -ENOENT;
}

/* The kernel's struct rseq begins with cpu_id_start, cpu_id and the address of the current sequence's descriptor. */
static void registers_leave_rseq(pid_t tid, struct user_regs_struct *registers) {
        struct __ptrace_rseq_configuration rseq = { 0 };
        struct {
                uint32_t version, flags;
                uint64_t start, length, abort;
        } sequence;
        uint64_t address = 0;

        if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(rseq), &rseq) < 0 || !rseq.rseq_abi_pointer ||
            memory_read(tid, rseq.rseq_abi_pointer + 8, &address, sizeof(address)) < 0 || !address ||
            memory_read(tid, address, &sequence, sizeof(sequence)) < 0)
                return;
        if (registers->rip - sequence.start < sequence.length)
                registers->rip = sequence.abort;
}

/* What the stopped thread is to go on with. */
static int registers_save(pid_t tid, bool filtered, struct user_regs_struct *ret) {
        struct user_regs_struct registers;
        int r = registers_get(tid, &registers);

        if (r < 0)
                return r;
        if ((long) registers.orig_rax >= 0) {
                long number = (long) registers.orig_rax, result = (long) registers.rax;

                if ((result == -EINTR && threads_call_can_be_repeated(number)) ||
                    (result == -KERNEL_ERESTART_RESTARTBLOCK && filtered && number != SYS_restart_syscall))
                        registers.rax = (uint64_t) -KERNEL_ERESTARTNOHAND;
        } else {
                registers_leave_rseq(tid, &registers);
        }
        *ret = registers;
        return 0;
}

/* Lets a signal take its course and stops the thread again before it executes anything. */
static enum stop signal_pass_on(pid_t tid, const struct user_regs_struct *own, int number) {
        enum stop stop;
        int ignored;

        registers_set(tid, own);
        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
        ptrace(PTRACE_CONT, tid, 0, (long) number);
        while ((stop = stop_wait(tid, STOP_TIMEOUT_NS, &ignored)) == STOP_SIGNAL) {
                ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
                ptrace(PTRACE_CONT, tid, 0, (long) ignored);
        }
        return stop;
}

static int error_stop(pid_t process, enum stop stop, struct error *error) {
        if (stop == STOP_GONE)
                return error_set(error, ERROR_BAD_MAPPING,
                                 "process %d exited, or executed another program, while livesnap attached to it",
                                 (int) process);
        return error_set(error, ERROR_BUSY,
                         "process %d does not react: it is frozen, or waits for a disk or for a vfork() child; thaw it "
                         "or try again later",
                         (int) process);
}

/*
 * Makes a stopped thread execute clone(). On success it is in a PTRACE_INTERRUPT stop again, with its own registers.
 * @filtered: it has a seccomp filter. @ret: the new thread; filled as soon as there is one, also on failure.
 */
static int thread_clone(pid_t process, pid_t tid, uint64_t gadget, bool filtered, pid_t *ret, struct error *error) {
        static const uint64_t arguments[6] = { HELPER_FLAGS };
        struct user_regs_struct own, injected;
        uint64_t deadline_ns = proc_now_ns() + STOP_TIMEOUT_NS;
        unsigned long new_tid = 0;
        enum stop stop;
        int number, r;

        do {
                long result = 0;

                r = registers_save(tid, filtered, &own);
                if (r < 0 && r != -ENOEXEC)
                        return error_stop(process, STOP_GONE, error);
                if (r < 0)
                        return error_set(error, ERROR_KERNEL_UNSUPPORTED,
                                         "process %d is a 32-bit program; livesnap attaches to 64-bit programs only",
                                         (int) process);
                injected = registers_for_call(&own, gadget, SYS_clone, arguments);
                if (registers_set(tid, &injected) < 0 || ptrace(PTRACE_SYSCALL, tid, 0, 0) < 0)
                        return error_stop(process, STOP_GONE, error);
                stop = stop_insist(tid, &number);
                if (stop == STOP_SIGNAL) {
                        stop = signal_pass_on(tid, &own, number);
                        if (stop != STOP_TRAP)
                                return error_stop(process, stop, error);
                        continue;
                }
                if (stop == STOP_SYSCALL) { /* the call's entry */
                        ptrace(PTRACE_SYSCALL, tid, 0, 0);
                        stop = stop_insist(tid, &number);
                }
                if (stop == STOP_CLONE) {
                        ptrace(PTRACE_GETEVENTMSG, tid, 0, &new_tid);
                        *ret = (pid_t) new_tid;
                } else if (stop == STOP_SYSCALL && !registers_get(tid, &injected)) {
                        result = (long) injected.rax; /* a clone() that fails has no event, but an exit */
                }
                if (stop != STOP_TRAP) {
                        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
                        ptrace(PTRACE_CONT, tid, NULL, NULL);
                        stop = stop_insist(tid, &number);
                }
                if (stop == STOP_GONE)
                        return error_stop(process, stop, error);
                registers_set(tid, &own);
                if (new_tid)
                        return 0;
                /* A signal that is due makes clone() give way (-ERESTARTNOINTR). */
                if (result < 0 && result > -KERNEL_ERESTARTSYS)
                        return error_set(error, ERROR_LIMIT_EXCEEDED,
                                         "process %d cannot have one more thread for a moment (%s); raise its limit of "
                                         "processes (RLIMIT_NPROC, pids.max)",
                                         (int) process, strerror((int) -result));
        } while (proc_now_ns() < deadline_ns);
        return error_set(error, ERROR_BUSY,
                         "process %d gets more signals than livesnap can get a word in between, or is being frozen; "
                         "try again later",
                         (int) process);
}

static struct user_regs_struct registers_for_exit(const struct tracee_helper *helper,
                                                  const struct user_regs_struct *base) {
        static const uint64_t none[6];
        uint64_t instruction = helper->trampoline ? helper->trampoline + TRAMPOLINE_EXIT : helper->gadget;

        return registers_for_call(base, instruction, SYS_exit, none);
}

/* The newborn thread's first stop. From here on, whenever it is let go it exits. */
static int helper_settle(struct tracee_helper *helper) {
        struct user_regs_struct registers;
        uint64_t all_signals = UINT64_MAX;
        int ignored;

        if (stop_insist(helper->tid, &ignored) != STOP_TRAP || registers_get(helper->tid, &registers) < 0)
                return -ESRCH;
        registers = registers_for_exit(helper, &registers);
        if (registers_set(helper->tid, &registers) < 0 ||
            ptrace(PTRACE_SETSIGMASK, helper->tid, sizeof(all_signals), &all_signals) < 0)
                return -ESRCH;
        return 0;
}

static int helper_map_trampoline(struct tracee_helper *helper, struct error *error) {
        uint64_t words[2];
        long page = TRACEE_CALL(helper, SYS_mmap, 0, TRACEE_PAGE_BYTES, PROT_READ | PROT_EXEC,
                                MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t) -1, 0);

        if (page == -ESRCH)
                return error_stop(helper->process, STOP_GONE, error);
        if (page < 0)
                return error_set(error, ERROR_LIMIT_EXCEEDED, "process %d cannot map one more page (%s)",
                                 (int) helper->process, strerror((int) -page));
        memcpy(words, trampoline_code, sizeof(words));
        if (ptrace(PTRACE_POKEDATA, helper->tid, page, words[0]) < 0 ||
            ptrace(PTRACE_POKEDATA, helper->tid, page + 8, words[1]) < 0) {
                int r = errno;

                TRACEE_CALL(helper, SYS_munmap, (uint64_t) page, TRACEE_PAGE_BYTES);
                return error_set(error, ERROR_INTERNAL, "cannot write to a page of process %d: %s",
                                 (int) helper->process, strerror(r));
        }
        helper->trampoline = (uint64_t) page;
        return 0;
}

static int thread_seize(pid_t process, pid_t tid, struct error *error) {
        enum stop stop;
        int number;

        if (ptrace(PTRACE_SEIZE, tid, 0, 0) < 0) {
                if (errno == ESRCH)
                        return error_stop(process, STOP_GONE, error);
                return error_set(error, ERROR_PERMISSION_DENIED,
                                 "process %d may not be traced: %s; run livesnap-attach as root, and see that no "
                                 "debugger is attached and kernel.yama.ptrace_scope is below 3",
                                 (int) process, strerror(errno));
        }
        ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
        while ((stop = stop_wait(tid, STOP_TIMEOUT_NS, &number)) == STOP_SIGNAL) {
                ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
                ptrace(PTRACE_CONT, tid, 0, (long) number);
        }
        return stop == STOP_TRAP ? 0 : error_stop(process, stop, error);
}

int tracee_helper_spawn(pid_t process, pid_t thread, struct tracee_helper *ret, struct error *error) {
        const long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACESYSGOOD;
        struct tracee_helper helper = { .process = process };
        bool filtered = threads_has_seccomp(process, thread);
        bool settled = false;
        int ignored, r;

        r = gadget_find(process, &helper.gadget);
        if (r < 0)
                return error_set(error, ERROR_KERNEL_UNSUPPORTED,
                                 "no system call instruction was found in process %d (%s)", (int) process,
                                 strerror(-r));
        if (thread_seize(process, thread, error) < 0)
                return -1;
        /* Only now, lest a thread that the program itself makes be taken for ours. */
        r = filtered ? ptrace(PTRACE_SETOPTIONS, thread, 0, options | PTRACE_O_SUSPEND_SECCOMP)
                     : ptrace(PTRACE_SETOPTIONS, thread, 0, options);
        if (r < 0)
                error_set(error, ERROR_PERMISSION_DENIED,
                          "the seccomp filter of process %d cannot be suspended: %s; livesnap-attach needs "
                          "CAP_SYS_ADMIN and no seccomp filter of its own",
                          (int) process, strerror(errno));
        else
                r = thread_clone(process, thread, helper.gadget, filtered, &helper.tid, error);
        /*
         * A signal for the process may have been assigned to the helper before it blocked all. The borrowed thread
         * looks for pending ones when it goes on, so it must go on last.
         */
        if (!r)
                settled = !helper_settle(&helper);
        if (helper.tid && !settled)
                stop_wait(helper.tid, STOP_TIMEOUT_NS, &ignored);
        if (ptrace(PTRACE_DETACH, thread, 0, 0) < 0)
                stop_wait(thread, STOP_TIMEOUT_NS, &ignored);
        if (r < 0)
                return -1;
        if (!settled)
                return error_stop(process, STOP_GONE, error);
        if (helper_map_trampoline(&helper, error) < 0) {
                tracee_helper_finish(&helper, NULL);
                return -1;
        }
        /* The copied descriptors go at once: files and pipes must not stay open for our sake. */
        TRACEE_CALL(&helper, SYS_close_range, 0, UINT32_MAX);
        *ret = helper;
        return 0;
}

/* Resumes the helper until it enters or leaves a call. A stop of the whole process does not hold it up. */
static enum stop helper_resume(struct tracee_helper *helper) {
        enum stop stop;
        int ignored;

        do {
                if (ptrace(PTRACE_SYSCALL, helper->tid, 0, 0) < 0)
                        return STOP_GONE;
                stop = stop_wait(helper->tid, CALL_TIMEOUT_NS, &ignored);
        } while (stop == STOP_TRAP);
        return stop;
}

static long helper_call_once(struct tracee_helper *helper, uint64_t instruction, long number,
                             const uint64_t arguments[6]) {
        struct user_regs_struct registers;
        enum stop stop;
        long result;

        if (registers_get(helper->tid, &registers) < 0)
                return -ESRCH;
        registers = registers_for_call(&registers, instruction, number, arguments);
        if (registers_set(helper->tid, &registers) < 0)
                return -ESRCH;
        for (int half = 0; half < 2; half++) {
                stop = helper_resume(helper);
                if (stop != STOP_SYSCALL)
                        return stop == STOP_TIMEOUT ? -ETIMEDOUT : -ESRCH;
        }
        if (registers_get(helper->tid, &registers) < 0)
                return -ESRCH;
        result = (long) registers.rax;
        registers = registers_for_exit(helper, &registers);
        return registers_set(helper->tid, &registers) < 0 ? -ESRCH : result;
}

long tracee_helper_call(struct tracee_helper *helper, long number, const uint64_t arguments[6]) {
        uint64_t instruction = helper->trampoline ? helper->trampoline : helper->gadget;
        long result;

        /* SIGSTOP cannot be blocked: a call that it breaks off is made again. */
        do
                result = helper_call_once(helper, instruction, number, arguments);
        while (result <= -KERNEL_ERESTARTSYS && result >= -KERNEL_ERESTART_RESTARTBLOCK);
        return result;
}

int tracee_helper_finish(struct tracee_helper *helper, struct error *error) {
        uint64_t trampoline = helper->trampoline;
        enum stop stop;
        int ignored;
        long result = 0;

        /* The trampoline cannot unmap itself, so this call and the exit are made elsewhere. */
        helper->trampoline = 0;
        if (trampoline)
                result = TRACEE_CALL(helper, SYS_munmap, trampoline, TRACEE_PAGE_BYTES);
        if (result == -ESRCH)
                return error_stop(helper->process, STOP_GONE, error);
        do {
                ptrace(PTRACE_CONT, helper->tid, 0, 0);
                stop = stop_wait(helper->tid, CALL_TIMEOUT_NS, &ignored);
        } while (stop == STOP_TRAP);
        if (stop == STOP_GONE)
                return 0;
        return error_set(error, ERROR_BUSY, "thread %d, which livesnap made in process %d, does not exit",
                         (int) helper->tid, (int) helper->process);
}
