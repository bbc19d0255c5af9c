# SPDX-License-Identifier: GPL-2.0-or-later
"""What an increment costs against the full snapshot before it, and what tracking costs the writer in between."""

from bench_lab import GIB
from figures import Figure

DIRTY = 100  # one page in so many
WAYS = ("clustered", "scattered")


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
