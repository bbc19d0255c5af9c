# SPDX-License-Identifier: GPL-2.0-or-later
"""What a writer feels: the first write to a page, the hold, and the work that it loses."""

import time

from bench_lab import GIB, MIB, Failure, Program
from figures import Figure
from work_lost import Account

QUANTILES = (("p50", "p50_us", 1.1), ("p99", "p99_us", 1.3), ("p99.9", "p999_us", 2))
TOUCHES = 20000
TOUCHES_SLOW = 20000
BARE_TOUCHES = 3000
PROTECTION_WAIT_MS = 3000
# On a busy machine a snapshot may be over before its writer comes round.
TRIES = 3
# The disk of figure 4, in bytes a second.
SLOW_RATE = 10 * 1000 * 1000
# Of work lost: how long the writer is watched before and after.
BEFORE_S = 1.5
AFTER_S = 0.5
RECOVERY_LIMIT_S = 25


def first_write(lab):
    """Figures 3, 4 and 5. All are pairs with the bare loop over as much memory, so the three are measured together."""
    size = lab.size(GIB)
    fast = [Figure(f"3 {name}", f"first write to a page during a snapshot, {name}", "bare loop", "us", "<=", reach)
            for name, _, reach in QUANTILES]
    slow = [Figure(f"4 {name}", f"the same while the drain does 10 MB/s, {name}", "figure 3", "us", "<=", 1.1)
            for name, _, _ in QUANTILES]
    hold = Figure("5", f"hold, sealed region of {size / GIB:g} GiB", "one bare ioctl", "ms", "<=", 1.1)
    yield *fast, *slow, hold
    counts = []
    with lab.writer(size, "first") as writer, Program("bench-loop", size) as loop:
        lab.snapshot("first")
        for i in lab.rounds():
            ours, bare = lab.in_turn(i, lambda: _bare(loop), lambda: _during_snapshot(lab, writer, TOUCHES))
            held, armed = lab.in_turn(i, lambda: _bare_arm(loop), lambda: lab.snapshot("first")["hold_us"] / 1e3)
            hold.add(held, armed)
            throttled = _during_snapshot(lab, writer, TOUCHES_SLOW, "--max-rate", SLOW_RATE)
            for (_, key, _), figure, slow_figure in zip(QUANTILES, fast, slow, strict=True):
                figure.add(ours[key], bare[key])
                slow_figure.add(throttled[key], ours[key])
            counts.append(ours["n"])
    fast[0].note(f"{min(counts)} to {max(counts)} pages were still protected when the writer came; {BARE_TOUCHES} in the bare loop")
    slow[0].note("a slow disk is stood in for by --max-rate, so the disk itself is idle meanwhile; "
                 f"{TOUCHES_SLOW * 4096 // MIB} MiB are written, which the pool has room for")
    fast[2].note("in the bare loop the machine has nothing else to do; in the snapshot the sweep, the checksums and the disk "
                 "compete for the same processors")


def _bare(loop):
    loop.ask("arm")
    result = loop.ask("first", BARE_TOUCHES)
    loop.ask("disarm")
    return result


def _bare_arm(loop):
    took_us = loop.ask("arm")["us"]
    loop.ask("disarm")
    return took_us / 1e3


def _during_snapshot(lab, writer, n, *arguments):
    """Have the writer touch protected pages while a snapshot drains. Returns what it says of them."""
    for _ in range(TRIES):
        lab.rest()
        writer.send("first", n, PROTECTION_WAIT_MS)
        job = lab.start_snapshot("first", *arguments)
        result = writer.receive()
        if arguments:
            lab.cancel(job)
        lab.wait_no_jobs()
        if result["n"]:
            return result
    raise Failure(f"no page was found protected while a snapshot was under way: {lab.json('jobs')[-1]}")


def lost(lab):
    """Figure 6: pairs with a writer on private memory that forks a child which saves."""
    size = lab.size(GIB)
    whole = Figure("6", "work that the writer loses until its rate is back, unmodified program", "fork and save", "s", "<=", 0.8)
    helped = Figure("6 helped", "the same, with livesnap_region_make_writable() after the snapshot",
                    "fork and save", "s", "<=", 0.4)
    until = Figure("6a", "work that it loses until the image is safe", "fork and save", "s")
    wait = Figure("6b", "longest wait for one write", "fork and save", "ms")
    yield whole, helped, until, wait
    path = lab.directory / "saved"

    def fork_and_save():
        with lab.writer(size, memory="private") as writer:
            def save():
                start_ns = time.monotonic_ns()
                writer.ask("save", path)
                return start_ns, writer.ask("saved")["done_ns"]

            result = _lost(lab, writer, save)
        path.unlink()
        return result

    def snapshot():
        with lab.writer(size, memory="memfd") as writer:
            lab.json("attach", "--pid", writer.pid, "--domain", "lost")

            def take():
                taken = lab.snapshot("lost")
                return taken["asked_ns"], taken["done_ns"]

            result = _lost(lab, writer, take)
            lab.json("detach", "lost")
        return result

    def helped_snapshot():
        with lab.writer(size, "lost") as writer:
            def take():
                taken = lab.snapshot("lost")
                help_s.append(writer.ask("help")["us"] / 1e6)
                return taken["asked_ns"], taken["done_ns"]

            return _lost(lab, writer, take)

    help_s = []
    for i in lab.rounds():
        (ours, ours_until, ours_wait), (fork, fork_until, fork_wait) = lab.in_turn(i, fork_and_save, snapshot)
        whole.add(ours, fork)
        helped.add(helped_snapshot()[0], fork)
        until.add(ours_until, fork_until)
        wait.add(ours_wait, fork_wait)
    helped.note(f"the library works in a second thread of the program, for {max(help_s):.2f} s at most; what it takes from the "
                "writer meanwhile is in the figure")
    whole.note("both have pages of 4 KiB; a writer that does nothing but write to random pages is the worst case for both")


def _lost(lab, writer, save):
    """(seconds of work lost in all, of these until it was saved, longest wait in ms)"""
    writer.ask("write")
    time.sleep(0.5)  # its first writes find no translations
    lab.rest()
    writer.ask("rate")
    time.sleep(BEFORE_S)
    writer.ask("worst")
    start_ns, done_ns = save()
    worst_ms = 0.0
    samples = []
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while True:
        time.sleep(AFTER_S)
        samples += writer.ask("rate")["samples"]
        worst_ms = max(worst_ms, writer.ask("worst")["max_us"] / 1e3)
        account = Account(samples)
        before_per_s = account.per_s(samples[0][0], start_ns)
        back_ns = account.back_ns(done_ns, before_per_s)
        if back_ns is not None:
            break
        if time.monotonic() > deadline:
            back_ns = samples[-1][0]
            break
    return (max(account.lost_s(start_ns, back_ns, before_per_s), 0),
            max(account.lost_s(start_ns, done_ns, before_per_s), 0), worst_ms)
