# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of increments, and programs whose memory changes only when they are told."""

import subprocess
import tempfile

MIB_PAGES = 256


def start(lab, tracking="sync", **options):
    writer = lab.start_writer(**{"pages": 16 * MIB_PAGES, "threads": 2, **options})
    lab.attach(writer)
    lab.json("tracking", "d", tracking)
    writer.wait_progress(100)
    return writer


class Chain:
    """Takes snapshots, and remembers between which numbers of writes each was taken."""

    def __init__(self, lab, writer, domain="d"):
        self.lab, self.writer, self.domain, self.members = lab, writer, domain, []

    def take(self, *arguments, incremental=True):
        """Where programs have to be stopped (tracking async) they may be for long: the machine may be busy."""
        at_least = self.writer.completed
        snapshot = self.lab.snapshot(self.domain, *(["--incremental"] if incremental else []), "--max-pause", "5000",
                                     *arguments)
        self.members.append((snapshot, at_least, self.writer.issued))
        return snapshot

    def increment(self, *arguments):
        snapshot = self.take(*arguments)
        assert snapshot["kind"] == "increment", snapshot
        return snapshot

    def prove(self):
        for snapshot, at_least, at_most in self.members:
            self.lab.cli("verify", snapshot["snapshot"])
            self.lab.check_restored(self.writer, snapshot["snapshot"], at_least, at_most)


# A program whose memory changes only when it is told to.
VICTIM = """
import fcntl, mmap, os, sys
fd = os.memfd_create("victim", os.MFD_ALLOW_SEALING)
os.ftruncate(fd, 4 << 20)
memory = mmap.mmap(fd, 4 << 20)
memory[:] = b"x" * (4 << 20)
print(fd, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Victim:
    """Attached as domain d, tracked in this way, with one snapshot taken."""

    def __init__(self, lab, tracking="sync"):
        self.lab = lab
        self.process = subprocess.Popen(["/usr/bin/python3", "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.path = f"/proc/{self.process.pid}/fd/{int(self.process.stdout.readline())}"
        lab.json("attach", "--pid", self.process.pid, "--domain", "d", "--object", "*victim*", "--tracking", tracking)
        lab.snapshot("d")

    def do(self, statement):
        self.process.stdin.write(statement + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def punch(self, page):
        """Through a descriptor of somebody else's."""
        subprocess.run(["fallocate", "--punch-hole", "--offset", str(page * 4096), "--length", "4096", self.path], check=True)

    def prove(self):
        """Take an increment, and compare it with the memory that it is of."""
        snapshot = self.lab.snapshot("d", "--incremental")
        assert snapshot["kind"] == "increment"
        directory = tempfile.mkdtemp(prefix="restored-", dir=self.lab.directory) + "/x"
        restored = self.lab.json("restore", snapshot["snapshot"], "--output", directory)
        with open(restored["regions"][0]["path"], "rb") as image, open(self.path, "rb") as memory:
            assert image.read() == memory.read()
        return snapshot

    def close(self):
        self.process.stdin.close()
        self.process.wait()
