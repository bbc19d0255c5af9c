# SPDX-License-Identifier: GPL-2.0-or-later
"""livesnap-attach against programs that check themselves whether they noticed anything (tests/attach)."""

import concurrent.futures
import contextlib
import ctypes
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from harness import BUILD, LIVESNAP, NOBODY, PATIENCE_S, ROOT, Lab, read_line, wait_until

ATTACH = BUILD / "client" / "attach" / "livesnap-attach"
VICTIM = BUILD / "tests" / "attach" / "attach-victim"
SITUATIONS = [name for source in sorted((ROOT / "tests" / "attach").glob("*.c"))
              for name in re.findall(r'{ "([a-z-]+)", in_', source.read_text())]


class Victim:
    def __init__(self, situation, *, prefix=()):
        self.process = subprocess.Popen([*prefix, VICTIM, situation], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        bufsize=0)
        first = read_line(self.process.stdout, time.monotonic() + PATIENCE_S, situation)
        if first.startswith("skip"):
            pytest.skip(first.strip())
        assert first == "ready\n"
        self.pid = self.process.pid

    def finish(self):
        """Its last line: "ok" where it is unharmed."""
        output, _ = self.process.communicate(b"\n", timeout=PATIENCE_S)
        return output.decode().strip() or f"status {self.process.returncode}"

    def kill(self):
        self.process.kill()
        self.process.wait()


def attach(lab, pid, *arguments, prefix=(), socket=None):
    process = subprocess.run([*prefix, ATTACH, "--pid", str(pid), "--socket", str(socket or lab.daemon.socket),
                              *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             timeout=PATIENCE_S, check=False)
    return process


def attach_json(lab, pid, *arguments, **options):
    process = attach(lab, pid, "--json", *arguments, **options)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def lab():
    directory = tempfile.mkdtemp(prefix="livesnap-test-", dir=os.environ.get("LIVESNAP_TEST_DIR", "/var/tmp"))
    lab = Lab(directory)
    lab.start_daemon()
    yield lab
    try:
        lab.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def victims():
    """Starts victims and sees to it that none is left."""
    started = []

    def start(*arguments, **options):
        started.append(Victim(*arguments, **options))
        return started[-1]

    yield start
    for victim in started:
        victim.kill()


# What a program is in when it is attached to

def run_situation(lab, situation, domain=None):
    victim = None
    try:
        victim = Victim(situation)
        time.sleep(2.4)
        attached = attach(lab, victim.pid, "--domain", domain or situation)
        return attached, victim.finish()
    except BaseException as failure:  # told by the test that asks for it
        return failure, None
    finally:
        if victim:
            victim.kill()


@pytest.fixture(scope="module")
def outcomes(lab):
    """All situations, several at once: they mostly sleep."""
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        futures = {situation: pool.submit(run_situation, lab, situation)
                   for situation in SITUATIONS if situation != "patience"}
        return {situation: future.result() for situation, future in futures.items()}


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if s != "patience"])
def test_victim_does_not_notice(lab, outcomes, situation):
    attached, answer = outcomes[situation]
    if isinstance(attached, BaseException):
        raise attached
    assert attached.returncode == 0, attached.stderr
    assert answer == "ok"


def test_another_set_of_namespaces(lab, victims):
    outer = victims("read", prefix=("unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc",
                                    "--uts", "--fork", "--kill-child", "--mount-proc"))
    children = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    inner = int(wait_until(lambda: children.read_text().split(), "the namespace's first process")[0])
    result = attach_json(lab, inner, "--domain", "namespaces")
    assert result["processes"] == [{"pid": inner, "mappings": 1}]
    assert outer.finish() == "ok"


def test_user_without_rights_and_with_few_limits(lab, victims):
    victim = victims("read", prefix=("prlimit", "--nofile=8", *NOBODY))
    attach_json(lab, victim.pid, "--domain", "limits")
    assert victim.finish() == "ok"


def test_stopped_program_stays_stopped(lab, victims):
    victim = victims("patience")
    os.kill(victim.pid, signal.SIGSTOP)
    state = pathlib.Path(f"/proc/{victim.pid}/stat")
    wait_until(lambda: state.read_text().split()[2] == "T", "the stop")
    attach_json(lab, victim.pid, "--domain", "stopped")
    assert state.read_text().split()[2] == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.finish() == "ok"


# Death at any moment

def test_kill_at_any_moment(lab, victims):
    victim = victims("patience")
    chance = random.Random(4711)
    for _ in range(40):
        attacher = subprocess.Popen([ATTACH, "--pid", str(victim.pid), "--socket", str(lab.daemon.socket),
                                     "--domain", "killed"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(chance.uniform(0, 0.12))
        attacher.kill()
        attacher.communicate(timeout=PATIENCE_S)  # until the process that does the work has let go of the pipe
        subprocess.run([LIVESNAP, "detach", "killed", "--socket", str(lab.daemon.socket)], capture_output=True,
                       check=False)
        assert victim.process.poll() is None
    attach_json(lab, victim.pid, "--domain", "killed")
    assert victim.finish() == "ok"


def test_program_ends_meanwhile(lab, victims):
    chance = random.Random(4712)
    for _ in range(15):
        victim = victims("patience")
        timer = threading.Timer(chance.uniform(0, 0.08), victim.process.kill)
        timer.start()
        process = attach(lab, victim.pid, "--domain", "ends")
        timer.join()
        assert process.returncode == 0 or re.search("exited|no process|zombie", process.stderr), process.stderr


# What is attached

SHARER = """
import mmap, os, sys, time
memory = mmap.mmap(-1, 65536)
for _ in range(int(sys.argv[1])):
    if not os.fork():
        break
else:
    print("ready", flush=True)
sys.stdin.read(1)
"""


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        assert read_line(process.stdout, time.monotonic() + PATIENCE_S, command) == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def test_all_that_share_the_memory(lab):
    with running(sys.executable, "-c", SHARER, "3") as process:
        result = attach_json(lab, process.pid)
        assert result["domain"].startswith("python3")
        assert [region["kind"] for region in result["regions"]] == ["anonymous"]
        assert len(result["processes"]) == 4
        assert all(p["mappings"] == 1 for p in result["processes"])
        assert process.pid == result["processes"][0]["pid"]
        again = attach(lab, process.pid)
        assert again.returncode == 1 and "is tracked already" in again.stderr


def test_same_name_another_program(lab):
    with running(sys.executable, "-c", SHARER, "0") as one, running(sys.executable, "-c", SHARER, "0") as two:
        names = {attach_json(lab, process.pid)["domain"] for process in (one, two)}
        assert len(names) == 2
        assert any(name.endswith(f"-{two.pid}") for name in names)


def test_object_by_name(lab, victims):
    victim = victims("patience")
    refused = attach(lab, victim.pid, "--object", "other*")
    assert refused.returncode == 1 and "matches 'other*'" in refused.stderr
    assert attach_json(lab, victim.pid, "--object", "vic*", "--domain", "glob")["regions"][0]["name"] == "victim"
    assert victim.finish() == "ok"


# What is refused

def refused(lab, pid, sentence, **options):
    process = attach(lab, pid, **options)
    assert process.returncode == 1
    assert process.stdout == ""
    assert re.search(sentence, process.stderr), process.stderr


def test_pid_that_is_gone(lab):
    process = subprocess.Popen(["true"])
    process.wait()
    refused(lab, process.pid, f"there is no process {process.pid}")


def test_zombie(lab):
    process = subprocess.Popen(["true"])
    wait_until(lambda: pathlib.Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "Z", "its end")
    refused(lab, process.pid, "zombie")
    process.wait()


def test_kernel_thread(lab):
    if pathlib.Path("/proc/2/comm").exists() and pathlib.Path("/proc/2/comm").read_text() == "kthreadd\n":
        refused(lab, 2, "thread of the kernel")
    else:
        pytest.skip("no kernel thread is to be seen")


def test_nothing_to_snapshot(lab):
    with subprocess.Popen(["sleep", "60"]) as process:
        refused(lab, process.pid, "no writable shared memory")
        process.kill()


def test_traced_process(lab, victims):
    victim = victims("read")
    libc = ctypes.CDLL(None, use_errno=True)
    seize, detach, interrupt = 0x4206, 17, 0x4207
    pid = ctypes.c_long(victim.pid)
    assert libc.ptrace(ctypes.c_long(seize), pid, None, None) == 0
    try:
        refused(lab, victim.pid, f"is being traced by process {os.getpid()}")
    finally:
        libc.ptrace(ctypes.c_long(interrupt), pid, None, None)
        os.waitpid(victim.pid, 0x40000000)
        libc.ptrace(ctypes.c_long(detach), pid, None, None)
    attach_json(lab, victim.pid, "--domain", "traced")
    assert victim.finish() == "ok"


def test_32_bit_program(lab, tmp_path):
    code = bytes.fromhex("b81d000000cd80ebf7")  # 1: pause(); jmp 1b
    base = 0x10000
    header = (b"\x7fELF\1\1\1" + bytes(9) + b"".join(n.to_bytes(s, "little") for n, s in (
        (2, 2), (3, 2), (1, 4), (base + 84, 4), (52, 4), (0, 4), (0, 4), (52, 2), (32, 2), (1, 2), (0, 2), (0, 2),
        (0, 2))))
    segment = b"".join(n.to_bytes(4, "little") for n in (1, 0, base, base, 84 + len(code), 84 + len(code), 5, 4096))
    program = tmp_path / "program"
    program.write_bytes(header + segment + code)
    program.chmod(0o755)
    try:
        process = subprocess.Popen([program])
    except OSError as error:
        pytest.skip(f"no 32-bit programs here: {error}")
    try:
        refused(lab, process.pid, "32-bit")
    finally:
        process.kill()
        process.wait()


def test_another_user(lab, victims):
    victim = victims("patience")
    refused(lab, victim.pid, "run livesnap-attach as root", prefix=NOBODY)
    assert victim.finish() == "ok"


def test_no_daemon(lab, victims, tmp_path):
    victim = victims("patience")
    refused(lab, victim.pid, "is livesnapd running", socket=tmp_path / "nothing")
    assert victim.finish() == "ok"


@pytest.mark.parametrize("arguments", [["--pid", "x"], [], ["--pid", "0"], ["--pid", "1", "more"], ["--nonsense"],
                                       ["--pid", "1", "--domain", "a/b"], ["--pid", "1", "--discard", "maybe"]])
def test_wrong_usage(arguments):
    process = subprocess.run([ATTACH, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "livesnap-attach: " in process.stderr and process.stdout == ""


def test_help_and_version():
    for argument in ("--help", "--version"):
        process = subprocess.run([ATTACH, argument], capture_output=True, text=True, check=True)
        assert "livesnap-attach" in process.stdout and process.stderr == ""
