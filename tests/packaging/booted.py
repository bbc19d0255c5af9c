# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Debian system, and systemd as its PID 1."""

import os
import pathlib
import stat
import subprocess
import time

import pytest

from harness import BUILD, PATIENCE_S, Failure, Writer, wait_until

USERFAULTFD = pathlib.Path("/dev/userfaultfd")

# Namespaces of its own for what systemd-nspawn wants to find: an empty /run, and the one hierarchy of control groups.
PREPARE = """
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec "$@"
"""


class Tree:
    """A system in a directory; commands are run in it by chroot."""

    def __init__(self, directory, archive, packages):
        self.directory = directory
        subprocess.run(["tar", "-C", directory, "-xf", archive], check=True)
        directory.chmod(0o755)
        self.packages = []
        for package in sorted(packages.glob("*_amd64.deb")):
            if "dbgsym" not in package.name:
                (directory / "root" / package.name).write_bytes(package.read_bytes())
                self.packages.append(f"/root/{package.name}")

    def run(self, *command, check=True):
        ran = subprocess.run(["chroot", self.directory, *command], capture_output=True, text=True, check=False,
                             env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"})
        if check and ran.returncode != 0:
            raise Failure(f"{command}: {ran}")
        return ran


class Booted:
    """
    The same with systemd running in it, in a container that may do whatever root may. Without the seccomp filter that
    systemd-nspawn has for containers: livesnap-attach may not have one.
    """

    def __init__(self, tree, lab):
        self.tree = tree
        self.lab = lab
        self._leader = None
        self._nspawn = None
        self._writers = []
        # A node of its own: what is done to its owner and mode must not be done to this machine's.
        self._device = tree.directory / "userfaultfd-of-the-host"

    def boot(self):
        if USERFAULTFD.exists():
            os.mknod(self._device, stat.S_IFCHR | 0o600, USERFAULTFD.stat().st_rdev)
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--machine=livesnap-test",
                   "--capability=all", "--directory", self.tree.directory, f"--bind-ro={BUILD}"]
        if self._device.exists():
            command.append(f"--bind={self._device}:{USERFAULTFD}")
        self.console = self.tree.directory.parent / f"{self.tree.directory.name}.console"
        with open(self.console, "wb") as console:
            self._nspawn = subprocess.Popen(["unshare", "--mount", "sh", "-c", PREPARE, "sh", *command, "--boot"],
                                            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                            env={**os.environ, "SYSTEMD_SECCOMP": "0"})
        deadline = time.monotonic() + 4 * PATIENCE_S
        while time.monotonic() < deadline:
            if self._nspawn.poll() is not None:
                pytest.skip(f"systemd-nspawn cannot run a system here: {self.console.read_text(errors='replace')[-500:]}")
            self._leader = self._find_leader()
            if self._leader and self.run("systemctl", "is-system-running", check=False).stdout.strip() == "running":
                return
            time.sleep(0.2)
        raise Failure(f"the system does not come up:\n{self.console.read_text(errors='replace')[-3000:]}")

    def _find_leader(self):
        children = pathlib.Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        for child in children:
            if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return None

    @property
    def prefix(self):
        # Not into its user namespace, for it has none of its own.
        return ("nsenter", "--target", self._leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

    def run(self, *command, check=True, timeout_s=2 * PATIENCE_S):
        ran = subprocess.run([*self.prefix, *map(str, command)], capture_output=True, text=True, check=False,
                             stdin=subprocess.DEVNULL, timeout=timeout_s,
                             env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"})
        if check and ran.returncode != 0:
            raise Failure(f"{command}: {ran}")
        return ran

    def show(self, unit, name):
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def wait_state(self, unit, state, timeout_s=PATIENCE_S):
        wait_until(lambda: self.show(unit, "ActiveState") == state, f"state {state} of {unit}", timeout_s, 0.1)

    def journal(self, unit):
        return self.run("journalctl", "--unit", unit, "--output", "cat").stdout

    def start_service(self, name, **options):
        """A service that writes to shared memory, and knows nothing of livesnap."""
        prefix = (*self.prefix, "systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={name}")
        writer = Writer(self.lab.directory, prefix=prefix, **options)
        self._writers.append(writer)
        return writer

    def close(self):
        """Failure where a writer has lost something. A system that is still there afterwards is killed."""
        try:
            for writer in self._writers:
                writer.stop()
        finally:
            self._halt()

    def _halt(self):
        if self._nspawn and self._nspawn.poll() is None:
            if self._leader:
                self.run("systemctl", "poweroff", "--force", "--force", check=False)
            else:
                self._nspawn.terminate()
            try:
                self._nspawn.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        if hasattr(self, "console"):
            self.console.unlink()
