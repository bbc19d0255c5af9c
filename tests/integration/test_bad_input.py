# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be done is refused with a sentence and exit status 1, and leaves nothing behind."""

import os
import re
import subprocess

import pytest

from harness import LIVESNAP, NOBODY, Lab, wait_until


def assert_refused(result, *words):
    """Exit status 1, nothing on stdout but perhaps JSON, and a sentence on stderr that names what it is about."""
    assert result.status == 1, result
    assert len(result.stderr.split()) > 3, f"no sentence: {result}"
    assert "\n" not in result.stderr.strip(), f"more than one line: {result}"
    for word in words:
        assert re.search(word, result.stderr, re.IGNORECASE), f"{word!r} is not named: {result}"


@pytest.fixture
def attached(lab):
    lab.writer = lab.start_writer(pages=512)
    lab.attach(lab.writer)
    return lab


@pytest.mark.parametrize("command", [
    ["snapshot", "nowhere"], ["detach", "nowhere"], ["show", "nowhere/s"], ["verify", "nowhere/s"],
    ["delete", "nowhere/s"],
])
def test_unknown_domain(lab, command):
    assert_refused(lab.cli(*command, check=False), "nowhere")


@pytest.mark.parametrize("command", ["show", "verify", "delete"])
def test_unknown_snapshot(attached, command):
    assert_refused(attached.cli(command, "d/nothing", check=False), "nothing")


def test_restore_of_unknown_snapshot(attached):
    output = attached.directory / "out"
    assert_refused(attached.cli("restore", "d/nothing", "--output", output, check=False), "nothing")
    assert not output.exists() or not list(output.iterdir())


def test_unknown_job(lab):
    assert_refused(lab.cli("cancel", "4711", check=False), "4711")


@pytest.mark.parametrize("name", ["a/b", "../a", "..", ".", ".hidden", "-dash", "", "sp ace", "n\nl", "x" * 129, "ü"])
def test_name_that_is_none(attached, name):
    before = sorted(attached.daemon.store.rglob("*"))
    result = attached.cli("snapshot", "d", f"--name={name}", check=False)
    assert result.status in (1, 2), result
    assert result.stderr.strip(), result
    result = attached.cli("attach", "--pid", attached.writer.pid, f"--domain={name}", check=False)
    assert result.status in (1, 2), result
    assert sorted(attached.daemon.store.rglob("*")) == before


@pytest.mark.parametrize("name", ["d/..", "../d", "d/a/b", "d/", "/s", "d"])
@pytest.mark.parametrize("command", ["show", "verify", "delete"])
def test_snapshot_that_cannot_be(attached, command, name):
    attached.snapshot("d", "--name", "s")
    assert attached.cli(command, name, check=False).status in (1, 2)
    assert attached.json("show", "d/s")["snapshot"] == "d/s"


def test_name_that_exists(attached):
    attached.snapshot("d", "--name", "s")
    image, = attached.images(attached.writer, {"snapshot": "d/s"})
    before = image.read_bytes()
    attached.writer.wait_progress(100)
    assert_refused(attached.cli("snapshot", "d", "--name", "s", check=False), "s", "already|exist")
    assert image.read_bytes() == before


def test_pid_that_is_gone(lab):
    process = subprocess.Popen(["true"])
    process.wait()
    assert_refused(lab.cli("attach", "--pid", process.pid, check=False), str(process.pid))
    assert lab.json("domains") == []


def test_pid_of_another_user(lab):
    writer = lab.start_writer(pages=16)
    lab.daemon.socket.chmod(0o666)
    result = lab.cli("attach", "--pid", writer.pid, check=False, prefix=NOBODY)
    assert_refused(result, str(writer.pid))
    assert lab.json("domains") == []
    writer.wait_progress(100)


def test_domain_of_another_user(attached):
    """Who did not attach a domain may neither snapshot it nor read it back."""
    attached.snapshot("d", "--name", "s")
    attached.daemon.socket.chmod(0o666)
    output = attached.directory / "out"
    for command in (["snapshot", "d"], ["detach", "d"], ["delete", "d/s"], ["restore", "d/s", "--output", output]):
        assert_refused(attached.cli(*command, check=False, prefix=NOBODY))
    assert not output.exists()
    attached.json("show", "d/s")


def test_program_with_nothing_to_snapshot(lab):
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert_refused(lab.cli("attach", "--pid", process.pid, "--domain", "d", check=False), str(process.pid))
        finally:
            process.kill()
    assert lab.json("domains") == []


def test_object_that_matches_nothing(lab):
    writer = lab.start_writer(pages=16)
    result = lab.cli("attach", "--pid", writer.pid, "--domain", "d", "--object", "no-such-*", check=False)
    assert_refused(result, "no-such-")
    assert lab.json("domains") == []


def test_no_daemon(bare_lab, built):
    path = bare_lab.directory / "nobody-here.sock"
    for command in (["domains"], ["jobs"], ["list"], ["snapshot", "d"]):
        assert_refused(bare_lab.cli(*command, "--socket", path, check=False), re.escape(str(path)))


def test_socket_in_use(lab):
    """A second daemon on the same socket says so, and the first one goes on."""
    second = lab.start_daemon("--socket", lab.daemon.socket, is_refused=True)
    status, said = second.wait_refused()
    assert status == 1
    assert str(lab.daemon.socket) in said
    assert lab.json("domains") == []


def test_store_in_use(lab):
    second = lab.start_daemon(store=lab.daemon.store, is_refused=True)
    status, said = second.wait_refused()
    assert status == 1
    assert str(lab.daemon.store) in said
    assert lab.json("domains") == []


def test_store_that_cannot_be_made(bare_lab, built):
    missing = bare_lab.directory / "not" / "there" / "at-all"
    status, said = bare_lab.start_daemon(store=missing, is_refused=True).wait_refused()
    assert status == 1
    assert str(missing) in said


def test_store_that_is_a_file(bare_lab, built):
    path = bare_lab.directory / "file"
    path.write_text("")
    status, said = bare_lab.start_daemon(store=path, is_refused=True).wait_refused()
    assert status == 1
    assert str(path) in said


@pytest.fixture
def small_disk(bare_lab):
    """A filesystem of 24 MiB of its own. Where mounting is not allowed there is nothing to test on."""
    target = bare_lab.directory / "disk"
    target.mkdir()
    image = bare_lab.directory / "disk.img"
    with open(image, "wb") as out:
        out.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, target], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.strip()}")
    yield target
    bare_lab.close()
    subprocess.run(["umount", target], check=True)


def test_store_that_is_read_only(bare_lab, built, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, said = bare_lab.start_daemon(store=small_disk / "store", is_refused=True).wait_refused()
    assert status == 1
    assert "read-only" in said.lower()


def test_store_that_is_full(bare_lab, built, small_disk):
    lab = bare_lab
    lab.start_daemon(store=small_disk / "store")
    writer = lab.start_writer(threads=2, pages=64 * 256)
    lab.attach(writer)
    used = os.statvfs(small_disk).f_bfree
    for _ in range(2):
        assert_refused(lab.cli("snapshot", "d", "--name", "s", check=False), "space")
        assert lab.json("list") == []
        assert lab.is_store_clean()
        writer.wait_progress(1000)
    # What was written for nothing has been given back.
    wait_until(lambda: os.statvfs(small_disk).f_bfree >= used - 64, "release of the space")


def test_no_right_to_userfaultfd(bare_lab, built):
    """A user who may not open the device gets a remedy from doctor, and no half-attached domain from attach."""
    if os.access("/dev/userfaultfd", os.R_OK) and os.stat("/dev/userfaultfd").st_mode & 0o006:
        pytest.skip("/dev/userfaultfd is open to everybody here")
    result = bare_lab.cli("doctor", check=False, prefix=NOBODY)
    assert result.status == 1
    assert "/dev/userfaultfd" in result.stdout + result.stderr
    daemon = bare_lab.start_daemon(prefix=NOBODY, is_refused=True)
    # It may refuse to start, or start and refuse to attach; a snapshot that does not work is the only wrong answer.
    try:
        wait_until(lambda: daemon.process.poll() is not None or daemon.socket.exists(), "start or refusal")
        if daemon.process.poll() is not None:
            assert daemon.process.returncode == 1
            assert re.search(r"/dev/userfaultfd|CAP_SYS_PTRACE", daemon.stderr)
        else:
            writer = bare_lab.start_writer(pages=16)
            result = bare_lab.cli("attach", "--pid", writer.pid, "--socket", daemon.socket, check=False)
            assert_refused(result, "userfaultfd|CAP_SYS_PTRACE|permission|privilege")
            writer.wait_progress(100)
    finally:
        daemon.kill()
