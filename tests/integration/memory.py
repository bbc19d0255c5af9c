# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory cgroup of a test's own, by either version of the interface."""

import pathlib
import re
import tempfile

V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")


class MemoryUnavailable(Exception):
    """There is no memory controller that we may use."""


class MemoryCgroup:
    """Whoever is in it may have so much memory; who wants more is killed."""

    def __init__(self, limit_bytes):
        self.is_v1 = (V1 / "memory.limit_in_bytes").exists()
        if not self.is_v1 and "memory" not in (V2 / "cgroup.subtree_control").read_text().split():
            raise MemoryUnavailable("the memory controller is not to be had")
        try:
            self.path = pathlib.Path(tempfile.mkdtemp(prefix="livesnap-test-", dir=V1 if self.is_v1 else V2))
            if self.is_v1:
                (self.path / "memory.swappiness").write_text("0")
                (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))
            else:
                (self.path / "memory.max").write_text(str(limit_bytes))
                if (self.path / "memory.swap.max").exists():
                    (self.path / "memory.swap.max").write_text("0")
        except OSError as error:
            raise MemoryUnavailable(str(error)) from None

    def add(self, pid):
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self):
        """How many processes the kernel has killed in it."""
        events = (self.path / ("memory.oom_control" if self.is_v1 else "memory.events")).read_text()
        return int(re.search(r"^oom_kill (\d+)", events, re.MULTILINE)[1])

    def close(self):
        self.path.rmdir()
