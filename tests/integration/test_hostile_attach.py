# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors, numbers and mappings that are not what the caller of Attach says."""

import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import select
import socket
import tempfile

import pytest

from harness import Connection, wait_until
from hostile import ALICE, LIBC, PAGE, UFFDIO_API, Memory, Peer, attach, run_as, userfaultfd

REFUSALS = {"io.livesnap.BadMapping", "io.livesnap.BadRequest", "io.livesnap.Busy", "io.livesnap.LimitExceeded",
            "io.livesnap.PermissionDenied", "org.varlink.service.InvalidParameter"}


def make_attach(memory, **members):
    return {"domain": "d", "regions": [memory.region(0)], "mappings": [memory.mapping(1)], **members}


def assert_refused(lab, parameters, descriptors, what):
    """The call is refused with an error of the interface, or its sender thrown out, and others are served."""
    with Connection(lab.daemon.socket) as connection, Connection(lab.daemon.socket) as other:
        try:
            reply = connection.call("io.livesnap.Attach", parameters, descriptors)
            assert reply.get("error") in REFUSALS, f"{what}: {reply}"
        except (EOFError, ConnectionError):
            reply = {"error": "closed"}
        assert other.call("io.livesnap.ListDomains")["parameters"]["domains"] == [], what
        return reply


def assert_attaches(lab):
    """After whatever it was: the honest call works, and can be undone."""
    memory = Memory()
    with Connection(lab.daemon.socket) as connection:
        reply = attach(connection, "honest", memory)
        assert "error" not in reply, reply
        assert connection.call("io.livesnap.Detach", {"domain": "honest"}) == {"parameters": {}}
    memory.close()
    wait_until(lambda: not lab.daemon.leaked_descriptors(), f"closing of {lab.daemon.leaked_descriptors()}")



@pytest.fixture
def shm_file():
    """A file on tmpfs that only root may open."""
    with tempfile.TemporaryDirectory(prefix="livesnap-test-", dir="/dev/shm") as directory:
        os.chmod(directory, 0o711)
        path = pathlib.Path(directory) / "object"
        path.write_bytes(b"secret" + bytes(64 * PAGE - 6))
        path.chmod(0o600)
        yield path


@contextlib.contextmanager
def foreign_objects(directory, shm_file):
    """(what it is, descriptor) of much that is no object to be captured."""
    plain = directory / "plain"
    plain.write_bytes(bytes(64 * PAGE))
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    with contextlib.ExitStack() as stack:
        def keep(fd):
            stack.callback(os.close, fd)
            return fd

        pipe = [keep(fd) for fd in os.pipe()]
        sockets = [stack.enter_context(end) for end in socket.socketpair()]
        epoll = stack.enter_context(select.epoll())
        yield [
            ("a regular file", keep(os.open(plain, os.O_RDWR))),
            ("the path of a file", keep(os.open(plain, os.O_PATH))),
            ("a directory", keep(os.open(directory, os.O_RDONLY))),
            ("a directory on tmpfs", keep(os.open(shm_file.parent, os.O_RDONLY))),
            ("the end of a pipe that is read", pipe[0]),
            ("the end of a pipe that is written", pipe[1]),
            ("the path of a FIFO", keep(os.open(fifo, os.O_PATH))),
            ("a socket", sockets[0].fileno()),
            ("/dev/zero", keep(os.open("/dev/zero", os.O_RDWR))),
            ("the path of /dev/null", keep(os.open("/dev/null", os.O_PATH))),
            ("an eventfd", keep(os.eventfd(0))),
            ("an epoll", epoll.fileno()),
            ("a pidfd", keep(os.pidfd_open(os.getpid()))),
            ("a userfaultfd", keep(userfaultfd())),
            ("a file of /proc", keep(os.open("/proc/self/maps", os.O_RDONLY))),
            ("the memory of a process", keep(os.open("/proc/self/mem", os.O_RDONLY))),
            ("the path of a file on tmpfs", keep(os.open(shm_file, os.O_PATH))),
            ("a file on tmpfs, to be written only", keep(os.open(shm_file, os.O_WRONLY))),
            ("an empty memfd", keep(os.memfd_create("empty"))),
        ]


def test_object_that_is_none(lab, shm_file):
    """Each is refused, alone and beside an object that is one."""
    memory = Memory()
    with foreign_objects(lab.directory, shm_file) as objects:
        for what, fd in objects:
            uffd = userfaultfd()
            assert_refused(lab, make_attach(memory), [fd, uffd], what)
            assert_refused(lab, {"domain": "d", "regions": [memory.region(0), memory.region(2)],
                                 "mappings": [memory.mapping(1)]}, [memory.fd, uffd, fd], f"{what} as the second")
            os.close(uffd)
    memory.close()
    assert_attaches(lab)


def test_userfaultfd_that_is_none(lab, shm_file):
    memory = Memory()
    with foreign_objects(lab.directory, shm_file) as objects:
        used = userfaultfd()
        fcntl.ioctl(used, UFFDIO_API, bytearray(ctypes.c_uint64(0xAA)) + bytes(16))
        for what, fd in [*objects, ("a memfd", memory.fd), ("a userfaultfd that is in use", used)]:
            if what != "a userfaultfd":
                assert_refused(lab, make_attach(memory), [memory.fd, fd], what)
        os.close(used)
    memory.close()
    assert_attaches(lab)


def test_object_that_is_not_mapped_there(lab):
    memory, other = Memory(), Memory()
    unmapped, gone = Memory(mapped=False), Memory()
    gone.unmap()
    for what, mapping, fd in [
        ("an object that is mapped nowhere", unmapped.mapping(1, address=memory.address), unmapped.fd),
        ("another object", memory.mapping(1), other.fd),
        ("an object that was unmapped", gone.mapping(1), gone.fd),
        ("another place", other.mapping(1), memory.fd),
        ("another offset", memory.mapping(1, offset=PAGE, length=memory.length - PAGE), memory.fd),
        ("more than is mapped", memory.mapping(1, length=memory.length + (1 << 40)), memory.fd),
    ]:
        uffd = userfaultfd()
        reply = assert_refused(lab, {"domain": "d", "regions": [memory.region(0)], "mappings": [mapping]}, [fd, uffd],
                               what)
        assert reply["error"] == "io.livesnap.BadMapping", f"{what}: {reply}"
        os.close(uffd)
    for thing in (memory, other):
        thing.close()
    assert_attaches(lab)


NUMBERS = [-1, 1, 4095, 1 << 31, 1 << 32, (1 << 47) - PAGE, 1 << 47, 1 << 62, (1 << 63) - PAGE, (1 << 63) - 1, 1 << 63,
           (1 << 64) - PAGE, 1 << 64, -PAGE, -(1 << 63), 1 << 70, 1.5, 1e300, "0", None, [], {}, True]


def test_numbers_that_cannot_be(lab):
    """No number anywhere in the call is believed."""
    memory = Memory()
    honest = memory.mapping(1)

    def refuse(region, mapping, what):
        uffd = userfaultfd()
        assert_refused(lab, {"domain": "d", "regions": [region], "mappings": [mapping]}, [memory.fd, uffd], what)
        os.close(uffd)

    for number in NUMBERS:
        for member in ("address", "length", "offset", "region", "userfaultfd", "pid"):
            if number == honest.get(member) or (member, number) in (("userfaultfd", True), ("pid", None)):
                continue
            refuse(memory.region(0), memory.mapping(1, **{member: number}), f"{member} {number}")
        refuse(memory.region(number), memory.mapping(1), f"object {number}")
    # Sums that pass the end of the numbers.
    for address, length, offset in [(0, PAGE, (1 << 63) - PAGE), (memory.address, (1 << 63) - PAGE, 0),
                                    (memory.address, (1 << 63) - memory.address, 0),
                                    ((1 << 63) - PAGE, (1 << 63) - PAGE, (1 << 63) - PAGE), (0, 0, 0)]:
        refuse(memory.region(0), memory.mapping(1, address=address, length=length, offset=offset),
               f"{length} at {address}, from {offset}")
    memory.close()
    assert_attaches(lab)


def test_mappings_that_contradict_each_other(lab):
    memory = Memory()
    region, whole = memory.region(0), memory.mapping(1)
    half = memory.mapping(1, length=memory.length // 2)
    for what, regions, mappings in [
        ("the same mapping twice", [region], [whole, whole]),
        ("a mapping and a part of it", [region], [whole, half]),
        ("the same object twice", [region, memory.region(0)], [whole]),
        ("no mapping", [region], []),
        ("no region", [], [whole]),
        ("too many regions", [region] * 65, [whole]),
        ("too many mappings", [region], [whole] * 4097),
        ("no array", {}, {}),
        ("mappings that are numbers", [region], [1, 2, 3]),
    ]:
        uffd = userfaultfd()
        assert_refused(lab, {"domain": "d", "regions": regions, "mappings": mappings}, [memory.fd, uffd], what)
        os.close(uffd)
    uffd, second = userfaultfd(), userfaultfd()
    assert_refused(lab, {"domain": "d", "regions": [region], "mappings": [whole, memory.mapping(2)]},
                   [memory.fd, uffd, second], "the same mapping by two userfaultfds")
    os.close(uffd)
    os.close(second)
    memory.close()
    assert_attaches(lab)


def test_a_million_mappings(lab):
    """More than a message may be long: the sender is thrown out, and not much memory was spent on it."""
    memory = Memory()
    message = json.dumps({"method": "io.livesnap.Attach", "parameters": make_attach(memory, mappings=[])}).encode()
    mappings = b", ".join([json.dumps(memory.mapping(1)).encode()] * 1_000_000)
    with Connection(lab.daemon.socket) as connection, contextlib.suppress(OSError, EOFError):
        connection.socket.sendall(message.replace(b"[]", b"[" + mappings + b"]") + b"\0")
        assert "error" in connection.receive()
    memory.close()
    assert_attaches(lab)


def test_small_pages_of_huge_ones(lab, huge_pages):
    """A place in an object of huge pages that is no huge page."""
    huge_pages(2)
    mfd_hugetlb = 4
    memory = Memory(4 << 20, fd=LIBC.memfd_create(b"huge", os.MFD_CLOEXEC | mfd_hugetlb), mapped=False)
    os.ftruncate(memory.fd, memory.length)
    memory.address = memory.map()
    for place in ({"length": PAGE}, {"address": memory.address + PAGE, "offset": PAGE, "length": PAGE},
                  {"length": (2 << 20) + PAGE}):
        uffd = userfaultfd()
        assert_refused(lab, make_attach(memory) | {"mappings": [memory.mapping(1, **place)]}, [memory.fd, uffd], place)
        os.close(uffd)
    memory.close()
    assert_attaches(lab)


def test_file_offset_of_the_sender_stays(lab):
    memory = Memory()
    os.lseek(memory.fd, 4711, os.SEEK_SET)
    with Connection(lab.daemon.socket) as connection:
        assert "error" not in attach(connection, "d", memory)
        assert "job" in connection.call("io.livesnap.Snapshot", {"domain": "d"})["parameters"]
        assert os.lseek(memory.fd, 0, os.SEEK_CUR) == 4711
        connection.call("io.livesnap.Detach", {"domain": "d"})
    memory.close()


def attach_with_foreign_object(path, shm_file, flags):
    """A region of one's own, and beside it, by a descriptor that permits no reading, one of somebody else."""
    memory = Memory()
    with Connection(path) as connection:
        connection.call("io.livesnap.GetUserfaultfdDevice")
        uffd = userfaultfd(connection.descriptors[-1])
        other = os.open(shm_file, flags)
        return connection.call("io.livesnap.Attach", {
            "domain": "d", "regions": [memory.region(0), memory.region(2)], "mappings": [memory.mapping(1)],
        }, [memory.fd, uffd, other])


def test_descriptor_does_not_gain_rights(lab, shm_file):
    """The daemon may read everything; who sends it a descriptor that may not be read must not get it read so."""
    lab.daemon.socket.chmod(0o666)
    reply = run_as(ALICE, attach_with_foreign_object, str(lab.daemon.socket), str(shm_file), os.O_PATH)
    assert reply["error"] == "io.livesnap.BadMapping", reply
    shm_file.chmod(0o622)
    reply = run_as(ALICE, attach_with_foreign_object, str(lab.daemon.socket), str(shm_file), os.O_WRONLY)
    assert reply["error"] == "io.livesnap.BadMapping", reply
    assert lab.json("domains") == []
    assert_attaches(lab)


def attach_own(path, domain, **members):
    memory = Memory()
    memory.write(0, b"of the peer")
    with Connection(path) as connection:
        reply = attach(connection, domain, memory, **members)
    return {"reply": reply, "pid": os.getpid()}


def attach_as_pid(path, pid):
    memory = Memory()
    with Connection(path) as connection:
        connection.call("io.livesnap.GetUserfaultfdDevice")
        uffd = userfaultfd(connection.descriptors[-1])
        return connection.call("io.livesnap.Attach", make_attach(memory) | {"mappings": [memory.mapping(1, pid=pid)]},
                               [memory.fd, uffd])


def test_pid_of_somebody_else(lab):
    lab.daemon.socket.chmod(0o666)
    for pid in (1, os.getpid(), lab.daemon.pid, 4_000_000):
        reply = run_as(ALICE, attach_as_pid, str(lab.daemon.socket), pid)
        assert reply["error"] == "io.livesnap.PermissionDenied", reply
    assert lab.json("domains") == []


def test_root_is_not_lured_into_the_domain_of_a_user(lab):
    """Who owns a domain reads its snapshots: what root attaches must not end up in one that somebody made before."""
    lab.daemon.socket.chmod(0o666)
    with Peer(ALICE, attach_own, str(lab.daemon.socket), "vm") as alice:
        assert "error" not in alice.result["reply"], alice.result
        memory = Memory()
        with Connection(lab.daemon.socket) as connection:
            reply = attach(connection, "vm", memory)
        assert reply["error"] == "io.livesnap.PermissionDenied", reply
        memory.close()
        domain, = lab.json("domains")
        assert domain["uid"] == ALICE and domain["processes"] == 1
    wait_until(lambda: lab.json("domains") == [], "end of the domain with its only process")


def gain_rights_and_attach(path):
    """Connect, then have the process run with other rights."""
    memory = Memory()
    with Connection(path) as connection:
        connection.call("io.livesnap.GetUserfaultfdDevice")
        uffd = userfaultfd(connection.descriptors[-1])
        os.setresuid(0, ALICE, 0)
        return connection.call("io.livesnap.Attach", make_attach(memory), [memory.fd, uffd])


def connect_as_alice_then_gain(path):
    os.setresuid(0, ALICE, 0)
    return gain_rights_and_attach(path)


def test_process_that_has_more_rights_than_its_connection(lab):
    lab.daemon.socket.chmod(0o666)
    reply = run_as(0, connect_as_alice_then_gain, str(lab.daemon.socket))
    assert reply["error"] == "io.livesnap.PermissionDenied", reply
    assert lab.json("domains") == []
