# SPDX-License-Identifier: GPL-2.0-or-later
"""What the integration tests are made of: a daemon, the CLI, and writers whose memory is known at every instant.

A test asks for the fixture `lab` (conftest.py) and starts what it needs through it. Whatever a test leaves running is
stopped by Lab.close(), which also looks for damage: a daemon that died or keeps descriptors, a client that hangs.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("LIVESNAP_BUILD", ROOT / "build")).resolve()
LIVESNAPD = BUILD / "daemon" / "livesnapd"
LIVESNAP = BUILD / "client" / "livesnap"
PROGRAMS = BUILD / "tests" / "programs"

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

# Far longer than anything takes on a slow machine, far shorter than a hang.
PATIENCE_S = 30.0
MAX_HOLD_MS = 5000

# What a build with sanitizers says (AddressSanitizer and its leaks, UndefinedBehaviorSanitizer, ThreadSanitizer).
SANITIZER_REPORT = r"(Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:"


class Failure(AssertionError):
    """Something that a test ran did not do what it should."""


def lateness_s():
    """How late this machine is just now with what takes no time: to start a process, to end it, and to notice. A bound of
    milliseconds is measured against a multiple of it, or it would say more about the machine's other work than about
    ours. At rest it is some milliseconds."""
    def once():
        start = time.monotonic()
        process = subprocess.Popen(["sleep", "60"])
        process.kill()
        process.wait()
        return time.monotonic() - start

    return max(once() for _ in range(5))


def wait_until(condition, what, timeout_s=PATIENCE_S, interval_s=0.01):
    """Poll until condition() is true and return its value; `what` is what a failure complains of."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(interval_s)


def find_one(root, pattern):
    """The one file below a directory that fits a pattern."""
    found = [path for path in pathlib.Path(root).rglob(pattern) if not path.is_symlink()]
    if len(found) != 1:
        raise Failure(f"below {root} there should be one {pattern}, not {found}")
    return found[0]


def read_line(stream, deadline, what):
    """One line of an unbuffered binary stream, or Failure when it does not come in time."""
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([stream], [], [], max(0, deadline - time.monotonic()))[0]:
            raise Failure(f"{what}: no answer; so far {line!r}")
        byte = stream.read(1)
        if not byte:
            raise Failure(f"{what}: it ended; its last words {line!r}")
        line += byte
    return line.decode()


def thread_states(pid):
    """How each thread of a process waits: what a hang looks like from outside."""
    states = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            state = task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
            states.append(f"{task.name}: state {state} in {task.joinpath('wchan').read_text() or '?'}")
    return states


def process_is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def open_descriptors(pid):
    """What the descriptors of all threads of a process are, counted. Threads may have tables of their own."""
    kinds = collections.Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        of_task = collections.Counter()
        with contextlib.suppress(OSError):  # a thread may end while it is looked at
            for fd in task.joinpath("fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(fd)
                    of_task[target.partition(":[")[0] if target.startswith(("socket", "pipe")) else target] += 1
        kinds |= of_task  # the same table seen from several threads counts once
    return kinds


class Result:
    """How a run of the CLI ended."""

    def __init__(self, arguments, process):
        self.arguments = [str(a) for a in arguments]
        self.status = process.returncode
        self.stdout = process.stdout
        self.stderr = process.stderr

    @property
    def json(self):
        """The one object or array that --json promises: on the last line, and nothing else on stdout."""
        lines = self.stdout.splitlines()
        if len(lines) != 1:
            raise Failure(f"{self}: stdout should be one line of JSON")
        return json.loads(lines[0])

    def __str__(self):
        return (f"livesnap {' '.join(self.arguments)}: status {self.status}\n"
                f"  stdout: {self.stdout.strip()}\n  stderr: {self.stderr.strip()}")


class Daemon:
    """A livesnapd with a store and a socket of its own."""

    def __init__(self, directory, *arguments, store=None, prefix=(), env=None):
        self.directory = pathlib.Path(directory)
        self.socket = self.directory / "livesnapd.sock"
        self.store = pathlib.Path(store) if store else self.directory / "store"
        self.stderr_path = self.directory / "livesnapd.stderr"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        notify_path = self.directory / "notify.sock"
        self._notify.bind(str(notify_path))
        notify_path.chmod(0o666)
        with open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen(
                [*prefix, LIVESNAPD, "--socket", self.socket, "--store", self.store, *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                env={**os.environ, "NOTIFY_SOCKET": str(notify_path), **(env or {})})
        self.is_expected_to_live = True
        self._baseline = None

    @property
    def pid(self):
        return self.process.pid

    @property
    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def wait_ready(self):
        """Wait for READY=1, as systemd does."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"livesnapd ended with {self.process.returncode} before it was ready:\n{self.stderr}")
            if select.select([self._notify], [], [], 0.05)[0] and b"READY=1" in self._notify.recv(4096):
                self._baseline = open_descriptors(self.pid)
                return self
        raise Failure(f"livesnapd did not say that it is ready:\n{self.stderr}")

    def wait_notification(self, timeout_s):
        """What it tells its supervisor next, or an empty string when it says nothing for so long."""
        if not select.select([self._notify], [], [], timeout_s)[0]:
            return ""
        return self._notify.recv(4096).decode()

    def wait_refused(self):
        """For a daemon that must not start: its exit status and what it said."""
        try:
            return self.process.wait(PATIENCE_S), self.stderr
        finally:
            self.kill()

    def terminate(self, timeout_s=PATIENCE_S):
        """SIGTERM; returns the exit status."""
        self.is_expected_to_live = False
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self):
        """SIGKILL: what an out-of-memory killer does."""
        self.is_expected_to_live = False
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def leaked_descriptors(self):
        """Descriptors that it has now and had not when it was ready."""
        return open_descriptors(self.pid) - self._baseline

    def close(self):
        """Stop it; Failure where it crashed, kept descriptors, or does not end as it should."""
        try:
            if not self.is_expected_to_live:
                if self.process.poll() is None:
                    self.kill()
                return
            if self.process.poll() is not None:
                raise Failure(f"livesnapd ended by itself with status {self.process.returncode}")
            if self._baseline is not None:
                wait_until(lambda: not self.leaked_descriptors(),
                           f"closing of the descriptors that are left over ({self.leaked_descriptors()})", 10)
            status = self.terminate()
            if status != 0:
                raise Failure(f"livesnapd ended with status {status} after SIGTERM")
        finally:
            if self.process.poll() is None:
                self.kill()
            self._notify.close()


class Writer:
    """An oracle-writer: see tests/programs/oracle-writer.c for its commands."""

    def __init__(self, directory, *, program="oracle-writer", seed=1, prefix=(), env=None, **options):
        self.seed = seed
        self.options = options
        arguments = [f"--seed={seed}"]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                arguments.append(flag)
            elif value not in (False, None):
                arguments.append(f"{flag}={value}")
        self.stderr_path = pathlib.Path(directory) / f"{program}-{time.monotonic_ns()}.stderr"
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen([*prefix, PROGRAMS / program, *arguments], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=stderr, bufsize=0,
                                            env={**os.environ, **(env or {})})
        self.result = None
        try:
            ready = self._answer("start")
        except Failure as failure:
            self.kill()
            raise Failure(f"{failure}\n{self.stderr}") from None
        self.pid = ready["pid"]
        self.children = ready["processes"][1:]
        self.regions = ready["regions"]

    @property
    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def _answer(self, what, timeout_s=PATIENCE_S):
        return json.loads(read_line(self.process.stdout, time.monotonic() + timeout_s, f"oracle-writer {what}"))

    def command(self, command, timeout_s=PATIENCE_S):
        self.process.stdin.write(command.encode() + b"\n")
        answer = self._answer(command, timeout_s)
        if "error" in answer:
            raise Failure(f"oracle-writer {command}: {answer['error']}")
        return answer

    @property
    def completed(self):
        return self.command("seq")["completed"]

    @property
    def issued(self):
        return self.command("seq")["issued"]

    def fork(self):
        self.children.append(self.command("fork")["return"])
        return self.children[-1]

    def leave(self):
        self.command("leave")
        self.children.pop()

    def worst_us(self):
        """The longest that a write took since this was last asked."""
        return self.command("worst")["worst_us"]

    def wait_progress(self, writes=1, timeout_s=PATIENCE_S):
        """Wait until so many writes more are done; returns the seconds it took."""
        start = time.monotonic()
        goal = self.completed + writes
        wait_until(lambda: self.completed >= goal, f"progress of the writer by {writes} writes", timeout_s, 0.001)
        return time.monotonic() - start

    def region_paths(self):
        """Its objects themselves, where the kind has descriptors."""
        return [pathlib.Path(f"/proc/{self.pid}/fd/{region['fd']}") for region in self.regions]

    def in_flight(self):
        """How many numbers may be missing: with the order by tickets one of each thread but the last."""
        if self.options.get("order") != "ticket":
            return 0
        return self.options.get("threads", 1) * (1 + len(self.children)) - 1

    def stop(self):
        """End it; Failure if it hangs or its memory is not exactly what it wrote."""
        if self.result is not None:
            return self.result
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"stop\n")
        try:
            self.result = self._answer("stop", 2 * PATIENCE_S)
            self.process.wait(PATIENCE_S)
        except (Failure, subprocess.TimeoutExpired) as failure:
            states = [state for pid in [self.pid, *self.children] for state in thread_states(pid)]
            self.kill()
            raise Failure(f"{failure}; its threads: {states}\n{self.stderr}") from None
        if not self.result["intact"] or self.result["completed"] != self.result["total"]:
            raise Failure(f"the writer lost something: {self.result}\n{self.stderr}")
        return self.result

    def kill(self):
        """SIGKILL, also to its children: they follow their parent."""
        self.result = self.result or {}
        self.process.kill()
        self.process.wait(PATIENCE_S)


class Connection:
    """A Varlink client in a few lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._received = b""
        self.descriptors = []

    def send(self, method, parameters=None, descriptors=(), **flags):
        message = {"method": method, "parameters": parameters or {}, **flags}
        text = json.dumps(message).encode() + b"\0"
        sent = socket.send_fds(self.socket, [text], descriptors) if descriptors else 0
        self.socket.sendall(text[sent:])

    def receive(self):
        while b"\0" not in self._received:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 64)
            self.descriptors += descriptors
            if not data:
                raise EOFError("the daemon closed the connection")
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def call(self, method, parameters=None, descriptors=(), **flags):
        self.send(method, parameters, descriptors, **flags)
        return self.receive()

    def is_closed(self):
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.socket.close()


class Lab:
    """All that one test runs. `directory` is on a real disk."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.daemon = None
        self._daemons = []
        self._writers = []
        self._made_directories = []

    # Starting things

    def start_daemon(self, *arguments, is_refused=False, **options):
        """A daemon; the CLI talks to the one that was started last."""
        # What is tested is rarely how long a hold may last, and a busy machine makes some longer than that.
        if "--max-hold" not in arguments:
            arguments = (*arguments, "--max-hold", MAX_HOLD_MS)
        directory = pathlib.Path(tempfile.mkdtemp(prefix="daemon-", dir=self.directory))
        directory.chmod(0o755)
        if options.get("prefix"):
            directory.chmod(0o777)
        daemon = Daemon(directory, *arguments, **options)
        self._daemons.append(daemon)
        if is_refused:
            daemon.is_expected_to_live = False
            return daemon
        self.daemon = daemon.wait_ready()
        return daemon

    def start_writer(self, **options):
        """A program that knows nothing of livesnap."""
        if "dir" not in options:
            options["dir"] = tempfile.mkdtemp(prefix="livesnap-test-", dir="/dev/shm")
            self._made_directories.append(options["dir"])
        writer = Writer(self.directory, **options)
        self._writers.append(writer)
        return writer

    def start_client(self, domain, **options):
        """The same program, but it attaches its regions itself, by liblivesnap."""
        return self.start_writer(program="oracle-client", domain=domain, socket=self.daemon.socket, **options)

    # The CLI

    def cli(self, *arguments, check=True, prefix=(), timeout_s=2 * PATIENCE_S, env=None):
        """Run livesnap. With check, any status but 0 fails the test."""
        environment = {**os.environ, **(env or {})}
        if self.daemon:
            environment.setdefault("LIVESNAP_SOCKET", str(self.daemon.socket))
        process = subprocess.run([*prefix, LIVESNAP, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
        result = Result(arguments, process)
        if re.search(SANITIZER_REPORT, result.stderr):
            raise Failure(f"a sanitizer has found something: {result}")
        if check and result.status != 0:
            raise Failure(str(result))
        return result

    def cli_start(self, *arguments):
        """Run livesnap in the background; the caller waits for it."""
        environment = {**os.environ, "LIVESNAP_SOCKET": str(self.daemon.socket)}
        return subprocess.Popen([LIVESNAP, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=environment)

    def json(self, *arguments, **options):
        """Run livesnap with --json and return what it says."""
        return self.cli(*arguments, "--json", **options).json

    def attach(self, writer, domain="d", **options):
        """Put the oracle's regions, and nothing else of the writer, into a domain."""
        # Memory without a name of its own can only be taken as a whole.
        named = writer.options.get("kind", "memfd") not in ("anonymous", "sysv")
        arguments = ["--object", "*oracle-[0-9]*"] if named else []
        return self.json("attach", "--pid", writer.pid, "--domain", domain, *arguments, **options)

    def snapshot(self, domain="d", *arguments, **options):
        return self.json("snapshot", domain, *arguments, **options)

    def running_jobs(self):
        """The jobs that have not ended; those that have are remembered for a while."""
        return [job for job in self.json("jobs") if job["state"] not in ("done", "failed", "cancelled")]

    def wait_drain(self):
        """Wait until a snapshot is in the middle of its drain."""
        def is_draining():
            return [job for job in self.running_jobs() if job["state"] == "draining" and job["bytes_done"] > 0]

        return wait_until(is_draining, "start of the drain")[0]

    def wait_no_jobs(self):
        wait_until(lambda: not self.running_jobs(), "end of all jobs")

    # The oracle

    def images(self, writer, snapshot):
        """The image files of a snapshot in the order of the writer's regions, which all differ in size."""
        shown = self.json("show", snapshot["snapshot"])
        by_size = {region["bytes"]: pathlib.Path(region["path"]) for region in shown["regions"]}
        return [by_size[region["bytes"]] for region in writer.regions]

    def check(self, writer, images, at_least=None, at_most=None):
        """oracle-check; returns the number of writes after which memory was so. Failure where there is none."""
        arguments = [f"--seed={writer.seed}", f"--in-flight={writer.in_flight()}"]
        for name in ("data_pages", "fill"):
            if name in writer.options:
                arguments.append(f"--{name.replace('_', '-')}={writer.options[name]}")
        if at_least is not None:
            arguments += [f"--at-least={at_least}", f"--at-most={at_most}"]
        process = subprocess.run([PROGRAMS / "oracle-check", *arguments, *images], capture_output=True, text=True,
                                 timeout=4 * PATIENCE_S, check=False)
        if process.returncode != 0:
            raise Failure(process.stderr.strip())
        return int(process.stdout)

    def check_restored(self, writer, snapshot, at_least, at_most):
        """Restore a snapshot, whatever it builds on, and prove that it is one cut."""
        directory = tempfile.mkdtemp(prefix="restored-", dir=self.directory)
        restored = self.json("restore", snapshot, "--output", directory + "/x")
        by_size = {region["bytes"]: region["path"] for region in restored["regions"]}
        try:
            return self.check(writer, [by_size[region["bytes"]] for region in writer.regions], at_least, at_most)
        finally:
            shutil.rmtree(directory)

    def prove_snapshot(self, writer, *arguments, domain="d"):
        """Take a snapshot and prove that it is one cut, made while the command ran. Returns what the command said."""
        at_least = writer.completed
        snapshot = self.snapshot(domain, *arguments)
        at_most = writer.issued
        self.check(writer, self.images(writer, snapshot), at_least, at_most)
        return snapshot

    def is_store_clean(self, daemon=None):
        """Nothing half-done lies about: only published snapshots, and no work."""
        store = (daemon or self.daemon).store
        return not any(path.is_file() for path in (store / ".work").rglob("*"))

    # The end

    def close(self):
        """A second call does nothing: a fixture may have to end all before what it made can be taken away."""
        writers, daemons, failures = self._writers, self._daemons, []
        self._writers, self._daemons = [], []
        for thing in [*reversed(writers), *reversed(daemons)]:
            try:
                if isinstance(thing, Writer):
                    thing.stop()
                else:
                    thing.close()
            except Exception as failure:  # one must not keep the others from being stopped
                failures.append(failure)
        # Nothing that somebody else has made, whatever a writer was told to use.
        for directory in self._made_directories:
            shutil.rmtree(directory, ignore_errors=True)
        for daemon in daemons:
            print(f"--- stderr of livesnapd {daemon.pid}\n{daemon.stderr}", end="")
        for thing in [*daemons, *writers]:
            if re.search(SANITIZER_REPORT, thing.stderr):
                failures.append(f"a sanitizer has found something:\n{thing.stderr}")
        if failures:
            raise Failure("\n".join(str(failure) for failure in failures))
