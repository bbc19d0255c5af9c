# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast memory gets to the disk, and what it takes of the machine."""

import pathlib

from bench_lab import GIB, MIB, processor_s
from figures import Figure

FIO = "fio"


def drain(lab):
    """Figures 1, 2 and 9: a large region, idle and under a writer at full speed."""
    size = lab.size(4 * GIB)
    idle = Figure("1", f"drain of an idle region of {size / GIB:g} GiB", FIO, "MiB/s", ">=", 0.95)
    busy = Figure("2", "the same under a writer at full speed", "idle", "MiB/s", ">=", 0.80)
    cpu = Figure("9", "processor time of the daemon for an idle drain", "memcpy", "s", "<=", 4)
    yield idle, busy, cpu
    with lab.writer(size, "drain") as writer:
        lab.snapshot("drain")  # the first one pays for what the others find done

        def take():
            before_s = processor_s(lab.daemon.pid)
            snapshot = lab.snapshot("drain")
            return snapshot["mib_per_s"], processor_s(lab.daemon.pid) - before_s

        for i in lab.rounds():
            (rate, used_s), fio_rate = lab.in_turn(i, lambda: lab.fio(size), take)
            idle.add(rate, fio_rate)
            cpu.add(used_s, writer.ask("copy")["cpu_us"] / 1e6)
            writer.ask("write")
            busy.add(lab.snapshot("drain")["mib_per_s"], rate)
            writer.ask("pause")
    cpu.note("time in threads that the kernel runs for the daemon's ring is in it, time in interrupts is not")


def promises(lab):
    """What was promised first: 1 GiB idle against fio, and under a writer against idle."""
    size = lab.size(GIB)
    idle = Figure("1a", f"drain of an idle region of {size / GIB:g} GiB", FIO, "MiB/s", ">=", 0.8)
    busy = Figure("2a", f"time of a snapshot of {size / GIB:g} GiB under a writer at full speed", "idle", "s", "<=", 2)
    yield idle, busy
    with lab.writer(size, "promises") as writer:
        lab.snapshot("promises")
        for i in lab.rounds():
            quiet, fio_rate = lab.in_turn(i, lambda: lab.fio(size), lambda: lab.snapshot("promises"))
            idle.add(quiet["mib_per_s"], fio_rate)
            writer.ask("write")
            busy.add(lab.snapshot("promises")["duration_us"] / 1e6, quiet["duration_us"] / 1e6)
            writer.ask("pause")


def scale(lab):
    """Figures 8 and 10: the largest region first, in a daemon of its own so that its peak is of this alone."""
    sizes = [lab.size(n * GIB) for n in (1, 4, 16)]
    names = [f"{size / GIB:g}" for size in sizes]
    middle = Figure("10a", f"time per GiB at {names[1]} GiB", f"{names[0]} GiB", "s", "<=", 1.1)
    large = Figure("10b", f"time per GiB at {names[2]} GiB", f"{names[0]} GiB", "s", "<=", 1.1)
    memory = Figure("8", f"memory of the daemon beyond the pool, {names[2]} GiB region", "limit", "MiB", "<=", 1)
    yield memory, middle, large
    needed = sizes[0] + sizes[2] + GIB
    available = _available_memory()
    if available < needed:
        memory.missing = middle.missing = large.missing = (
            f"{needed // MIB} MiB of free memory are needed, {available // MIB} MiB are there")
        return
    lab.start_daemon()
    try:
        baseline = _peak(lab.daemon.pid)
        with lab.writer(sizes[0], "small") as _:
            for size, domain, figure in ((sizes[1], "middle", middle), (sizes[2], "large", large)):
                with lab.writer(size, domain) as writer:
                    tables_before = writer.page_table_bytes()
                    for i in lab.rounds():
                        figure.add(*lab.in_turn(i, lambda: _seconds_per_gib(lab.snapshot("small")),
                                                lambda name=domain: _seconds_per_gib(lab.snapshot(name))))
                    tables = writer.page_table_bytes()
    finally:
        memory_peak, page_tables = _peak(lab.daemon.pid), _page_tables(lab.daemon.pid)
        lab.stop_daemon()
    memory.add((memory_peak - 256 * MIB + page_tables) / MIB, 32)
    memory.note(f"peak resident size without the pool of 256 MiB, and page tables of the daemon; it began with "
                f"{(baseline - 256 * MIB) / MIB:.0f} MiB. One run, since a peak cannot be taken twice")
    memory.note(f"page tables of the client: {tables_before / MIB:.1f} MiB before its first snapshot, {tables / MIB:.1f} MiB "
                f"after the last")


def sparse(lab):
    """Figure 12."""
    size, data = lab.size(64 * GIB), 100 * MIB
    time = Figure("12", f"snapshot of a {size / GIB:g} GiB object with 100 MiB of data, without arming", "100 MiB object",
                  "s", "<=", 1.5)
    populated = Figure("12a", "memory that its object has after the snapshots", "before", "MiB", "<=", 1)
    yield time, populated
    with lab.writer(size, "sparse", data=data) as sparse_writer, lab.writer(data, "dense") as _:
        before = sparse_writer.ask("blocks")["bytes"]
        lab.snapshot("dense")
        lab.snapshot("sparse")
        for i in lab.rounds():
            ours, dense = lab.in_turn(i, lambda: lab.snapshot("dense"), lambda: lab.snapshot("sparse"))
            time.add(_without_arming(ours), _without_arming(dense))
        populated.add(sparse_writer.ask("blocks")["bytes"] / MIB, before / MIB)
    time.note(f"arming, which is left out, took {ours['arm_us'] / 1000:.0f} ms (sparse) and {dense['arm_us'] / 1000:.1f} ms "
              "(dense) in the last pair")


def many(lab):
    """Figure 13."""
    total, n_processes, n_regions = lab.size(4 * GIB), 16, 4
    figure = Figure("13", f"64 regions in 16 processes, {total / GIB:g} GiB in one domain", "one region", "MiB/s", ">=", 0.9)
    yield (figure,)
    each = total // n_processes // n_regions
    with lab.writer(total, "one") as _:
        writers = []
        try:
            for i in range(n_processes):
                context = lab.writer(each, "many", regions=n_regions, name=f"p{i}")
                writers.append(context)
                context.__enter__()
            lab.snapshot("one")
            lab.snapshot("many")
            for i in lab.rounds():
                ours, one = lab.in_turn(i, lambda: lab.snapshot("one"), lambda: lab.snapshot("many"))
                figure.add(ours["mib_per_s"], one["mib_per_s"])
        finally:
            for context in writers:
                context.__exit__(None, None, None)


def _without_arming(snapshot):
    return (snapshot["duration_us"] - snapshot["arm_us"]) / 1e6


def _seconds_per_gib(snapshot):
    return snapshot["duration_us"] / 1e6 / (sum(region["bytes"] for region in snapshot["regions"]) / GIB)


def _status_bytes(pid, name):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) << 10


def _peak(pid):
    return _status_bytes(pid, "VmHWM")


def _page_tables(pid):
    return _status_bytes(pid, "VmPTE")


def _available_memory():
    return int(pathlib.Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) << 10

