# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the integration tests; what they are made of is in harness.py."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from disk import Disk, DiskUnavailable, FaultyFilesystem
from harness import BUILD, LIVESNAP, LIVESNAPD, Lab

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


def pytest_collection_modifyitems(items):
    for item in items:
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="only root may attach to other processes"))


@pytest.fixture(scope="session")
def built():
    for program in (LIVESNAP, LIVESNAPD):
        if not program.exists():
            pytest.fail(f"{program} is not built", pytrace=False)


@pytest.fixture(scope="session")
def installed(built, tmp_path_factory):
    """A directory with what is installed, below it at the prefix that the build has."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet"],
                   env={**os.environ, "DESTDIR": str(root)}, check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture
def bare_lab():
    """A place to run programs in, with nothing running yet."""
    # Not below /tmp: that may be a tmpfs, and the store wants a disk.
    directory = tempfile.mkdtemp(prefix="livesnap-test-", dir=os.environ.get("LIVESNAP_TEST_DIR", "/var/tmp"))
    os.chmod(directory, 0o755)
    lab = Lab(directory)
    yield lab
    try:
        lab.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def lab(built, bare_lab):
    """The same with a daemon."""
    bare_lab.start_daemon()
    return bare_lab


@pytest.fixture
def disk(bare_lab):
    """A function that makes a filesystem of a size in bytes, or skips the test."""
    disks = []

    def make(size_bytes, kind="ext4", make_disk=Disk):
        try:
            disks.append(make_disk(bare_lab.directory, size_bytes, kind))
        except DiskUnavailable as error:
            pytest.skip(f"no filesystem on a loop device: {error}")
        return disks[0]

    yield make
    for made in disks:
        made.thaw()  # whoever still uses it is stopped by the lab's end, and could not be
    try:
        bare_lab.close()
    finally:
        for made in disks:
            made.close()


@pytest.fixture
def faulty(bare_lab):
    """A filesystem in user space that fails as the test wants it."""
    try:
        made = FaultyFilesystem(bare_lab.directory)
    except DiskUnavailable as error:
        pytest.skip(f"no filesystem in user space: {error}")
    yield made
    made.become("well")  # or what the lab stops would wait for it
    try:
        bare_lab.close()
    finally:
        made.close()


@pytest.fixture
def huge_pages():
    """A function that sees to it that so many huge pages are free, or skips the test."""
    before = int(HUGE_PAGES.read_text()) if HUGE_PAGES.exists() else None

    def reserve(count):
        if before is None:
            pytest.skip("the kernel has no huge pages of 2 MiB")
        HUGE_PAGES.write_text(str(before + count))
        if int(HUGE_PAGES.read_text()) < before + count:
            pytest.skip(f"{count} huge pages of 2 MiB are not to be had: memory is short or fragmented")

    yield reserve
    if before is not None:
        HUGE_PAGES.write_text(str(before))
