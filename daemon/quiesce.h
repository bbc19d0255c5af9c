/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_QUIESCE_H
#define LIVESNAP_DAEMON_QUIESCE_H

/*
 * Stopping the programs of a domain for a moment, and letting them go on: what asynchronous tracking needs for its cut.
 *
 *   way    | stops by                                      | stopped when
 *   -------+-----------------------------------------------+---------------------------------------------------
 *   signal | SIGSTOP to every process, by pidfd            | each thread is seen to be
 *   cgroup | the freezer of a cgroup that has all of them  | the kernel says that it is frozen
 *   client | asking the programs, which have offered it    | each has answered (quiesce_client.h)
 *   none   | nothing: the owner says that they have stopped | at once
 *
 * A guardian (guardian.h) lets go on what is stopped by the first two if the daemon dies.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "daemon/guardian.h"
#include "daemon/quiesce_client.h"

enum quiesce_way {
        QUIESCE_SIGNAL,
        QUIESCE_CGROUP,
        QUIESCE_CLIENT,
        QUIESCE_NONE,
};

/** How a domain is quiesced. */
struct quiesce {
        enum quiesce_way way;
        int freezer; /* owned; of a cgroup: cgroup.freeze or freezer.state, open for writing; or -1 */
        int events;  /* owned; cgroup.events beside cgroup.freeze; or -1 */
        enum guardian_kind freezer_kind;
        char cgroup[256];              /* the path below its hierarchy, as /proc/PID/cgroup has it */
        struct quiesce_client *client; /* borrowed */
};

#define QUIESCE_INIT \
        { .way = QUIESCE_SIGNAL, .freezer = -1, .events = -1 }

const char *quiesce_way_name(enum quiesce_way way);

/** quiesce_way_from_name() - Return: false where there is no such way */
bool quiesce_way_from_name(const char *name, enum quiesce_way *ret);

/**
 * quiesce_set_cgroup() - freeze this cgroup from now on
 * @freezer: its cgroup.freeze, or freezer.state of a hierarchy of version 1, open for reading and writing by whoever
 * may freeze it; consumed in any case
 * @events: its cgroup.events, open for reading; -1 for version 1; consumed in any case
 *
 * The files are not taken for what they are said to be: the kernel's word counts. Return: 0, or -1 with *error set.
 */
int quiesce_set_cgroup(struct quiesce *quiesce, int freezer, int events, struct error *error);

/** quiesce_set_way() - any other way */
void quiesce_set_way(struct quiesce *quiesce, enum quiesce_way way);
void quiesce_deinit(struct quiesce *quiesce);

/** A stop in progress. */
struct quiesce_stop {
        const struct quiesce *quiesce; /* borrowed */
        struct guardian *guardian;     /* borrowed */
        uint64_t id;
        unsigned n, n_allocated;
        struct quiesce_process *processes;
        bool stopped;       /* a cgroup is frozen, or clients have been asked */
        unsigned n_workers; /* threads of io_uring that cannot be stopped */
};

/** quiesce_stop_init() - touches nobody. quiesce_resume() is due in the end. */
void quiesce_stop_init(struct quiesce_stop *stop, const struct quiesce *quiesce, struct guardian *guardian);

enum quiesce_result {
        QUIESCE_STOPPED,
        QUIESCE_NOT_NOW, /* not within the time; *error says who */
        QUIESCE_FAILED,  /* it cannot be done; *error says why */
};

/**
 * quiesce_processes() - stop these processes
 * @pids: of which those that were given before are left alone
 * @deadline_ns: CLOCK_MONOTONIC
 *
 * Whatever comes of it, quiesce_resume() is due. A process that ends counts as stopped.
 */
enum quiesce_result quiesce_processes(struct quiesce_stop *stop, const pid_t *pids, unsigned n_pids,
                                      uint64_t deadline_ns, struct error *error);

/** quiesce_has() - was this process given to quiesce_processes()? */
bool quiesce_has(const struct quiesce_stop *stop, pid_t pid);

/** quiesce_is_intact() - is all of it stopped still? False where a program that had agreed to it has gone away. */
bool quiesce_is_intact(const struct quiesce_stop *stop);

/** quiesce_resume() - let all go on that was stopped here; what was stopped before is left so */
void quiesce_resume(struct quiesce_stop *stop);

#endif
