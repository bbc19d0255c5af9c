# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of a filesystem that never answers when one is closed: it is not to concern anybody but its owner (G3)."""

import contextlib
import os
import pathlib
import signal
import socket

import pytest

from harness import PATIENCE_S, Connection, lateness_s, thread_states, wait_until
from hostile import ALICE, BOB, Memory, Peer, attach, run_as, userfaultfd

HANGING_MAX = 16  # GATE_HANGING_USER


def serves(lab):
    with Connection(lab.daemon.socket) as connection:
        connection.socket.settimeout(10)
        return "pid" in connection.call("io.livesnap.GetInfo")["parameters"]


@pytest.fixture
def hanging(bare_lab, built, faulty):
    """A daemon in the middle of a snapshot, and a descriptor that nobody gets closed."""
    bare_lab.start_daemon("--pool-size", "8M")
    bare_lab.writer = bare_lab.start_writer(threads=4, pages=4096, order="ticket")
    bare_lab.attach(bare_lab.writer)
    bare_lab.file = os.open(faulty.path / "file", os.O_RDWR | os.O_CREAT, 0o666)
    faulty.become(f"hang {bare_lab.daemon.pid}")
    yield bare_lab
    faulty.become("well")
    os.close(bare_lab.file)


def send(lab, what):
    """A call that has no use for such a descriptor, or none that is right."""
    with Connection(lab.daemon.socket) as connection:
        if what == "an object":
            memory = Memory()
            uffd = userfaultfd()
            reply = connection.call("io.livesnap.Attach", {
                "domain": "e", "regions": [memory.region(0)], "mappings": [memory.mapping(1)]}, [lab.file, uffd])
            assert reply["error"] == "io.livesnap.BadMapping", reply
            os.close(uffd)
            memory.close()
        elif what == "half a message":
            socket.send_fds(connection.socket, [b'{"method"'], [lab.file])
        else:
            assert "pid" in connection.call("io.livesnap.GetInfo", {}, [lab.file])["parameters"]


def threads_that_hang(lab):
    return [state for state in thread_states(lab.daemon.pid) if "fuse" in state or "request_wait" in state]


def gate_threads(lab):
    names = []
    for task in pathlib.Path(f"/proc/{lab.daemon.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # others come and go
            names.append((task / "comm").read_text())
    return names.count("gate\n")


@pytest.mark.parametrize("what", ["an object", "half a message", "nothing"])
def test_daemon_serves_while_a_descriptor_is_closed(hanging, what):
    send(hanging, what)
    wait_until(lambda: threads_that_hang(hanging), "wait of a thread for the filesystem")
    assert serves(hanging)
    # Nothing of it is in the table with the userfaultfds.
    assert not any("faulty" in os.readlink(entry) for entry in os.scandir(f"/proc/{hanging.daemon.pid}/fd"))


def test_sigkill_while_a_descriptor_is_closed(hanging):
    """The daemon cannot end before the filesystem answers, but all that clients wait for is closed at once."""
    writer = hanging.writer
    command = hanging.cli_start("snapshot", "d", "--name", "s", "--max-rate", 1 << 20)
    hanging.wait_drain()
    send(hanging, "an object")
    wait_until(lambda: threads_that_hang(hanging), "wait of a thread for the filesystem")
    hanging.daemon.is_expected_to_live = False
    os.kill(hanging.daemon.pid, signal.SIGKILL)
    waited = writer.wait_progress(1000)
    assert hanging.daemon.process.poll() is None, "it did not hang, so nothing was tested"
    assert waited < 1 + 10 * lateness_s(), f"the client stood still for {waited * 1000:.0f} ms"
    assert command.wait(PATIENCE_S) == 1
    # The next one finds the socket and the store free.
    store = hanging.daemon.store
    hanging.start_daemon("--pool-size", "8M", store=store)
    assert hanging.json("list") == [] and hanging.is_store_clean()
    hanging.attach(writer)
    hanging.prove_snapshot(writer)


def send_many(path, file):
    """How many calls with such a descriptor are answered."""
    fd, answered = os.open(file, os.O_RDWR), 0
    for _ in range(2 * HANGING_MAX):
        with Connection(path) as connection:
            try:
                answered += "pid" in connection.call("io.livesnap.GetInfo", {}, [fd])["parameters"]
            except (EOFError, ConnectionError):
                pass
    return answered


def attach_own(path):
    with Connection(path) as connection:
        return attach(connection, "his", Memory())


def test_threads_that_hang_are_limited(hanging, faulty):
    """Who has as many as one user may have is thrown out; others are not concerned."""
    hanging.daemon.socket.chmod(0o666)
    hanging.directory.chmod(0o755)
    path = str(hanging.daemon.socket)
    with Peer(ALICE, send_many, path, str(faulty.path / "file")) as alice:
        assert alice.result == HANGING_MAX
        assert len(threads_that_hang(hanging)) <= HANGING_MAX
        with Peer(BOB, attach_own, path) as bob:
            assert "error" not in bob.result, bob.result
        faulty.become("well")
        wait_until(lambda: not gate_threads(hanging), "end of the threads")
        faulty.become(f"hang {hanging.daemon.pid}")
        assert run_as(ALICE, send_many, path, str(faulty.path / "file")) == HANGING_MAX
        faulty.become("well")
