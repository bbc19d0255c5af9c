# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracking async: the kernel notes writes, and programs are stopped for a moment. That moment is the cut."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from chains import Chain, Victim
from harness import process_is_alive, wait_until

MIB_PAGES = 256


def states(pid):
    """The state of each thread that a signal can stop."""
    found = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return found


def is_stopped(pid):
    return states(pid) == {"T"}


def start(lab, quiesce=None, **options):
    writer = lab.start_writer(**{"pages": 16 * MIB_PAGES, "threads": 2, **options})
    lab.attach(writer)
    lab.json("tracking", "d", "async", *(["--quiesce", quiesce] if quiesce else []))
    writer.wait_progress(100)
    return writer


def test_rounds_while_it_runs_and_then_a_short_stop(lab):
    """A writer that can be followed is copied while it runs; what is left for the stop is little."""
    writer = start(lab, pages=64 * MIB_PAGES, threads=1, rate=500)
    chain = Chain(lab, writer)
    full = chain.take()
    # A slow disk gives it time to write to more pages, but not to many of 16,384.
    assert full["rounds"] >= 1 and full["pages_paused"] < 64 * MIB_PAGES // 4
    assert full["hold_us"] == full["pause_us"] > 0
    assert full["pages_fault"] == 0 and full["tracking"] == "async"
    for _ in range(3):
        writer.wait_progress(100)
        snapshot = chain.increment()
        assert 0 < snapshot["pages_dirty"] < 64 * MIB_PAGES // 4
    chain.prove()
    shown = lab.cli("show", chain.members[-1][0]["snapshot"]).stdout
    assert "stopped" in shown and "rounds" in shown


def test_nothing_written_nothing_saved(lab):
    writer = start(lab, kind="sealed")
    chain = Chain(lab, writer)
    chain.take()
    writer.command("pause")
    chain.increment()
    nothing = chain.increment()
    assert nothing["pages_dirty"] == 0 and nothing["bytes_written"] == 0 and nothing["rounds"] == 0
    writer.command("resume")
    chain.prove()


def test_process_that_ended_has_written_all(lab):
    """Its page table went with it, and all that this knew: so all of what it had mapped counts as written."""
    writer = start(lab, processes=2, pages=4 * MIB_PAGES)
    writer.fork()
    chain = Chain(lab, writer)
    chain.take()
    writer.leave()
    snapshot = chain.increment()
    assert snapshot["pages_dirty"] == 4 * MIB_PAGES
    writer.wait_progress(20)
    chain.increment()
    chain.prove()


def test_child_that_was_born_and_died_between_two_snapshots(lab):
    writer = start(lab, processes=1, pages=4 * MIB_PAGES)
    chain = Chain(lab, writer)
    chain.take()
    for _ in range(3):
        writer.fork()
        writer.wait_progress(50)
        writer.leave()
        chain.increment()
    chain.prove()


def test_failed_increment_costs_nothing(bare_lab):
    bare_lab.start_daemon("--pool-size", "16M")
    writer = start(bare_lab, pages=64 * MIB_PAGES, threads=1)
    chain = Chain(bare_lab, writer)
    chain.take()
    for _ in range(2):
        writer.wait_progress(3000)
        running = bare_lab.cli_start("snapshot", "d", "--incremental", "--max-rate", "200K", "--json")
        bare_lab.cli("cancel", bare_lab.wait_drain()["job"])
        running.communicate()
        assert running.returncode != 0
        assert not is_stopped(writer.pid)
        chain.increment("--on-no-convergence", "pause")
    chain.prove()


def test_who_writes_too_fast_is_told_or_stopped_for_longer(bare_lab):
    bare_lab.start_daemon("--pool-size", "8M")  # no more than this can be copied in a stop
    writer = start(bare_lab, pages=64 * MIB_PAGES)
    refused = bare_lab.cli("snapshot", "d", "--incremental", "--max-pause", "1", "--json", check=False)
    assert refused.status == 1 and refused.json["error"] == "io.livesnap.NotConverging"
    assert "--max-pause" in refused.json["message"] and "tracking sync" in refused.json["message"]
    assert not is_stopped(writer.pid) and bare_lab.is_store_clean()
    writer.wait_progress(100)
    chain = Chain(bare_lab, writer)
    taken = chain.take("--max-pause", "1", "--on-no-convergence", "pause")
    assert any("stopped for longer" in warning for warning in taken["warnings"])
    writer.wait_progress(100)
    chain.prove()


@pytest.mark.parametrize("mode", ["off", "sync"])
def test_back_to_another_way(lab, mode):
    writer = start(lab, processes=2)
    chain = Chain(lab, writer)
    chain.take()
    chain.increment()
    lab.json("tracking", "d", mode)
    assert "rounds" not in chain.take()
    if mode == "sync":
        chain.increment()
    lab.json("tracking", "d", "async")
    assert chain.take()["kind"] == "full"
    chain.increment()
    chain.prove()


def test_forked_child_is_tracked_in_one_way_only(lab):
    writer = start(lab)
    child = writer.fork()
    lab.snapshot("d", "--max-pause", "5000")  # which finds out who it is
    refused = lab.cli("tracking", "d", "sync", check=False)
    assert refused.status == 1 and f"process {child}" in refused.stderr and "--tracking" in refused.stderr
    chain = Chain(lab, writer)
    chain.increment()
    lab.cli("detach", "d")
    lab.attach(writer)
    lab.json("tracking", "d", "sync")
    chain.take()
    chain.increment()
    chain.prove()


def test_mode_is_chosen_at_attach(lab):
    writer = lab.start_writer(pages=4 * MIB_PAGES)
    attached = lab.json("attach", "--pid", writer.pid, "--domain", "d", "--object", "*oracle-[0-9]*", "--tracking",
                        "async")
    assert attached["domain"] == "d"
    domain, = lab.json("domains")
    assert (domain["tracking"], domain["quiesce"]) == ("async", "signal")
    chain = Chain(lab, writer)
    chain.take()
    chain.increment()
    chain.prove()


# How they are stopped

def test_programs_that_offer_it_stop_by_themselves(lab):
    writer = lab.start_client("d", processes=2, pages=16 * MIB_PAGES, quiesce=True)
    lab.json("tracking", "d", "async", "--quiesce", "client")
    chain = Chain(lab, writer)
    chain.take()
    for _ in range(3):
        writer.wait_progress(100)
        chain.increment()
    chain.prove()


def test_nobody_has_offered_to_stop(lab):
    writer = start(lab, "client")
    refused = lab.cli("snapshot", "d", check=False)
    assert refused.status == 1 and "has offered to stop" in refused.stderr
    writer.wait_progress(100)


def test_owner_says_that_they_are_stopped(lab):
    writer = start(lab, "none")
    refused = lab.cli("snapshot", "d", check=False)
    assert refused.status == 1 and "--stopped" in refused.stderr
    chain = Chain(lab, writer)
    for _ in range(2):
        writer.command("pause")
        chain.take("--stopped")
        writer.command("resume")
        writer.wait_progress(100)
    chain.prove()


@pytest.fixture
def cgroup():
    """A cgroup with a freezer, of the hierarchy that there is."""
    for root, name in (("/sys/fs/cgroup", "cgroup.freeze"), ("/sys/fs/cgroup/unified", "cgroup.freeze"),
                       ("/sys/fs/cgroup/freezer", "freezer.state")):
        path = pathlib.Path(root) / f"livesnap-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        if (path / name).exists():
            break
        path.rmdir()
    else:
        pytest.skip("there is no cgroup hierarchy with a freezer that could be written to")
    yield path
    for pid in (path / "cgroup.procs").read_text().split():
        (path.parent / "cgroup.procs").write_text(pid)
    path.rmdir()


def test_cgroup_is_frozen(lab, cgroup):
    writer = start(lab, processes=2)
    lab.json("tracking", "d", "async", "--quiesce", f"cgroup:{cgroup}")
    refused = lab.cli("snapshot", "d", check=False)
    assert refused.status == 1 and "is not in the cgroup" in refused.stderr
    for pid in (writer.pid, *writer.children):
        (cgroup / "cgroup.procs").write_text(str(pid))
    chain = Chain(lab, writer)
    for _ in range(3):
        chain.take()
        writer.wait_progress(100)
    writer.fork()
    chain.increment()
    chain.prove()
    lab.close()  # before the cgroup goes


def test_what_is_no_freezer_is_refused(lab, tmp_path):
    start(lab)
    refused = lab.cli("tracking", "d", "async", "--quiesce", f"cgroup:{tmp_path}", check=False)
    assert refused.status == 1 and "freezer" in refused.stderr
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("frozen 1")
    refused = lab.cli("tracking", "d", "async", "--quiesce", f"cgroup:{tmp_path}", check=False)
    assert refused.status == 1 and "freezer" in refused.stderr
    assert lab.json("domains")[0]["quiesce"] == "signal"


def test_who_was_stopped_before_stays_stopped(lab):
    writer = start(lab)
    os.kill(writer.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(writer.pid), "stop of the writer")
    lab.snapshot("d")
    assert is_stopped(writer.pid)
    os.kill(writer.pid, signal.SIGCONT)
    writer.wait_progress(100)


# What must not happen: a program that stays stopped

def kill_in_the_stop(lab, writer, is_in_it):
    """SIGKILL of the daemon while the programs are stopped for it. Returns False when the moment was missed."""
    command = lab.cli_start("snapshot", "d", "--max-pause", "60000")
    in_it = False
    while command.poll() is None and not in_it:
        in_it = is_in_it()
    if in_it:
        lab.daemon.kill()
    command.communicate()
    return in_it


def assert_goes_on(writer):
    start_s = time.monotonic()
    for pid in (writer.pid, *writer.children):
        wait_until(lambda pid=pid: not is_stopped(pid), "end of the stop")
    assert writer.wait_progress(10) < 5 and time.monotonic() - start_s < 5


@pytest.mark.parametrize("way", ["signal", "cgroup"])
def test_death_of_the_daemon_lets_go_on_what_it_had_stopped(bare_lab, way, request):
    """The kernel starts no program again that was stopped: the guardian does."""
    cgroup = request.getfixturevalue("cgroup") if way == "cgroup" else None
    for _ in range(3):
        bare_lab.start_daemon()
        writer = bare_lab.start_writer(pages=32 * MIB_PAGES, threads=2, processes=2)
        bare_lab.attach(writer)
        if cgroup:
            for pid in (writer.pid, *writer.children):
                (cgroup / "cgroup.procs").write_text(str(pid))
        bare_lab.json("tracking", "d", "async", *(["--quiesce", f"cgroup:{cgroup}"] if cgroup else []))

        def is_frozen():
            events = cgroup / "cgroup.events"
            return "frozen 1" in events.read_text() if events.exists() else "FROZEN" in (cgroup / "freezer.state").read_text()

        in_it = kill_in_the_stop(bare_lab, writer, is_frozen if cgroup else lambda: is_stopped(writer.pid))
        if in_it and cgroup:
            wait_until(lambda: not is_frozen(), "end of the freeze")
        if in_it:
            assert_goes_on(writer)
        writer.stop()
        if in_it:
            break
        bare_lab.daemon.kill()
    else:
        pytest.fail("the daemon was never seen to have stopped the writer")
    bare_lab.close()


def guardian_of(daemon):
    pid, = pathlib.Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    assert pathlib.Path(f"/proc/{pid}/comm").read_text().strip() == "livesnap-guard"
    return int(pid)


def test_nothing_is_stopped_without_a_guardian(lab):
    writer = start(lab)
    os.kill(guardian_of(lab.daemon), signal.SIGKILL)
    refused = lab.cli("snapshot", "d", check=False)
    assert refused.status == 1 and "restart livesnapd" in refused.stderr
    assert not is_stopped(writer.pid)
    lab.json("tracking", "d", "sync")
    lab.prove_snapshot(writer)


def test_guardian_keeps_nothing_and_ends_with_the_daemon(lab):
    """A copy of a userfaultfd in it would keep clients asleep for ever."""
    start(lab)
    guardian = guardian_of(lab.daemon)
    targets = {os.readlink(fd) for fd in pathlib.Path(f"/proc/{guardian}/fd").iterdir()}
    assert len(targets) == 2 and "/dev/null" in targets and any(t.startswith("socket:") for t in targets)
    lab.daemon.kill()
    wait_until(lambda: not process_is_alive(guardian), "end of the guardian")


# What is written past the mappings

def test_client_that_unmaps_and_maps_again(lab):
    """What an unmapped place knew is gone, so it counts as written; a new one is found before the next snapshot."""
    victim = Victim(lab, "async")
    try:
        victim.do("old = memory; memory = mmap.mmap(fd, 4 << 20); memory[4096 * 3] = 7; old.close()")
        assert victim.prove()["pages_dirty"] == 1024
        assert victim.prove()["pages_dirty"] == 0
        victim.do("memory[4096 * 5] = 7")
        assert victim.prove()["pages_dirty"] == 1
    finally:
        victim.close()


def test_discarded_pages_of_a_mapping(lab):
    """MADV_REMOVE through the mapping leaves the protection there: what became a hole is zero in the image."""
    victim = Victim(lab, "async")
    try:
        victim.do("memory.madvise(9, 4096 * 16, 4096 * 8)")  # MADV_REMOVE
        assert victim.prove()["pages_dirty"] >= 8
        victim.do("memory.madvise(9, 4096 * 16, 4096 * 8); memory[4096 * 17]")  # read again: data, and zeros
        victim.prove()
    finally:
        victim.close()


def test_hole_in_the_course_of_a_snapshot(lab):
    """Punched after it was copied, and before the cut: zero in the image, whatever was copied."""
    victim = Victim(lab, "async")
    try:
        victim.do("memory[:] = b'y' * (4 << 20)")
        # Slow enough that it is punched between the first round and the stop.
        command = lab.cli_start("snapshot", "d", "--max-rate", "1M", "--json")
        lab.wait_drain()
        subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", "8192", victim.path], check=True)
        out, error = command.communicate(timeout=60)
        assert command.returncode == 0, error
        victim.prove()
        name = json.loads(out)["snapshot"]
        directory = lab.directory / "holes"
        restored = lab.json("restore", name, "--output", directory)
        with open(restored["regions"][0]["path"], "rb") as image:
            assert image.read(8192) == bytes(8192) and image.read(1) == b"y"
    finally:
        victim.close()
