# SPDX-License-Identifier: GPL-2.0-or-later
"""Figure 7: a QEMU guest that writes at full speed, against QEMU's own background-snapshot of the same guest."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "guest"))

from bench_lab import BUILD, MIB  # noqa: E402
from figures import Figure  # noqa: E402
from guest import Guest, GuestError, build_image  # noqa: E402
from work_lost import Account  # noqa: E402

REPORT_MS = 50
BEFORE_REPORTS = 30
RECOVERY_LIMIT_S = 20
QEMU_LIMIT_S = 180


def guest(lab):
    ram_mib = lab.size(1536 * MIB) // MIB
    publish = Figure("7", f"QEMU guest of {ram_mib} MiB writing at full speed: time until saved", "background-snapshot", "s", "<=", 0.1)
    lost = Figure("7a", "work that the guest loses until its rate is back", "background-snapshot", "s", "<=", 0.2)
    yield publish, lost
    image = build_image(BUILD / "guest")
    with Guest(image, ram_mib=ram_mib, report_ms=REPORT_MS) as machine:
        machine.wait_full_speed()
        for i in lab.rounds():
            (ours_s, ours_lost), (qemu_s, qemu_lost) = lab.in_turn(
                i, lambda: _measure(lab, machine, lambda: _qemu_snapshot(lab, machine)), lambda: _ours(lab, machine))
            publish.add(ours_s, qemu_s)
            lost.add(ours_lost, qemu_lost)
    publish.note("software emulation on both sides; QEMU writes through its exec: channel, with no fsync, to the same disk")


def _ours(lab, machine):
    lab.json("attach", "--pid", machine.pid, "--domain", "guest")
    try:
        def save():
            taken = lab.snapshot("guest")
            return taken["asked_ns"], taken["done_ns"]

        return _measure(lab, machine, save)
    finally:
        lab.json("detach", "guest")


def _qemu_snapshot(lab, machine):
    path = lab.directory / "qemu-snapshot"
    qmp, start_ns = machine.qmp, time.monotonic_ns()
    qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
    qmp.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    qmp.execute("migrate", uri=f"exec:cat > '{path}'")
    deadline = time.monotonic() + QEMU_LIMIT_S
    while True:
        status = qmp.execute("query-migrate")["status"]
        if status == "completed":
            break
        if status in ("failed", "cancelled") or time.monotonic() > deadline:
            raise GuestError(f"QEMU's background-snapshot: {status}")
        time.sleep(0.01)
    done_ns = time.monotonic_ns()
    path.unlink()
    return start_ns, done_ns


def _measure(lab, machine, save):
    """(seconds until it is saved, seconds of the guest's work lost)"""
    lab.rest()
    before = machine.wait_reports(BEFORE_REPORTS)
    start_ns, done_ns = save()
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while True:
        machine.wait_reports(1000 // REPORT_MS)
        account = Account([(int(r.at * 1e9), r.writes) for r in machine.reports if r.at >= before[0].at])
        per_s = account.per_s(int(before[0].at * 1e9), start_ns)
        back_ns = account.back_ns(done_ns, per_s)
        if back_ns is not None or time.monotonic() > deadline:
            break
    end_ns = back_ns if back_ns is not None else account.samples[-1][0]
    return (done_ns - start_ns) / 1e9, max(account.lost_s(start_ns, end_ns, per_s), 0.001)
