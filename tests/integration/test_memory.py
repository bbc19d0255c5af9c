# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's own memory: none of it may have to be read back from a disk while a client waits."""

import pathlib
import re

from harness import NOBODY


def unlocked_mappings(daemon):
    """Those with pages in memory that may be reclaimed. The kernel's own, such as the vdso and the rings, may not."""
    smaps = pathlib.Path(f"/proc/{daemon.pid}/smaps").read_text()
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)[1:]
    return [mapping.splitlines()[0] for mapping in mappings
            if not re.search(r"^Rss: +0 kB$", mapping, re.MULTILINE)
            and not re.search(r"^VmFlags:.* (lo|io|pf|de)\b", mapping, re.MULTILINE)]


def test_all_memory_is_locked(lab):
    """What is there, and what came with threads and buffers of a snapshot."""
    writer = lab.start_writer(pages=4096)
    lab.attach(writer)
    lab.snapshot()
    assert unlocked_mappings(lab.daemon) == []


def test_without_the_right_to_lock(bare_lab, built):
    """Nothing that is mapped later fails for it."""
    capabilities = "+sys_ptrace,+dac_read_search"
    daemon = bare_lab.start_daemon("--pool-size", "16M", prefix=(
        "prlimit", "--memlock=65536", "setpriv", f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", *NOBODY[1:]))
    assert "RLIMIT_MEMLOCK" in daemon.stderr
    writer = bare_lab.start_writer(pages=4096)
    bare_lab.attach(writer)
    bare_lab.prove_snapshot(writer)
