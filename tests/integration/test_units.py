# SPDX-License-Identifier: GPL-2.0-or-later
"""The units as they are installed: what systemd says of them, and that they grant what is needed."""

import os
import re
import shutil
import subprocess

import pytest

from harness import NOBODY, find_one

UNITS = ("livesnapd.service", "livesnapd.socket", "livesnap-attach@.service")
EXPOSURE_MAX = 1.5

needs_systemd_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not there")


@pytest.fixture
def rooted(installed, tmp_path):
    """Copies of what names installed programs by their paths, with the paths at which they are in DESTDIR."""
    def copy(source, name):
        text = source.read_text()
        for program in ("livesnapd", "livesnap-attach", "livesnap", "attach-unit"):
            path = find_one(installed, program if program != "livesnap" else "bin/livesnap")
            text = re.sub(rf"(?<=[= ])/{path.relative_to(installed)}(?=\s)", str(path), text)
        copied = tmp_path / name
        copied.write_text(text)
        copied.chmod(0o755)
        return copied

    return copy


@needs_systemd_analyze
def test_units_verify(installed, rooted):
    units = [rooted(find_one(installed, unit), unit.replace("@.", "@some.")) for unit in UNITS]
    for unit in units:
        unit.chmod(0o644)
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    # It also looks at what the machine's own units are; only ours count.
    assert [line for line in checked.stderr.splitlines() if "livesnap" in line] == []


@needs_systemd_analyze
def test_daemon_is_little_exposed(installed):
    checked = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                              find_one(installed, "livesnapd.service")], capture_output=True, text=True, check=False)
    exposure = re.search(r"Overall exposure level for livesnapd.service: ([0-9.]+)", checked.stdout)
    assert exposure, checked
    assert float(exposure[1]) <= EXPOSURE_MAX, checked.stdout


def read_setting(unit, name):
    return re.search(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)[1].split()


def test_attachment_gets_by_with_what_its_unit_grants(installed, rooted, lab):
    """With these capabilities of root's and no other a process of somebody else is attached and let go."""
    granted = read_setting(find_one(installed, "livesnap-attach@.service"), "CapabilityBoundingSet")
    bounds = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in granted)])
    script = rooted(find_one(installed, "attach-unit"), "attach-unit")
    writer = lab.start_writer(pages=64, prefix=NOBODY)
    environment = {**os.environ, "LIVESNAP_SOCKET": str(lab.daemon.socket),
                   "LIVESNAP_ATTACH_OPTIONS": "--object '*oracle-[0-9]*' --discard zero",
                   "LD_LIBRARY_PATH": str(find_one(installed, "liblivesnap.so.*").parent)}

    def run(verb, **changes):
        return subprocess.run(["setpriv", f"--bounding-set={bounds}", f"--inh-caps={bounds}", "--no-new-privs", script,
                               verb, str(writer.pid)], env={**environment, **changes}, check=False, capture_output=True,
                              text=True, timeout=60)

    attached = run("attach")
    assert attached.returncode == 0, attached
    domain, = lab.json("domains")
    assert domain["name"] == f"pid-{writer.pid}" and domain["uid"] == 0 and len(domain["regions"]) == 1
    lab.prove_snapshot(writer, domain=domain["name"])
    # Where systemd does not run the daemon there is nothing that a unit may let go.
    assert run("detach").returncode == 0
    assert run("attach", LIVESNAP_ATTACH_OPTIONS="--frobnicate").returncode == 2
    assert subprocess.run([script, "frobnicate"], check=False, capture_output=True).returncode == 2


def test_attachment_of_a_service_that_does_not_run(rooted, installed):
    script = rooted(find_one(installed, "attach-unit"), "attach-unit")
    refused = subprocess.run([script, "attach", "no-such"], check=False, capture_output=True, text=True)
    assert refused.returncode != 0 and refused.stderr
