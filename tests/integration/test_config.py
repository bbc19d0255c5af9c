# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's file: what is read from it at the start and on SIGHUP."""

import contextlib
import re
import signal
import subprocess
import time

import pytest

from harness import LIVESNAPD, PATIENCE_S, Connection, find_one


def wait_reload(daemon):
    """What it tells the supervisor while it reads its options again."""
    told, deadline = [], time.monotonic() + PATIENCE_S
    while not (told and "READY=1" in told[-1]) and time.monotonic() < deadline:
        if notification := daemon.wait_notification(PATIENCE_S):
            told.append(notification)
    assert re.search(r"^RELOADING=1\nMONOTONIC_USEC=\d+\n", told[0])
    return told


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "livesnapd.conf"
    path.write_text("[livesnapd]\npool-size = 16M\n")
    return path


def get_info(daemon):
    with contextlib.closing(Connection(daemon.socket)) as connection:
        return connection.call("io.livesnap.GetInfo")["parameters"]


def test_file_is_read_at_the_start(bare_lab, built, config):
    config.write_text("[livesnapd]\npool-size = 16M\npool-policy = abort\nlog-level = warning\n")
    daemon = bare_lab.start_daemon("--config", config, "--pool-policy", "throttle")
    info = get_info(daemon)
    # The pool has a little less than it was given, for whole chunks.
    assert 8 << 20 < info["pool_bytes"] <= 16 << 20
    assert info["pool_policy"] == "throttle"
    assert daemon.stderr == "", "it says what is information although it was told to say warnings only"


def test_file_that_is_wrong_keeps_it_from_starting(bare_lab, built, config):
    config.write_text("[livesnapd]\n\npool-size = much\n")
    status, said = bare_lab.start_daemon("--config", config, is_refused=True).wait_refused()
    assert status == 2
    assert f"{config}, line 3: pool-size: \"much\" is not a number of bytes" in said


def test_reload(bare_lab, built, config):
    """What can change does so in the middle of everything; what cannot is said."""
    daemon = bare_lab.start_daemon("--config", config)
    writer = bare_lab.start_writer(pages=4096)
    bare_lab.attach(writer)
    with bare_lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 4 << 20) as command:
        bare_lab.wait_drain()
        config.write_text("[livesnapd]\npool-size = 32M\npool-policy = abort\nstore = /elsewhere\n")
        daemon.process.send_signal(signal.SIGHUP)
        wait_reload(daemon)
        assert get_info(daemon)["pool_policy"] == "abort"
        assert command.wait(60) == 0
    # The store is on its command line, and so is the same as before.
    assert re.findall("a new value of ([a-z-]+) takes effect when", daemon.stderr) == ["pool-size"]

    # A file that is wrong changes nothing.
    config.write_text("[livesnapd]\npool-policy = pray\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_reload(daemon)
    assert f"{config}, line 2: pool-policy: \"pray\" is not throttle or abort" in daemon.stderr
    assert get_info(daemon)["pool_policy"] == "abort"

    # A key that is not there any more has its default again.
    config.write_text("[livesnapd]\nlog-level = error\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_reload(daemon)
    before = daemon.stderr
    assert get_info(daemon)["pool_policy"] == "throttle"
    config.write_text("[livesnapd]\nlog-level = error\ncolor = blue\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_reload(daemon)
    assert daemon.stderr.removeprefix(before).strip() == "", "a warning, although errors were to be said only"
    bare_lab.prove_snapshot(writer)


def test_installed_file_is_what_there_is_without_it(installed, bare_lab, built, config):
    """Each line that is commented out in it is a key with its default."""
    text = find_one(installed, "livesnapd.conf").read_text()
    keys = dict(re.findall(r"^#([a-z-]+) = (.*)$", text, re.MULTILINE))
    shown = subprocess.run([LIVESNAPD, "--help"], capture_output=True, text=True, check=True).stdout
    assert keys.keys() == set(re.findall(r"^ +--([a-z-]+) [A-Z]", shown, re.MULTILINE)) - {"config"}
    for key, value in keys.items():
        described = re.search(rf"^ +--{key} .*?(?=^ +(?:-., )?--)", shown, re.MULTILINE | re.DOTALL)[0]
        assert value in described
    config.write_text(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.MULTILINE))
    daemon = bare_lab.start_daemon("--config", config, "--pool-size", "16M")
    assert "line" not in daemon.stderr
