# SPDX-License-Identifier: GPL-2.0-or-later
"""The Varlink API as somebody else's library sees it: over the raw socket."""

import contextlib
import json
import os
import socket

import pytest

from harness import NOBODY, ROOT, Connection, wait_until


@pytest.fixture
def connection(lab):
    with contextlib.closing(Connection(lab.daemon.socket)) as made:
        yield made


def normalise(text):
    return [line.rstrip() for line in text.strip().splitlines()]


def test_served_description_is_the_installed_file(connection):
    reply = connection.call("org.varlink.service.GetInterfaceDescription", {"interface": "io.livesnap"})
    installed = (ROOT / "include" / "io.livesnap.varlink").read_text()
    assert normalise(reply["parameters"]["description"]) == normalise(installed)


def test_service_info(connection):
    reply = connection.call("org.varlink.service.GetInfo")["parameters"]
    assert {"vendor", "product", "version", "url", "interfaces"} <= reply.keys()
    assert {"io.livesnap", "org.varlink.service"} <= set(reply["interfaces"])


def test_every_method_of_the_description_is_served(connection):
    installed = (ROOT / "include" / "io.livesnap.varlink").read_text()
    methods = [line.split()[1].partition("(")[0] for line in installed.splitlines() if line.startswith("method ")]
    assert len(methods) > 10
    for method in methods:
        reply = connection.call(f"io.livesnap.{method}")
        assert reply.get("error") not in ("org.varlink.service.MethodNotFound",
                                          "org.varlink.service.MethodNotImplemented"), method


@pytest.mark.parametrize("method,parameters,error", [
    ("io.livesnap.NoSuchThing", {}, "org.varlink.service.MethodNotFound"),
    ("no.such.interface.Thing", {}, "org.varlink.service.InterfaceNotFound"),
    ("org.varlink.service.GetInterfaceDescription", {"interface": "no.such"}, "org.varlink.service.InterfaceNotFound"),
    ("io.livesnap.Snapshot", {"domain": "nowhere"}, "io.livesnap.NoSuchDomain"),
    ("io.livesnap.ShowSnapshot", {"domain": "../x", "name": "s"}, "io.livesnap.InvalidName"),
    ("io.livesnap.ShowSnapshot", {"domain": "d", "name": "s"}, "io.livesnap.NoSuchSnapshot"),
    ("io.livesnap.WaitJob", {"job": 4711}, "io.livesnap.NoSuchJob"),
    ("io.livesnap.CancelJob", {"job": 4711}, "io.livesnap.NoSuchJob"),
])
def test_error_by_name(connection, method, parameters, error):
    reply = connection.call(method, parameters)
    assert reply["error"] == error
    if error.startswith("io.livesnap."):
        assert len(reply["parameters"]["message"].split()) > 3


@pytest.mark.parametrize("parameters", [{}, {"domain": 5}, {"domain": None}, {"domain": ["d"]}, {"domain": {}}])
def test_parameters_of_the_wrong_type(connection, parameters):
    reply = connection.call("io.livesnap.Snapshot", parameters)
    assert reply["error"] in ("org.varlink.service.InvalidParameter", "io.livesnap.BadRequest")
    assert "pid" in connection.call("io.livesnap.GetInfo")["parameters"]


@pytest.mark.parametrize("rubbish", [
    b"\0", b"{}\0", b"[]\0", b"null\0", b"{\0", b"\xff\xfe\0", b'{"method": 5}\0', b'{"method": "x"}\0',
    b'{"method": "io.livesnap.GetInfo", "parameters": []}\0', b"[" * 100000 + b"\0", b"x" * (64 << 20),
], ids=range(11))
def test_rubbish_harms_nobody(lab, connection, rubbish):
    """The sender may be thrown out; the daemon and everybody else go on."""
    with contextlib.closing(Connection(lab.daemon.socket)) as other:
        with contextlib.suppress(OSError):
            connection.socket.sendall(rubbish)
        with contextlib.suppress(OSError, EOFError):
            assert "error" in connection.receive()
        assert other.call("io.livesnap.GetInfo")["parameters"]["pid"] == lab.daemon.pid


def test_calls_in_one_write_are_answered_in_order(connection):
    one = json.dumps({"method": "io.livesnap.GetInfo"}).encode() + b"\0"
    two = json.dumps({"method": "io.livesnap.ListJobs"}).encode() + b"\0"
    connection.socket.sendall(one + two + one)
    replies = [connection.receive()["parameters"] for _ in range(3)]
    assert ["pid" in reply for reply in replies] == [True, False, True]
    assert replies[1]["jobs"] == []


def test_call_in_single_bytes(connection):
    for byte in json.dumps({"method": "io.livesnap.GetInfo"}).encode() + b"\0":
        connection.socket.sendall(bytes([byte]))
    assert "pid" in connection.receive()["parameters"]


def test_oneway_is_not_answered(connection):
    connection.send("io.livesnap.GetInfo", oneway=True)
    assert "jobs" in connection.call("io.livesnap.ListJobs")["parameters"]


def test_progress_is_streamed(lab, connection):
    writer = lab.start_writer(pages=8192)
    lab.attach(writer)
    connection.send("io.livesnap.Snapshot", {"domain": "d", "name": "s", "max_rate": 16 << 20}, more=True)
    replies = [connection.receive()]
    while replies[-1].get("continues"):
        replies.append(connection.receive())
    assert len(replies) > 2
    assert replies[-1]["parameters"]["job"]["state"] == "done"
    assert replies[-1]["parameters"]["job"]["snapshot"]["snapshot"] == "d/s"
    done = [reply["parameters"]["job"]["bytes_done"] for reply in replies]
    assert done == sorted(done)


def test_closing_the_connection_cancels_its_snapshot(lab, connection):
    writer = lab.start_writer(pages=16384)
    lab.attach(writer)
    connection.send("io.livesnap.Snapshot", {"domain": "d", "max_rate": 4 << 20}, more=True)
    connection.receive()
    connection.socket.shutdown(socket.SHUT_RDWR)
    lab.wait_no_jobs()
    assert lab.json("list") == []


def test_opened_snapshot_gives_descriptors(lab, connection):
    writer = lab.start_writer(pages=64)
    lab.attach(writer)
    lab.snapshot("d", "--name", "s")
    reply = connection.call("io.livesnap.OpenSnapshot", {"domain": "d", "name": "s"})["parameters"]
    region, = reply["regions"]
    image = connection.descriptors[region["image"]]
    assert os.fstat(image).st_size == region["bytes"] == 64 * 4096
    with pytest.raises(OSError):
        os.write(image, b"x")
    assert json.loads(os.pread(connection.descriptors[reply["manifest"]], 1 << 20, 0))


def test_device_for_unprivileged_clients(connection):
    reply = connection.call("io.livesnap.GetUserfaultfdDevice")["parameters"]
    target = os.readlink(f"/proc/self/fd/{connection.descriptors[reply['device']]}")
    assert target == "/dev/userfaultfd"


def test_bad_descriptors_are_refused(lab, connection):
    """What is handed over is checked, and closed again: the daemon keeps nothing of it."""
    with open("/dev/null") as null, open("/etc/passwd") as file:
        for objects in ([null.fileno(), null.fileno()], [file.fileno(), file.fileno()]):
            message = {"method": "io.livesnap.Attach", "parameters": {
                "domain": "d", "regions": [{"object": 0}],
                "mappings": [{"region": 0, "userfaultfd": 1, "address": 4096, "length": 4096, "offset": 0}]}}
            socket.send_fds(connection.socket, [json.dumps(message).encode() + b"\0"], objects)
            assert connection.receive()["error"] == "io.livesnap.BadMapping"
    assert lab.json("domains") == []


@pytest.mark.parametrize("change", [{"region": 1}, {"region": -1}, {"userfaultfd": 7}, {"userfaultfd": -1},
                                    {"length": -4096}, {"offset": -4096}, {"address": -1}, {"length": 1 << 62}])
def test_bad_numbers_in_attach(connection, change):
    mapping = {"region": 0, "userfaultfd": 1, "address": 4096, "length": 4096, "offset": 0, **change}
    memfd = os.memfd_create("x")
    os.truncate(memfd, 4096)
    message = {"method": "io.livesnap.Attach",
               "parameters": {"domain": "d", "regions": [{"object": 0}], "mappings": [mapping]}}
    socket.send_fds(connection.socket, [json.dumps(message).encode() + b"\0"], [memfd, memfd])
    os.close(memfd)
    assert "error" in connection.receive()


def test_many_connections(lab):
    """More clients than are allowed are turned away, and the daemon serves again when they are gone."""
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            with contextlib.suppress(OSError):
                stack.enter_context(contextlib.closing(Connection(lab.daemon.socket)))
    wait_until(lambda: lab.cli("jobs", check=False).status == 0, "recovery of the daemon")
