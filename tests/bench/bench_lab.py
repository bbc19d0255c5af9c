# SPDX-License-Identifier: GPL-2.0-or-later
"""What the figures are measured with: a daemon, the programs of the benchmark, fio, and the order of things."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from harness import BUILD, Daemon, Failure, Result, LIVESNAP, read_line  # noqa: E402

PROGRAMS = BUILD / "tests" / "bench"
MIB = 1 << 20
GIB = 1 << 30
# Longer than any single step takes on a slow disk.
PATIENCE_S = 300.0
# Let the disk come to rest: what was deleted is discarded, what was written is flushed.
REST_S = 0.3
MAX_HOLD_MS = 10000


class OutOfTime(Exception):
    """The time that the whole run may take is over."""


class Program:
    """bench-writer or bench-loop: a line is asked, a line of JSON is answered."""

    def __init__(self, name, *arguments):
        self.name = name
        self.process = subprocess.Popen([PROGRAMS / name, *map(str, arguments)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=0)
        try:
            self.pid = self._answer("start")["pid"]
        except BaseException:
            self.close()
            raise

    def _answer(self, what):
        return json.loads(read_line(self.process.stdout, time.monotonic() + PATIENCE_S, f"{self.name} {what}"))

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        return self._answer(words[0])

    def send(self, *words):
        """Ask, and read the answer later with receive()."""
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")

    def receive(self):
        return self._answer("")

    def page_table_bytes(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmPTE:")[2].split()[0]) << 10

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class BenchLab:
    """One run. `directory` is on the disk that is measured."""

    def __init__(self, directory, quick, n_pairs, deadline):
        self.directory = pathlib.Path(directory)
        self.quick = quick
        self.n_pairs = n_pairs
        self.deadline = deadline
        self._daemons = []
        self._n_names = 0
        self.daemon = self.start_daemon()

    # Sizes and rounds

    def size(self, bytes_):
        """A quick run measures a quarter."""
        return bytes_ // 4 if self.quick else bytes_

    def rounds(self):
        """The numbers of the rounds; each makes one pair. In odd rounds the reference goes last."""
        for i in range(self.n_pairs):
            self.check_time()
            yield i

    def check_time(self):
        if time.monotonic() > self.deadline:
            raise OutOfTime

    @staticmethod
    def in_turn(i, reference, ours):
        """Measure both, in an order that changes from round to round. Returns (ours, reference)."""
        if i % 2 == 0:
            first = reference()
            return ours(), first
        first = ours()
        return first, reference()

    @staticmethod
    def rest():
        os.sync()
        time.sleep(REST_S)

    # The daemon

    def start_daemon(self, *arguments):
        directory = self.directory / f"daemon-{len(self._daemons)}"
        directory.mkdir()
        # A hold that is too long for service is a figure like any other here.
        self.daemon = Daemon(directory, "--max-hold", MAX_HOLD_MS, *arguments).wait_ready()
        self._daemons.append(self.daemon)
        return self.daemon

    def stop_daemon(self):
        """The last one; those that are asked from now on is the one before it."""
        daemon = self._daemons.pop()
        daemon.close()
        shutil.rmtree(daemon.store, ignore_errors=True)
        self.daemon = self._daemons[-1] if self._daemons else None

    def json(self, *arguments):
        process = subprocess.run([LIVESNAP, *map(str, arguments), "--json", "--socket", self.daemon.socket],
                                 stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        result = Result(arguments, process)
        if result.status != 0:
            raise Failure(str(result))
        return result.json

    def name(self):
        self._n_names += 1
        return f"n{self._n_names}"

    def snapshot(self, domain, *arguments, keep=False):
        """Take one and delete it. Adds the rate and when it was asked for and done."""
        self.rest()
        start_ns = time.monotonic_ns()
        snapshot = self.json("snapshot", domain, "--name", self.name(), *arguments)
        snapshot["asked_ns"], snapshot["done_ns"] = start_ns, time.monotonic_ns()
        total = sum(region["bytes"] for region in snapshot["regions"])
        snapshot["mib_per_s"] = total / MIB / (snapshot["duration_us"] / 1e6)
        if not keep:
            self.json("delete", snapshot["snapshot"])
        return snapshot

    def start_snapshot(self, domain, *arguments):
        """Returns the job."""
        return self.json("snapshot", domain, "--name", self.name(), "--detach", *arguments)["job"]

    def cancel(self, job):
        with contextlib.suppress(Failure):  # it may have ended
            self.json("cancel", job)

    def wait_no_jobs(self):
        deadline = time.monotonic() + PATIENCE_S
        while any(job["state"] not in ("done", "failed", "cancelled") for job in self.json("jobs")):
            if time.monotonic() > deadline:
                raise Failure("a job does not end")
            time.sleep(0.02)

    # Those who are measured, and the reference

    @contextlib.contextmanager
    def writer(self, bytes_, domain=None, **options):
        """A bench-writer, attached by the library where a domain is named."""
        if domain:
            options |= {"domain": domain, "socket": self.daemon.socket}
        arguments = [f"--bytes={bytes_}", *(f"--{name}={value}" for name, value in options.items())]
        with Program("bench-writer", *arguments) as program:
            try:
                yield program
            finally:
                if domain:
                    with contextlib.suppress(Failure):
                        self.json("detach", domain)

    def fio(self, bytes_, rw="write", path=None):
        """MiB/s of sequential O_DIRECT, with fsync where it writes."""
        self.rest()
        target = path or self.directory / "fio"
        command = ["fio", "--name=bench", f"--filename={target}", f"--size={bytes_ // MIB}m", f"--rw={rw}", "--bs=1m",
                   "--direct=1", "--ioengine=io_uring", "--iodepth=16", "--output-format=json"]
        if rw == "write":
            command.append("--end_fsync=1")
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        if not path:
            target.unlink()
        return json.loads(output[output.index("{"):])["jobs"][0][rw]["bw"] / 1024

    def close(self):
        while self._daemons:
            self.stop_daemon()


def processor_s(pid):
    """Processor time of a process and of its threads that ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
