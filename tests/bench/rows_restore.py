# SPDX-License-Identifier: GPL-2.0-or-later
"""Back from the disk, and the limit on what goes to it."""

from bench_lab import GIB, MIB
from figures import Figure


def restore(lab):
    """Figure 11."""
    size = lab.size(4 * GIB)
    figure = Figure("11", f"restore of {size / GIB:g} GiB to fresh memory, each page checked", "fio read", "MiB/s", ">=", 0.95)
    yield (figure,)
    with lab.writer(size, "restore") as writer:
        snapshot = lab.snapshot("restore", keep=True)
        name = snapshot["snapshot"].partition("/")[2]
        region = snapshot["regions"][0]
        image = lab.json("show", snapshot["snapshot"])["regions"][0]["path"]

        def ours():
            lab.rest()
            return size / MIB / (writer.ask("restore", "restore", name, region["name"])["us"] / 1e6)

        for i in lab.rounds():
            figure.add(*lab.in_turn(i, lambda: lab.fio(size, "read", image), ours))
        lab.json("delete", snapshot["snapshot"])


def max_rate(lab):
    """A client that needs the disk itself: does --max-rate leave it what it promises?"""
    size = lab.size(GIB)
    figure = Figure("max-rate", f"drain of {size / GIB:g} GiB with --max-rate 200M", "200 MiB/s", "MiB/s", "<=", 1.05)
    yield (figure,)
    with lab.writer(size, "rate") as _:
        for _ in lab.rounds():
            figure.add(lab.snapshot("rate", "--max-rate", 200 * MIB)["mib_per_s"], 200)
