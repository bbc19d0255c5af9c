# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the daemon is bounded (G7), and what happens at the bound is the user's choice (G2)."""

import pathlib
import re

import pytest

from harness import lateness_s

POOL_BYTES = 16 << 20
RATE_BYTES = 16 << 20
# Many times the pool, so that it is spent long before the drain is over.
PAGES = 128 * 256


def start(bare_lab, policy):
    bare_lab.start_daemon("--pool-size", POOL_BYTES, "--pool-policy", policy)
    writer = bare_lab.start_writer(threads=4, pages=PAGES, order="ticket")
    bare_lab.attach(writer)
    return writer


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024


def test_throttle(bare_lab, built):
    """Writers wait, but the snapshot is exact and the pool is kept."""
    writer = start(bare_lab, "throttle")
    snapshot = bare_lab.prove_snapshot(writer, "--max-rate", RATE_BYTES)
    assert 0 < snapshot["pool_peak_bytes"] <= POOL_BYTES
    assert snapshot["throttled_us"] > 0
    assert resident_bytes(bare_lab.daemon.pid) < POOL_BYTES + (64 << 20)


def test_abort(bare_lab, built):
    """The snapshot is given up, the writers never wait, and the next one works."""
    writer = start(bare_lab, "abort")
    writer.worst_us()
    failed = bare_lab.cli("snapshot", "d", "--name", "s", "--max-rate", RATE_BYTES, check=False)
    assert failed.status == 1
    assert "pool" in failed.stderr
    assert bare_lab.json("list") == []
    assert bare_lab.is_store_clean()
    writer.wait_progress(1000)
    bare_lab.cli("detach", "d")
    writer.stop()


def test_max_rate_is_kept(lab):
    writer = lab.start_writer(pages=16384, idle=True)
    lab.attach(writer)
    snapshot = lab.prove_snapshot(writer, "--max-rate", 32 << 20)
    assert 1_500_000 < snapshot["duration_us"] < 6_000_000 + 100e6 * lateness_s()


@pytest.mark.parametrize("size", ["1", "4095"])
def test_pool_that_is_too_small_to_work(bare_lab, built, size):
    daemon = bare_lab.start_daemon("--pool-size", size, is_refused=True)
    status, said = daemon.wait_refused()
    assert status in (1, 2)
    assert "pool" in said
