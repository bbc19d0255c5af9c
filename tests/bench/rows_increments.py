# SPDX-License-Identifier: GPL-2.0-or-later
"""What an increment costs against the full snapshot before it, and what tracking costs the writer in between."""

from bench_lab import GIB
from figures import Figure

DIRTY = 100  # one page in so many
WAYS = ("clustered", "scattered")
# Pages written a second, for the pause of asynchronous tracking.
RATES = (1_000, 10_000, 50_000)


def increments(lab):
    """Figures 14 to 17. In each pair one full snapshot, whose arming is of all pages, and one increment on it."""
    size = lab.size(4 * GIB)
    dirty = size // 4096 // DIRTY
    of = f"of {size / GIB:g} GiB, 1% of its pages written, {{}}"
    figures = {
        "time": [Figure(f"14 {way}", "increment " + of.format(way), "full snapshot", "s", "<=", 1 / 20) for way in WAYS],
        "bytes": [Figure(f"15 {way}", "bytes written by it, " + way, "bytes of the pages", "MB", "<=", 1.1) for way in WAYS],
        "hold": [Figure(f"16 {way}", "its hold, " + way, "hold of the full one", "ms", "<=", reach)
                 for way, reach in zip(WAYS, (1 / 20, 0.6), strict=True)],
    }
    touch = Figure("17", "first write to a page between two snapshots, sync", "not tracked", "us")
    yield *figures["time"], *figures["bytes"], *figures["hold"], touch
    with lab.writer(size, "increments") as writer:
        for _ in lab.rounds():
            for i, way in enumerate(WAYS):
                lab.json("tracking", "increments", "off")
                free_us = writer.ask("touch", dirty, way)["us"]
                lab.json("tracking", "increments", "sync")
                full = lab.snapshot("increments", keep=True)
                tracked_us = writer.ask("touch", dirty, way)["us"]
                increment = lab.snapshot("increments", "--incremental", keep=True)
                if increment["kind"] != "increment":
                    raise ValueError(increment["full_reason"])
                figures["time"][i].add(increment["duration_us"] / 1e6, full["duration_us"] / 1e6)
                figures["bytes"][i].add(increment["bytes_written"] / 1e6, dirty * 4096 / 1e6)
                figures["hold"][i].add(increment["hold_us"] / 1e3, full["hold_us"] / 1e3)
                touch.add(tracked_us / dirty, free_us / dirty)
                for snapshot in (increment, full):
                    lab.json("delete", snapshot["snapshot"])
    figures["bytes"][0].note("without the map, which is 24 bytes for each page")


def asynchronous(lab):
    """Figures 18 to 20: the other way of tracking, and what it costs instead: a pause."""
    size = lab.size(4 * GIB)
    dirty = size // 4096 // DIRTY
    of = f"of {size / GIB:g} GiB, 1% of its pages written, {{}}, async"
    time = [Figure(f"18 {way}", "increment " + of.format(way), "full snapshot", "s", "<=", 1 / 20) for way in WAYS]
    touch = {mode: Figure(f"19 {mode}", f"first write to a page between two snapshots, {mode}", "not tracked", "us")
             for mode in ("sync", "async")}
    pause = {rate: Figure(f"20 {rate}", f"pause of an increment, async, {rate:,} random pages written a second",
                          "hold of a full snapshot, sync", "ms") for rate in RATES}
    yield *time, *touch.values(), *pause.values()
    with lab.writer(size, "increments") as writer:
        for _ in lab.rounds():
            lab.json("tracking", "increments", "off")
            free_us = writer.ask("touch", dirty, "scattered")["us"]
            lab.json("tracking", "increments", "sync")
            full = lab.snapshot("increments", keep=True)
            touch["sync"].add(writer.ask("touch", dirty, "scattered")["us"] / dirty, free_us / dirty)
            lab.json("delete", full["snapshot"])
            hold_ms = full["hold_us"] / 1e3

            lab.json("tracking", "increments", "async")
            full = lab.snapshot("increments", keep=True)
            taken = [full]
            for i, way in enumerate(WAYS):
                touched_us = writer.ask("touch", dirty, way)["us"]
                if way == "scattered":
                    touch["async"].add(touched_us / dirty, free_us / dirty)
                taken.append(lab.snapshot("increments", "--incremental", keep=True))
                time[i].add(taken[-1]["duration_us"] / 1e6, full["duration_us"] / 1e6)
            for rate in RATES:
                writer.ask("write", rate)
                lab.rest()
                increment = lab.snapshot("increments", "--incremental", "--max-pause", 1000, "--on-no-convergence", "pause",
                                         keep=True)
                writer.ask("pause")
                pause[rate].add(increment["pause_us"] / 1e3, hold_ms)
                pause[rate].note(f"after {increment['rounds']} rounds, {increment['pages_paused']} pages in the pause, in the last pair")
                taken.append(increment)
            for snapshot in reversed(taken):
                lab.json("delete", snapshot["snapshot"])
