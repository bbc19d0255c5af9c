# SPDX-License-Identifier: GPL-2.0-or-later
"""Peers that send too much, too little, too often, and do not read."""

import contextlib
import json
import os
import pathlib
import re
import resource
import socket

import pytest

from harness import Connection, wait_until
from hostile import ALICE, BOB, Peer, run_as

CALL = json.dumps({"method": "io.livesnap.GetInfo"}).encode() + b"\0"
GROWTH_MAX_BYTES = 96 << 20


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10


@pytest.fixture
def watched(lab):
    """A lab whose daemon must neither have grown nor have kept anything in the end."""
    lab.daemon.socket.chmod(0o666)
    lab.path = str(lab.daemon.socket)
    before = resident_bytes(lab.daemon.pid)
    yield lab
    assert_serves(lab.path)
    wait_until(lambda: not lab.daemon.leaked_descriptors(), "closing of what the peers sent")
    assert resident_bytes(lab.daemon.pid) < before + GROWTH_MAX_BYTES


def assert_serves(path):
    with Connection(path) as connection:
        assert "pid" in connection.call("io.livesnap.GetInfo")["parameters"]


def send_without_end(path):
    """One message of a GiB; how much of it was taken."""
    sent = 0
    with Connection(path) as connection, contextlib.suppress(ConnectionError):
        connection.socket.sendall(b'{"method": "')
        while sent < 1 << 30:
            sent += connection.socket.send(b"x" * (1 << 20))
    return sent


def test_message_of_a_gibibyte(watched):
    """The sender is thrown out once it is over the limit, which is far less."""
    assert run_as(ALICE, send_without_end, watched.path) < 16 << 20


def send_halves(path):
    """Half a message on each of many connections, which stay open while others want to be served."""
    connections = [Connection(path) for _ in range(200)]
    for n, connection in enumerate(connections):
        connection.socket.sendall(CALL[:1 + n % (len(CALL) - 1)])
    assert_serves(path)


def test_half_a_message(watched):
    with Peer(ALICE, send_halves, watched.path):
        assert_serves(watched.path)
        run_as(BOB, assert_serves, watched.path)


def connect_ten_thousand_times(path):
    """As many connections as are to be had, which stay; how many of them are served."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(12_000, hard), hard))
    peers, served = [], 0
    for _ in range(min(10_000, hard - 100)):
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.connect(path)
        peer.settimeout(30)
        peers.append(peer)
    for peer in peers:
        with contextlib.suppress(ConnectionError):
            peer.sendall(CALL)
            served += b"pool_bytes" in peer.recv(4096)
    HELD.extend(peers)
    return served


HELD = []  # what a peer keeps open until its process ends


def test_ten_thousand_connections(watched):
    """One user gets what is one user's; others are served all the while."""
    with Peer(ALICE, connect_ten_thousand_times, watched.path) as alice:
        assert 0 < alice.result <= 256
        run_as(BOB, assert_serves, watched.path)
        assert_serves(watched.path)
    wait_until(lambda: run_as(ALICE, is_served, watched.path), "room for the user's next connection")


def is_served(path):
    try:
        assert_serves(path)
    except (AssertionError, KeyError, EOFError, ConnectionError):
        return False
    return True


def call_without_reading(path):
    """Calls as long as they are taken, and no answer is read; then all answers."""
    n_sent, batch = 0, CALL * 200
    with Connection(path) as connection:
        connection.socket.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while n_sent < 2_000_000:
                n_sent += connection.socket.send(batch)
        connection.socket.settimeout(30)
        n_calls, n_left = divmod(n_sent, len(CALL))
        for _ in range(n_calls):
            assert "pid" in connection.receive()["parameters"]
        if n_left:
            connection.socket.sendall(CALL[n_left:])
            assert "pid" in connection.receive()["parameters"]
    return n_calls


def test_reader_that_does_not_read(watched):
    """The daemon stops to read calls when their answers are not taken, and loses none."""
    n_calls = run_as(ALICE, call_without_reading, watched.path)
    assert 10 < n_calls < 2_000_000 // len(CALL), "it was never held back"


def send_descriptors(path, n_connections, n_each, text):
    """Messages, whole or not, with as many descriptors as fit; how many connections were thrown out."""
    null = os.open("/dev/null", os.O_RDONLY)
    ended = 0
    connections = [Connection(path) for _ in range(n_connections)]
    for connection in connections:
        with contextlib.suppress(ConnectionError):
            socket.send_fds(connection.socket, [text.encode()], [null] * n_each)
    for connection in connections:
        connection.socket.settimeout(0.05)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            ended += connection.socket.recv(65536) == b""
    HELD.extend(connections)
    return ended


def test_flood_of_descriptors(watched):
    """Half messages keep the descriptors that came with them: up to what one user may have in the daemon."""
    with Peer(ALICE, send_descriptors, watched.path, 40, 64, CALL[:10].decode()):
        held = watched.daemon.leaked_descriptors()
        assert held["/dev/null"] <= 1024 + 64, held
        run_as(BOB, assert_serves, watched.path)


def test_more_descriptors_than_a_message_may_have(watched):
    with Peer(ALICE, send_descriptors, watched.path, 4, 250, CALL.decode()):
        assert_serves(watched.path)
        wait_until(lambda: not watched.daemon.leaked_descriptors()["/dev/null"], "closing of them all")


def test_descriptors_that_nobody_asked_for(watched):
    """They are closed with the call that they came with."""
    with Peer(ALICE, send_descriptors, watched.path, 100, 64, CALL.decode()):
        wait_until(lambda: not watched.daemon.leaked_descriptors()["/dev/null"], "closing of them all")
