# SPDX-License-Identifier: GPL-2.0-or-later
"""The main promise (G1): a snapshot is the memory of one instant, exactly, while everybody goes on writing."""

import dataclasses
import json
import os

import pytest

from harness import Failure, wait_until

MIB_PAGES = 256


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to write, and one way to get in."""

    threads: int = 1
    processes: int = 1  # of these, all but one are forked before the attach
    forks: int = 0  # and so many after it
    regions: int = 1
    kind: str = "memfd"
    cooperative: bool = False
    zap: bool = False
    reads: bool = False
    aliases: int = 1
    order: str = "lock"

    def __str__(self):
        words = [self.kind, "cooperative" if self.cooperative else "unmodified", f"{self.threads}t",
                 f"{self.processes}+{self.forks}p", f"{self.regions}r"]
        words += [word for word in ("zap", "reads") if getattr(self, word)]
        words += ["aliases"] if self.aliases > 1 else []
        words += ["ticket"] if self.order == "ticket" else []
        return "-".join(words)


# Every pair of values of two columns that can go together is in some line.
CASES = [
    Case(),
    Case(cooperative=True),
    Case(threads=4, processes=3, regions=2, zap=True, reads=True),
    Case(threads=4, processes=1, forks=2, regions=2, zap=True, cooperative=True),
    Case(threads=4, processes=3, regions=2, kind="sealed", reads=True, cooperative=True),
    Case(threads=1, processes=2, forks=1, regions=2, kind="sealed", zap=True, aliases=2),
    Case(threads=4, forks=2, kind="tmpfs", reads=True, aliases=2),
    Case(threads=1, processes=3, regions=2, kind="tmpfs", zap=True, cooperative=True),
    Case(threads=4, processes=3, regions=2, kind="hugetlb", reads=True),
    Case(threads=1, forks=2, regions=2, kind="hugetlb", zap=True, cooperative=True),
    Case(threads=4, processes=2, forks=1, regions=2, kind="anonymous", zap=True, reads=True),
    Case(threads=1, forks=1, regions=2, kind="anonymous", reads=True, aliases=2),
    Case(threads=4, order="ticket"),
    Case(threads=4, processes=2, forks=1, regions=2, zap=True, order="ticket", aliases=2, cooperative=True),
    Case(threads=2, processes=3, regions=2, kind="anonymous", zap=True, order="ticket"),
]


def start(lab, case):
    options = {"threads": case.threads, "processes": case.processes, "regions": case.regions, "kind": case.kind,
               "zap": case.zap, "kernel_reads": case.reads, "aliases": case.aliases, "order": case.order,
               "pages": 32 * MIB_PAGES}
    if case.cooperative:
        writer = lab.start_client("d", **options)
    else:
        writer = lab.start_writer(**options)
        lab.attach(writer)
    for _ in range(case.forks):
        writer.fork()
    writer.wait_progress(100)
    return writer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_snapshot_is_one_cut(lab, huge_pages, case):
    if case.kind == "hugetlb":
        huge_pages(16 * case.regions + 1)
    writer = start(lab, case)
    for _ in range(3):
        snapshot = lab.prove_snapshot(writer)
        writer.wait_progress(100)
    result = writer.stop()
    assert snapshot["pages_fault"] + snapshot["pages_sweep"] + snapshot["pages_zero"] > 0
    # What the case is about has happened.
    assert not case.reads or result["kernel_reads"] > 0
    assert not case.zap or result["dontneed"] > 0


def test_slow_drain_is_one_cut(lab):
    """Most pages are captured by fault, since the disk is given little to do: the pool and the merge are at work."""
    writer = lab.start_writer(threads=4, processes=2, regions=2, pages=32 * MIB_PAGES, zap=True)
    lab.attach(writer)
    snapshot = lab.prove_snapshot(writer, "--max-rate", 32 << 20)
    assert snapshot["pages_fault"] > 1000


def test_fork_during_the_drain_is_one_cut(lab):
    writer = lab.start_writer(threads=2, pages=32 * MIB_PAGES)
    lab.attach(writer)
    at_least = writer.completed
    command = lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 32 << 20, "--json")
    while command.poll() is None:
        writer.fork()
        writer.wait_progress(50)
        writer.leave()
    assert command.wait() == 0, command.stderr.read()
    at_most = writer.issued
    lab.check(writer, lab.images(writer, {"snapshot": "d/s"}), at_least, at_most)


def test_remap_between_snapshots(lab):
    writer = lab.start_writer(threads=2, regions=2, pages=32 * MIB_PAGES)
    lab.attach(writer)
    for _ in range(3):
        writer.command("remap")
        lab.prove_snapshot(writer)


def test_remap_during_a_snapshot_ends_it(lab):
    """Nobody can say what was written through the old place, so there is no image; the next one is right again."""
    writer = lab.start_writer(threads=2, regions=2, pages=32 * MIB_PAGES)
    lab.attach(writer)
    command = lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 8 << 20, "--json")
    wait_until(lambda: any(job["state"] == "draining" for job in lab.json("jobs")), "the drain")
    writer.command("remap")
    assert command.wait() == 1
    assert json.loads(command.stdout.read().splitlines()[-1])["error"] == "io.livesnap.UntrackedWriter"
    lab.prove_snapshot(writer)


def test_copy_without_arming_fails(lab):
    """The control: what the same check says of a plain copy of the same memory, made while the program writes."""
    writer = lab.start_writer(threads=2, pages=32 * MIB_PAGES)
    lab.attach(writer)
    image = lab.directory / "copy.mem"
    source = os.open(writer.region_paths()[0], os.O_RDONLY)
    with open(image, "wb") as out:
        while data := os.read(source, 8 << 20):
            out.write(data)
            writer.wait_progress(100)
    os.close(source)
    with pytest.raises(Failure, match="pages differ from the state after"):
        lab.check(writer, [image])
    lab.prove_snapshot(writer)


def test_several_domains_at_once(lab):
    writers = [lab.start_writer(seed=seed, pages=16 * MIB_PAGES) for seed in (1, 2, 3)]
    for index, writer in enumerate(writers):
        lab.attach(writer, f"d{index}")
    at_least = [writer.completed for writer in writers]
    commands = [lab.cli_start("snapshot", f"d{index}", "--name", "s", "--json") for index in range(3)]
    for command in commands:
        assert command.wait(60) == 0, command.stderr.read()
    for index, writer in enumerate(writers):
        lab.check(writer, lab.images(writer, {"snapshot": f"d{index}/s"}), at_least[index], writer.issued)


def test_what_is_written_after_detach_costs_nothing(lab):
    writer = lab.start_writer(pages=4 * MIB_PAGES)
    lab.attach(writer)
    lab.prove_snapshot(writer)
    lab.cli("detach", "d")
    writer.wait_progress(1000)
    assert lab.json("domains") == []
