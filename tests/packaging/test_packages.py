# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages: they pass lintian, install on a fresh system, and go away again."""

import re
import shutil
import subprocess

import pytest


@pytest.mark.skipif(not shutil.which("lintian"), reason="lintian is not there")
def test_lintian(packages):
    changes, = packages.glob("*.changes")
    checked = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", changes], capture_output=True,
                             text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_install_and_remove(tree):
    tree.run("dpkg", "--install", *tree.packages)
    version = re.search(r"_(.*)_amd64", tree.packages[0])[1]
    assert tree.run("livesnapd", "--version").stdout.strip() == f"livesnapd {version}"
    assert tree.run("livesnap", "--version").stdout.strip() == f"livesnap {version}"
    assert "Usage: livesnap COMMAND" in tree.run("livesnap", "--help").stdout
    assert tree.run("/usr/libexec/livesnap/livesnap-attach", "--version").stdout.strip() == f"livesnap-attach {version}"
    assert ":/var/lib/livesnap:" in tree.run("getent", "passwd", "livesnap").stdout
    completed = tree.run("bash", "-c", ". /usr/share/bash-completion/bash_completion; _completion_loader livesnap; "
                         "complete -p livesnap").stdout
    assert completed.strip() == "complete -F _livesnap livesnap"

    # What the administrator has changed stays, until a purge.
    config = tree.directory / "etc/livesnap/livesnapd.conf"
    config.write_text(config.read_text() + "max-hold = 100\n")
    names = [package.rpartition("/")[2].partition("_")[0] for package in tree.packages]
    tree.run("dpkg", "--remove", *names)
    assert config.exists()
    assert not (tree.directory / "usr/bin/livesnap").exists()
    tree.run("dpkg", "--purge", *names)
    assert not config.exists()
    left = [path for path in tree.directory.rglob("*livesnap*") if not path.is_relative_to(tree.directory / "root")
            and not path.is_relative_to(tree.directory / "var/lib/dpkg") and not path.is_relative_to(tree.directory / "var/log")]
    assert left == []
