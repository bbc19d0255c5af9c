# SPDX-License-Identifier: GPL-2.0-or-later
"""What belongs to one user is out of reach of another, and names lead nowhere but into the store."""

import os
import re

import pytest

from harness import Connection, wait_until
from hostile import ALICE, BOB, PAGE, Memory, Peer, attach, run_as

SECRET = b"of alice alone"


def attach_secret(path, domain):
    memory = Memory(4096 * PAGE)
    for page in range(4096):
        memory.write(page * PAGE, SECRET + bytes([page % 256]))
    with Connection(path) as connection:
        return attach(connection, domain, memory)


def call(path, method, parameters):
    """One call; its reply, and whether descriptors came with it."""
    with Connection(path) as connection:
        reply = connection.call(f"io.livesnap.{method}", parameters)
        return {**reply, "n_fds": len(connection.descriptors)}


@pytest.fixture
def alices(lab):
    """A lab with a domain of Alice's, a snapshot of it, and a job that goes on."""
    lab.daemon.socket.chmod(0o666)
    lab.path = str(lab.daemon.socket)
    with Peer(ALICE, attach_secret, lab.path, "hers") as peer:
        assert "error" not in peer.result, peer.result
        taken = run_as(ALICE, call, lab.path, "Snapshot", {"domain": "hers", "name": "taken"})
        assert taken["parameters"]["job"]["state"] == "done", taken
        started = run_as(ALICE, call, lab.path, "Snapshot",
                         {"domain": "hers", "name": "slow", "detach": True, "max_rate": 1 << 20})
        lab.job = started["parameters"]["job"]["job"]
        yield lab
        run_as(ALICE, call, lab.path, "CancelJob", {"job": lab.job})


def test_what_is_somebody_elses(alices):
    """Bob tries every method that takes a name or a number."""
    for method, parameters, error in [
        ("Snapshot", {"domain": "hers"}, "PermissionDenied"),
        ("Snapshot", {"domain": "hers", "name": "his", "detach": True}, "PermissionDenied"),
        ("Detach", {"domain": "hers"}, "PermissionDenied"),
        ("Detach", {"domain": "hers", "region": "hostile"}, "PermissionDenied"),
        ("ListDomains", {"domain": "hers"}, "PermissionDenied"),
        ("WaitJob", {"job": alices.job}, "NoSuchJob"),
        ("CancelJob", {"job": alices.job}, "NoSuchJob"),
        ("ShowSnapshot", {"domain": "hers", "name": "taken"}, "PermissionDenied"),
        ("OpenSnapshot", {"domain": "hers", "name": "taken"}, "PermissionDenied"),
        ("OpenSnapshot", {"domain": "hers", "name": "taken", "region": "hostile"}, "PermissionDenied"),
        ("VerifySnapshot", {"domain": "hers", "name": "taken"}, "PermissionDenied"),
        ("DeleteSnapshot", {"domain": "hers", "name": "taken"}, "PermissionDenied"),
        ("DeleteSnapshot", {"domain": "hers", "name": "taken", "fold": True}, "PermissionDenied"),
        ("CompactSnapshot", {"domain": "hers", "name": "taken"}, "PermissionDenied"),
    ]:
        reply = run_as(BOB, call, alices.path, method, parameters)
        assert reply.get("error") == f"io.livesnap.{error}", f"{method}: {reply}"
        assert reply["n_fds"] == 0, method
    # A prune counts only what is his own.
    job = run_as(BOB, call, alices.path, "Prune", {"domain": "hers", "keep_last": 1})["parameters"]["job"]
    assert not any(job[key] for key in ("kept", "needed", "folded", "deleted")), job
    reply = run_as(BOB, attach_secret, alices.path, "hers")
    assert reply["error"] == "io.livesnap.PermissionDenied", reply
    for method, members in [("ListDomains", "domains"), ("ListJobs", "jobs"), ("ListSnapshots", "snapshots")]:
        for parameters in ({}, {"domain": "hers"} if method == "ListSnapshots" else {}):
            reply = run_as(BOB, call, alices.path, method, parameters)
            # What he asked for and was refused is his own.
            his = [found for found in reply["parameters"][members] if found.get("kind") in ("verify", "compact", "delete", "prune")]
            assert reply["parameters"][members] == his, f"{method}: {reply}"
    # All of it is as it was.
    assert [job["job"] for job in alices.running_jobs()] == [alices.job]
    opened = run_as(ALICE, call, alices.path, "OpenSnapshot", {"domain": "hers", "name": "taken"})
    assert opened["n_fds"] == 3, opened
    assert "error" not in run_as(ALICE, call, alices.path, "VerifySnapshot", {"domain": "hers", "name": "taken"})
    image = next(alices.daemon.store.glob("hers/taken/*.mem")).read_bytes()
    assert image[255 * PAGE:].startswith(SECRET + bytes([255]))


def test_store_is_closed_to_users(alices):
    """The files themselves are as private as the calls."""
    def look(path):
        try:
            return os.listdir(path)
        except PermissionError:
            return "denied"

    assert run_as(BOB, look, str(alices.daemon.store)) == "denied"
    assert run_as(ALICE, look, str(alices.daemon.store)) == "denied"


NAMES = ["../outside", "..", ".", "hers/taken", "/etc", "", "a\0b", "x" * 129, ".work", "-x", "a\nb", "a b", "%s%n", "\u00e9",
         "taken/../../x"]


def tree(path):
    return sorted(str(entry) for entry in path.rglob("*"))


def test_names_stay_in_the_store(alices):
    """Each name that is none, in each place where a name may stand, from a user and from root."""
    run_as(ALICE, call, alices.path, "CancelJob", {"job": alices.job})
    alices.wait_no_jobs()
    before = tree(alices.directory)
    calls = [(method, {"domain": "hers", "name": "taken"}, member)
             for method in ("ShowSnapshot", "OpenSnapshot", "VerifySnapshot", "DeleteSnapshot")
             for member in ("domain", "name")]
    calls += [("Snapshot", {"domain": "hers"}, member) for member in ("domain", "name")]
    calls += [("OpenSnapshot", {"domain": "hers", "name": "taken"}, "region"),
              ("Detach", {"domain": "hers"}, "domain"), ("Detach", {"domain": "hers"}, "region"),
              ("ListDomains", {}, "domain"), ("ListSnapshots", {}, "domain"), ("Attach", {}, "domain")]

    def try_all(path):
        wrong = []
        memory = Memory()
        for method, parameters, member in calls:
            for name in NAMES:
                with Connection(path) as connection:
                    given = {**parameters, member: name}
                    try:
                        if method == "Attach":
                            reply = attach(connection, name, memory)
                        else:
                            reply = connection.call(f"io.livesnap.{method}", given)
                    except (EOFError, ConnectionError):
                        continue
                    if "error" not in reply and reply["parameters"] != {"snapshots": []}:
                        wrong.append([method, member, name, reply])
        return wrong

    assert run_as(ALICE, try_all, alices.path) == []
    assert run_as(0, try_all, alices.path) == []
    assert tree(alices.directory) == before


def test_region_name_is_made_harmless(lab):
    """The name of a region is a wish, and becomes one that can be a file's."""
    for wish in set(NAMES) - {"a\0b"}:
        memory = Memory()
        with Connection(lab.daemon.socket) as connection:
            reply = attach(connection, "d", memory, regions=[memory.region(0, name=wish)])
            name = reply["parameters"]["domain"]["regions"][0]["name"]
            assert re.fullmatch(r"[A-Za-z0-9_:@+][A-Za-z0-9._:@+-]{0,127}", name), (wish, name)
            assert "error" not in connection.call("io.livesnap.Snapshot", {"domain": "d"})
            connection.call("io.livesnap.Detach", {"domain": "d"})
        memory.close()
    assert {path.parent.parent.parent for path in lab.daemon.store.rglob("*.mem")} == {lab.daemon.store}


def attach_until_refused(path, most):
    """Domains without end; how many there were, and why no more."""
    memories = []
    for n in range(most):
        memories.append(Memory(PAGE))
        with Connection(path) as connection:
            reply = attach(connection, f"flood-{n}", memories[-1])
        if "error" in reply:
            return {"n": n, **reply}
    return {"n": most}


def verify_until_refused(path):
    """Jobs without end: each holds a connection, since it ends with it."""
    connections = [Connection(path) for _ in range(40)]
    for connection in connections:
        connection.send("io.livesnap.VerifySnapshot", {"domain": "hers", "name": "taken"})
    return [connection.receive().get("error") for connection in connections]


def test_one_user_does_not_take_all_domains(lab):
    lab.daemon.socket.chmod(0o666)
    with Peer(ALICE, attach_until_refused, str(lab.daemon.socket), 100) as alice:
        assert alice.result.get("error") == "io.livesnap.LimitExceeded", alice.result
        assert alice.result["n"] == 64
        with Peer(BOB, attach_secret, str(lab.daemon.socket), "his") as bob:
            assert "error" not in bob.result, bob.result
        assert len(lab.json("domains")) >= 64
    wait_until(lambda: lab.json("domains") == [], "end of the domains with their process")


def test_many_jobs_of_one_user(alices):
    """Some are refused, none lasts for ever, and others' are not kept waiting."""
    errors = run_as(ALICE, verify_until_refused, alices.path)
    assert set(errors) <= {None, "io.livesnap.LimitExceeded"}, errors
    assert None in errors
    assert "error" not in run_as(ALICE, call, alices.path, "VerifySnapshot", {"domain": "hers", "name": "taken"})


def attach_sparse(path):
    memory = Memory(12 << 40, mapped=False)
    memory.length = PAGE
    memory.address = memory.map()
    with Connection(path) as connection:
        reply = attach(connection, "sparse", memory)
        return reply if "error" in reply else connection.call("io.livesnap.Snapshot", {"domain": "sparse"})


def test_sparse_object_does_not_cost_memory(lab):
    """An object of 12 TiB with nothing in it: what is kept for each page would be a gigabyte."""
    lab.daemon.socket.chmod(0o666)
    reply = run_as(ALICE, attach_sparse, str(lab.daemon.socket))
    assert reply["error"] == "io.livesnap.LimitExceeded", reply
