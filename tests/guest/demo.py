# SPDX-License-Identifier: GPL-2.0-or-later
"""The second half of scripts/demo: everything after the build. See scripts/demo --help."""

import argparse
import bisect
import filecmp
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from guest import Guest, GuestError, build_image, check_ram
from service import BUILD, Service, ServiceError

TOP = Path(__file__).resolve().parents[2]
DOMAIN = "demo"
SNAPSHOT = "demo/first"
BASELINE_S = 3
REPORT_MS = 100
# The guest counts as back at its speed when it makes this part of what it made before.
RECOVERED = 0.9
RECOVERY_LIMIT_S = 20
# The picture of the guest's speed: how much of before and after it shows.
PICTURE_MARGIN_S = 0.8
PICTURE_AFTER_S = 6

BARS = "▁▂▃▄▅▆▇█"


class DemoError(Exception):
    """A step failed; the message says which and why."""


def step(text, started):
    print(f"✓ {text}  ({time.monotonic() - started:.1f} s)", flush=True)


def mean_speed(reports):
    """Writes a second over the time from the first of these reports to the last."""
    first, last = reports[0], reports[-1]
    return (last.writes - first.writes) / max(last.at - first.at, 0.001)


def writes_at(reports, at):
    """How many writes the guest had made at a time, between the reports before and after it."""
    i = min(max(bisect.bisect([r.at for r in reports], at), 1), len(reports) - 1)
    left, right = reports[i - 1], reports[i]
    return left.writes + (right.writes - left.writes) * (at - left.at) / max(right.at - left.at, 0.001)


class Cost:
    """What the guest lost to a snapshot that was under way from `start` to `end` (time.monotonic())."""

    def __init__(self, baseline, reports, start, end):
        # Each report speaks of the interval that it ends.
        last_before = baseline[-1]
        after = [r for r in reports if r.at > last_before.at]
        n_during = sum(r.at <= end + REPORT_MS / 1000 for r in after)
        self.before_per_s = mean_speed(baseline)
        self.before_stall_us = max(r.stall_us for r in baseline)
        self.during_per_s = mean_speed([last_before, *after[:n_during]])
        back = next((i for i in range(n_during, len(after) - 4) if self._at_speed(after[i : i + 5])), len(after) - 5)
        self.recovery_s = after[back].at - end
        self.after_per_s = mean_speed(after[back:])
        done = after[back].writes - last_before.writes
        self.lost_s = max(after[back].at - last_before.at - done / self.before_per_s, 0)
        self.stall_us = max(r.stall_us for r in after[: back + 1])
        self.picture = "|".join(
            self._bars(reports, *span)
            for span in (
                (start - PICTURE_MARGIN_S, start),
                (start, end),
                (end, min(end + self.recovery_s + PICTURE_MARGIN_S, end + PICTURE_AFTER_S, after[-1].at)),
            )
        )

    def _bars(self, reports, start, end):
        """The guest's speed between two times, as a row of bars."""
        step, bars = REPORT_MS / 1000, ""
        for i in range(max(round((end - start) / step), 1)):
            begin = start + i * step
            speed = (writes_at(reports, begin + step) - writes_at(reports, begin)) / step
            bars += BARS[min(int(speed / (1.1 * self.before_per_s) * len(BARS)), len(BARS) - 1)]
        return bars

    def _at_speed(self, reports):
        return mean_speed(reports) >= RECOVERED * self.before_per_s


def wait_recovered(guest, speed):
    """Lets the guest run until it is back at its speed, or for as long as we care to wait."""
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while time.monotonic() < deadline:
        if mean_speed(guest.wait_reports(10)) >= RECOVERED * speed:
            break
    guest.wait_reports(10)


def report(ram_mib, vcpus, snapshot, cost, cut, errors, restores_write):
    seconds = snapshot["duration_us"] / 1e6
    written_mib = snapshot["bytes_written"] / 2**20
    total = sum(region["bytes"] for region in snapshot["regions"])
    fault = snapshot["fault_us"]
    pages = snapshot["pages_fault"] + snapshot["pages_sweep"]
    plural = "" if vcpus == 1 else "s"
    print(f"""
The guest: {ram_mib} MiB of RAM, {vcpus} processor{plural}, {cost.before_per_s:,.0f} page writes a second.

  pause (hold)     {snapshot['hold_us'] / 1000:.1f} ms: for so long a write may have had to wait; nothing was stopped
  time             {seconds:.2f} s from the request until the snapshot was safe on the disk
  throughput       {written_mib / seconds:,.0f} MiB/s written, {total / 2**20 / seconds:,.0f} MiB/s of memory covered
  on the disk      {written_mib:,.0f} MiB of {total / 2**20:,.0f} MiB; the rest is zero and takes no room
  pages            {snapshot['pages_fault']:,} of {pages:,} were saved because the guest wrote to them first
  fault latency    p50 {fault['p50']:,.0f} µs, p99 {fault['p99']:,.0f} µs, p99.9 {fault['p999']:,.0f} µs, max {fault['max']:,.0f} µs
  guarantee        {snapshot['guarantee']}

  guest's writes   {cost.before_per_s:,.0f} a second before, {cost.during_per_s:,.0f} during, {cost.after_per_s:,.0f} after
                   {cost.picture}
                   each bar {REPORT_MS} ms; the snapshot is between the lines
  longest wait     {cost.stall_us / 1000:.1f} ms for one write (before the snapshot: {cost.before_stall_us / 1000:.1f} ms)
  guest lost       {cost.lost_s:.2f} s of its work in all, up to {cost.recovery_s:.1f} s after the snapshot

  proof            the image is the guest's memory after exactly {cut.result['writes']:,} writes:
                   {cut.result['pages']:,} pages compared, word by word, none wrong
                   the guest checks its own memory all the time: {errors} errors

In plain words: the guest went on while its memory was saved, and its unluckiest write waited {cost.stall_us / 1000:.0f} ms. To stop
the guest for as long as this disk took would have held every write for {seconds * 1000:,.0f} ms; the pause above does not grow
with the disk.""")
    if not restores_write and cost.recovery_s > 1:
        print("""
Why it took the guest a while to be back at full speed: this kernel (as those from 6.12 on) leaves pages read-only when
it takes their protection away, so the first write to each page costs one more fault inside the kernel. The daemon has
no part in it, and the kernel of Debian 12 (6.1) does not do it.""")
    if snapshot["throttled_us"] > 0:
        print(f"""
For {snapshot['throttled_us'] / 1000:,.0f} ms writes waited for the disk, since the guest wrote faster than the disk took it and the
daemon's memory for that was spent. A larger --pool-size lets it take more.""")
    for warning in snapshot["warnings"]:
        print(f"\nNote: {warning}.")


def show_difference(guest, directory):
    """The proof must be able to fail: a plain copy of the same running memory is no cut."""
    copy = directory / "plain-copy.mem"
    shutil.copyfile(guest.ram_object(), copy)
    cut = check_ram(guest.image_directory, copy)
    copy.unlink()
    if cut.is_cut:
        raise DemoError("a plain copy of the running guest passed the check, which it should not: the check is broken")
    return cut.result["errors"]


def run(arguments, directory, stack):
    started = time.monotonic()
    image = build_image(BUILD / "guest")
    step("the guest's kernel and program are there", started)

    started = time.monotonic()
    service = Service(directory)
    stack.append(service.stop)
    doctor = service.livesnap("doctor")
    step("livesnapd runs, and livesnap doctor finds nothing wrong with this machine", started)

    started = time.monotonic()
    guest = Guest(image, ram_mib=arguments.ram, vcpus=arguments.vcpus, report_ms=REPORT_MS)
    stack.append(guest.stop)
    guest.wait_full_speed()
    step(f"QEMU (pid {guest.pid}) has booted its guest, which writes at full speed", started)

    started = time.monotonic()
    service.livesnap("attach", "--pid", guest.pid, "--domain", DOMAIN)
    step("livesnap attach: QEMU's guest memory is under the daemon's care", started)

    baseline = guest.wait_reports(BASELINE_S * 1000 // REPORT_MS)
    start = time.monotonic()
    snapshot = service.livesnap("snapshot", DOMAIN, "--name", SNAPSHOT.split("/")[1])
    end = time.monotonic()
    step("livesnap snapshot, while the guest writes", start)
    wait_recovered(guest, mean_speed(baseline))
    cost = Cost(baseline, guest.reports, start, end)

    started = time.monotonic()
    service.livesnap("verify", SNAPSHOT)
    step("livesnap verify: every page matches its checksum", started)

    started = time.monotonic()
    ram = next(r for r in snapshot["regions"] if r["bytes"] == guest.ram_bytes)
    cut = check_ram(image, ram["path"])
    if not cut.is_cut:
        raise DemoError(f"the image is not one instant of the guest's memory:\n{cut.complaints}")
    step(f"the image is the state after write {cut.result['writes']:,}, no more and no less", started)

    started = time.monotonic()
    wrong = show_difference(guest, directory)
    step(f"for comparison: a plain copy of the running memory has {wrong:,} pages from other moments", started)

    started = time.monotonic()
    restored_directory = directory / "restored"
    service.livesnap("restore", SNAPSHOT, "--output", restored_directory)
    restored = next(p for p in restored_directory.rglob("*") if p.is_file() and p.stat().st_size == guest.ram_bytes)
    if not filecmp.cmp(ram["path"], restored, shallow=False):
        raise DemoError(f"{restored} differs from {ram['path']}")
    step("livesnap restore: what comes back is the image, bit for bit", started)

    started = time.monotonic()
    service.livesnap("detach", DOMAIN)
    errors = guest.wait_reports(5)[-1].errors
    if errors:
        raise DemoError(f"the guest found {errors} errors in its memory")
    step("livesnap detach: the guest goes on and finds no error in its memory", started)

    report(arguments.ram, arguments.vcpus, snapshot, cost, cut, errors, doctor["unwp_restores_write"])
    if arguments.keep:
        print(f"\nKept: {ram['path']} (the image), {restored} (restored)")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo", add_help=False)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--ram", type=int, default=1024)
    parser.add_argument("--vcpus", type=int, default=1)
    arguments = parser.parse_args()
    if not 192 <= arguments.ram <= 3000:
        parser.error("--ram takes 192 to 3000 MiB")
    if not 1 <= arguments.vcpus <= 8:
        parser.error("--vcpus takes 1 to 8")
    return arguments


def check_room(directory, ram_mib):
    needed = 3 * ram_mib << 20
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DemoError(f"{directory} has {free >> 20} MiB free, the demo needs {needed >> 20} MiB; make room or use --ram")


def interrupted(signal_number, _frame):
    raise KeyboardInterrupt(signal_number)


def main():
    arguments = parse_arguments()
    sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, interrupted)
    # /tmp may be in memory; a store belongs on a disk.
    directory = Path(tempfile.mkdtemp(prefix="livesnap-demo.", dir="/var/tmp"))
    stack = []
    status = 1
    try:
        check_room(directory, arguments.ram)
        run(arguments, directory, stack)
        status = 0
    except (DemoError, GuestError, ServiceError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo: interrupted; cleaning up", file=sys.stderr)
    finally:
        for undo in reversed(stack):
            undo()
        if not (arguments.keep and status == 0):
            shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main())
