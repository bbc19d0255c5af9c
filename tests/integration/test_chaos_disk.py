# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that is full, broken, read-only or does not answer: the snapshot fails and says why, or takes its time; the
client notices nothing but what the pool's policy allows (G2, G3, G4)."""

import re

import pytest

from disk import DiskUnavailable, MappedDisk
from harness import PATIENCE_S, lateness_s, thread_states, wait_until

MIB = 1 << 20
PAGES = 32 * MIB // 4096
# Slow enough for a sweep through the smallest pool to be under way whenever we look.
SLOW = ("--max-rate", 16 * MIB)


def start_on(lab, path, *arguments, pages=PAGES):
    lab.start_daemon("--pool-size", "8M", *arguments, store=path / "store")
    writer = lab.start_writer(threads=4, pages=pages, order="ticket")
    lab.attach(writer)
    return writer


def start(lab, disk, size_bytes, *arguments, **options):
    volume = disk(size_bytes, **options)
    return volume, start_on(lab, volume.path, *arguments)


def assert_failed(lab, writer, command, why):
    """With its reason, with nothing left over, and without harm."""
    _, said = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 1
    assert re.search(why, said), said
    assert lab.json("list") == []
    wait_until(lab.is_store_clean, "removal of the work")
    writer.wait_progress(10000)


def test_disk_that_is_full_from_the_start(bare_lab, built, disk):
    volume, writer = start(bare_lab, disk, 128 * MIB)
    volume.fill_but(8 * MIB)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s")
    assert_failed(bare_lab, writer, command, "write .*No space left on device")
    (volume.path / "filling").unlink()
    bare_lab.prove_snapshot(writer)


@pytest.mark.parametrize("kind, size_bytes", [("ext4", 128 * MIB), ("xfs", 320 * MIB)], ids=["ext4", "xfs"])
def test_disk_that_fills_up_in_the_middle(bare_lab, built, disk, kind, size_bytes):
    volume, writer = start(bare_lab, disk, size_bytes, kind=kind)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    volume.fill_but(2 * MIB)
    assert_failed(bare_lab, writer, command, "write .*No space left on device")
    (volume.path / "filling").unlink()
    bare_lab.prove_snapshot(writer)


@pytest.mark.parametrize("kind, size_bytes", [("ext4", 128 * MIB), ("xfs", 320 * MIB)], ids=["ext4", "xfs"])
def test_disk_that_breaks(bare_lab, built, disk, kind, size_bytes):
    volume, writer = start(bare_lab, disk, size_bytes, kind=kind)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    volume.cut_short(1 * MIB)
    _, said = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 1
    assert "Input/output error" in said, said
    writer.wait_progress(10000)
    assert_another_store_works(bare_lab, writer)


def assert_another_store_works(lab, writer):
    lab.daemon.kill()
    lab.start_daemon("--pool-size", "8M")
    lab.attach(writer)
    lab.prove_snapshot(writer)


def test_device_that_fails(bare_lab, built, disk):
    volume, writer = start(bare_lab, disk, 128 * MIB, make_disk=MappedDisk)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    volume.fail()
    _, said = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 1
    assert re.search("Input/output error|Read-only file system", said), said
    writer.wait_progress(10000)
    assert_another_store_works(bare_lab, writer)


@pytest.mark.parametrize("fault, why", [("broken", "write .*Input/output error"),
                                        ("broken-fsync", "make durable .*Input/output error")],
                         ids=["write", "fsync"])
def test_writes_that_fail_for_a_while(bare_lab, built, faulty, fault, why):
    """What is written as if nothing were, and then cannot be made durable, is a failure all the same."""
    writer = start_on(bare_lab, faulty.path)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    faulty.become(fault)
    assert_failed(bare_lab, writer, command, why)
    faulty.become("well")
    bare_lab.prove_snapshot(writer)


@pytest.mark.parametrize("fault", ["refuse-direct", "short"])
def test_filesystem_that_does_less_than_it_was_asked(bare_lab, built, faulty, fault):
    """O_DIRECT is refused when it is used, or each write is cut short in the middle of a sector: nothing is amiss."""
    writer = start_on(bare_lab, faulty.path, pages=PAGES // 4)
    bare_lab.json("tracking", "d", "sync")
    faulty.become(fault)
    full = bare_lab.prove_snapshot(writer)
    increment = bare_lab.snapshot("d", "--incremental")
    assert increment["kind"] == "increment"
    for snapshot in (full, increment):
        bare_lab.cli("verify", snapshot["snapshot"])
        bare_lab.cli("restore", snapshot["snapshot"], "--output", bare_lab.directory / snapshot["kind"])


def test_filesystem_that_becomes_read_only(bare_lab, built, disk):
    volume, writer = start(bare_lab, disk, 128 * MIB)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    volume.remount("abort")
    _, said = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 1
    assert re.search("Read-only file system|Input/output error", said), said
    writer.wait_progress(10000)
    assert bare_lab.json("list") == []


def test_disk_of_one_megabyte_a_second(bare_lab, built, disk):
    """With room in the pool for all of it, no thread waits for the disk."""
    volume = disk(128 * MIB)
    bare_lab.start_daemon("--pool-size", "64M", store=volume.path / "store")
    writer = bare_lab.start_writer(threads=2, pages=4 * MIB // 4096)
    bare_lab.attach(writer)
    try:
        volume.slow_down(bare_lab.daemon.pid, MIB)
    except DiskUnavailable as error:
        pytest.skip(str(error))
    writer.worst_us()
    shown = bare_lab.prove_snapshot(writer)
    if shown["duration_us"] < 2_000_000:
        pytest.skip("the kernel did not slow the disk down")
    assert shown["throttled_us"] == 0
    worst_us = writer.worst_us()
    assert worst_us < 1_000_000 + 10e6 * lateness_s()


def waits(writer):
    return any("userfault" in state for state in thread_states(writer.pid))


def test_throttle_by_a_disk_that_does_not_answer(bare_lab, built, disk):
    """The threads wait, since the user chose so, until it does; then the snapshot is right nevertheless."""
    volume, writer = start(bare_lab, disk, 256 * MIB, "--pool-policy", "throttle")
    at_least = writer.completed
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    volume.freeze()
    wait_until(lambda: waits(writer), "wait of a thread")
    volume.thaw()
    assert command.wait(PATIENCE_S) == 0
    bare_lab.check(writer, bare_lab.images(writer, {"snapshot": "d/s"}), at_least, writer.issued)
    bare_lab.cli("verify", "d/s")
    assert bare_lab.json("show", "d/s")["throttled_us"] > 0


def test_abort_with_a_disk_that_does_not_answer(bare_lab, built, disk):
    """The snapshot is given up, the threads go on: all while the disk says nothing."""
    volume, writer = start(bare_lab, disk, 256 * MIB, "--pool-policy", "abort")
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    bare_lab.wait_drain()
    volume.freeze()
    for _ in range(5):
        writer.wait_progress(20000)
    wait_until(lambda: not waits(writer), "end of the wait of all threads")
    volume.thaw()
    assert_failed(bare_lab, writer, command, "pool")
    bare_lab.cli("detach", "d")
    writer.stop()


def test_cancel_while_the_disk_does_not_answer(bare_lab, built, disk):
    """The client is let go at once, and what the job still has to do waits for the disk alone."""
    volume, writer = start(bare_lab, disk, 256 * MIB, "--pool-policy", "throttle")
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    job = bare_lab.wait_drain()
    volume.freeze()
    wait_until(lambda: waits(writer), "wait of a thread")
    bare_lab.cli("cancel", job["job"])
    wait_until(lambda: not waits(writer), "end of the wait of all threads")
    writer.wait_progress(20000)
    volume.thaw()
    assert_failed(bare_lab, writer, command, "cancelled")
    bare_lab.prove_snapshot(writer)
