/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Cut, capture and disarm, for Spin. Every order of steps is tried in which writers, the kernel, two fault loops and the
 * sweep can come; a step is what the machine or the kernel does at once. `check` says which scopes are run.
 *
 *   here                         | in the daemon
 *   -----------------------------+--------------------------------------------------------------------------
 *   phase[]: IDLE, HOLD, SERVE   | enum fault_phase (daemon/fault.h)
 *   free, faulted, swept, parked | the same: the table in daemon/capture.h; told by `closed`, list[] and parked[]
 *   cut()                        | cut_make(), cut_arm_all(), fault_retry(); fault_on_begin() around it
 *   fault(), capture(), answer() | fault_serve(), fault_capture() with capture_fault(), fault_answer()
 *   answer_parked()              | fault_answer_parked()
 *   fork_event(), drain()        | event_on_fork(), fault_drain()
 *   sweep                        | sweep_chunk() with capture_close() and sweep_disarm(); then fault_end()
 *
 * The daemon has one fault loop a domain. Here there are two, as it would have to be if they were ever split; a loop
 * then has saved[] and parked[] of its own, is told of hold, serve and end as by fault_call(), and of a page that was
 * pushed twice the older content counts.
 *
 * There are two pages, which are one chunk, and three contexts: 0 maps page 0; 1 maps both; 2 is a child of 0, if 0
 * forks. The first loop reads 0 and 2, the second 1. A thread of a context writes each page once, at any time.
 *
 * Scope (-D):  FORK      context 0 forks, at any time, so also in the hold
 *              SIGNALS=n so many times a thread that sleeps is woken by a signal and faults again: a duplicate message
 *              STALE     a message for which nobody waits
 *              SLOTS=n   pages that the pool can hold; with fewer than 2 they are parked
 *              CANCEL    the run may be stopped before the sweep
 *              DEADLINE  the hold may be given up
 *              WRITERS=n threads of contexts 0 and 1: of the first only the first n write; the third writes page 1
 * Mistakes that must be found (-D):
 *              DISARM_FIRST   disarm, then read and push
 *              NEWEST_WINS    of a page pushed twice the newer content counts
 *              ANSWER_IN_HOLD faults are answered while the other mappings are being armed
 *              CLOSE_LATE     the sweep disarms, then closes the chunk
 *              FORGET_CHILD   a child that was forked in the hold is not armed
 *              LEAVE_REFUSED  where the kernel refuses to disarm, nobody is woken
 */

#ifndef SIGNALS
#define SIGNALS 0
#endif
#ifndef WRITERS
#define WRITERS 3
#endif
#ifndef SLOTS
#define SLOTS 4
#endif

#define PAGES 2
#define CONTEXTS 3
#define LOOPS 2
#define CHILD 2

/* A page as a context maps it, and as a loop knows it. */
#define AT(context, page) ((context) * PAGES + (page))
#define MAPS(context, page) ((page) == 0 || (context) == 1)
#define LOOP_OF(context) ((context) == 1 -> 1 : 0)

mtype = { IDLE, HOLD, SERVE, END };

/* Memory and the kernel. */
byte memory[PAGES];
bool armed[CONTEXTS * PAGES];
bool asleep[CONTEXTS * PAGES];  /* the thread that writes there */
byte pending[CONTEXTS * PAGES]; /* messages that nobody has read; in any order */
byte signals = SIGNALS;
bool fork_pending; /* the event was not read: who forks sleeps */
bool changing;     /* from the fork until the thread that forked runs again the kernel refuses to arm and to disarm */

/* The domain. */
bool child_known;
bool fresh[CONTEXTS];
bool new_contexts;

/* The run. */
mtype phase[LOOPS] = IDLE;
chan calls[LOOPS] = [0] of { mtype };
bool cut_made, cut_failed, stopped;
bool closed;
byte slots = SLOTS;
byte n_list, list_page[LOOPS * PAGES], list_content[LOOPS * PAGES];
bool saved[LOOPS * PAGES], parked[LOOPS * PAGES];

/* Memory at the cut: what the image has to be. */
byte truth[PAGES];

/* Take the protection away and wake; while a fork is under way that is refused, and then wake, so that the thread faults
 * again. */
inline answer(context, page) {
        atomic {
                if
                :: context == 0 && changing ->
#ifndef LEAVE_REFUSED
                        asleep[AT(context, page)] = false
#else
                        skip
#endif
                :: else ->
                        armed[AT(context, page)] = false;
                        asleep[AT(context, page)] = false
                fi
        }
}

inline answer_everywhere(page) {
        answer(0, page);
        answer(1, page);
        if
        :: child_known -> answer(CHILD, page)
        :: else
        fi
}

/* Sets `done`: may the page be answered? */
inline capture(loop, page) {
        if
        :: stopped || saved[AT(loop, page)] || closed -> done = true
        :: else ->
                if
                :: atomic { slots == 0 -> parked[AT(loop, page)] = true }
                        done = closed /* was asked for, but the sweep had been here */
                :: atomic { slots > 0 -> slots-- }
                        content = memory[page];
                        atomic {
                                if
                                :: closed -> slots++
                                :: else ->
                                        list_page[n_list] = page;
                                        list_content[n_list] = content;
                                        n_list++;
                                        saved[AT(loop, page)] = true
                                fi;
                                content = 0;
                                done = true
                        }
                fi
        fi
}

inline fault(loop, context, page) {
        if
#ifndef ANSWER_IN_HOLD
        :: phase[loop] == HOLD -> parked[AT(loop, page)] = true
#endif
        :: phase[loop] == SERVE ->
#ifdef DISARM_FIRST
                answer(context, page);
#endif
                capture(loop, page);
                if
                :: done -> answer(context, page)
                :: else
                fi
        :: else -> answer(context, page)
        fi
}

inline fork_event() {
        fork_pending = false; /* from here on the child may run */
        atomic {
                child_known = true;
#ifndef FORGET_CHILD
                fresh[CHILD] = true;
                new_contexts = true
#endif
        }
}

/* Reads what waits in the contexts of the first loop, in the hold; it may leave some, since drains are bounded. */
inline drain() {
        do
        :: atomic { pending[AT(0, 0)] > 0 -> pending[AT(0, 0)]--; }
                fault(0, 0, 0)
        :: atomic { child_known && pending[AT(CHILD, 0)] > 0 -> pending[AT(CHILD, 0)]--; }
                fault(0, CHILD, 0)
        :: fork_pending && pending[AT(0, 0)] == 0 -> fork_event()
        :: break
        od
}

/* `at`: the context, `page`. */
inline arm() {
        do
        :: atomic { !(at == 0 && changing) -> armed[AT(at, page)] = true; break }
        :: at == 0 && changing -> drain()
#ifdef DEADLINE
        :: at == 0 && changing -> cut_failed = true; break
#endif
        od
}

inline arm_context() {
        fresh[at] = false;
        page = 0;
        do
        :: page < PAGES && !cut_failed ->
                if
                :: MAPS(at, page) -> arm()
                :: else
                fi;
                page++
        :: else -> break
        od;
        page = 0
}

inline cut() {
        drain();
        atomic { fresh[0] = true; fresh[1] = true; fresh[CHILD] = child_known }
        at = 0;
        do
        :: cut_failed -> break
        :: !cut_failed && (at < CHILD || (at == CHILD && child_known)) ->
                if
                :: fresh[at] -> arm_context()
                :: else
                fi;
                at++;
                if
                :: at >= CHILD && !cut_failed && at == (child_known -> CONTEXTS : CHILD) ->
                        new_contexts = false;
                        drain();
                        if
                        :: new_contexts -> at = 0
                        :: else
                        fi
                :: else
                fi
        :: else -> break
        od;
        at = 0
}

/* Disarm what the loop's contexts map; tried again while it is refused, with events read meanwhile. */
inline disarm_all(loop) {
        page = 0;
        do
        :: page < PAGES ->
                if
                :: loop == 1 -> answer(1, page)
                :: loop == 0 && page == 0 ->
                        do
                        :: atomic { !changing -> armed[AT(0, 0)] = false; asleep[AT(0, 0)] = false; break }
                        :: changing -> drain()
                        od;
                        if
                        :: child_known -> answer(CHILD, 0)
                        :: else
                        fi
                :: else
                fi;
                page++
        :: else -> break
        od;
        page = 0
}

inline answer_parked(loop, save) {
        page = 0;
        do
        :: page < PAGES ->
                if
                :: atomic { parked[AT(loop, page)] -> parked[AT(loop, page)] = false }
                        done = true;
                        if
                        :: save -> capture(loop, page)
                        :: else
                        fi;
                        if
                        :: done -> answer_everywhere(page)
                        :: else
                        fi
                :: else
                fi;
                page++
        :: else -> break
        od;
        page = 0
}

inline end_run(loop) {
        phase[loop] = IDLE;
        if
        :: stopped || cut_failed -> disarm_all(loop)
        :: else
        fi;
        answer_parked(loop, false)
}

active proctype first_loop() {
        byte at, page, content;
        bool done;

        calls[1] ! HOLD;
        phase[0] = HOLD;
        cut();
        atomic {
                if
                :: cut_failed -> skip
                :: else ->
                        truth[0] = memory[0];
                        truth[1] = memory[1];
                        phase[0] = SERVE;
                        cut_made = true
                fi
        }
        if
        :: cut_failed ->
                calls[1] ! END;
                end_run(0)
        :: else ->
                calls[1] ! SERVE;
                answer_parked(0, true)
        fi;
end_of_messages:
        do
        :: atomic { pending[AT(0, 0)] > 0 -> pending[AT(0, 0)]--; }
                fault(0, 0, 0)
        :: atomic { child_known && pending[AT(CHILD, 0)] > 0 -> pending[AT(CHILD, 0)]--; }
                fault(0, CHILD, 0)
        :: fork_pending && pending[AT(0, 0)] == 0 -> fork_event()
        :: calls[0] ? END -> end_run(0)
        od
}

active proctype second_loop() {
        byte page, content;
        bool done;

end_of_messages:
        do
        :: atomic { pending[AT(1, 0)] > 0 -> pending[AT(1, 0)]--; }
                fault(1, 1, 0)
        :: atomic { pending[AT(1, 1)] > 0 -> pending[AT(1, 1)]--; }
                fault(1, 1, 1)
        :: calls[1] ? HOLD -> phase[1] = HOLD
        :: calls[1] ? SERVE ->
                phase[1] = SERVE;
                answer_parked(1, true)
        :: calls[1] ? END ->
                phase[1] = IDLE;
                if
                :: stopped || cut_failed -> answer(1, 0); answer(1, 1)
                :: else
                fi;
                answer_parked(1, false)
        od
}

/* Close the chunk and lay the saved pages over what was read, the oldest last. */
inline close_chunk() {
        atomic {
                closed = true;
#ifdef NEWEST_WINS
                at = 0;
                do
                :: at < n_list -> image[list_page[at]] = list_content[at]; at++
                :: else -> break
                od;
#else
                at = n_list;
                do
                :: at > 0 -> at--; image[list_page[at]] = list_content[at]
                :: else -> break
                od;
#endif
                at = 0;
                slots = slots + n_list;
                n_list = 0
        }
}

inline sweep_disarm() {
        targets_have_child = child_known;
        answer(0, 0);
        answer(1, 0);
        answer(1, 1);
        if
        :: targets_have_child -> answer(CHILD, 0)
        :: else
        fi
}

active proctype sweep() {
        byte image[PAGES], at;
        bool targets_have_child;

        if
        :: cut_made
        :: cut_failed -> goto finished
        fi;
        if
        :: true ->
                image[0] = memory[0];
                image[1] = memory[1];
#ifdef CLOSE_LATE
                sweep_disarm();
                close_chunk();
#else
                close_chunk();
                sweep_disarm();
#endif
                /* Published. */
                assert(image[0] == truth[0] && image[1] == truth[1])
#ifdef CANCEL
        :: true -> stopped = true
#endif
        fi;
        calls[1] ! END;
        calls[0] ! END;
finished:
        skip
}

/* A thread that writes a page of a context once. Not at its end before it has. */
proctype writer(byte context, page) {
        do
        :: atomic {
                if
                :: armed[AT(context, page)] ->
                        asleep[AT(context, page)] = true;
                        pending[AT(context, page)]++
                :: else -> memory[page]++; break
                fi
           }
           if
           :: !asleep[AT(context, page)]
           :: atomic { asleep[AT(context, page)] && signals > 0 -> signals--; asleep[AT(context, page)] = false }
           fi
        od
}

#ifdef FORK
active proctype forker() {
        atomic {
                changing = true;
                armed[AT(CHILD, 0)] = armed[AT(0, 0)];
                fork_pending = true
        }
        !fork_pending;
        if
        :: changing = false; run writer(CHILD, 0)
        :: run writer(CHILD, 0); changing = false
        fi
}
#endif

#ifdef STALE
active proctype stale() {
        if
        :: pending[AT(1, 0)]++
        :: pending[AT(0, 0)]++
        fi
}
#endif

init {
        atomic {
                run writer(0, 0);
#if WRITERS > 1
                run writer(1, 0);
#endif
#if WRITERS > 2
                run writer(1, 1)
#endif
        }
}
