# SPDX-License-Identifier: GPL-2.0-or-later
"""The service under a real systemd: from the installation of the package to its removal."""

import json
import signal

import pytest

from harness import wait_until

SOCKET = "/run/livesnap/livesnapd.sock"


@pytest.fixture
def service(booted):
    """With the packages installed, as an administrator does it on a system that runs."""
    booted.run("dpkg", "--install", *booted.tree.packages)
    return booted


def livesnap(booted, *arguments, **options):
    return json.loads(booted.run("livesnap", *arguments, "--json", **options).stdout)


def prove_snapshot(booted, writer, domain):
    """Take one and compare it with what the writer had written at some instant meanwhile."""
    at_least = writer.completed
    snapshot = livesnap(booted, "snapshot", domain)
    at_most = writer.issued
    shown = livesnap(booted, "show", snapshot["snapshot"])
    images = [booted.tree.directory / region["path"].lstrip("/") for region in shown["regions"]]
    assert len(images) == len(writer.regions) == 1
    booted.lab.check(writer, images, at_least, at_most)
    return snapshot


def attach_service(booted, name):
    """As livesnap-attach(8) says."""
    config = booted.tree.directory / f"etc/livesnap/attach/{name}.conf"
    config.write_text("LIVESNAP_ATTACH_OPTIONS=\"--object '*oracle-[0-9]*'\"\n")
    started = booted.run("systemctl", "start", f"livesnap-attach@{name}", check=False)
    assert started.returncode == 0, booted.journal(f"livesnap-attach@{name}")


def wait_attached(booted, name):
    def is_attached():
        listed = booted.run("livesnap", "domains", "--json", check=False).stdout
        return listed and name in [domain["name"] for domain in json.loads(listed)]

    wait_until(is_attached, f"attachment of {name}, which logged {booted.journal('livesnap-attach@' + name)}", 60, 0.1)


def test_life_of_a_service(service):
    """In one go, since a system takes a while to come up."""
    # It begins with the first connection, of who is in the group.
    assert service.show("livesnapd.socket", "ActiveState") == "active"
    assert service.show("livesnapd.service", "ActiveState") == "inactive"
    assert service.run("stat", "-c", "%U %G %a", SOCKET).stdout.split() == ["root", "livesnap", "660"]
    service.run("useradd", "--groups", "livesnap", "member")
    service.run("useradd", "stranger")
    assert service.run("setpriv", "--reuid=stranger", "--regid=stranger", "--clear-groups", "livesnap", "list",
                       check=False).returncode == 1
    assert service.show("livesnapd.service", "ActiveState") == "inactive"
    service.run("setpriv", "--reuid=member", "--regid=member", "--init-groups", "livesnap", "list")
    assert service.show("livesnapd.service", "ActiveState") == "active"
    assert service.show("livesnapd.service", "StatusText") == "Serving."
    pid = service.show("livesnapd.service", "MainPID")
    status = service.run("cat", f"/proc/{pid}/status").stdout
    assert [line.split()[1] for line in status.splitlines() if line.startswith("Uid:")][0] != "0"
    # CAP_DAC_READ_SEARCH, CAP_KILL and CAP_SYS_PTRACE
    assert "CapEff:\t0000000000080024\n" in status

    # It sees every process, although /proc is hidden from the likes of its user.
    seen = service.run("nsenter", "--target", pid, "--mount", "--", "setpriv", "--reuid=livesnap", "--regid=livesnap",
                       "--clear-groups", "--inh-caps=+sys_ptrace,+dac_read_search",
                       "--ambient-caps=+sys_ptrace,+dac_read_search", "ls", "/proc").stdout.split()
    # Those that are shown with and without; others come and go.
    lasting = [service.show(unit, "MainPID") for unit in ("systemd-journald", "dbus", "systemd-logind")]
    assert {"1", *lasting} <= set(seen)

    # A service is attached, snapshotted, and attached again when the daemon is restarted, killed, or hangs.
    writer = service.start_service("victim", pages=4096, threads=2)
    attach_service(service, "victim")
    assert prove_snapshot(service, writer, "victim")["warnings"] == []
    service.run("systemctl", "reload", "livesnapd")
    assert "has read its options again" in service.journal("livesnapd")
    assert service.show("livesnapd.service", "MainPID") == pid
    prove_snapshot(service, writer, "victim")
    service.run("systemctl", "restart", "livesnapd")
    wait_attached(service, "victim")
    prove_snapshot(service, writer, "victim")
    service.run("systemctl", "kill", "--signal=KILL", "livesnapd")
    writer.wait_progress(1000)
    wait_attached(service, "victim")
    prove_snapshot(service, writer, "victim")
    hung = service.show("livesnapd.service", "MainPID")
    service.run("kill", f"-{signal.SIGSTOP.value}", hung)
    wait_until(lambda: service.show("livesnapd.service", "MainPID") not in (hung, "0"), "end of a daemon that hangs", 60, 0.2)
    assert "atchdog" in service.run("journalctl", "--unit", "livesnapd", "--output", "cat").stdout
    writer.wait_progress(1000)
    wait_attached(service, "victim")
    prove_snapshot(service, writer, "victim")

    # A file that is wrong keeps it from starting, and the journal says where it is wrong.
    config = service.tree.directory / "etc/livesnap/livesnapd.conf"
    text = config.read_text()
    config.write_text(text + "max-hold = no\n")
    service.run("systemctl", "restart", "livesnapd", check=False)
    n_lines = len(text.splitlines()) + 1
    assert f"/etc/livesnap/livesnapd.conf, line {n_lines}: max-hold" in service.journal("livesnapd")
    config.write_text(text)
    service.run("systemctl", "reset-failed", "livesnapd.service", "livesnapd.socket")
    service.run("systemctl", "restart", "livesnapd.socket", "livesnapd.service")
    service.run("systemctl", "restart", "livesnap-attach@victim")
    prove_snapshot(service, writer, "victim")

    # What is stopped lets go. What is removed leaves nothing running, and the snapshots.
    service.run("systemctl", "stop", "livesnap-attach@victim")
    assert livesnap(service, "domains") == []
    n_snapshots = len(livesnap(service, "list"))
    service.run("systemctl", "start", "livesnap-attach@victim")
    service.run("dpkg", "--remove", "livesnapd")
    assert service.run("pidof", "livesnapd", check=False).stdout == ""
    writer.wait_progress(1000)
    assert len(list((service.tree.directory / "var/lib/livesnap/victim").iterdir())) == n_snapshots
    assert not (service.tree.directory / "run/livesnap/livesnapd.sock").exists()


def test_varlinkctl(service):
    """Somebody else's client introspects and calls, and is told progress."""
    if service.run("sh", "-c", "command -v varlinkctl", check=False).returncode != 0:
        pytest.skip("this suite has no varlinkctl")
    writer = service.start_service("victim", pages=16384)
    attach_service(service, "victim")

    def varlinkctl(*words):
        return service.run("varlinkctl", *words).stdout

    assert "io.livesnap" in varlinkctl("list-interfaces", SOCKET).split()
    described = varlinkctl("introspect", SOCKET, "io.livesnap")
    assert "method Snapshot(" in described and "error UntrackedWriter" in described
    info = json.loads(varlinkctl("call", "--json=short", SOCKET, "io.livesnap.GetInfo", "{}"))
    assert info["domains"] == 1
    at_least = writer.completed
    told = [json.loads(line) for line in varlinkctl(
        "call", "--more", "--json=short", SOCKET, "io.livesnap.Snapshot",
        json.dumps({"domain": "victim", "name": "s", "max_rate": 32 << 20})).replace("\x1e", "").splitlines() if line]
    states = [reply["job"]["state"] for reply in told]
    assert len(states) > 2 and "draining" in states[:-1] and states[-1] == "done"
    image, = told[-1]["job"]["snapshot"]["regions"]
    booted_path = service.tree.directory / image["path"].lstrip("/")
    service.lab.check(writer, [booted_path], at_least, writer.issued)
    refused = service.run("varlinkctl", "call", SOCKET, "io.livesnap.Snapshot", '{"domain": "nowhere"}', check=False)
    assert refused.returncode != 0 and "io.livesnap.NoSuchDomain" in refused.stdout + refused.stderr
