/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_STORE_TREE_H
#define LIVESNAP_DAEMON_STORE_TREE_H

/* Directories of the store: removing them, and going through their entries. No symbolic link is ever followed. */

/** store_tree_remove() - remove a file, or a directory with all that is in it; what is not there is no error. -errno */
int store_tree_remove(int directory, const char *name);

/** store_tree_empty() - remove all that is in a directory. -errno, after having tried all. */
int store_tree_empty(int directory);

/**
 * store_tree_entries() - call @entry for each name in a directory but "." and ".."
 * @entry: stops the walk by returning non-zero
 *
 * Return: what the last @entry returned, 0, or -errno.
 */
int store_tree_entries(int directory, int (*entry)(void *data, int directory, const char *name), void *data);

#endif
