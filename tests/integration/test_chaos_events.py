# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client does to its own memory while it is tracked: followed, or refused by name, never silently wrong (G5, G6).

The client is tests/programs/unruly.c, of whose memory each word is known.
"""

import filecmp
import pathlib
import re
import socket
import struct
import tempfile

import pytest

from harness import PATIENCE_S, Failure, wait_until
from unruly import PAGE, PAGES, Unruly

# The end of the object is what a sweep in order comes to last.
LAST = PAGES - 64
# Slow enough for a sweep of all pages through the smallest pool to take two seconds.
SLOW = ("--max-rate", 16 << 20)


@pytest.fixture
def unruly(bare_lab, built):
    """A client with a daemon whose pool is small, so that a slow disk makes a slow sweep."""
    bare_lab.start_daemon("--pool-size", "8M")
    client = Unruly()
    yield client
    client.close()


def attach(lab, client, *arguments):
    return lab.json("attach", "--pid", client.pid, "--domain", "d", "--object", "*unruly*", *arguments)


def start_snapshot(lab, *arguments):
    command = lab.cli_start("snapshot", "d", "--name", "s", *(arguments or SLOW))
    lab.wait_drain()
    return command


def image_of(lab, name="s"):
    return pathlib.Path(lab.json("show", f"d/{name}")["regions"][0]["path"])


def assert_as_filled(image, pages=PAGES):
    """The image is of the time before anything was written."""
    data = image.read_bytes()
    wrong = [page for page in range(pages) if struct.unpack_from("<Q", data, page * PAGE)[0] != page + 1]
    assert not wrong, f"{len(wrong)} pages are not those of the cut, the first is {wrong[0]}"


def assert_followed_or_refused(lab, command, why):
    """Published and right, or failed with its reason; nothing in between."""
    _, said = command.communicate(timeout=PATIENCE_S)
    if command.returncode == 0:
        assert_as_filled(image_of(lab))
        lab.cli("verify", "d/s")
        lab.cli("delete", "d/s")
        return "followed"
    assert re.search(why, said), f"it failed, but not for this: {said}"
    assert lab.json("list") == []
    wait_until(lab.is_store_clean, "removal of the work")
    return "refused"


def assert_next_works(lab, client):
    """Attached anew, the memory as it is now can be had."""
    lab.cli("detach", "d", check=False)  # where tracking was given up, there is nothing to detach
    attach(lab, client)
    lab.snapshot("d", "--name", "next")
    assert filecmp.cmp(client.object_path(), image_of(lab, "next"), shallow=False)


UNTRACKED = "mremap|not tracked|untracked|mapped region"

WAYS_OUT = {
    "dontunmap": ("dontunmap", ["left", "moved"]),
    "duplicate": ("duplicate", ["other"]),
    "grow": ("grow", ["short"]),
    "unprotect": ("unprotect", ["readonly"]),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_way_out_before_the_cut(bare_lab, unruly, way):
    command, places = WAYS_OUT[way]
    attach(bare_lab, unruly)
    unruly.do(command)
    snapshot = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    wait_until(lambda: snapshot.poll() is not None or any(job["bytes_done"] for job in bare_lab.running_jobs()),
               "the cut, or a refusal")
    for place in places:
        unruly.do(f"write {place} {LAST} 64")
    print(assert_followed_or_refused(bare_lab, snapshot, UNTRACKED))
    assert_next_works(bare_lab, unruly)


@pytest.mark.parametrize("way", WAYS_OUT)
def test_way_out_during_the_sweep(bare_lab, unruly, way):
    command, places = WAYS_OUT[way]
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do(command)
    for place in places:
        unruly.do(f"write {place} {LAST} 64")
    print(assert_followed_or_refused(bare_lab, snapshot, UNTRACKED))
    assert_next_works(bare_lab, unruly)


def test_new_mapping_before_the_cut(bare_lab, unruly):
    attach(bare_lab, unruly)
    unruly.do("map")
    snapshot = bare_lab.cli_start("snapshot", "d", "--name", "s", *SLOW)
    wait_until(lambda: snapshot.poll() is not None or any(job["bytes_done"] for job in bare_lab.running_jobs()),
               "the cut, or a refusal")
    unruly.do(f"write other {LAST} 64")
    print(assert_followed_or_refused(bare_lab, snapshot, UNTRACKED))
    assert_next_works(bare_lab, unruly)


def test_new_mapping_during_the_sweep(bare_lab, unruly):
    """No event tells of it."""
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do("map")
    unruly.do(f"write other {LAST} 64")
    print(assert_followed_or_refused(bare_lab, snapshot, UNTRACKED))
    assert_next_works(bare_lab, unruly)


def test_unmap_of_half_during_the_sweep(bare_lab, unruly):
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do("unmap")
    unruly.do("write main 0 64")
    unruly.do(f"write short {PAGES // 4} 64")
    assert assert_followed_or_refused(bare_lab, snapshot, "never") == "followed"


# Content that is removed

LOST = "was removed|written or punched"


@pytest.mark.parametrize("how", ["madvise", "fd", "process"])
def test_punch_during_the_sweep(bare_lab, unruly, how):
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"punch {LAST} 8 {how}")
    assert assert_followed_or_refused(bare_lab, snapshot, LOST) == "refused"
    assert_next_works(bare_lab, unruly)


@pytest.mark.parametrize("how", ["madvise", "fd", "process"])
def test_punch_and_read_during_the_sweep(bare_lab, built, how):
    """What was punched is data again: zeros. The kernel tells of it where the object has a name."""
    bare_lab.start_daemon("--pool-size", "8M")
    with tempfile.TemporaryDirectory(prefix="livesnap-test-", dir="/dev/shm") as directory:
        client = Unruly(path=f"{directory}/unruly")
        try:
            attach(bare_lab, client)
            snapshot = start_snapshot(bare_lab)
            client.do(f"punch {LAST} 8 {how}")
            client.do(f"read {LAST} 8")
            assert assert_followed_or_refused(bare_lab, snapshot, LOST) == "refused"
            assert_next_works(bare_lab, client)
        finally:
            client.close()


@pytest.mark.parametrize("how", ["madvise", "fd"])
def test_punch_and_read_of_a_memfd_during_the_sweep(bare_lab, unruly, how):
    """A memfd's own descriptor punches unseen: the guarantee says no more than that."""
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"punch {LAST} 8 {how}")
    unruly.do(f"read {LAST} 8")
    _, said = snapshot.communicate(timeout=PATIENCE_S)
    if how == "madvise":
        assert snapshot.returncode == 1 and re.search(LOST, said)
    else:
        assert snapshot.returncode == 1 or bare_lab.json("show", "d/s")["guarantee"] == "advisory"


@pytest.mark.parametrize("and_back", [False, True])
def test_truncate_during_the_sweep(bare_lab, unruly, and_back):
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"truncate {LAST}")
    if and_back:
        unruly.do(f"truncate {PAGES}")
    assert assert_followed_or_refused(bare_lab, snapshot, LOST) == "refused"
    if and_back:
        assert_next_works(bare_lab, unruly)


def test_punch_with_discard_zero(bare_lab, unruly):
    """The owner said that such pages are free: zero, and nothing else."""
    attach(bare_lab, unruly, "--discard", "zero")
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"punch {LAST} 8 madvise")
    assert snapshot.wait(PATIENCE_S) == 0
    data = image_of(bare_lab).read_bytes()
    for page in range(PAGES):
        expected = 0 if LAST <= page < LAST + 8 else page + 1
        assert struct.unpack_from("<Q", data, page * PAGE)[0] == expected, f"page {page}"
    assert bare_lab.json("show", "d/s")["warnings"]


# The client goes away

def test_exec_during_the_sweep(bare_lab, unruly):
    """All that was tracked is gone, but the object is still ours to read."""
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"write main {LAST} 64")
    unruly.tell("exec")
    wait_until(lambda: pathlib.Path(f"/proc/{unruly.pid}/comm").read_text() == "sleep\n", "exec")
    assert assert_followed_or_refused(bare_lab, snapshot, "never") == "followed"


def test_death_during_the_sweep(bare_lab, unruly):
    attach(bare_lab, unruly)
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"write main {LAST} 64")
    unruly.process.kill()
    assert assert_followed_or_refused(bare_lab, snapshot, "never") == "followed"


# Much at once

def beats(client, which):
    return client.do("beat")[which]


def test_signals_in_threads_that_fault(bare_lab, unruly):
    """Each signal makes the thread fault again: every message is answered, each page is saved once."""
    attach(bare_lab, unruly)
    unruly.do("alarm")
    snapshot = start_snapshot(bare_lab)
    unruly.do(f"write main 0 {PAGES}")
    unruly.do("calm")
    assert assert_followed_or_refused(bare_lab, snapshot, "never") == "followed"


def start_impatient_daemon(lab):
    """With the bound of the hold that users have."""
    lab.start_daemon("--pool-size", "8M", "--max-hold", 250)


@pytest.mark.parametrize("threads", [1, 4])
def test_flood_of_advice(bare_lab, unruly, threads):
    """Each call makes the kernel refuse to arm and to disarm (EAGAIN) for a moment. The cut is made or is given up in
    time; neither the flooding threads nor others are kept."""
    start_impatient_daemon(bare_lab)
    attach(bare_lab, unruly)
    unruly.do(f"flood {threads}")
    for _ in range(3):
        snapshot = bare_lab.cli_start("snapshot", "d", "--name", "s")
        before = beats(unruly, 1)
        unruly.do(f"write main {LAST} 8")
        wait_until(lambda: beats(unruly, 1) > before + 100, "progress of the flood")
        _, said = snapshot.communicate(timeout=PATIENCE_S)
        if snapshot.returncode == 0:
            bare_lab.cli("verify", "d/s")
            bare_lab.cli("delete", "d/s")
        else:
            assert re.search("hold lasted longer|untracked", said), said
            break
    unruly.do("calm")
    unruly.do(f"write main 0 {PAGES}")
    assert_next_works(bare_lab, unruly)


def test_storm_of_forks(bare_lab, unruly):
    """A child that is forked in the hold is part of the cut, or the hold ends in time."""
    start_impatient_daemon(bare_lab)
    attach(bare_lab, unruly)
    unruly.do("storm 4")
    for _ in range(3):
        snapshot = bare_lab.cli_start("snapshot", "d", "--name", "s")
        before = beats(unruly, 0)
        wait_until(lambda: beats(unruly, 0) > before + 10, "progress of the forks")
        _, said = snapshot.communicate(timeout=PATIENCE_S)
        if snapshot.returncode == 0:
            assert_as_filled(image_of(bare_lab))
            bare_lab.cli("delete", "d/s")
        else:
            assert re.search("hold lasted longer|untracked", said), said
            break
    unruly.do("calm")
    assert_next_works(bare_lab, unruly)


def test_no_descriptor_left_for_a_fork(bare_lab, built):
    """The fork goes on, and that its child writes untracked is remembered."""
    bare_lab.start_daemon("--pool-size", "8M", prefix=("prlimit", "--nofile=64:64"))
    client = Unruly(1024)
    try:
        attach(bare_lab, client)
        # Children that live: each takes a descriptor of the daemon.
        client.do("storm 16")
        used = []
        for _ in range(64):
            try:
                used.append(open_domain(bare_lab))
            except Failure:
                break
        before = beats(client, 0)
        wait_until(lambda: beats(client, 0) > before + 50, "progress of the forks")
        client.do("write main 0 1024")
        for connection in used:
            connection.close()
        client.do("calm")
        failed = bare_lab.cli("snapshot", "d", check=False)
        assert failed.status == 0 or re.search("untracked|descriptor", failed.stderr), failed
        bare_lab.cli("detach", "d")
        attach(bare_lab, client)
        bare_lab.snapshot("d", "--name", "next")
        assert filecmp.cmp(client.object_path(), image_of(bare_lab, "next"), shallow=False)
    finally:
        client.close()


def open_domain(lab):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(0.2)
    connection.connect(str(lab.daemon.socket))
    return connection
