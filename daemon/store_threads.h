/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_THREADS_H
#define LIVESNAP_DAEMON_STORE_THREADS_H

/*
 * The threads of the store, and the calls that they run.
 *
 *     store        the root: has left the process's descriptor table for one of its own, and only starts threads
 *     store-short  runs calls one after the other
 *     store-job    one for each lasting call, ends with it
 *
 * All descend from the root and so share its table, in which there is nothing of the process's but the two descriptors
 * below and standard input, output and error. No lock here is held while anything waits for a disk.
 */

#include "daemon/store.h"

struct store_threads;

/**
 * store_threads_new() - start the root and the short thread
 * @store: passed on to store_call.run
 * @end: called on the root when all the other threads have ended
 *
 * Return: 0, or -errno.
 */
int store_threads_new(struct store *store, void (*end)(struct store *store), struct store_threads **ret);

/** store_threads_free() - run all that has been submitted, call every @done here, stop; NULL is allowed */
void store_threads_free(struct store_threads *threads);

/** store_threads_submit() - queue a call; never waits for a disk; thread-safe */
void store_threads_submit(struct store_threads *threads, struct store_call *call);

/** store_threads_get_fd() - eventfd that is readable when there is something to dispatch; borrowed */
int store_threads_get_fd(const struct store_threads *threads);

/** store_threads_dispatch() - call @done of what has been run */
void store_threads_dispatch(struct store_threads *threads);

/*
 * A descriptor that was opened on one side means nothing on the other: they go through a socket. Messages are read in
 * the order in which they were sent.
 */

/** store_threads_channel() - the end of that socket for the main thread, or for the store's threads; borrowed */
int store_threads_channel(const struct store_threads *threads, bool main_thread);

#endif
