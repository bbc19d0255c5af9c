/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVESNAP_DAEMON_CHANGES_H
#define LIVESNAP_DAEMON_CHANGES_H

/*
 * What is known, in a domain, of the changes since the snapshot that was published last: its parent, if the next one is
 * to be an increment. The pages are in the regions (tracking.h); here is what is common to them.
 *
 * Belongs to the fault thread, as does all that is said below to be called on it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/domain.h"
#include "daemon/run.h"

struct fault_thread;

/** The snapshot since which changes are known. */
struct changes_parent {
        char name[REGION_NAME_MAX + 1];
        uint8_t uuid[16];
        enum guarantee guarantee; /* the weakest of all that it builds on */
};

struct changes {
        /* Written with the domain's lock. */
        enum tracking_mode mode;
        bool has_parent;
        struct changes_parent parent;
        const char *why_full; /* why there is no parent: static text */

        struct removal_watch *watch; /* since the parent's cut; owned; NULL: no parent, or all regions are sealed */
};

void changes_init(struct changes *changes);
void changes_deinit(struct changes *changes);

/* On the fault thread. */

/**
 * changes_set_mode() - all is forgotten and nothing stays armed
 *
 * Return: 0, or -1 with *error set: it is as before, or, for want of memory, off.
 */
int changes_set_mode(struct fault_thread *thread, enum tracking_mode mode, struct error *error);

/**
 * changes_fit() - bring the tables in line with the regions, some of which may be new or of another size
 *
 * Return: 0 or -ENOMEM.
 */
int changes_fit(struct fault_thread *thread);

/**
 * changes_lose_parent() - what was written since can no longer be told; @why is static text
 *
 * A snapshot that is being published may become the parent even so: all of it counts as written since.
 */
void changes_lose_parent(struct fault_thread *thread, const char *why);

/** changes_lose_mapping() - the protection of this mapping is gone, or was never there: all of it may be written */
void changes_lose_mapping(struct mapping *mapping);

/**
 * changes_note_grown() - a mapping may have been larger than was known, until now
 *
 * mremap() that makes a mapping larger in its place is not told, and what it added is not armed. If it is unmapped
 * again before anybody has looked for it, it was written to unseen: all of the region behind the mapping counts as
 * written.
 */
void changes_note_grown(const struct mapping *mapping);

/** changes_lose_context() - its process is gone, or its mappings are, and what it had written with them */
void changes_lose_context(const struct context *context);

/** changes_lose_unmapped() - this range of it is unmapped, and nobody can ask any more what was written there */
void changes_lose_unmapped(const struct context *context, uint64_t start, uint64_t end);

/** changes_keep_armed() - do pages stay armed when a snapshot ends, however it ends? */
bool changes_keep_armed(const struct changes *changes);

/** changes_freeze() - at the cut, before anything is armed */
void changes_freeze(struct fault_thread *thread, struct run *run);

/**
 * changes_freeze_vanished() - in the hold: which pages became holes since the parent, or may have been written unseen?
 *
 * They are to be saved, too. Return: are there any that were not known before?
 */
bool changes_freeze_vanished(struct fault_thread *thread, struct run *run);

/**
 * changes_begin_rounds() - before the first round of a snapshot that is made in rounds (rounds.h)
 *
 * From here on the run's own watch tells what is removed; what the parent's has seen counts as written.
 */
void changes_begin_rounds(struct fault_thread *thread, struct run *run);

/** changes_note_removed() - in a round, after the hole maps in the run were taken: what was removed is written, too */
void changes_note_removed(struct fault_thread *thread, struct run *run);

/** changes_freeze_round() - what is noted as written is what this round has to save */
void changes_freeze_round(struct fault_thread *thread, struct run *run);

/** changes_thaw_round() - it was not saved: it counts as written again */
void changes_thaw_round(struct fault_thread *thread);

/** changes_count_dirty() - bytes of the pages that are noted as written */
uint64_t changes_count_dirty(struct fault_thread *thread);

/** changes_note_armed() - all mappings are armed, or (false) none is */
void changes_note_armed(struct fault_thread *thread, bool armed);

/** changes_commit() - the snapshot is published and becomes the parent; takes the run's watch over */
void changes_commit(struct fault_thread *thread, struct run *run, const struct changes_parent *parent);

/** changes_restore() - the snapshot came to nothing */
void changes_restore(struct fault_thread *thread);

/* Any thread. */

/** changes_get_parent() - Return: false, with *ret_why set, if there is none */
bool changes_get_parent(struct fault_thread *thread, struct changes_parent *ret, const char **ret_why);
enum tracking_mode changes_get_mode(struct fault_thread *thread);

#endif
