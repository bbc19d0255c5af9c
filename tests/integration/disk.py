# SPDX-License-Identifier: GPL-2.0-or-later
"""Filesystems of a test's own, on a loop device, that can be filled, frozen and broken without harm to anybody else."""

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile

from harness import PROGRAMS

BLKIO = "/sys/fs/cgroup/blkio"


# How each kind is made, and the least that it can be made on.
KINDS = {
    # No journal: what is tested is the disk, and its size should be what was asked for.
    "ext4": ("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=0"),
    "xfs": ("mkfs.xfs", "-q"),  # 300 MiB
    "btrfs": ("mkfs.btrfs", "-q"),  # 110 MiB
}


class DiskUnavailable(Exception):
    """There are no loop devices here, or no such filesystem."""


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.strip()


class Disk:
    """A filesystem of a given size in a file below `directory`, mounted at `path`."""

    def __init__(self, directory, size_bytes, kind="ext4"):
        self.image = pathlib.Path(directory) / "disk.img"
        self.path = pathlib.Path(directory) / "disk"
        self.path.mkdir()
        self.is_frozen = False
        self.cgroup = None
        with open(self.image, "wb") as image:
            image.truncate(size_bytes)
        try:
            self._mount(kind)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DiskUnavailable(getattr(error, "stderr", str(error))) from None

    def _mount(self, kind):
        run(*KINDS[kind], self.image)
        run("mount", "-o", "loop", self.image, self.path)

    def free_bytes(self):
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize

    def fill_but(self, left_bytes):
        """Take all the room but so much."""
        with open(self.path / "filling", "wb") as filling:
            os.posix_fallocate(filling.fileno(), 0, self.free_bytes() - left_bytes)

    def freeze(self):
        """Nothing that writes comes back from here on."""
        run("fsfreeze", "--freeze", self.path)
        self.is_frozen = True

    def thaw(self):
        if self.is_frozen:
            run("fsfreeze", "--unfreeze", self.path)
            self.is_frozen = False

    def cut_short(self, size_bytes):
        """What lies behind is lost: to read or write there is EIO from now on."""
        os.truncate(self.image, size_bytes)
        run("losetup", "--set-capacity", run("findmnt", "-no", "SOURCE", self.path))

    def slow_down(self, pid, bytes_per_s):
        """Let this process write to it at that rate only."""
        try:
            self.cgroup = pathlib.Path(tempfile.mkdtemp(prefix="livesnap-test-", dir=BLKIO))
            major_minor = re.sub(r"\s", "", run("findmnt", "-no", "MAJ:MIN", self.path))
            (self.cgroup / "blkio.throttle.write_bps_device").write_text(f"{major_minor} {bytes_per_s}")
            (self.cgroup / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise DiskUnavailable(f"the blkio cgroup cannot be used: {error}") from None

    def remount(self, options):
        run("mount", "-o", f"remount,{options}", self.path)

    def close(self):
        self.thaw()
        with contextlib.suppress(subprocess.CalledProcessError):
            run("umount", self.path)
        if self.cgroup:
            self.cgroup.rmdir()


class MappedDisk(Disk):
    """The same on a device of the device mapper, which can be told to fail."""

    def _mount(self, kind):
        if not os.path.exists("/dev/mapper/control"):
            raise DiskUnavailable("the kernel has no device mapper")
        self.loop = run("losetup", "--find", "--show", self.image)
        self.name = f"livesnap-test-{os.getpid()}"
        self.sectors = os.stat(self.image).st_size // 512
        run("dmsetup", "create", self.name, "--table", f"0 {self.sectors} linear {self.loop} 0")
        run(*KINDS[kind], f"/dev/mapper/{self.name}")
        run("mount", f"/dev/mapper/{self.name}", self.path)

    def fail(self):
        """Every request fails from now on."""
        run("dmsetup", "suspend", "--noflush", self.name)
        run("dmsetup", "load", self.name, "--table", f"0 {self.sectors} error")
        run("dmsetup", "resume", self.name)

    def close(self):
        super().close()
        with contextlib.suppress(subprocess.CalledProcessError):
            run("dmsetup", "remove", "--force", self.name)
            run("losetup", "--detach", self.loop)


class FaultyFilesystem:
    """A filesystem in user space, mounted at `path`, that fails as a test wants it: see tests/programs/faulty-fs.c."""

    def __init__(self, directory):
        self.path = pathlib.Path(directory) / "faulty"
        shown = pathlib.Path(directory) / "shown"
        for made in (self.path, shown):
            made.mkdir()
        try:
            self.process = subprocess.Popen([PROGRAMS / "faulty-fs", shown, self.path], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        except FileNotFoundError:
            raise DiskUnavailable("faulty-fs is not built: libfuse3-dev is missing") from None
        if self.process.stdout.readline() != "ok\n":
            raise DiskUnavailable(self.process.communicate()[1].strip())

    def become(self, fault):
        self.process.stdin.write(fault + "\n")
        assert self.process.stdout.readline() == "ok\n"

    def close(self):
        """Whoever waits for it goes on."""
        self.process.stdin.close()
        self.process.wait(30)
