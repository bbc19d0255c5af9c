# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages built from a clean export, and Debian systems that they are installed on."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from booted import Booted, Tree  # noqa: E402
from harness import ROOT, Lab  # noqa: E402

SUITES = ("bookworm", "trixie")


def pytest_collection_modifyitems(items):
    for item in items:
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="only root may make a Debian system"))


@pytest.fixture(scope="session")
def workshop():
    directory = tempfile.mkdtemp(prefix="livesnap-packages-", dir=os.environ.get("LIVESNAP_TEST_DIR", "/var/tmp"))
    yield pathlib.Path(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def packages(workshop):
    """The directory with the .deb files. What is not in git is not in the export."""
    if ready := os.environ.get("LIVESNAP_PACKAGES"):
        return pathlib.Path(ready)
    for tool in ("dpkg-buildpackage", "dh"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not there")
    export = workshop / "build" / "livesnap"
    export.mkdir(parents=True)
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout
    with subprocess.Popen(["tar", "-C", ROOT, "--null", "-T", "-", "-c"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as packer:
        with subprocess.Popen(["tar", "-C", export, "-x"], stdin=packer.stdout) as unpacker:
            packer.stdin.write(files)
            packer.stdin.close()
            assert unpacker.wait() == 0 and packer.wait() == 0
    # The unit tests are run from the build tree.
    built = subprocess.run(["dpkg-buildpackage", "-us", "-uc", "-b"], cwd=export, capture_output=True, text=True,
                           env={**os.environ, "DEB_BUILD_OPTIONS": f"nocheck parallel={os.cpu_count()}"}, check=False)
    assert built.returncode == 0, built.stdout[-5000:] + built.stderr[-5000:]
    return export.parent


@pytest.fixture(scope="session", params=SUITES)
def suite(request):
    return request.param


@pytest.fixture(scope="session")
def archive(suite):
    """A fresh system of that suite."""
    made = subprocess.run([pathlib.Path(__file__).with_name("debian-tree"), suite], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(made.stderr.strip() or "mmdebstrap failed")
    return made.stdout.strip()


@pytest.fixture
def tree(archive, packages, workshop):
    """Unpacked, with the packages in /root but not installed."""
    with tempfile.TemporaryDirectory(dir=workshop) as directory:
        yield Tree(pathlib.Path(directory), archive, packages)


@pytest.fixture
def booted(tree, workshop):
    with tempfile.TemporaryDirectory(dir=workshop) as directory:
        lab = Lab(directory)
        machine = Booted(tree, lab)
        try:
            machine.boot()
            yield machine
        finally:
            machine.close()
