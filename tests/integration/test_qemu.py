# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of a real, unmodified program: a QEMU guest that writes to its RAM as fast as it can."""

import filecmp
import os
import shutil
import sys
from pathlib import Path

import pytest

from harness import BUILD, PATIENCE_S, ROOT, wait_until

sys.path.insert(0, str(ROOT / "tests/guest"))
from guest import QEMU, Guest, build_image  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")

RAM_MIB = 256
# Where a PC's physical memory shows the VGA window and not the RAM behind it.
VGA_WINDOW = range(0xA0000, 0xC0000)
BLOCK_BYTES = 64 << 10
DOMAIN = "qemu"


@pytest.fixture(scope="module")
def image():
    return build_image(BUILD / "guest")


@pytest.fixture
def start_guest(image, huge_pages):
    guests = []

    def start(**options):
        if options.get("backend") == "hugetlb":
            huge_pages(RAM_MIB // 2)
        guests.append(Guest(image, ram_mib=RAM_MIB, **options))
        guests[-1].wait_full_speed()
        return guests[-1]

    yield start
    for guest in guests:
        guest.stop()


def take_snapshot(lab, guest, name):
    """Takes a snapshot, and returns it and the path of the image of the guest's RAM."""
    snapshot = lab.json("snapshot", DOMAIN, "--name", name)
    return snapshot, next(r["path"] for r in snapshot["regions"] if r["bytes"] == guest.ram_bytes)


def differing_blocks(path, other):
    """Offsets of the blocks in which two files differ, but for the VGA window."""
    with open(path, "rb") as one, open(other, "rb") as two:
        assert os.fstat(one.fileno()).st_size == os.fstat(two.fileno()).st_size
        offset = 0
        while block := one.read(BLOCK_BYTES):
            if block != two.read(BLOCK_BYTES) and offset not in VGA_WINDOW:
                yield offset
            offset += len(block)


def traces_of_livesnap(pid):
    """What of ours is still in a process: protected mappings, userfaultfds."""
    flags = [line for line in Path(f"/proc/{pid}/smaps").read_text().splitlines() if line.startswith("VmFlags:")]
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [line for line in flags if "uw" in line.split()] + [link for link in links if "userfaultfd" in link]


def test_plain_copy_of_a_running_guest_is_no_cut(start_guest, bare_lab):
    """The oracle can fail: it finds a copy out that was taken without a cut."""
    guest = start_guest()
    copy = bare_lab.directory / "copy.mem"
    shutil.copyfile(guest.ram_object(), copy)
    assert not guest.check(copy).is_cut

    guest.pause()
    shutil.copyfile(guest.ram_object(), copy)
    assert guest.check(copy).is_cut


@pytest.mark.parametrize("backend", ["memfd", "file"])
def test_image_is_what_qemu_says_of_the_same_instant(start_guest, lab, backend):
    guest = start_guest(backend=backend)
    lab.json("attach", "--pid", guest.pid, "--domain", DOMAIN)

    guest.pause()
    _, image_path = take_snapshot(lab, guest, "stopped")
    of_qemu = lab.directory / "pmemsave.mem"
    guest.pmemsave(of_qemu)
    assert list(differing_blocks(image_path, of_qemu)) == []
    assert guest.check(image_path).is_cut

    guest.resume()
    assert guest.wait_reports(5)[-1].errors == 0
    lab.json("detach", DOMAIN)


@pytest.mark.parametrize(
    "options",
    [{}, {"vcpus": 2}, {"backend": "file"}, {"backend": "hugetlb"}, {"sandbox": True}],
    ids=["memfd", "2-vcpus", "file", "hugetlb", "seccomp"],
)
def test_live_snapshots_are_cuts_and_leave_the_guest_unharmed(start_guest, lab, options):
    guest = start_guest(**options)
    descriptors = len(os.listdir(f"/proc/{guest.pid}/fd"))
    lab.json("attach", "--pid", guest.pid, "--domain", DOMAIN)

    writes = guest.wait_reports(3)[-1].writes
    for name in "first", "second":
        snapshot, image_path = take_snapshot(lab, guest, name)
        cut = guest.check(image_path)
        assert cut.is_cut, cut.complaints
        assert snapshot["pages_fault"] > 0, "the guest did not write while it was captured"

        # The cut lies between what the guest had reported before and what it reports now.
        last = guest.wait_reports(2)[-1]
        assert writes <= cut.result["writes"] < last.writes
        assert last.errors == 0
        writes = last.writes
        lab.json("verify", f"{DOMAIN}/{name}")

    lab.json("restore", f"{DOMAIN}/second", "--output", lab.directory / "restored")
    restored = [p for p in (lab.directory / "restored").iterdir() if p.stat().st_size == guest.ram_bytes]
    assert len(restored) == 1 and filecmp.cmp(restored[0], image_path, shallow=False)

    lab.json("detach", DOMAIN)
    reports = guest.wait_reports(5)
    assert reports[-1].writes > reports[0].writes and reports[-1].errors == 0
    assert traces_of_livesnap(guest.pid) == []
    assert len(os.listdir(f"/proc/{guest.pid}/fd")) <= descriptors + 1  # QEMU's own come and go


def test_guest_goes_on_when_the_daemon_is_killed_in_a_snapshot(start_guest, lab):
    guest = start_guest()
    lab.json("attach", "--pid", guest.pid, "--domain", DOMAIN)
    # Slow, so that the kill comes in the middle of it.
    snapshot = lab.cli_start("snapshot", DOMAIN, "--name", "unfinished", "--max-rate", 16 << 20, "--json")
    store = lab.daemon.store
    wait_until(lambda: snapshot.poll() is not None or any((store / ".work").rglob("*.mem")), "the start of the images")
    guest.wait_reports(2)
    assert snapshot.poll() is None, "the snapshot did not last until the kill"
    lab.daemon.kill()
    assert snapshot.wait(PATIENCE_S) == 1
    snapshot.communicate()

    reports = guest.wait_reports(10, timeout_s=10)
    assert reports[-1].writes > reports[0].writes and reports[-1].errors == 0
    assert traces_of_livesnap(guest.pid) == []
    assert not (store / DOMAIN / "unfinished").exists()
