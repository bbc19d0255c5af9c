# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon that lives but does not serve: the supervisor is told nothing any more, and ends it (G3)."""

import contextlib
import ctypes
import os
import pathlib
import signal
import threading
import time

import pytest

from harness import PATIENCE_S, thread_states, wait_until

# A busy machine may keep the main loop from its core for a second or two.
PATIENCE_US = 4_000_000
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
P_WALL = 0x40000000


class Supervisor:
    """The part that systemd plays: it kills a daemon that it has not heard of for longer than was agreed."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.n_heard = 0
        self.has_killed = threading.Event()
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self):
        heard_at = time.monotonic()
        while not self._is_ended.is_set():
            if "WATCHDOG=1" in self.daemon.wait_notification(0.05):
                self.n_heard += 1
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > PATIENCE_US / 1e6:
                os.kill(self.daemon.pid, signal.SIGKILL)
                self.has_killed.set()
                return

    def close(self):
        self._is_ended.set()
        self._thread.join()


@pytest.fixture
def supervised(bare_lab, built):
    daemon = bare_lab.start_daemon("--pool-size", "32M", env={"WATCHDOG_USEC": str(PATIENCE_US)})
    bare_lab.supervisor = Supervisor(daemon)
    yield bare_lab
    bare_lab.supervisor.close()


def start_drain(lab):
    """Threads that fault all the time, in a snapshot that lasts."""
    writer = lab.start_writer(threads=4, pages=32768)
    lab.attach(writer)
    command = lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 4 << 20)
    lab.wait_drain()
    return writer, command


def waits_for_us(writer):
    return any("userfault" in state for state in thread_states(writer.pid))


def fault_thread(daemon):
    for task in pathlib.Path(f"/proc/{daemon.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # others come and go
            if (task / "comm").read_text().strip() == "fault":
                return int(task.name)
    raise AssertionError("there is no fault thread")


def stop_one_thread(tid):
    """As if it hung: nothing else of the process is stopped. It stays so until its process dies, or ours."""
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, tid, None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(tid, P_WALL)


def assert_killed_and_free(lab, writer, command):
    assert lab.supervisor.has_killed.wait(PATIENCE_S), "a daemon that hangs went on feeding the watchdog"
    writer.wait_progress(1000)
    assert command.wait(PATIENCE_S) == 1
    lab.daemon.kill()
    lab.start_daemon(store=lab.daemon.store)
    assert lab.json("list") == [] and lab.is_store_clean()
    lab.attach(writer)
    lab.prove_snapshot(writer)


def test_watchdog_is_fed(supervised):
    """By a daemon that works, also while it takes a snapshot and threads are many."""
    writer, command = start_drain(supervised)
    for domain in ("e", "f"):
        supervised.attach(supervised.start_writer(pages=64, rate=1000), domain)
    heard = supervised.supervisor.n_heard
    wait_until(lambda: supervised.supervisor.n_heard >= heard + 4, "four signs of life")
    assert not supervised.supervisor.has_killed.is_set()
    command.kill()
    command.wait()
    supervised.wait_no_jobs()
    writer.wait_progress(1000)


def test_daemon_that_is_stopped(supervised):
    writer, command = start_drain(supervised)
    os.kill(supervised.daemon.pid, signal.SIGSTOP)
    wait_until(lambda: waits_for_us(writer), "wait of a thread for a daemon that is stopped")
    assert_killed_and_free(supervised, writer, command)


def test_fault_thread_that_hangs(supervised):
    """The main loop is well: it must say nothing nevertheless."""
    writer, command = start_drain(supervised)
    tid = fault_thread(supervised.daemon)
    stop_one_thread(tid)
    wait_until(lambda: waits_for_us(writer), "wait of a thread for a fault thread that hangs")
    assert supervised.supervisor.has_killed.wait(PATIENCE_S), "the main loop spoke for a fault thread that hangs"
    os.waitpid(tid, P_WALL)  # a thread that is traced is gone when its tracer knows
    assert_killed_and_free(supervised, writer, command)


def test_no_watchdog_where_nobody_asks(lab):
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert "WATCHDOG" not in lab.daemon.wait_notification(0.2)
