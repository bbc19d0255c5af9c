# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of tests/programs/unruly.c, which does to its memory what it is told to."""

import os
import pathlib
import subprocess
import time

from harness import PATIENCE_S, PROGRAMS, Failure, read_line

PAGE = 4096
PAGES = 8192


class Unruly:
    def __init__(self, pages=PAGES, path=None):
        self.pages = pages
        self.process = subprocess.Popen([PROGRAMS / "unruly", str(pages), *([path] if path else [])], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=0)
        self.pid = self.process.pid
        self._answer("start")

    def _answer(self, what):
        answer = read_line(self.process.stdout, time.monotonic() + PATIENCE_S, f"unruly {what}").split()
        if answer[0] != "ok":
            raise Failure(f"unruly {what}: {answer}")
        return [int(word) for word in answer[1:]]

    def tell(self, command):
        self.process.stdin.write(command.encode() + b"\n")

    def do(self, command):
        self.tell(command)
        return self._answer(command)

    def wait(self, what):
        """The answer to a command that was told before."""
        return self._answer(what)

    def object_path(self):
        for fd in pathlib.Path(f"/proc/{self.pid}/fd").iterdir():
            if "unruly" in os.readlink(fd):
                return fd
        raise Failure("it has no object")

    def close(self):
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process.stdin.close()
        self.process.stdout.close()
