# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes that no mapping of ours can tell of: they are refused, or said."""

import ctypes
import fcntl
import os
import signal
import socket
import struct

from harness import Connection
from hostile import LIBC, PAGE, Memory, Peer, attach, userfaultfd

SYS_IO_URING_SETUP = 425
SYS_IO_URING_REGISTER = 427
IORING_REGISTER_BUFFERS = 0
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | 0x10  # F_SEAL_FUTURE_WRITE


def register_buffer(memory):
    """Have io_uring write to the first page without a page table; returns the ring, which keeps it so."""
    parameters = ctypes.create_string_buffer(120)
    ring = LIBC.syscall(SYS_IO_URING_SETUP, 4, parameters)
    if ring < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    iovec = ctypes.create_string_buffer(struct.pack("QQ", memory.address, PAGE))
    if LIBC.syscall(SYS_IO_URING_REGISTER, ring, IORING_REGISTER_BUFFERS, iovec, 1) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_register")
    return ring


def attach_pinned(path, is_pinned_first, is_sealed, **members):
    memory = Memory()
    memory.write(0, bytes(range(256)) * 16)
    if is_sealed:
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, SEALS)
    if is_pinned_first:
        register_buffer(memory)
    with Connection(path) as connection:
        reply = attach(connection, "d", memory, **members)
    if not is_pinned_first:
        register_buffer(memory)
    return reply


def assert_pins_are_said(lab):
    snapshot = lab.snapshot("d", "--name", "pinned")
    assert snapshot["guarantee"] == "advisory"
    warning, = [text for text in snapshot["warnings"] if "io_uring" in text]
    assert "pinned" in warning or "registered" in warning
    assert lab.json("show", "d/pinned")["guarantee"] == "advisory"
    refused = lab.cli("snapshot", "d", "--name", "strict", "--strict", check=False)
    assert refused.status == 1 and "io_uring" in refused.stderr, refused
    assert [listed["snapshot"] for listed in lab.json("list")] == ["d/pinned"]


def test_buffers_of_io_uring_are_said(lab):
    """Registered after the attach, by a program whose region is sealed: no seal keeps io_uring out."""
    with Peer(0, attach_pinned, str(lab.daemon.socket), False, True) as peer:
        assert "error" not in peer.result, peer.result
        assert_pins_are_said(lab)


def test_buffers_of_a_forked_child_are_said(lab):
    """Nobody tells the pid of a child; it is found all the same."""
    def attach_and_fork(path):
        memory = Memory()
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, SEALS)
        with Connection(path) as connection:
            reply = attach(connection, "d", memory)
        ready, ready_in = os.pipe()
        if os.fork() == 0:
            LIBC.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG
            register_buffer(memory)
            os.write(ready_in, b"x")
            signal.pause()
        os.read(ready, 1)
        return reply

    with Peer(0, attach_and_fork, str(lab.daemon.socket)) as peer:
        assert "error" not in peer.result, peer.result
        assert_pins_are_said(lab)


def test_strict_attach_refuses_what_is_pinned(lab):
    with Peer(0, attach_pinned_strictly, str(lab.daemon.socket)) as peer:
        assert peer.result["error"] == "io.livesnap.UntrackedWriter", peer.result
        assert "io_uring" in peer.result["parameters"]["message"]
    assert lab.json("domains") == []


def attach_pinned_strictly(path):
    return attach_pinned(path, True, False, strict=True)


def attach_strictly_then_pin(path):
    return attach_pinned(path, False, True, strict=True)


def test_strict_domain_takes_strict_snapshots(lab):
    with Peer(0, attach_strictly_then_pin, str(lab.daemon.socket)) as peer:
        assert "error" not in peer.result, peer.result
        refused = lab.cli("snapshot", "d", check=False)
        assert refused.status == 1 and "io_uring" in refused.stderr, refused
    assert lab.json("list") == []


def test_descriptor_of_a_stranger_is_said(lab):
    """A file on tmpfs that somebody else has open for writing."""
    writer = lab.start_writer(kind="tmpfs", pages=256)
    lab.attach(writer)
    path = os.readlink(writer.region_paths()[0])
    before = lab.cli("snapshot", "d", "--strict", check=False)
    # Where a process cannot be looked into, not even by root, nothing is certain.
    assert before.status == 0 or "looked into" in before.stderr, before
    fd = os.open(path, os.O_RDWR)
    try:
        refused = lab.cli("snapshot", "d", "--strict", check=False)
        assert refused.status == 1 and str(os.getpid()) in refused.stderr, refused
        snapshot = lab.snapshot("d")
        assert snapshot["guarantee"] == "advisory" and any(str(os.getpid()) in text for text in snapshot["warnings"])
    finally:
        os.close(fd)


def attach_by_proxy(path):
    """Hand over the userfaultfd of a child that maps the same at the same place, as if it were one's own."""
    memory = Memory(1024 * PAGE)
    memory.write(0, b"x" * PAGE)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        LIBC.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG
        fd = userfaultfd()
        socket.send_fds(theirs, [b"x"], [fd])
        os.close(fd)
        theirs.recv(1)
        os._exit(0)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    ours.set_inheritable(True)
    os.dup(ours.fileno())  # keeps the child until this process ends
    with Connection(path) as connection:
        reply = connection.call("io.livesnap.Attach", {
            "domain": "d", "regions": [memory.region(0)], "mappings": [memory.mapping(1)],
        }, [memory.fd, *fds])
    os.close(fds[0])
    return reply


def test_protection_that_was_put_elsewhere_is_found(lab):
    """The kernel says yes to every arm call, and the program goes on writing: a look at its page tables tells, or at
    the process that has the mapping in truth."""
    with Peer(0, attach_by_proxy, str(lab.daemon.socket)) as peer:
        assert "error" not in peer.result, peer.result
        refused = lab.cli("snapshot", "d", "--json", check=False)
        assert refused.status == 1, refused
        assert refused.json["error"] in ("io.livesnap.ArmFailed", "io.livesnap.UntrackedWriter"), refused
    assert lab.json("list") == []
    assert lab.is_store_clean()
