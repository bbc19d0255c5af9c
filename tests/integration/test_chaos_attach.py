# SPDX-License-Identifier: GPL-2.0-or-later
"""Attach under bad conditions: forks, deaths and other daemons in the middle of it. The daemon alone owns what it gets."""

import pathlib
import random
import re
import time

import pytest

from harness import PATIENCE_S, open_descriptors, wait_until
from unruly import Unruly

PAGES = 1024
TRIES = 6


def userfaultfd_holders():
    """All processes with a userfaultfd open, and how many."""
    holders = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        count = open_descriptors(process.name)["anon_inode:[userfaultfd]"]
        if count:
            holders[int(process.name)] = count
    return holders


def family(pid):
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


@pytest.mark.parametrize("kind", ["cooperative", "unmodified"])
def test_daemon_is_the_sole_owner(lab, kind):
    if kind == "cooperative":
        writer = lab.start_client("d", processes=3, threads=2, pages=1024)
    else:
        writer = lab.start_writer(processes=3, threads=2, pages=1024)
        lab.attach(writer)
    writer.fork()
    holders = userfaultfd_holders()
    assert lab.daemon.pid in holders
    assert not set(holders) & set(family(writer.pid))
    lab.prove_snapshot(writer)


@pytest.fixture
def client():
    made = Unruly(PAGES)
    yield made
    made.close()


def attach_arguments(client, domain="d"):
    return ["attach", "--pid", client.pid, "--domain", domain, "--object", "*unruly*"]


def assert_well(client):
    """Its memory is what it was, and it can be written."""
    client.do(f"check 0 {PAGES} 0")
    client.do(f"write main 0 {PAGES}")
    client.do(f"check 0 {PAGES} 1")


def test_sole_owner_with_forks_during_attach(bare_lab, built, client):
    """A child that is forked while the userfaultfd is made must not keep a copy: the daemon's death would not close it."""
    n_children, lab = 200, bare_lab
    lab.start_daemon("--pool-size", "8M", "--max-hold", "10000")
    client.do(f"brood {n_children}")
    lab.cli(*attach_arguments(client))
    wait_until(lambda: client.do("beat")[0] == n_children, "birth of all children")
    assert len(family(client.pid)) > n_children
    assert not set(userfaultfd_holders()) & set(family(client.pid))
    lab.snapshot("d")
    client.do("calm")
    assert_well(client)


def test_client_dies_during_attach(lab):
    chance = random.Random(1)
    for _ in range(TRIES):
        client = Unruly(PAGES)
        try:
            attach = lab.cli_start(*attach_arguments(client))
            time.sleep(chance.uniform(0, 0.2))
        finally:
            client.close()
        assert attach.wait(PATIENCE_S) in (0, 1), attach.stderr.read()
        wait_until(lambda: lab.json("domains") == [], "end of the domain")


def test_daemon_dies_during_attach(bare_lab, built):
    chance = random.Random(2)
    for _ in range(TRIES):
        client = Unruly(PAGES)
        try:
            bare_lab.start_daemon("--pool-size", "8M")
            attach = bare_lab.cli_start(*attach_arguments(client))
            time.sleep(chance.uniform(0, 0.2))
            bare_lab.daemon.kill()
            assert attach.wait(PATIENCE_S) in (0, 1), attach.stderr.read()
            assert client.pid not in userfaultfd_holders()
            assert_well(client)
        finally:
            client.close()


def test_two_daemons_for_one_client(lab, client):
    """The second is told that somebody else is there; the first goes on."""
    first = lab.daemon
    lab.cli(*attach_arguments(client))
    lab.start_daemon("--pool-size", "8M")
    refused = lab.cli(*attach_arguments(client), check=False)
    assert refused.status == 1 and re.search("userfaultfd", refused.stderr), refused
    assert lab.json("domains") == []
    lab.daemon = first
    lab.snapshot("d")
    assert_well(client)


def test_two_daemons_for_one_store(lab):
    second = lab.start_daemon("--pool-size", "8M", store=lab.daemon.store, is_refused=True)
    status, said = second.wait_refused()
    assert status != 0 and str(lab.daemon.store) in said


def test_two_snapshots_of_one_domain(lab):
    writer = lab.start_writer(threads=2, pages=32768)
    lab.attach(writer)
    first = lab.cli_start("snapshot", "d", "--name", "first", "--max-rate", 64 << 20)
    lab.wait_drain()
    second = lab.cli("snapshot", "d", "--name", "second", check=False)
    assert second.status == 1 and "snapshot" in second.stderr
    assert first.wait(PATIENCE_S) == 0
    assert [snapshot["snapshot"] for snapshot in lab.json("list")] == ["d/first"]
    lab.prove_snapshot(writer)


def test_cancel_at_random_moments(lab):
    chance = random.Random(3)
    writer = lab.start_writer(threads=4, regions=2, pages=8192)
    lab.attach(writer)
    for attempt in range(TRIES):
        snapshot = lab.cli_start("snapshot", "d", "--name", f"s{attempt}", "--max-rate", 128 << 20)
        time.sleep(chance.uniform(0, 0.5))
        for job in lab.running_jobs():
            lab.cli("cancel", job["job"], check=False)
        status = snapshot.wait(PATIENCE_S)
        writer.wait_progress(1000)
        assert [s["snapshot"] for s in lab.json("list")] == ([f"d/s{attempt}"] if status == 0 else [])
        if status == 0:
            lab.check(writer, lab.images(writer, {"snapshot": f"d/s{attempt}"}), 0, writer.issued)
            lab.cli("delete", f"d/s{attempt}")
    wait_until(lab.is_store_clean, "removal of the work")
    lab.prove_snapshot(writer)
