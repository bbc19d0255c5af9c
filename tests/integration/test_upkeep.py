# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains are kept up by compact, prune and delete --fold: whatever was done to some members, all others stay what they were."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from harness import BUILD, LIVESNAP, ROOT, Connection, wait_until
from chains import Chain, Victim, start

ROUNDS = int(os.environ.get("LIVESNAP_UPKEEP_ROUNDS", "12"))
LONG = int(os.environ.get("LIVESNAP_LONG_CHAIN", "50"))


def names(lab, domain="d"):
    """What there is of the domain, oldest first."""
    return [snapshot["snapshot"].partition("/")[2] for snapshot in lab.json("list", domain)]


def deltas(lab):
    return [snapshot["snapshot"].partition("/")[2] for snapshot in lab.json("list", "d") if snapshot.get("delta")]


def write(writer, writes=20):
    """Some writes, and not as many as the machine can do: what memory was has to be computed from all of them."""
    writer.command("resume")
    writer.wait_progress(writes)
    writer.command("pause")


def build(lab, writer, n):
    """A full snapshot m0, and n increments on it."""
    chain = Chain(lab, writer)
    writer.command("pause")
    chain.take("--name", "m0")
    for i in range(1, n + 1):
        write(writer)
        chain.increment("--name", f"m{i}")
    if not chain.members[-1][0].get("delta"):
        pytest.skip("the filesystem shares data between files, so there are no deltas")
    return chain


def prove(lab, writer, chain, verify=True):
    """Each member that is listed is what it was when it was taken. Returns their names."""
    listed = names(lab)
    for snapshot, at_least, at_most in chain.members:
        if snapshot["snapshot"].partition("/")[2] not in listed:
            continue
        if verify:
            lab.cli("verify", snapshot["snapshot"])
        lab.check_restored(writer, snapshot["snapshot"], at_least, at_most)
    return listed


def is_work_empty(lab):
    return not list((lab.daemon.store / ".work").iterdir())


def test_members_in_the_middle_of_a_long_chain(lab):
    writer = start(lab, pages=4 * 256)
    chain = build(lab, writer, LONG)
    for i in (LONG // 2, 1, LONG - 1):
        assert lab.json("compact", f"d/m{i}")["folded"]
        shown = lab.json("show", f"d/m{i}")
        taken = chain.members[i][0]
        assert shown["kind"] == "full" and not shown.get("delta") and not shown.get("parent")
        for figure in ("created", "uid", "guarantee", "hold_us", "arm_us", "pages_fault", "pages_dirty", "bytes_written", "fault_us"):
            assert shown[figure] == taken[figure], figure
        assert "is whole already" in lab.cli("compact", f"d/m{i}").stdout
    assert len(deltas(lab)) == LONG - 3
    full, at_least, at_most = chain.members[LONG]
    lab.check_restored(writer, full["snapshot"], at_least, at_most)
    deleted = lab.json("delete", "--fold", f"d/m{LONG // 2}")
    assert deleted["folded"] == [f"m{LONG // 2 + 1}"]
    report = lab.json("prune", "d", "--keep-last", LONG // 2)
    assert len(report["kept"]) == LONG // 2 and len(report["needed"]) <= LONG // 2 and report["deleted"]
    # What builds on what was made whole still does, and the next increment builds on what it would have.
    write(writer)
    chain.increment("--name", "after")
    assert prove(lab, writer, chain, verify=False) == names(lab)
    assert is_work_empty(lab)


def test_compact_where_there_is_nothing_to_do(lab):
    start(lab)
    lab.snapshot("d", "--name", "full")
    assert lab.json("compact", "d/full") == {"snapshot": "d/full", "folded": False}
    assert lab.cli("compact", "d/full").stdout == "d/full is whole already\n"


def test_delete_of_a_parent(lab):
    writer = start(lab)
    chain = build(lab, writer, 3)
    refused = lab.cli("delete", "d/m1", check=False)
    assert refused.status == 1 and "livesnap compact d/m2" in refused.stderr and "delete --fold d/m1" in refused.stderr
    said = lab.cli("delete", "--fold", "d/m1").stdout
    assert said == "d/m2 is whole now\nd/m1 is deleted\n"
    assert prove(lab, writer, chain) == ["m0", "m2", "m3"]
    assert lab.json("delete", "--fold", "d/m0") == {"snapshot": "d/m0", "folded": []}
    write(writer)
    chain.increment("--name", "m4")
    lab.cli("delete", "--fold", "d/m3")
    assert prove(lab, writer, chain) == ["m2", "m4"]


def test_prune_keeps_what_is_needed_until_it_is_too_much(lab):
    writer = start(lab)
    chain = build(lab, writer, 8)
    before = names(lab)
    plan = lab.json("prune", "d", "--keep-last", "4", "--dry-run")
    assert plan["kept"] == ["m8", "m7", "m6", "m5"] and plan["folded"] == ["m5"] and plan["needed"] == []
    assert plan["deleted"] == ["m4", "m3", "m2", "m1", "m0"] and names(lab) == before
    said = lab.cli("prune", "d", "--keep-last", "4", "--dry-run").stdout
    assert "d/m5: would be made whole\n" in said and said.endswith("5 of 9 snapshots of d would be deleted\n")
    # Up to as many as are kept stay for them; nothing is written.
    few = lab.json("prune", "d", "--keep-last", "7")
    assert few["folded"] == [] and few["needed"] == ["m1", "m0"] and few["deleted"] == []
    report = lab.json("prune", "d", "--keep-last", "4")
    assert {**plan, "dry_run": False} == report
    assert prove(lab, writer, chain) == ["m5", "m6", "m7", "m8"]
    assert is_work_empty(lab)
    write(writer)
    chain.increment("--name", "m9")
    assert chain.members[-1][0]["parent"] == "m8"
    prove(lab, writer, chain)


def test_store_does_not_grow_under_prunes(lab):
    """What a watch does: an increment and a prune, again and again."""
    writer = start(lab)
    chain = Chain(lab, writer)
    chain.take("--name", "m0")
    folds = 0
    for i in range(1, 13):
        write(writer)
        chain.increment("--name", f"m{i}")
        report = lab.json("prune", "d", "--keep-last", "3")
        folds += len(report["folded"])
        assert len(report["kept"]) == min(i + 1, 3)
        assert len(names(lab)) <= 6
    assert 0 < folds <= 4  # not with each
    prove(lab, writer, chain)


def test_prune_by_prefix_and_what_is_to_be_kept(lab):
    writer = start(lab)
    chain = Chain(lab, writer)
    for name in ("auto-1", "golden", "auto-2", "auto-3"):
        write(writer)
        chain.take("--name", name)
    report = lab.json("prune", "d", "--keep-last", "1", "--name-prefix", "auto-")
    assert report["kept"] == ["auto-3"]
    # The two that no rule keeps: what golden is read through stays, the other is folded away or needed.
    assert "golden" in names(lab) and "golden" not in report["deleted"]
    prove(lab, writer, chain)
    report = lab.json("prune", "d", "--keep-hourly", "1", "--keep-daily", "1")
    assert report["kept"] == ["auto-3"]
    # The one that the next increment builds on stays, also if its name does not count as the newest.
    assert "auto-3" in names(lab)


@pytest.mark.parametrize("arguments, says", [
    (["prune", "d"], "nothing says what to keep"),
    (["prune", "d", "--keep-last", "0"], "1 or more is expected"),
    (["prune", "d", "--keep-daily", "many"], "1 or more is expected"),
    (["prune", "--keep-last", "1"], "DOMAIN is missing"),
    (["compact", "d"], "DOMAIN/NAME is expected"),
    (["compact", "d/a", "d/b"], "one argument too many"),
    (["watch", "d", "--keep-last", "3"], "--every is missing"),
    (["watch", "d", "--every", "5", "--keep-last", "3"], "a whole number with s, m, h or d"),
    (["watch", "d", "--every", "0s", "--keep-last", "3"], "a whole number with s, m, h or d"),
    (["watch", "d", "--every", "5s"], "nothing says what to keep"),
    (["diff", "d/a"], "is missing"),
    (["diff", "d/a", "e/b"], "of different domains"),
    (["diff", "d/a", "b"], "DOMAIN/NAME is expected"),
])
def test_wrong_usage(lab, arguments, says):
    result = lab.cli(*arguments, check=False)
    assert result.status == 2 and says in result.stderr


def test_what_is_not_there(lab):
    for arguments in (["compact", "d/x"], ["delete", "--fold", "d/x"], ["prune", "d", "--keep-last", "1"]):
        result = lab.cli(*arguments, "--json", check=False)
        assert result.status == 1 and result.json["error"] == "io.livesnap.NoSuchSnapshot"
    assert lab.cli("diff", "d/x", "d/y", check=False).status == 2
    with Connection(lab.daemon.socket) as connection:
        for method, parameters, error in [
            ("CompactSnapshot", {"domain": "../x", "name": "y"}, "io.livesnap.InvalidName"),
            ("CompactSnapshot", {"domain": "d"}, "org.varlink.service.InvalidParameter"),
            ("Prune", {"domain": ".work", "keep_last": 1}, "io.livesnap.InvalidName"),
            ("Prune", {"domain": "d", "keep_last": -1}, "org.varlink.service.InvalidParameter"),
            ("Prune", {"domain": "d", "keep_last": 1, "prefix": "../"}, "org.varlink.service.InvalidParameter"),
            ("Prune", {"domain": "d"}, "io.livesnap.BadRequest"),
            ("DeleteSnapshot", {"domain": "d", "name": "x", "fold": 1}, "org.varlink.service.InvalidParameter"),
        ]:
            assert connection.call(f"io.livesnap.{method}", parameters)["error"] == error, (method, parameters)


def test_damage_in_the_chain(lab):
    writer = start(lab)
    chain = build(lab, writer, 3)
    path = lab.daemon.store / "d" / "m0" / chain.members[0][0]["regions"][0]["path"].rpartition("/")[2]
    with open(path, "r+b") as image:
        byte = image.read(1)
        image.seek(0)
        image.write(bytes([byte[0] ^ 1]))
    for arguments in (["compact", "d/m2"], ["delete", "--fold", "d/m1"], ["prune", "d", "--keep-last", "1"]):
        failed = lab.cli(*arguments, "--json", check=False)
        assert failed.status == 1 and failed.json["error"] == "io.livesnap.SnapshotCorrupt", failed
        assert names(lab) == ["m0", "m1", "m2", "m3"] and deltas(lab) == ["m1", "m2", "m3"] and is_work_empty(lab)
    with open(path, "r+b") as image:
        image.write(byte)
    lab.cli("compact", "d/m2")
    prove(lab, writer, chain)


def test_full_disk(bare_lab, disk):
    volume = disk(160 << 20)
    bare_lab.start_daemon(store=volume.path / "store")
    writer = start(bare_lab)
    chain = build(bare_lab, writer, 2)
    volume.fill_but(4 << 20)
    for arguments in (["compact", "d/m2"], ["delete", "--fold", "d/m1"], ["prune", "d", "--keep-last", "1"]):
        failed = bare_lab.cli(*arguments, "--json", check=False)
        assert failed.status == 1 and failed.json["error"] == "io.livesnap.StoreFailed", failed
        assert "No space left" in failed.json["message"]
        assert is_work_empty(bare_lab) and deltas(bare_lab) == ["m1", "m2"]
    (volume.path / "filling").unlink()
    bare_lab.cli("prune", "d", "--keep-last", "1")
    assert prove(bare_lab, writer, chain) == ["m2"]


def test_jobs_of_upkeep(lab):
    writer = start(lab, pages=64 * 256)
    chain = build(lab, writer, 2)
    job = lab.json("compact", "d/m1", "--detach")
    assert (job["kind"], job["state"], job["name"]) == ("compact", "compacting", "m1")
    lab.wait_no_jobs()
    done = [each for each in lab.json("jobs") if each["job"] == job["job"]][0]
    assert done["state"] == "done" and done["folded"] == ["m1"] and done["snapshot"]["snapshot"] == "d/m1"
    with Connection(lab.daemon.socket) as connection:
        started = connection.call("io.livesnap.CompactSnapshot", {"domain": "d", "name": "m2", "detach": True})
        connection.call("io.livesnap.CancelJob", {"job": started["parameters"]["job"]["job"]})
        ended = connection.call("io.livesnap.WaitJob", {"job": started["parameters"]["job"]["job"]})
        assert ended.get("error") == "io.livesnap.Cancelled" or ended["parameters"]["job"]["state"] == "done"
    assert is_work_empty(lab)
    # A caller who goes away takes the work along.
    with Connection(lab.daemon.socket) as connection:
        connection.send("io.livesnap.Prune", {"domain": "d", "keep_last": 1}, more=True)
        busy = lab.cli("prune", "d", "--keep-last", "1", "--json", check=False)
        assert busy.status == 0 or busy.json["error"] == "io.livesnap.Busy"
    lab.wait_no_jobs()
    prove(lab, writer, chain)
    wait_until(lambda: is_work_empty(lab), "empty work directory")


def test_killed_at_any_moment(lab):
    """Before, the delta is there; after, the whole image; and nothing is ever half done."""
    writer = start(lab, pages=8 * 256)
    chain = build(lab, writer, 4)
    template = lab.directory / "template"
    lab.daemon.terminate()
    shutil.copytree(lab.daemon.store, template)
    commands = [["compact", "d/m3"], ["prune", "d", "--keep-last", "1"], ["delete", "--fold", "d/m1"]]
    rng = random.Random(7)
    durations, outcomes = {}, set()
    for i in range(ROUNDS + len(commands)):
        command = commands[i % len(commands)]
        store = lab.directory / "upkeep-store"
        shutil.copytree(template, store)
        lab.start_daemon(store=store)
        begin = time.monotonic()
        running = lab.cli_start(*command)
        if i < len(commands):  # how long it takes when it is let
            running.wait()
            durations[i] = time.monotonic() - begin
        else:
            time.sleep(rng.uniform(0, 1.2 * durations[i % len(commands)]))
        lab.daemon.kill()
        running.communicate()
        lab.start_daemon(store=store)
        assert is_work_empty(lab)
        listed = prove(lab, writer, chain)
        assert {"m2", "m3", "m4"} <= set(listed) or command[0] == "prune" and "m4" in listed
        outcomes.add((command[0], tuple(listed), tuple(deltas(lab))))
        lab.daemon.terminate()
        shutil.rmtree(store)
    assert len(outcomes) > len(commands), outcomes  # it was hit before and after


def test_readers_go_on_while_the_chain_is_kept_up(lab):
    """Restore and verify of each member succeed at each moment of it."""
    writer = start(lab, pages=8 * 256)
    chain = build(lab, writer, 6)
    upkeep = subprocess.Popen(
        ["sh", "-ec", "; ".join(f"$0 compact d/m{i}; $0 delete --fold d/m{i - 1}" for i in (2, 4, 6)), LIVESNAP],
        env={**os.environ, "LIVESNAP_SOCKET": str(lab.daemon.socket)}, stdout=subprocess.DEVNULL)
    looked = 0
    while upkeep.poll() is None or looked < 4:
        for snapshot, at_least, at_most in (chain.members[2], chain.members[6]):
            lab.cli("verify", snapshot["snapshot"])
            lab.cli("show", snapshot["snapshot"])
            lab.check_restored(writer, snapshot["snapshot"], at_least, at_most)
            looked += 1
        assert {"m2", "m4", "m6"} <= set(names(lab))
    assert upkeep.returncode == 0
    prove(lab, writer, chain)
    wait_until(lambda: is_work_empty(lab), "empty work directory")


# diff


@pytest.fixture
def victim(lab):
    victim = Victim(lab)
    yield victim
    victim.close()


def changed(lab, first, second, *arguments):
    result = lab.cli("diff", f"d/{first}", f"d/{second}", *arguments, check=False)
    assert result.status in (0, 1) and (result.status == 1) == bool(result.stdout), result
    return [(int(line.split()[1]), int(line.split()[2])) for line in result.stdout.splitlines()]


def test_diff_of_any_two_members(lab, victim):
    page = 4096
    for i, statement in enumerate([
        "pass", "memory[5 * 4096] = 1", "memory[6 * 4096] = 2; memory[700 * 4096] = 3",
        "memory[5 * 4096] = ord('x')", "memory[1023 * 4096:] = bytes(4096)",
    ]):
        victim.do(statement)
        lab.snapshot("d", "--incremental", "--name", f"m{i}")
    expected = {
        (0, 1): [(5 * page, page)], (1, 2): [(6 * page, page), (700 * page, page)],
        (0, 2): [(5 * page, 2 * page), (700 * page, page)], (0, 3): [(6 * page, page), (700 * page, page)],
        (3, 4): [(1023 * page, page)], (2, 2): [], (1, 4): [(5 * page, 2 * page), (700 * page, page), (1023 * page, page)],
    }
    for _ in range(2):
        for (first, second), ranges in expected.items():
            assert changed(lab, f"m{first}", f"m{second}") == ranges
            assert changed(lab, f"m{second}", f"m{first}") == ranges
        for i in (1, 3):  # whole and delta, in any mixture
            lab.cli("compact", f"d/m{i}")
    report = lab.json("diff", "d/m0", "d/m1", check=False)
    region = lab.json("show", "d/m0")["regions"][0]["name"]
    assert report == {"first": "d/m0", "second": "d/m1", "equal": False, "bytes": page,
                      "differences": [{"region": region, "kind": "changed", "offset": 5 * page, "length": page}]}
    assert lab.json("diff", "d/m0", "d/m0") == {"first": "d/m0", "second": "d/m0", "equal": True, "bytes": 0, "differences": []}
    assert changed(lab, "m0", "m1", "--region", region) == [(5 * page, page)]
    assert lab.cli("diff", "d/m0", "d/m1", "--region", "none", check=False).status == 2


def test_diff_where_a_region_came_and_went(lab):
    writer = start(lab, regions=2)
    writer.command("pause")
    lab.snapshot("d", "--name", "both")
    gone = lab.json("show", "d/both")["regions"][0]
    lab.json("detach", "d", "--region", gone["name"])
    lab.snapshot("d", "--name", "one")
    writer.command("resume")
    for first, second in (("both", "one"), ("one", "both")):
        result = lab.cli("diff", f"d/{first}", f"d/{second}", check=False)
        assert result.status == 1 and result.stdout == f"{gone['name']} 0 {gone['bytes']} only in d/both\n"


# watch


class Watch:
    def __init__(self, lab, *arguments):
        self.lab = lab
        self.process = lab.cli_start("watch", "d", *arguments)

    def line(self):
        return self.process.stdout.readline()

    def end(self, number=None):
        """Its status, what else it printed, and what it complained of besides what any snapshot here may warn of."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        lines = [line for line in err.splitlines() if not line.startswith("livesnap: warning: ")]
        return self.process.returncode, out, "\n".join(lines)


@pytest.fixture
def watch(lab):
    watches = []

    def begin(*arguments):
        watches.append(Watch(lab, *arguments))
        return watches[-1]

    yield begin
    for each in watches:
        with contextlib.suppress(ProcessLookupError):
            each.process.kill()
        each.process.communicate()


def test_watch_takes_and_prunes(lab, watch):
    writer = start(lab)
    running = watch("--every", "1s", "--keep-last", "2", "--name-prefix", "w-", "--json")
    lines = [json.loads(running.line()) for _ in range(4)]
    status, _, err = running.end(signal.SIGTERM)
    assert status == 0 and err == ""
    assert [line["snapshot"]["kind"] for line in lines] == ["full"] + 3 * ["increment"]
    assert all(line["snapshot"]["snapshot"].startswith("d/w-") for line in lines)
    times = [line["snapshot"]["created"] for line in lines]
    assert all(0.5 < later - earlier for earlier, later in zip(times, times[1:]))
    assert len(names(lab)) <= 4
    for snapshot in lab.json("list", "d"):
        lab.check_restored(writer, snapshot["snapshot"], 0, writer.issued)


def test_watch_says_what_is_wrong_and_goes_on(lab, watch):
    writer = start(lab)
    lab.json("tracking", "d", "off")
    store = lab.daemon.store
    running = watch("--every", "1s", "--keep-last", "2")
    assert "full" in running.line()
    # Somebody else's snapshot is in the way for a while, and the daemon is gone for a while.
    slow = lab.cli_start("snapshot", "d", "--max-rate", "8M")
    slow.communicate()
    lab.daemon.kill()
    daemon = lab.daemon
    time.sleep(0.5)
    (daemon.directory / "notify.sock").unlink()
    restarted = type(daemon)(daemon.directory, store=store)  # at the same socket
    lab._daemons.append(restarted)
    lab.daemon = restarted.wait_ready()
    time.sleep(1.5)
    lab.attach(writer)
    wait_until(lambda: running.line(), "another line")
    # Not while it is being snapshotted.
    wait_until(lambda: lab.cli("detach", "d", check=False).status == 0, "the detach")
    status, _, err = running.end()
    assert status == 1
    assert "is off, so each snapshot is full; 'livesnap tracking d sync'" in err
    assert "trying again" in err and "waiting until domain 'd' is attached again" in err
    assert err.endswith("the watch ends.")


def test_watch_of_what_is_not_there(lab, watch):
    running = watch("--every", "1h", "--keep-last", "2")
    status, out, err = running.end()
    assert status == 1 and "the watch ends" in err and not out


def test_watch_ends_within_a_snapshot(lab, watch):
    """SIGINT in the middle of one cancels it, and that is a clean end."""
    start(lab, pages=64 * 256)
    running = watch("--every", "1s", "--keep-last", "2")
    assert running.line()
    time.sleep(random.random())
    status, _, err = running.end(signal.SIGINT)
    assert status == 0 and err == ""
    lab.wait_no_jobs()
    assert is_work_empty(lab)


def test_units_are_right(tmp_path):
    """The units that take snapshots by a timer, as systemd reads them."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze")
    service = (BUILD / "systemd" / "livesnap-snapshot@.service").read_text()
    programs = {line.partition("=")[2].split()[0] for line in service.splitlines() if line.startswith("ExecStart=")}
    assert [os.path.basename(program) for program in programs] == ["livesnap"]
    (tmp_path / "livesnap-snapshot@vm.service").write_text(service.replace(programs.pop(), str(LIVESNAP)))
    shutil.copy(ROOT / "systemd" / "livesnap-snapshot@.timer", tmp_path / "livesnap-snapshot@vm.timer")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}, capture_output=True, text=True, check=False)
    assert verified.returncode == 0 and not verified.stderr, verified.stderr
