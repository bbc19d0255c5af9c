# SPDX-License-Identifier: GPL-2.0-or-later
"""Increments (G8): each member of a chain is the memory of one instant, whatever happened between them."""

import os

import pytest

from chains import MIB_PAGES, Chain, Victim, start
from harness import Failure

MEMBERS = int(os.environ.get("LIVESNAP_CHAIN", "4"))


@pytest.mark.parametrize("tracking", ["sync", "async"])
@pytest.mark.parametrize("options", [
    {"kind": "memfd", "processes": 2, "regions": 2, "zap": True},
    {"kind": "sealed", "processes": 3, "threads": 1, "kernel_reads": True},
    {"kind": "tmpfs", "aliases": 2, "regions": 2},
    {"kind": "anonymous", "processes": 2, "zap": True},
    {"kind": "hugetlb", "processes": 2},
], ids=lambda options: options["kind"])
def test_every_member_of_a_chain_is_one_cut(lab, huge_pages, options, tracking):
    if options["kind"] == "hugetlb":
        huge_pages(9 * options.get("regions", 1))
    writer = start(lab, tracking, **options)
    chain = Chain(lab, writer)
    assert chain.take()["kind"] == "full"
    for i in range(MEMBERS):
        writer.wait_progress(50)
        if i == MEMBERS // 2:
            writer.fork()
        snapshot = chain.increment()
        assert snapshot["parent"] == chain.members[-2][0]["snapshot"].partition("/")[2]
    chain.prove()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_increments_share_data_where_files_can(bare_lab, disk, kind):
    """Each is a whole image, takes the room of what was written, and needs its parent no more."""
    volume = disk(400 << 20, kind)
    bare_lab.start_daemon(store=volume.path / "store")
    writer = start(bare_lab, kind="sealed", pages=64 * MIB_PAGES)
    chain = Chain(bare_lab, writer)
    writer.command("pause")
    full = chain.take()
    before = volume.free_bytes()
    writer.command("resume")
    for _ in range(4):
        writer.wait_progress(100)
        writer.command("pause")  # or it would write to all of it by then
        snapshot = chain.increment()
        writer.command("resume")
        assert not snapshot.get("delta")
    os.sync()
    assert before - volume.free_bytes() < full["bytes_written"]
    chain.prove()
    chain.members.pop(0)
    bare_lab.cli("delete", full["snapshot"])
    chain.prove()


def test_only_what_was_written_is_saved(lab):
    writer = start(lab, kind="sealed", pages=64 * MIB_PAGES, threads=1)
    chain = Chain(lab, writer)
    full = chain.take()
    writer.command("pause")
    chain.increment()  # what was written until the pause
    nothing = chain.increment()
    assert nothing["pages_dirty"] == 0 and nothing["bytes_written"] == 0
    assert full["bytes_written"] > 100 * nothing["bytes_written"]
    writer.command("resume")
    writer.wait_progress(50)
    some = chain.increment()
    assert 0 < some["bytes_written"] <= 4096 * some["pages_dirty"]
    chain.prove()


def test_first_snapshot_is_full_and_says_why(lab):
    writer = start(lab)
    snapshot = lab.snapshot("d", "--incremental")
    assert (snapshot["kind"], snapshot["full_reason"]) == ("full", "no snapshot was taken since tracking began")
    lab.json("tracking", "d", "off")
    snapshot = lab.snapshot("d", "--incremental")
    assert (snapshot["kind"], snapshot["full_reason"]) == ("full", "the domain does not track changes")
    assert writer.worst_us() >= 0


def test_failed_increment_costs_nothing(lab):
    lab.start_daemon("--pool-size", "16M")
    writer = start(lab, pages=64 * MIB_PAGES, threads=1)
    chain = Chain(lab, writer)
    chain.take()
    for _ in range(3):
        writer.wait_progress(3000)  # more pages than one buffer has room for: the others have to wait
        running = lab.cli_start("snapshot", "d", "--incremental", "--max-rate", "200K", "--json")
        job = lab.wait_drain()["job"]
        lab.cli("cancel", job)
        running.communicate()
        assert running.returncode != 0
        writer.wait_progress(50)
        chain.increment()
    chain.prove()


def test_writers_that_wait_for_the_pool_are_woken_though_pages_stay_armed(bare_lab, built):
    bare_lab.start_daemon("--pool-size", "8M")
    writer = start(bare_lab, pages=64 * MIB_PAGES, threads=4, order="ticket")
    chain = Chain(bare_lab, writer)
    throttled_us = chain.take("--max-rate", "16M")["throttled_us"]
    for _ in range(2):
        writer.wait_progress(5000)
        throttled_us += chain.increment("--max-rate", "8M")["throttled_us"]
    assert throttled_us > 0
    writer.wait_progress(1000)
    chain.prove()


@pytest.mark.parametrize("tracking", ["sync", "async"])
def test_what_happens_between_two_snapshots_is_not_lost(lab, tracking):
    writer = start(lab, tracking, kind="memfd", processes=1, regions=2)
    chain = Chain(lab, writer)
    chain.take()
    for command in ("remap", "fork", "remap", "leave"):
        writer.fork() if command == "fork" else writer.leave() if command == "leave" else writer.command(command)
        writer.wait_progress(50)
        chain.increment()
    chain.prove()


def test_restart_of_the_daemon_ends_a_chain(lab):
    writer = start(lab)
    store = lab.daemon.store
    chain = Chain(lab, writer)
    chain.take()
    chain.increment()
    lab.daemon.kill()
    writer.wait_progress(50)
    lab.start_daemon(store=store)
    lab.attach(writer)
    lab.json("tracking", "d", "sync")
    assert chain.take()["kind"] == "full"
    writer.wait_progress(50)
    chain.increment()
    chain.prove()


def test_parent_cannot_be_deleted_before_its_children(lab):
    writer = start(lab)
    chain = Chain(lab, writer)
    full = chain.take("--name", "full")
    chain.increment("--name", "child")
    assert "an increment on full" in lab.cli("show", "d/child").stdout
    assert "kind          full" in lab.cli("show", "d/full").stdout
    refused = lab.cli("delete", full["snapshot"], "--json", check=False)
    assert refused.status == 1 and "child builds on it" in refused.json["message"]
    lab.cli("delete", "d/child")
    lab.cli("delete", full["snapshot"])
    again = lab.snapshot("d", "--incremental")
    assert again["kind"] == "full" and "was deleted" in again["full_reason"]
    assert writer.completed > 0


def test_other_parent_is_refused(lab):
    start(lab)
    lab.snapshot("d", "--name", "one")
    refused = lab.cli("snapshot", "d", "--incremental", "--parent", "two", check=False)
    assert refused.status == 1 and "known since snapshot one" in refused.stderr


def test_oracle_would_find_a_missing_page(lab):
    """The proof of the proof: an increment without one of its pages is no state that there ever was."""
    writer = start(lab, kind="sealed", threads=1)
    chain = Chain(lab, writer)
    chain.take()
    writer.wait_progress(200)
    snapshot = chain.increment()
    full, at_least, at_most = chain.members[0]
    with pytest.raises(Failure):
        lab.check_restored(writer, full["snapshot"], *chain.members[1][1:])
    assert lab.check_restored(writer, snapshot["snapshot"], *chain.members[1][1:]) > at_least <= at_most


@pytest.fixture(params=["sync", "async"])
def victim(lab, request):
    victim = Victim(lab, request.param)
    yield victim
    victim.close()


def test_hole_that_was_punched_is_zero(victim):
    victim.punch(7)
    assert victim.prove()["pages_dirty"] >= 1


def test_hole_that_was_punched_before_a_seal_is_zero(victim):
    """A sealed region needs no map of its holes, but what was punched before the seal must not be forgotten."""
    victim.punch(7)
    victim.do("fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | 0x10)")
    victim.prove()
    assert victim.prove()["pages_dirty"] == 0


def test_mapping_that_came_and_went_between_snapshots(victim):
    """A second mapping by mremap(), of which no event tells the length, is written and gone before anybody looks."""
    victim.do("import ctypes; libc = ctypes.CDLL(None, use_errno=True); libc.mremap.restype = ctypes.c_void_p")
    victim.do("at = ctypes.addressof(ctypes.c_char.from_buffer(memory))")
    victim.do("second = libc.mremap(ctypes.c_void_p(at), ctypes.c_size_t(0), ctypes.c_size_t(1 << 20), 1)")
    victim.do("assert second not in (None, 2**64 - 1), ctypes.get_errno(); ctypes.memset(second + 4096 * 9, 0x79, 4096)")
    victim.do("libc.munmap(ctypes.c_void_p(second), ctypes.c_size_t(1 << 20))")
    victim.prove()
