# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of a real, unmodified program: a QEMU guest that writes to its RAM as fast as it can."""

import filecmp
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "guest"))
from guest import QEMU, Guest, build_image  # noqa: E402
from service import BUILD, Service  # noqa: E402

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may attach to a program that did not ask for it"),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed"),
]

RAM_MIB = 256
# Where a PC's physical memory shows the VGA window and not the RAM behind it.
VGA_WINDOW = range(0xA0000, 0xC0000)
BLOCK_BYTES = 64 << 10
DOMAIN = "qemu"


@pytest.fixture(scope="module")
def image():
    return build_image(BUILD / "guest")


@pytest.fixture
def directory():
    """A directory on a disk: /tmp may be in memory."""
    with tempfile.TemporaryDirectory(prefix="livesnap-test.", dir="/var/tmp") as path:
        yield Path(path)


@pytest.fixture
def service(directory):
    service = Service(directory)
    yield service
    service.stop()


@pytest.fixture
def start_guest(image):
    guests = []

    def start(**options):
        guests.append(Guest(image, ram_mib=RAM_MIB, **options))
        guests[-1].wait_full_speed()
        return guests[-1]

    yield start
    for guest in guests:
        guest.stop()


def take_snapshot(service, guest, name):
    """Takes a snapshot, and returns it and the path of the image of the guest's RAM."""
    snapshot = service.livesnap("snapshot", DOMAIN, "--name", name)
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


def test_plain_copy_of_a_running_guest_is_no_cut(start_guest, directory):
    """The oracle can fail: it finds a copy out that was taken without a cut."""
    guest = start_guest()
    shutil.copyfile(guest.ram_object(), directory / "copy.mem")
    assert not guest.check(directory / "copy.mem").is_cut

    guest.pause()
    shutil.copyfile(guest.ram_object(), directory / "copy.mem")
    assert guest.check(directory / "copy.mem").is_cut


@pytest.mark.parametrize("backend", ["memfd", "file"])
def test_image_is_what_qemu_says_of_the_same_instant(start_guest, service, directory, backend):
    guest = start_guest(backend=backend)
    service.livesnap("attach", "--pid", guest.pid, "--domain", DOMAIN)

    guest.pause()
    _, image_path = take_snapshot(service, guest, "stopped")
    guest.pmemsave(directory / "pmemsave.mem")
    assert list(differing_blocks(image_path, directory / "pmemsave.mem")) == []
    assert guest.check(image_path).is_cut

    guest.resume()
    assert guest.wait_reports(5)[-1].errors == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"vcpus": 2}, {"backend": "file"}, {"sandbox": True}],
    ids=["memfd", "memfd-2-vcpus", "file", "memfd-seccomp"],
)
def test_live_snapshots_are_cuts_and_leave_the_guest_unharmed(start_guest, service, directory, options):
    guest = start_guest(**options)
    descriptors = len(os.listdir(f"/proc/{guest.pid}/fd"))
    service.livesnap("attach", "--pid", guest.pid, "--domain", DOMAIN)

    writes = guest.wait_reports(3)[-1].writes
    for name in "first", "second":
        snapshot, image_path = take_snapshot(service, guest, name)
        cut = guest.check(image_path)
        assert cut.is_cut, cut.complaints
        assert snapshot["pages_fault"] > 0, "the guest did not write while it was captured"

        # The cut lies between what the guest had reported before and what it reports now.
        last = guest.wait_reports(2)[-1]
        assert writes <= cut.result["writes"] < last.writes
        assert last.errors == 0
        writes = last.writes
        service.livesnap("verify", f"{DOMAIN}/{name}")

    service.livesnap("restore", f"{DOMAIN}/second", "--output", directory / "restored")
    restored = [p for p in (directory / "restored").rglob("*") if p.is_file() and p.stat().st_size == guest.ram_bytes]
    assert len(restored) == 1 and filecmp.cmp(restored[0], image_path, shallow=False)

    service.livesnap("detach", DOMAIN)
    reports = guest.wait_reports(5)
    assert reports[-1].writes > reports[0].writes and reports[-1].errors == 0
    assert traces_of_livesnap(guest.pid) == []
    assert len(os.listdir(f"/proc/{guest.pid}/fd")) <= descriptors + 1  # QEMU's own come and go


def test_guest_goes_on_when_the_daemon_is_killed_in_a_snapshot(start_guest, service):
    guest = start_guest()
    service.livesnap("attach", "--pid", guest.pid, "--domain", DOMAIN)
    # Slow, so that the kill comes in the middle of it.
    snapshot = service.start_livesnap("snapshot", DOMAIN, "--name", "unfinished", "--max-rate", 16 << 20)
    work = service.store / ".work"
    deadline = time.monotonic() + 20
    while not any(work.rglob("*.mem")):
        assert time.monotonic() < deadline and snapshot.poll() is None, "the snapshot did not get under way"
        time.sleep(0.01)
    guest.wait_reports(2)
    service.kill()
    assert snapshot.wait(10) == 1

    reports = guest.wait_reports(10, timeout_s=10)
    assert reports[-1].writes > reports[0].writes and reports[-1].errors == 0
    assert traces_of_livesnap(guest.pid) == []
    assert not (service.store / DOMAIN / "unfinished").exists()
