/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Asynchronous tracking, for Spin: rounds while a program writes, then a stop, twice. Every order of steps is tried; a
 * step is what the machine or the kernel does at once. `check` says which scopes are run.
 *
 *   here                     | in the daemon
 *   -------------------------+--------------------------------------------------------------------------
 *   protected[], zapped[]    | what the page table has: protection; neither an entry nor a marker
 *   scan()                   | scan_domain(): pagemap_scan_protected(), tracking_mark_range(), arm_range()
 *   freeze()                 | changes_freeze_round()
 *   copy()                   | sweep_run(), and rounds_copy() in the stop
 *   stopped                  | quiesce_processes() until quiesce_resume()
 *   the end of a chain       | the image that is published has to be what memory was when it was stopped; the next one,
 *                            | which starts from it, too
 *
 * There are three pages that lie together. A program writes to them, at any time but in the stop, and the kernel takes
 * pages out of the page table, which keeps protection as a marker and forgets everything else.
 *
 * Mistakes that must be found (-D):
 *              PROTECT_BETWEEN    what lies between two pages that were written is protected with them
 *              COPY_FIRST         a page is copied, then protected again
 *              ASK_WHAT_IS_WRITTEN  a page that is not there any more does not count as written
 *              RESUME_FIRST       the programs go on before the last copy
 *              FORGET_AT_ONCE     a snapshot that comes to nothing forgets what it had to save
 */

#define PAGES 3

#ifndef WRITES
#define WRITES 3
#endif

byte memory[PAGES], image[PAGES], parent[PAGES], at_cut[PAGES];
bool protected[PAGES], zapped[PAGES], dirty[PAGES], frozen[PAGES], round[PAGES];
bool stopped, over;

active proctype program() {
        byte writes = 0, page;

        do
        :: writes < WRITES ->
                select (page : 0 .. PAGES - 1);
                atomic {
                        !stopped || over;
                        memory[page]++;
                        protected[page] = false;
                        zapped[page] = false;
                        writes++
                }
        :: writes == WRITES || over -> break
        od
}

active proctype kernel() {
        byte zaps = 0, page;

        do
        :: zaps < 2 ->
                select (page : 0 .. PAGES - 1);
                atomic {
                        zapped[page] = !protected[page];
                        zaps++
                }
        :: zaps == 2 || over -> break
        od
}

inline scan() {
        atomic {
                for (i : 0 .. PAGES - 1) {
                        seen[i] = !protected[i];
#ifdef ASK_WHAT_IS_WRITTEN
                        seen[i] = seen[i] && !zapped[i];
#endif
                        dirty[i] = dirty[i] || seen[i]
                }
#ifdef PROTECT_BETWEEN
                seen[1] = seen[1] || (seen[0] && seen[2]);
#endif
        }
        for (i : 0 .. PAGES - 1) {
                if
                :: seen[i] -> atomic { protected[i] = true; zapped[i] = false }
                :: else
                fi
        }
}

inline freeze() {
        atomic {
                for (i : 0 .. PAGES - 1) {
                        round[i] = dirty[i];
                        frozen[i] = frozen[i] || dirty[i];
                        dirty[i] = false
                }
        }
}

inline copy() {
        for (i : 0 .. PAGES - 1) {
                if
                :: round[i] -> image[i] = memory[i]
                :: else
                fi
        }
}

/* In the wrong order: what is protected after it was copied may have been written in between. */
inline look_and_copy() {
#ifdef COPY_FIRST
        atomic {
                for (i : 0 .. PAGES - 1) {
                        dirty[i] = dirty[i] || !protected[i]
                }
        }
        freeze();
        copy();
        for (i : 0 .. PAGES - 1) {
                if
                :: round[i] -> protected[i] = true
                :: else
                fi
        }
#else
        scan();
        freeze();
        copy()
#endif
}

active proctype daemon() {
        byte i, snapshot;
        bool seen[PAGES], fails;

        /* Nothing is known yet, so all counts as written. */
        atomic {
                for (i : 0 .. PAGES - 1) {
                        dirty[i] = true
                }
        }
        for (snapshot : 0 .. 1) {
                atomic {
                        for (i : 0 .. PAGES - 1) {
                                image[i] = parent[i]
                        }
                }
                look_and_copy();
                if
                :: snapshot == 0 -> fails = false
                :: snapshot == 0 -> fails = true
                :: else -> fails = false
                fi;
                if
                :: fails ->
                        /* Cancelled, or the disk is full. */
                        atomic {
                                for (i : 0 .. PAGES - 1) {
#ifndef FORGET_AT_ONCE
                                        dirty[i] = dirty[i] || frozen[i];
#endif
                                        frozen[i] = false
                                }
                        }
                :: else ->
                        stopped = true;
                        atomic {
                                for (i : 0 .. PAGES - 1) {
                                        at_cut[i] = memory[i]
                                }
                        }
                        scan();
                        freeze();
#ifdef RESUME_FIRST
                        stopped = false;
#endif
                        copy();
                        atomic {
                                for (i : 0 .. PAGES - 1) {
                                        assert(image[i] == at_cut[i]);
                                        parent[i] = image[i];
                                        frozen[i] = false
                                }
                        }
                        stopped = false
                fi
        }
        /* With nobody writing any more, what is noted and what is not protected is all that differs. */
        stopped = true;
        atomic {
                for (i : 0 .. PAGES - 1) {
                        assert(dirty[i] || !protected[i] || parent[i] == memory[i])
                }
        }
        over = true
}
