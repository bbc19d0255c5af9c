# SPDX-License-Identifier: GPL-2.0-or-later
"""livesnapd on a store of its own, and its CLI, for the demo."""

import json
import subprocess
import time
from pathlib import Path

BUILD = Path(__file__).resolve().parents[2] / "build"


class ServiceError(Exception):
    """The daemon or the CLI failed; the message holds what they said."""


class Service:
    """Makes socket, store and log in the directory. End it with stop()."""

    def __init__(self, directory):
        self.socket = Path(directory) / "livesnapd.sock"
        self.store = Path(directory) / "store"
        self._log_path = Path(directory) / "livesnapd.log"
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [BUILD / "daemon/livesnapd", "--socket", self.socket, "--store", self.store],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 10
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServiceError(f"livesnapd did not start:\n{self.log()}")
            time.sleep(0.02)

    def log(self):
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-15:])

    def livesnap(self, *arguments):
        """Runs the CLI with --json, and returns what it printed."""
        done = subprocess.run(
            [BUILD / "client/livesnap", *map(str, arguments), "--json", "--socket", self.socket],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            command = " ".join(map(str, arguments))
            raise ServiceError(f"'livesnap {command}' failed: {done.stderr.strip()}\nThe daemon's log ends:\n{self.log()}")
        lines = done.stdout.splitlines()
        return json.loads(lines[-1]) if lines else {}

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
