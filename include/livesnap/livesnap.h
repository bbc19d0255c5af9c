/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_LIVESNAP_H
#define LIVESNAP_LIVESNAP_H

/*
 * liblivesnap: snapshots of shared memory, taken by livesnapd while the program goes on.
 *
 *     struct livesnap *livesnap = livesnap_connect(NULL);
 *     struct livesnap_region *region = livesnap_region_create("state", 1 << 30, 0);
 *
 *     livesnap_attach(livesnap, "my-program", &region, 1);
 *     ... write to livesnap_region_get_address(region), from any thread, at any time ...
 *     livesnap_snapshot(livesnap, "my-program", NULL, 0, NULL, NULL);
 *
 * Conventions. A function that can fail returns -1 (or NULL) and leaves what it would have returned untouched; the
 * thread that called it then finds the reason with livesnap_get_error(). The library never prints, never exits,
 * installs no signal handler and starts no lasting thread. Every descriptor it makes is close-on-exec.
 *
 * Threads. Different connections may be used by different threads at the same time. One connection is for one thread at
 * a time; the only function that may be called on it meanwhile is livesnap_cancel_job().
 *
 * Event loops. Every call exists in a form that only queues it (livesnap_start_*()). The program watches
 * livesnap_get_fd() for livesnap_get_events() and calls livesnap_dispatch(), which calls the program back. The blocking
 * calls are made of these; while one of them waits, callbacks of calls that were queued before it are called too. Calls
 * on one connection are answered in the order in which they were made. No function but livesnap_get_*() may be called
 * on a connection from a callback of the same connection; livesnap_cancel_job() may.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** struct livesnap - a connection to the daemon */
struct livesnap;

/** struct livesnap_region - shared memory of this program, as it is handed to livesnap_attach() */
struct livesnap_region;

/** struct livesnap_reply - one reply to a call: JSON text, or an error, and descriptors */
struct livesnap_reply;

/* Names of errors that do not come from the daemon; the daemon's are listed in the interface io.livesnap. */
#define LIVESNAP_ERROR_UNREACHABLE "io.livesnap.client.Unreachable"   /* no daemon answers at the socket */
#define LIVESNAP_ERROR_DISCONNECTED "io.livesnap.client.Disconnected" /* the daemon went away during a call */
#define LIVESNAP_ERROR_BAD_REPLY "io.livesnap.client.BadReply"       /* it answered with what the interface rules out */
#define LIVESNAP_ERROR_BAD_ARGUMENT "io.livesnap.client.BadArgument" /* the program passed what cannot be */
#define LIVESNAP_ERROR_SYSTEM "io.livesnap.client.System"            /* a system call failed in this process */

/**
 * livesnap_get_version() - version of the library
 *
 * Return: text such as "0.1.0"; static. Since 0.1.
 */
const char *livesnap_get_version(void);

/**
 * livesnap_get_error() - say why the last function that failed in this thread did so
 *
 * Return: a sentence; valid until the next function fails in this thread. "" where none has failed. Since 0.1.
 */
const char *livesnap_get_error(void);

/**
 * livesnap_get_error_name() - the kind of the last error in this thread, for a program to compare
 *
 * Return: the Varlink name, such as "io.livesnap.NoSuchDomain", or one of LIVESNAP_ERROR_*; lifetime as above. Since
 * 0.1.
 */
const char *livesnap_get_error_name(void);

/**
 * livesnap_get_errno() - the kind of the last error in this thread as the nearest errno value
 *
 * Return: a positive errno value such as ENOENT; 0 where nothing has failed. Since 0.1.
 */
int livesnap_get_errno(void);

/*
 * Connections
 */

/**
 * livesnap_connect() - connect to the daemon
 * @socket_path: the daemon's socket. NULL: that of the environment variable LIVESNAP_SOCKET (unless the program runs
 * with privileges that its caller lacks), else /run/livesnap/livesnapd.sock
 *
 * Return: a connection, to be closed with livesnap_close(); NULL where no daemon listens there, or the socket may not
 * be used by this user. Thread-safe. Since 0.1.
 */
struct livesnap *livesnap_connect(const char *socket_path);

/**
 * livesnap_close() - close a connection
 * @livesnap: the connection; NULL is allowed
 *
 * Calls that wait for a reply are given up: their callbacks are not called any more, but freed. The daemon cancels the
 * snapshots that were started on the connection; what was attached stays attached. Since 0.1.
 */
void livesnap_close(struct livesnap *livesnap);

/**
 * livesnap_get_fd() - the descriptor to watch in an event loop
 *
 * Return: a descriptor that belongs to the connection; neither read, write nor close it. Since 0.1.
 */
int livesnap_get_fd(const struct livesnap *livesnap);

/**
 * livesnap_get_events() - what to watch the descriptor for
 *
 * Return: POLLIN, or POLLIN | POLLOUT. It changes with every call that is queued and every livesnap_dispatch(). Since
 * 0.1.
 */
int livesnap_get_events(const struct livesnap *livesnap);

/**
 * livesnap_dispatch() - send and receive what can be without waiting, and call back
 *
 * Return: 0, or -1 once the connection is unusable (each call that was waiting has then been called back with the
 * reason). Since 0.1.
 */
int livesnap_dispatch(struct livesnap *livesnap);

/*
 * Calls by name. Everything the daemon offers can be reached with these; the functions further down are easier.
 */

#define LIVESNAP_CALL_MORE 1u /* ask for progress: any number of replies, of which the last does not continue */

/**
 * struct livesnap_callback - what to do with a reply
 * @function: called once for each reply, and once with an error where the connection breaks; may take its descriptors.
 * The reply belongs to the library and is gone afterwards
 * @data: passed on
 * @free: called exactly once with @data, after the last reply or when the call is given up, also when the function that
 *        was to queue the call fails; may be NULL
 */
struct livesnap_callback {
        void (*function)(void *data, struct livesnap_reply *reply);
        void *data;
        void (*free)(void *data);
};

/**
 * livesnap_start_call() - queue a call
 * @method: its name in io.livesnap, such as "ListDomains", or a full name such as "org.varlink.service.GetInfo"
 * @parameters: a JSON object as text; NULL for none
 * @fds: descriptors to send with it, to which the parameters refer by index; duplicated at once, so that they remain
 * the caller's
 * @n_fds: how many
 * @flags: 0 or LIVESNAP_CALL_MORE
 * @callback: copied
 *
 * Return: 0, or -1 where the parameters are no JSON object, the call is larger than the protocol allows, or the
 * connection is gone. Since 0.1.
 */
int livesnap_start_call(struct livesnap *livesnap, const char *method, const char *parameters, const int *fds,
                        size_t n_fds, unsigned flags, const struct livesnap_callback *callback);

/**
 * livesnap_call() - make a call and wait for its reply
 * @method, @parameters, @fds, @n_fds: as for livesnap_start_call()
 * @progress: called for each reply but the last, which makes this a call with LIVESNAP_CALL_MORE; NULL for none
 * @ret: the last reply, to be freed with livesnap_reply_free(); NULL where it is not wanted
 *
 * Return: 0, or -1 also where the reply is an error. Since 0.1.
 */
int livesnap_call(struct livesnap *livesnap, const char *method, const char *parameters, const int *fds, size_t n_fds,
                  const struct livesnap_callback *progress, struct livesnap_reply **ret);

/** livesnap_reply_continues() - will there be another reply to the same call? Since 0.1. */
bool livesnap_reply_continues(const struct livesnap_reply *reply);

/** livesnap_reply_get_parameters() - the reply's JSON object as text; belongs to the reply. Since 0.1. */
const char *livesnap_reply_get_parameters(const struct livesnap_reply *reply);

/** livesnap_reply_get_error_name() - the name of the error that the reply is; NULL where it is none. Since 0.1. */
const char *livesnap_reply_get_error_name(const struct livesnap_reply *reply);

/** livesnap_reply_get_message() - the sentence of the error that the reply is; "" where it is none. Since 0.1. */
const char *livesnap_reply_get_message(const struct livesnap_reply *reply);

/** livesnap_reply_get_n_fds() - number of descriptors that came with the reply. Since 0.1. */
size_t livesnap_reply_get_n_fds(const struct livesnap_reply *reply);

/**
 * livesnap_reply_take_fd() - take a descriptor out of a reply
 * @index: as named in the reply's parameters
 *
 * Return: the descriptor, from now on the caller's, or -1 where there is none, or none any more. Since 0.1.
 */
int livesnap_reply_take_fd(struct livesnap_reply *reply, size_t index);

/** livesnap_reply_free() - free a reply and the descriptors still in it; NULL is allowed. Since 0.1. */
void livesnap_reply_free(struct livesnap_reply *reply);

/*
 * Regions
 */

#define LIVESNAP_REGION_HUGETLB 1u /* of huge pages of 2 MiB, which the system must have reserved */

/**
 * livesnap_region_create() - make and map shared memory that can be snapshotted with the best guarantee
 * @name: its name in the domain: 1 to 128 characters of [A-Za-z0-9._:@+-], not starting with '.' or '-'
 * @bytes: its size; must be a multiple of the page size (2 MiB with LIVESNAP_REGION_HUGETLB)
 * @flags: 0 or LIVESNAP_REGION_HUGETLB
 *
 * The memory is zero. It is sealed after it has been mapped: neither can its size change nor its content be removed,
 * and no process but this one and those it forks later can write to it.
 *
 * Return: the region, to be freed with livesnap_region_free(), or NULL. Thread-safe. Since 0.1.
 */
struct livesnap_region *livesnap_region_create(const char *name, uint64_t bytes, unsigned flags);

/**
 * livesnap_region_new() - describe shared memory that the program has already
 * @name: as above; NULL: the daemon takes one from the object's own name
 * @fd: a memfd, tmpfs file or hugetlbfs file, open for reading at least; duplicated
 *
 * Each place where this program maps it writable must be named with livesnap_region_add_mapping(). The object is not
 * sealed; without seals the snapshot's guarantee is "exclusive" or "advisory".
 *
 * Return: the region, to be freed with livesnap_region_free(), or NULL. Thread-safe. Since 0.1.
 */
struct livesnap_region *livesnap_region_new(const char *name, int fd);

/**
 * livesnap_region_add_mapping() - name a place where this program maps the region with MAP_SHARED
 * @address: of its first byte; page-aligned
 * @length_bytes: a multiple of the page size
 * @offset_bytes: where in the object it starts
 *
 * Return: 0, or -1 where it cannot be such a place. Since 0.1.
 */
int livesnap_region_add_mapping(struct livesnap_region *region, void *address, uint64_t length_bytes,
                                uint64_t offset_bytes);

/**
 * livesnap_region_set_discard_zero() - record pages whose content is removed during a snapshot as zero
 *
 * Only for a program that removes none but pages that were free already at the cut; otherwise the default is right, by
 * which such a snapshot fails. Since 0.1.
 */
void livesnap_region_set_discard_zero(struct livesnap_region *region, bool zero);

/**
 * livesnap_region_make_writable() - after a snapshot, spare the program's writes a fault each
 *
 * Kernels from 6.12 on leave a page read-only when its protection is taken away, so that the next write to it costs a
 * minor fault. This call, best made by a thread that has nothing else to do, takes these faults in advance for all
 * mappings of the region; some microseconds a page. On other kernels it changes nothing. It makes no memory where the
 * object has a hole.
 *
 * Call it when the snapshot is there: a page that is not saved yet is saved first, as if it were written.
 *
 * Return: 0, or -1 where a mapping is gone or may not be written. May be called from any thread at any time, except
 * together with livesnap_region_add_mapping() and livesnap_region_free(). Since 0.1.
 */
int livesnap_region_make_writable(const struct livesnap_region *region);

/** livesnap_region_get_address() - where the region was mapped first; NULL where nowhere. Since 0.1. */
void *livesnap_region_get_address(const struct livesnap_region *region);

/** livesnap_region_get_bytes() - size of the object when the region was made. Since 0.1. */
uint64_t livesnap_region_get_bytes(const struct livesnap_region *region);

/** livesnap_region_get_fd() - descriptor of the object; belongs to the region. Since 0.1. */
int livesnap_region_get_fd(const struct livesnap_region *region);

/**
 * livesnap_region_free() - forget a region; NULL is allowed
 *
 * Unmaps what livesnap_region_create() has mapped, and only that. What is attached stays attached as far as it remains
 * mapped. Since 0.1.
 */
void livesnap_region_free(struct livesnap_region *region);

/**
 * livesnap_attach() - put regions under the daemon's care
 * @domain: name of the domain, by the rules for the names of regions; made where it does not exist
 * @regions: the regions, each with at least one mapping
 * @n_regions: how many
 *
 * Makes a userfaultfd of this process and hands it over. No copy stays behind, not even in a process that another
 * thread forks meanwhile, so that the daemon's death cannot leave a thread asleep; a short-lived helper thread with a
 * descriptor table of its own does it. Processes forked later are followed by the daemon.
 *
 * Return: 0, or -1 and nothing is attached. Since 0.1.
 */
int livesnap_attach(struct livesnap *livesnap, const char *domain, struct livesnap_region *const *regions,
                    size_t n_regions);

/**
 * livesnap_detach() - let a domain go, or one region of it
 * @region: its name in the domain; NULL: all
 *
 * No protection stays behind. Return: 0 or -1. Since 0.1.
 */
int livesnap_detach(struct livesnap *livesnap, const char *domain, const char *region);

/*
 * Snapshots
 */

/** struct livesnap_snapshot_region - one region of a snapshot; belongs to the snapshot */
struct livesnap_snapshot_region {
        const char *name;
        const char *path; /* of the image in the daemon's store */
        uint64_t bytes;
        uint64_t mappings;
};

/**
 * struct livesnap_snapshot - what a snapshot is and what it cost; freed with livesnap_snapshot_free()
 *
 * Only the library makes these: later versions add members at the end. All times are microseconds.
 */
struct livesnap_snapshot {
        const char *snapshot;  /* DOMAIN/NAME */
        const char *guarantee; /* "sealed", "exclusive" or "advisory" */
        double created;        /* seconds since the epoch */
        uint64_t arm_us;
        uint64_t hold_us;
        uint64_t duration_us;
        uint64_t pages_fault;
        uint64_t pages_sweep;
        uint64_t pages_zero;
        uint64_t bytes_written;
        uint64_t throttled_us;
        uint64_t pool_peak_bytes;
        double fault_p50_us;
        double fault_p99_us;
        double fault_p999_us;
        double fault_max_us;
        size_t n_regions;
        const struct livesnap_snapshot_region *regions;
        const char *json; /* all of it, as the daemon said it: type Snapshot of io.livesnap */
};

/* How writes to a domain are known between two snapshots; see livesnap(1). */
enum livesnap_tracking {
        LIVESNAP_TRACKING_OFF,
        LIVESNAP_TRACKING_SYNC,
        LIVESNAP_TRACKING_ASYNC,
};

/* How the programs of a domain that is tracked asynchronously are stopped for the moment of the cut. */
enum livesnap_quiesce {
        LIVESNAP_QUIESCE_SIGNAL, /* SIGSTOP, then SIGCONT */
        LIVESNAP_QUIESCE_CGROUP, /* the freezer of a cgroup that has all of them */
        LIVESNAP_QUIESCE_CLIENT, /* they are asked: livesnap_start_quiesce() */
        LIVESNAP_QUIESCE_NONE,   /* not at all: each snapshot says that they are (LIVESNAP_SNAPSHOT_STOPPED) */
};

/**
 * livesnap_set_tracking() - from now on, or no more, have the writes to a domain tracked, for snapshots with
 * LIVESNAP_SNAPSHOT_INCREMENTAL
 *
 * LIVESNAP_TRACKING_ASYNC stops the programs in the way that was chosen last, or by a signal. Return: 0 or -1. Since
 * 0.1.
 */
int livesnap_set_tracking(struct livesnap *livesnap, const char *domain, enum livesnap_tracking tracking);

/**
 * livesnap_set_tracking_async() - the same for LIVESNAP_TRACKING_ASYNC, with the way to stop the programs
 * @cgroup: for LIVESNAP_QUIESCE_CGROUP, the directory of the cgroup, such as "/sys/fs/cgroup/machines/vm"; its freezer
 * must be writable for this process. Else NULL
 *
 * Return: 0 or -1. Since 0.1.
 */
int livesnap_set_tracking_async(struct livesnap *livesnap, const char *domain, enum livesnap_quiesce quiesce,
                                const char *cgroup);

/**
 * struct livesnap_quiesce_callback - what a program does when it is to stop for a moment
 * @stop: called when it is to stop writing to the domain's memory; when it returns, nothing writes to it any more
 * @resume: called when it may go on; also when the connection is lost in between
 * @ended: called once when nobody will ask any more: the connection is lost, or the domain is gone;
 * livesnap_get_error() says which. May be NULL
 * @data: passed on
 * @free: called exactly once with @data, at the end; may be NULL
 *
 * Between @stop and @resume there are milliseconds, at most what --max-pause of the snapshot allows.
 */
struct livesnap_quiesce_callback {
        void (*stop)(void *data);
        void (*resume)(void *data);
        void (*ended)(void *data);
        void *data;
        void (*free)(void *data);
};

/**
 * livesnap_start_quiesce() - offer to stop writing to a domain when a snapshot of it needs that
 * @callback: copied
 *
 * The offer stands, and the connection is in use for it, until it is closed: take a connection of its own, and have its
 * descriptor watched by the program's event loop, or by a thread that waits for it and calls livesnap_dispatch().
 * Return: 0 or -1. Since 0.1.
 */
int livesnap_start_quiesce(struct livesnap *livesnap, const char *domain,
                           const struct livesnap_quiesce_callback *callback);

/** livesnap_snapshot_free() - free a snapshot's description; NULL is allowed. Since 0.1. */
void livesnap_snapshot_free(struct livesnap_snapshot *snapshot);

/** struct livesnap_job - how far the daemon is with a job; later versions add members at the end */
struct livesnap_job {
        uint64_t job;
        /* "arming", "draining", "publishing", "verifying", "compacting", "deleting", "pruning", "done", "failed" or
         * "cancelled" */
        const char *state;
        const char *snapshot; /* DOMAIN/NAME */
        uint64_t bytes_done;
        uint64_t bytes_total;
        const char *json; /* all of it: type Job of io.livesnap */
};

/**
 * struct livesnap_job_callback - how a job that was started with livesnap_start_*() goes on
 * @progress: called now and then; @job is gone afterwards. May be NULL
 * @done: called once at the end. @snapshot is NULL where the job was not a snapshot's, and where it failed; in a call
 * for a failure @failed is true and livesnap_get_error() says why. May take @snapshot by setting *@snapshot to NULL.
 * May be NULL
 * @data: passed on
 * @free: called exactly once with @data, after @done or when the call is given up or was refused; may be NULL
 */
struct livesnap_job_callback {
        void (*progress)(void *data, const struct livesnap_job *job);
        void (*done)(void *data, bool failed, struct livesnap_snapshot **snapshot);
        void *data;
        void (*free)(void *data);
};

/**
 * livesnap_start_snapshot() - queue the call for a snapshot
 * @domain: what to capture
 * @name: how to call it, by the rules for the names of regions; NULL: the daemon makes a name from the time
 * @max_rate: limit of what is written, in bytes a second; 0 for none
 * @callback: copied; NULL for none
 *
 * The snapshot is cancelled when the connection is closed before its end. Return: 0 or -1. Since 0.1.
 */
int livesnap_start_snapshot(struct livesnap *livesnap, const char *domain, const char *name, uint64_t max_rate,
                            const struct livesnap_job_callback *callback);

/* Fail where there may be writers that are not tracked, rather than warn of them; see livesnap-api(7). */
#define LIVESNAP_SNAPSHOT_STRICT 1u
/*
 * Save only what was written since the last snapshot of the domain, where that is known: livesnap_set_tracking(). Else
 * the snapshot is full, and the member full_reason of its JSON says why.
 */
#define LIVESNAP_SNAPSHOT_INCREMENTAL 2u
/*
 * Of a domain that is tracked asynchronously: where its programs write faster than it can be saved, stop them for as
 * long as it takes, rather than fail.
 */
#define LIVESNAP_SNAPSHOT_PAUSE_ANYWAY 4u
/* The same: nobody writes to it from now until the snapshot is over, so nobody has to be stopped. */
#define LIVESNAP_SNAPSHOT_STOPPED 8u

/** struct livesnap_snapshot_options - what else can be wished of a snapshot; later versions add members at the end */
struct livesnap_snapshot_options {
        size_t size;      /* sizeof(struct livesnap_snapshot_options), by which the library knows your version */
        const char *name; /* as for livesnap_start_snapshot(), as the next one */
        uint64_t max_rate;
        unsigned flags;     /* LIVESNAP_SNAPSHOT_* */
        const char *parent; /* of an increment: fail if it would not build on this snapshot of the domain; NULL: any */
        unsigned max_pause_ms; /* for how long programs may be stopped, where they have to be; 0: 100 */
};

/**
 * livesnap_start_snapshot_options() - the same, with more to choose
 * @options: copied
 *
 * Return: 0 or -1. Since 0.1.
 */
int livesnap_start_snapshot_options(struct livesnap *livesnap, const char *domain,
                                    const struct livesnap_snapshot_options *options,
                                    const struct livesnap_job_callback *callback);

/**
 * livesnap_snapshot() - take a snapshot and wait until it is published
 * @domain, @name, @max_rate: as for livesnap_start_snapshot()
 * @callback: for progress; its @done is called as well; NULL for none
 * @ret: what was taken, to be freed with livesnap_snapshot_free(); NULL where it is not wanted
 *
 * Return: 0, or -1 and no snapshot of that name has been published. Since 0.1.
 */
int livesnap_snapshot(struct livesnap *livesnap, const char *domain, const char *name, uint64_t max_rate,
                      const struct livesnap_job_callback *callback, struct livesnap_snapshot **ret);

/**
 * livesnap_snapshot_detached() - have a snapshot taken that does not end with this connection
 * @domain, @name, @max_rate: as for livesnap_start_snapshot()
 * @ret_job: its job, for livesnap_wait_job() and livesnap_cancel_job()
 *
 * Return: 0 as soon as the job exists, or -1. Since 0.1.
 */
int livesnap_snapshot_detached(struct livesnap *livesnap, const char *domain, const char *name, uint64_t max_rate,
                               uint64_t *ret_job);

/** livesnap_start_wait_job() - queue the call that waits for the end of a job. Return: 0 or -1. Since 0.1. */
int livesnap_start_wait_job(struct livesnap *livesnap, uint64_t job, const struct livesnap_job_callback *callback);

/**
 * livesnap_wait_job() - wait for the end of a job
 * @callback: for progress; its @done is called as well; NULL for none
 * @ret: the snapshot, if it was a snapshot's, else NULL; to be freed with livesnap_snapshot_free(). NULL where it is
 * not wanted
 *
 * Return: 0, or -1 where the job has failed, was cancelled, or is not known (any more). Since 0.1.
 */
int livesnap_wait_job(struct livesnap *livesnap, uint64_t job, const struct livesnap_job_callback *callback,
                      struct livesnap_snapshot **ret);

/**
 * livesnap_cancel_job() - cancel a job
 *
 * Uses a connection of its own to the same daemon: it may be called at any time, from any thread and from callbacks,
 * while the connection waits for the very job. Return: 0, or -1 where there is no such job (any more). Since 0.1.
 */
int livesnap_cancel_job(const struct livesnap *livesnap, uint64_t job);

/** livesnap_start_verify() - queue the call that compares a snapshot with its checksums. Return: 0 or -1. Since 0.1. */
int livesnap_start_verify(struct livesnap *livesnap, const char *domain, const char *name,
                          const struct livesnap_job_callback *callback);

/** livesnap_verify() - compare a published snapshot with its checksums; -1 where they differ. Since 0.1. */
int livesnap_verify(struct livesnap *livesnap, const char *domain, const char *name,
                    const struct livesnap_job_callback *callback);

/**
 * livesnap_delete() - delete a published snapshot
 *
 * Return: 0, or -1: "io.livesnap.Busy" where deltas build on it; see livesnap_delete_fold(). Since 0.1.
 */
int livesnap_delete(struct livesnap *livesnap, const char *domain, const char *name);

/*
 * Chains of increments. Jobs of the daemon's, as a snapshot is. Of these the @progress of the callback is called once
 * more when the job is done: its JSON then has the members "folded" (names of what was made whole), and, of a prune,
 * "deleted", "kept" and "needed".
 */

/**
 * livesnap_start_compact() - queue the call that makes a delta whole, so that nothing it builds on is needed for it
 *
 * What builds on it still does. It is a full snapshot then. One that is whole is left as it is. Return: 0 or -1. Since
 * 0.1.
 */
int livesnap_start_compact(struct livesnap *livesnap, const char *domain, const char *name,
                           const struct livesnap_job_callback *callback);

/** livesnap_compact() - the same, and wait for it. Return: 0, or -1 and nothing has changed. Since 0.1. */
int livesnap_compact(struct livesnap *livesnap, const char *domain, const char *name,
                     const struct livesnap_job_callback *callback);

/** livesnap_start_delete_fold() - queue the call that makes whole what builds on a snapshot, and deletes that. Return:
 * 0 or -1. Since 0.1. */
int livesnap_start_delete_fold(struct livesnap *livesnap, const char *domain, const char *name,
                               const struct livesnap_job_callback *callback);

/** livesnap_delete_fold() - the same, and wait for it. Return: 0, or -1: what was made whole until then stays so. Since
 * 0.1. */
int livesnap_delete_fold(struct livesnap *livesnap, const char *domain, const char *name,
                         const struct livesnap_job_callback *callback);

/* Say what would be deleted and made whole, and do nothing. */
#define LIVESNAP_PRUNE_DRY_RUN 1u

/**
 * struct livesnap_prune_options - what to keep of a domain's snapshots; later versions add members at the end
 *
 * A snapshot that any rule names is kept; one of the rules must not be 0. Hours and days are those of UTC.
 */
struct livesnap_prune_options {
        size_t size;          /* sizeof(struct livesnap_prune_options), by which the library knows your version */
        uint64_t keep_last;   /* so many of the newest */
        uint64_t keep_hourly; /* the newest of each of so many hours in which there are any */
        uint64_t keep_daily;  /* and of so many days */
        const char *prefix;   /* count and delete only those whose name begins so; NULL: all */
        unsigned flags;       /* LIVESNAP_PRUNE_* */
};

/** struct livesnap_names - names of snapshots, the newest first */
struct livesnap_names {
        size_t n;
        const char *const *names;
};

/** struct livesnap_pruned - what a prune did; freed with livesnap_pruned_free(); later versions add members at the end
 */
struct livesnap_pruned {
        struct livesnap_names kept;   /* by the rules */
        struct livesnap_names needed; /* kept since deltas that are kept are read through them; see livesnap(1) */
        struct livesnap_names folded; /* made whole; they are kept, too */
        struct livesnap_names deleted;
};

/** livesnap_start_prune() - queue the call that deletes what no rule keeps; @options: copied. Return: 0 or -1. Since
 * 0.1. */
int livesnap_start_prune(struct livesnap *livesnap, const char *domain, const struct livesnap_prune_options *options,
                         const struct livesnap_job_callback *callback);

/**
 * livesnap_prune() - the same, and wait for it
 * @callback: for progress; its @done is called as well; NULL for none
 * @ret: what was done; NULL where it is not wanted
 *
 * Never breaks a chain, and keeps what the next increment of the domain builds on. Return: 0, or -1: what was made
 * whole or deleted until then stays so. Since 0.1.
 */
int livesnap_prune(struct livesnap *livesnap, const char *domain, const struct livesnap_prune_options *options,
                   const struct livesnap_job_callback *callback, struct livesnap_pruned **ret);

/** livesnap_pruned_free() - free what livesnap_prune() returned; NULL is allowed. Since 0.1. */
void livesnap_pruned_free(struct livesnap_pruned *pruned);

/*
 * Putting it back. The bytes do not pass through the daemon: it gives descriptors, and this process reads. Every page
 * is compared with its checksum before it counts as restored.
 */

/**
 * struct livesnap_restore_callback - how far a restore is
 * @function: called now and then; a return value other than 0 stops the restore, which then fails with
 *            "io.livesnap.Cancelled"
 * @data: passed on
 */
struct livesnap_restore_callback {
        int (*function)(void *data, uint64_t bytes_done, uint64_t bytes_total);
        void *data;
};

/** struct livesnap_restored - what was restored; freed with livesnap_restored_free() */
struct livesnap_restored {
        uint64_t bytes;      /* of all regions */
        uint64_t bytes_data; /* of these, read from images; the rest is zero and sparse */
        size_t n_regions;
        const struct livesnap_restored_region {
                const char *name;
                const char *path;
                uint64_t bytes;
        } * regions;
};

/** livesnap_restored_free() - free the description of a restore; NULL is allowed. Since 0.1. */
void livesnap_restored_free(struct livesnap_restored *restored);

/**
 * livesnap_restore() - restore a snapshot to files
 * @domain, @name: the snapshot
 * @region: the region to restore; NULL: all
 * @directory: where DIRECTORY/REGION.mem is made for each region; the directory itself is made where it does not exist
 * @callback: progress; NULL for none
 * @ret: what was done; NULL where it is not wanted
 *
 * Existing files are never overwritten. The files appear, complete and durable, or none does. They are sparse where the
 * memory was zero. Return: 0 or -1. Since 0.1.
 */
int livesnap_restore(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                     const char *directory, const struct livesnap_restore_callback *callback,
                     struct livesnap_restored **ret);

/**
 * livesnap_restore_to_fd() - restore one region into an object of the program's own, such as a memfd
 * @fd: open for writing; made larger where it is smaller than the region
 *
 * What lies behind the end of the region is left alone. After a failure the content is undefined. Return: 0 or -1.
 * Since 0.1.
 */
int livesnap_restore_to_fd(struct livesnap *livesnap, const char *domain, const char *name, const char *region, int fd,
                           const struct livesnap_restore_callback *callback);

/**
 * livesnap_restore_to_memory() - restore one region into memory of the program
 * @address: page-aligned, writable; nobody else may use it meanwhile
 * @bytes: of memory there; at least the size of the region
 *
 * What lies behind the end of the region is left alone. After a failure the content is undefined. Return: 0 or -1.
 * Since 0.1.
 */
int livesnap_restore_to_memory(struct livesnap *livesnap, const char *domain, const char *name, const char *region,
                               void *address, uint64_t bytes, const struct livesnap_restore_callback *callback);

/*
 * Comparing
 */

enum livesnap_difference_kind {
        LIVESNAP_DIFFERENCE_CHANGED,        /* the range is not the same in both */
        LIVESNAP_DIFFERENCE_ONLY_IN_FIRST,  /* the whole region is in the first one only */
        LIVESNAP_DIFFERENCE_ONLY_IN_SECOND, /* or in the second */
};

/** struct livesnap_difference - a range of a region; gone when the callback returns */
struct livesnap_difference {
        const char *region;
        enum livesnap_difference_kind kind;
        uint64_t offset; /* a multiple of 4096, but where a region ends in one of the two */
        uint64_t bytes;
};

/**
 * struct livesnap_diff_callback - where to tell of differences
 * @function: called for each, region by region, in ascending order; a return value other than 0 stops the comparison,
 * which then fails with "io.livesnap.Cancelled"
 * @data: passed on
 */
struct livesnap_diff_callback {
        int (*function)(void *data, const struct livesnap_difference *difference);
        void *data;
};

/**
 * livesnap_diff() - which ranges differ between two snapshots of a domain
 * @first, @second: any two, wherever in a chain
 * @region: only this one; NULL: all
 * @callback: NULL where it matters only whether they differ
 *
 * By the checksums of their pages, in this process; no image is read. Pages with the same 64-bit checksum are taken to
 * be the same. Return: 1 if they differ, 0 if not, or -1. Since 0.1.
 */
int livesnap_diff(struct livesnap *livesnap, const char *domain, const char *first, const char *second,
                  const char *region, const struct livesnap_diff_callback *callback);

#ifdef __cplusplus
}
#endif

#endif
