/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_CLIENT_LIB_OUTDIR_H
#define LIVESNAP_CLIENT_LIB_OUTDIR_H

/*
 * A directory to which files are added, all of them or none.
 *
 * A file is written without a name where the filesystem can do that, so that a process that is killed leaves nothing,
 * and with a hidden one elsewhere. It gets its name when it is complete and durable, never over another file. All
 * functions fail with the error of this thread set.
 */

#include <stdbool.h>
#include <stddef.h>

struct outdir_file {
        char *name;      /* final */
        char *temporary; /* NULL: it has no name yet */
        int fd;
        bool published;
};

/** struct outdir - owns all it names */
struct outdir {
        char *path;
        int fd;
        bool made; /* the directory itself is ours */
        size_t n_files;
        struct outdir_file *files;
};

/** outdir_open() - make the directory where there is none, and open it */
int outdir_open(struct outdir *ret, const char *path);

/** outdir_add() - begin a file; fails where one of that name exists. Return: its descriptor, borrowed, or -1. */
int outdir_add(struct outdir *outdir, const char *name);

/** outdir_publish() - make all files durable and give them their names */
int outdir_publish(struct outdir *outdir);

/** outdir_close() - take back what was not published; must be called also after outdir_open() has failed */
void outdir_close(struct outdir *outdir);

#endif
