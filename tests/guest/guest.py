# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU guest that writes to its RAM as fast as it can: start it, hear what it reports, stop it, check an image of its RAM.

The guest runs under software emulation (TCG), so no /dev/kvm is needed. Its RAM is shared memory; QEMU itself is the one of
the distribution and knows nothing of livesnap.
"""

import ctypes
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
QEMU = "qemu-system-x86_64"
# transparent_hugepage=never: a page that the guest's kernel moves would leave a stale copy for the checker to find.
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on transparent_hugepage=never"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class GuestError(Exception):
    """The guest did not do what it should; the message says what, and holds the end of its console."""


@dataclasses.dataclass(frozen=True)
class Report:
    """One line of the guest's own account, with the host's time (time.monotonic()) at which it came."""

    at: float
    guest_ms: int
    writes: int
    writes_per_s: float
    errors: int
    stall_us: float


@dataclasses.dataclass(frozen=True)
class Cut:
    """What check-ram says of an image."""

    is_cut: bool
    result: dict
    complaints: str


def build_image(directory):
    """Makes kernel, initramfs and checker in the directory, which may hold them from an earlier run."""
    done = subprocess.run([HERE / "build-image", directory], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise GuestError(f"cannot make the guest's image: {done.stderr.strip()}")
    return Path(directory)


def check_ram(image_directory, ram_path):
    """Is this raw image of the guest's RAM one cut of what the guest wrote?"""
    done = subprocess.run([Path(image_directory) / "check-ram", ram_path], capture_output=True, text=True)
    if done.returncode == 2:
        raise GuestError(f"cannot check {ram_path}: {done.stderr.strip()}")
    return Cut(done.returncode == 0, json.loads(done.stdout), done.stderr.strip())


class Qmp:
    """The least that is needed of QEMU's machine protocol: one command at a time, events skipped."""

    def __init__(self, path, timeout_s=30):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rwb")
        json.loads(self._stream.readline())
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._stream.flush()
        while True:
            line = self._stream.readline()
            if not line:
                raise GuestError(f"QEMU has gone while it was asked to {command}")
            answer = json.loads(line)
            if "error" in answer:
                raise GuestError(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def close(self):
        self._stream.close()
        self._socket.close()


class Guest:
    """One guest. Use as a context manager, or call stop().

    `backend`: "memfd", "hugetlb" for one of 2 MiB pages, which must be free, or "file" for a file on tmpfs.
    """

    def __init__(self, image_directory, ram_mib=512, backend="memfd", vcpus=1, sandbox=False, report_ms=200):
        self.image_directory = Path(image_directory)
        self.ram_bytes = ram_mib << 20
        self.reports = []
        self.console = []
        self.ready = None
        self.qmp = None
        self._changed = threading.Condition()
        self._directory = Path(tempfile.mkdtemp(prefix="livesnap-guest."))
        self._ram_file = None
        self._process = None
        try:
            self._start(ram_mib, backend, vcpus, sandbox, report_ms)
        except BaseException:
            self.stop()
            raise

    def _start(self, ram_mib, backend, vcpus, sandbox, report_ms):
        memory = f"memory-backend-{'file' if backend == 'file' else 'memfd'},id=ram,size={ram_mib}M,share=on"
        if backend == "hugetlb":
            memory += ",hugetlb=on,hugetlbsize=2M"
        elif backend == "file":
            descriptor, name = tempfile.mkstemp(prefix="livesnap-guest.", dir="/dev/shm")
            os.close(descriptor)
            self._ram_file = Path(name)
            memory += f",mem-path={name}"
        arguments = [QEMU, "-accel", "tcg", "-cpu", "max", "-smp", str(vcpus), "-m", f"{ram_mib}M"]
        arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        arguments += ["-object", memory, "-machine", "pc,memory-backend=ram"]
        arguments += ["-kernel", str(self.image_directory / "vmlinuz"), "-initrd", str(self.image_directory / "initramfs")]
        arguments += ["-append", f"{COMMAND_LINE} report_ms={report_ms}", "-serial", "stdio"]
        arguments += ["-qmp", f"unix:{self._directory}/qmp,server=on,wait=off"]
        if sandbox:
            arguments += ["-sandbox", "on"]
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # The guest must not outlive a test run that was killed.
            preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

        deadline = time.monotonic() + 30
        while self.qmp is None:
            try:
                self.qmp = Qmp(self._directory / "qmp")
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise GuestError(f"QEMU did not start: {self._console_end()}") from None
                time.sleep(0.02)

    def _listen(self, stream):
        for raw in stream:
            at = time.monotonic()
            line = raw.decode(errors="replace").strip()
            with self._changed:
                self.console.append(line)
                fields = dict(re.findall(r"(\w+)=(\S+)", line))
                if line.startswith("livesnap-guest ready"):
                    self.ready = {name: int(value) for name, value in fields.items()}
                elif line.startswith("livesnap-guest report"):
                    self.reports.append(
                        Report(
                            at=at,
                            guest_ms=int(fields["t_ms"]),
                            writes=int(fields["writes"]),
                            writes_per_s=float(fields["rate"]),
                            errors=int(fields["errors"]),
                            stall_us=float(fields["stall_us"]),
                        )
                    )
                self._changed.notify_all()

    def _console_end(self):
        with self._changed:
            return "\n".join(self.console[-15:]) or "(nothing on its console)"

    @property
    def pid(self):
        return self._process.pid

    @property
    def running(self):
        return self._process is not None and self._process.poll() is None

    def wait_reports(self, count, timeout_s=60):
        """Waits until `count` more reports have come, and returns them."""
        with self._changed:
            first = len(self.reports)
            deadline = time.monotonic() + timeout_s
            while len(self.reports) < first + count:
                left = deadline - time.monotonic()
                if left <= 0 or not self.running:
                    state = "has ended" if not self.running else f"reported too little in {timeout_s} s"
                    raise GuestError(f"the guest {state}; its console:\n" + "\n".join(self.console[-15:]))
                self._changed.wait(min(left, 0.5))
            return self.reports[first : first + count]

    def wait_full_speed(self, timeout_s=60):
        """Waits until the guest has written to every page of its pattern at least once."""
        deadline = time.monotonic() + timeout_s
        while True:
            report = self.wait_reports(1, max(deadline - time.monotonic(), 0.1))[0]
            if report.writes > self.ready["areas"] * self.ready["pages"]:
                return report

    def pmemsave(self, path, start=0, length=None):
        """What QEMU itself says the guest's physical memory holds."""
        self.qmp.execute("pmemsave", val=start, size=self.ram_bytes - start if length is None else length, filename=str(path))

    def pause(self):
        """Stops the vCPUs; QEMU goes on."""
        self.qmp.execute("stop")

    def resume(self):
        self.qmp.execute("cont")

    def ram_object(self):
        """The path of the RAM's memory object below /proc, for a copy that livesnap has no part in."""
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            target = os.readlink(link)
            if target.startswith("/memfd:memory-backend-memfd") or target == str(self._ram_file):
                return link
        raise GuestError("QEMU has no descriptor of its guest's RAM")

    def check(self, ram_path):
        return check_ram(self.image_directory, ram_path)

    def stop(self):
        """Ends the guest and removes all that was made for it. May be called twice."""
        if self._process is not None:
            if self.qmp is not None and self.running:
                try:
                    self.qmp.execute("quit")
                except (GuestError, OSError, ValueError):
                    pass
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self.qmp is not None:
            self.qmp.close()
            self.qmp = None
        if self._ram_file is not None:
            self._ram_file.unlink(missing_ok=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
