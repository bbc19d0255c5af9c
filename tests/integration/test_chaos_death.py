# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon dies at any moment and in any way: no thread of a client sleeps on, nothing half-done is visible (G3, G4).

LIVESNAP_CHAOS_KILLS sets how often it is killed at random (30), LIVESNAP_CHAOS_SEED where the randomness starts.
"""

import os
import pathlib
import random
import resource
import signal
import statistics
import time

import pytest

from harness import PATIENCE_S, lateness_s, thread_states, wait_until

KILLS = int(os.environ.get("LIVESNAP_CHAOS_KILLS", "30"))
SEED = int(os.environ.get("LIVESNAP_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 32))))
KILLS_PER_TEST = 10
PAGES = 8192
GIB = 1 << 30
# What the poll itself and two busy cores may take of the measured time. A client that hangs takes for ever.
SLACK_S = 0.15
HANG_S = 10.0


def grace_s(writer):
    """What the promise allows: 100 ms, and 30 ms for each GiB armed."""
    return 0.1 + 0.03 * sum(region["bytes"] for region in writer.regions) / GIB


def wait_free(writer):
    """Wait until no thread sleeps in a userfaultfd and all write again; returns the seconds it took."""
    start = time.monotonic()
    pids = [writer.pid, *writer.children]

    def is_free():
        return not any("userfault" in state for pid in pids for state in thread_states(pid))

    wait_until(is_free, "end of the wait of all threads", HANG_S, 0.001)
    waited = time.monotonic() - start
    writer.wait_progress(200, timeout_s=HANG_S)
    return waited


def begin(lab, chance, name, typical_s):
    """A snapshot that is caught early or late, with room in the pool or with threads that wait for some."""
    rate = chance.choice([[], [], ["--max-rate", 8 << 20], ["--max-rate", 128 << 20]])
    command = lab.cli_start("snapshot", "d", "--name", name, *rate)
    time.sleep(chance.uniform(0, 1.3 * typical_s))
    return command


def measure_snapshot(lab, store, writer):
    """How long the command takes on this machine, with what else it has to do, when nobody is killed."""
    lab.start_daemon("--pool-size", "64M", store=store)
    lab.attach(writer)
    start = time.monotonic()
    taken = lab.snapshot("d")
    duration_s = time.monotonic() - start
    lab.cli("delete", taken["snapshot"])
    lab.daemon.kill()
    return duration_s


def take_published(lab, writer, names, issued):
    """What is visible of these snapshots is whole and right, and nothing else is left; take it away."""
    assert lab.is_store_clean()
    listed = [snapshot["snapshot"] for snapshot in lab.json("list")]
    assert set(listed) <= {f"d/{name}" for name in names}, f"what was published: {listed}"
    for snapshot in listed:
        lab.cli("verify", snapshot)
        lab.check(writer, lab.images(writer, {"snapshot": snapshot}), 0, issued)
        lab.cli("delete", snapshot)
    return listed


@pytest.mark.parametrize("batch", range(max(1, KILLS // KILLS_PER_TEST)))
def test_sigkill_at_random_moments(bare_lab, built, batch):
    chance = random.Random(SEED + batch)
    print(f"LIVESNAP_CHAOS_SEED={SEED}, batch {batch}")
    store = bare_lab.directory / "store"
    writer = bare_lab.start_writer(threads=3, processes=2, regions=2, pages=PAGES, kernel_reads=True, zap=True)
    waits, n_published = [], 0
    typical_s = measure_snapshot(bare_lab, store, writer)

    for kill in range(KILLS_PER_TEST):
        bare_lab.start_daemon("--pool-size", chance.choice(["8M", "64M"]), store=store)
        bare_lab.attach(writer)
        command = begin(bare_lab, chance, f"s{kill}", typical_s)
        bare_lab.daemon.kill()
        waits.append(wait_free(writer))
        status, issued = command.wait(PATIENCE_S), writer.issued
        # The next daemon finds what this one left.
        bare_lab.start_daemon("--pool-size", "8M", store=store)
        published = take_published(bare_lab, writer, [f"s{kill}"], issued)
        assert published or status != 0, "a snapshot that was reported as published is gone"
        n_published += len(published)
        bare_lab.daemon.kill()
    print(f"the longest wait after a kill: {max(waits) * 1000:.0f} ms; published before it: {n_published}")
    # A single one may be the scheduler's; that most are late would be ours.
    assert statistics.median(waits) < grace_s(writer) + SLACK_S + 10 * lateness_s()
    bare_lab.start_daemon(store=store)
    bare_lab.attach(writer)
    bare_lab.prove_snapshot(writer)


@pytest.mark.parametrize("batch", range(max(1, KILLS // 30)))
def test_sigkill_between_and_during_increments(bare_lab, built, batch):
    """What is published of a chain is right; and what follows a restart builds on none of it."""
    chance = random.Random(SEED + 1000 + batch)
    print(f"LIVESNAP_CHAOS_SEED={SEED}, batch {batch}")
    store, lab = bare_lab.directory / "store", bare_lab
    writer = lab.start_writer(threads=2, processes=2, regions=2, pages=PAGES // 4, zap=True)
    for kill in range(5):
        lab.start_daemon("--pool-size", "8M", store=store)
        lab.attach(writer)
        lab.json("tracking", "d", "sync")
        bounds = {}

        def take(name):
            at_least, start = writer.completed, time.monotonic()
            snapshot = lab.snapshot("d", "--incremental", "--name", name)
            bounds[f"d/{name}"] = (at_least, writer.issued)
            return snapshot, time.monotonic() - start

        first, duration_s = take(f"{kill}-0")
        assert (first["kind"], first["full_reason"]) == ("full", "no snapshot was taken since tracking began")
        for number in range(1, chance.randrange(1, 4)):
            snapshot, duration_s = take(f"{kill}-{number}")
            assert snapshot["kind"] == "increment", snapshot
        at_least, command = writer.completed, None
        if chance.random() < 0.75:
            command = lab.cli_start("snapshot", "d", "--incremental", "--name", f"{kill}-9")
        time.sleep(chance.uniform(0, 1.3 * duration_s))
        lab.daemon.kill()
        wait_free(writer)
        status = command.wait(PATIENCE_S) if command else 1
        last, complete = {f"d/{kill}-9": (at_least, writer.issued)}, set(bounds)

        lab.start_daemon("--pool-size", "8M", store=store)
        assert lab.is_store_clean()
        listed = [listed["snapshot"] for listed in lab.json("list")]
        assert complete <= set(listed) <= complete | set(last), f"what was published: {listed}"
        assert status != 0 or set(last) <= set(listed), "a snapshot that was reported as published is gone"
        for name in sorted(listed, reverse=True):  # parents last
            lab.cli("verify", name)
            lab.check_restored(writer, name, *{**bounds, **last}[name])
            lab.cli("delete", name)
        lab.daemon.kill()


def test_sigkill_while_the_disk_is_frozen(bare_lab, built, disk):
    """Threads of the daemon sit in the kernel until the thaw, and it cannot even die: that must not concern clients."""
    volume = disk(256 << 20)
    bare_lab.start_daemon("--pool-size", "8M", store=volume.path / "store")
    writer = bare_lab.start_writer(threads=4, pages=PAGES)
    bare_lab.attach(writer)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 8 << 20)
    bare_lab.wait_drain()
    volume.freeze()
    # The pool is small: in a moment all threads wait for the disk, as the policy has it.
    wait_until(lambda: any("userfault" in state for state in thread_states(writer.pid)), "wait of a thread")
    daemon = bare_lab.daemon
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.is_expected_to_live = False
    waited = wait_free(writer)
    assert waited < 1 + 10 * lateness_s(), f"the client stood still for {waited * 1000:.0f} ms"
    writer.wait_progress(10000)
    command.kill()
    command.wait()
    volume.thaw()
    daemon.kill()
    bare_lab.start_daemon("--pool-size", "8M", store=daemon.store)
    assert not take_published(bare_lab, writer, [], 0)
    bare_lab.attach(writer)
    bare_lab.prove_snapshot(writer)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_core_dump(bare_lab, built, number):
    """A core is written before any descriptor is closed: it must not hold the pool."""
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("cores are limited")
    bare_lab.start_daemon("--pool-size", "1G", prefix=("prlimit", "--core=unlimited", "env", "-C", bare_lab.directory))
    writer = bare_lab.start_writer(threads=4, pages=4 * PAGES)
    bare_lab.attach(writer)
    command = bare_lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 8 << 20)
    bare_lab.wait_drain()
    daemon = bare_lab.daemon
    daemon.is_expected_to_live = False
    os.kill(daemon.pid, number)
    waited = writer.wait_progress(1000)
    assert -daemon.process.wait(PATIENCE_S) == number
    assert command.wait(PATIENCE_S) == 1
    # To write the pool takes seconds; what is over the promise here is the scheduler's.
    assert waited < 1 + 10 * lateness_s(), f"the client stood still for {waited * 1000:.0f} ms"
    if not pattern.startswith(("|", "/")):
        cores = list(bare_lab.directory.glob("core*"))
        assert cores, "no core was written, so nothing was tested"
        assert sum(core.stat().st_blocks * 512 for core in cores) < 256 << 20
    bare_lab.start_daemon(store=daemon.store)
    assert not take_published(bare_lab, writer, [], 0)
