# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CLI promises whatever the command: help, exit status, --json, silence in a pipe."""

import json
import subprocess

import pytest

from harness import LIVESNAP, LIVESNAPD, Failure

COMMANDS = ["doctor", "attach", "detach", "domains", "snapshot", "list", "show", "verify", "delete", "restore", "jobs",
            "cancel"]

SNAPSHOT_FIGURES = {"arm_us", "hold_us", "duration_us", "pages_fault", "pages_sweep", "pages_zero", "bytes_written",
                    "throttled_us", "pool_peak_bytes"}


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)], ids=" ".join)
def test_help(bare_lab, built, command):
    result = bare_lab.cli(*command, "--help")
    assert "usage" in result.stdout.lower()
    assert result.stderr == ""
    assert not command or "--json" in result.stdout


@pytest.mark.parametrize("program", [LIVESNAP, LIVESNAPD], ids=lambda program: program.name)
def test_version(built, program):
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert program.name in shown.stdout or shown.stdout[0].isdigit()
    assert shown.stderr == ""


@pytest.mark.parametrize("arguments", [
    [], ["frobnicate"], ["--frobnicate"], ["snapshot"], ["snapshot", "d", "e"], ["snapshot", "d", "--frobnicate"],
    ["attach"], ["attach", "--pid", "no-number"], ["show"], ["verify"], ["delete"], ["restore", "d/s"], ["cancel"],
    ["cancel", "no-number"], ["snapshot", "d", "--max-rate", "fast"],
], ids=" ".join)
def test_wrong_usage_is_status_2(lab, arguments):
    result = lab.cli(*arguments, check=False)
    assert result.status == 2, result
    assert result.stdout == ""
    assert "--help" in result.stderr


def test_daemon_wrong_usage_is_status_2(built):
    for arguments in (["--frobnicate"], ["--pool-size", "much"], ["--pool-policy", "pray"], ["stray"]):
        result = subprocess.run([LIVESNAPD, *arguments], capture_output=True, text=True, check=False, timeout=10)
        assert result.returncode == 2, result
        assert result.stdout == ""


def test_doctor(bare_lab, built):
    """This machine runs the tests, so livesnap can work on it."""
    assert isinstance(bare_lab.json("doctor"), dict)
    assert bare_lab.cli("doctor").stdout.strip()


def test_json_is_one_line_on_every_command(lab):
    writer = lab.start_writer(pages=512)
    assert isinstance(lab.attach(writer), dict)
    domain, = lab.json("domains")
    assert domain["name"] == "d"
    assert domain["processes"] == 1
    assert [region["bytes"] for region in domain["regions"]] == [512 * 4096]
    snapshot = lab.json("snapshot", "d", "--name", "s")
    assert snapshot["snapshot"] == "d/s"
    assert snapshot["guarantee"] in ("sealed", "exclusive", "advisory")
    assert SNAPSHOT_FIGURES <= snapshot.keys()
    assert all(isinstance(snapshot[figure], int) and snapshot[figure] >= 0 for figure in SNAPSHOT_FIGURES)
    assert {"p50", "p99", "p999", "max"} <= snapshot["fault_us"].keys()
    assert {"name", "bytes", "mappings"} <= snapshot["regions"][0].keys()
    assert [listed["snapshot"] for listed in lab.json("list")] == ["d/s"]
    assert [listed["snapshot"] for listed in lab.json("list", "d")] == ["d/s"]
    assert lab.json("show", "d/s")["regions"][0]["path"].endswith(".mem")
    assert isinstance(lab.json("verify", "d/s"), dict)
    assert isinstance(lab.json("restore", "d/s", "--output", lab.directory / "out"), dict)
    assert lab.running_jobs() == []
    assert {job["state"] for job in lab.json("jobs")} <= {"done"}
    assert isinstance(lab.json("delete", "d/s"), dict)
    assert isinstance(lab.json("detach", "d"), dict)
    assert lab.json("domains") == [] and lab.json("list") == []


def test_json_of_a_failure(lab):
    """With --json a failure too leaves nothing on stdout that is not one JSON object."""
    result = lab.cli("snapshot", "nowhere", "--json", check=False)
    assert result.status == 1
    assert "nowhere" in result.stderr + result.stdout
    if result.stdout:
        assert isinstance(result.json, dict)


def test_no_progress_bar_in_a_pipe(lab):
    writer = lab.start_writer(pages=4096)
    lab.attach(writer)
    result = lab.cli("snapshot", "d", "--max-rate", 16 << 20)
    assert "\r" not in result.stdout + result.stderr
    assert "\033" not in result.stdout + result.stderr


def test_progress_bar_on_a_terminal(lab):
    writer = lab.start_writer(pages=4096)
    lab.attach(writer)
    # script(1) gives it a terminal.
    shown = subprocess.run(["script", "-qec", f"{LIVESNAP} --socket {lab.daemon.socket} snapshot d --max-rate {16 << 20}",
                            "/dev/null"], capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown
    assert "%" in shown.stdout


def test_default_name_is_new_every_time(lab):
    writer = lab.start_writer(pages=16)
    lab.attach(writer)
    names = {lab.snapshot()["snapshot"] for _ in range(5)}
    assert len(names) == 5
    assert {listed["snapshot"] for listed in lab.json("list")} == names


def test_default_domain_of_attach(lab):
    writer = lab.start_writer(pages=16)
    name = lab.json("attach", "--pid", writer.pid)
    domain, = lab.json("domains")
    assert domain["name"] in json.dumps(name)
    lab.snapshot(domain["name"])


def test_json_refuses_chatter():
    """The check of the tests themselves: two lines are not one."""
    from harness import Result

    chatty = Result(["x"], subprocess.CompletedProcess([], 0, "Working...\n{}\n", ""))
    with pytest.raises(Failure):
        chatty.json
