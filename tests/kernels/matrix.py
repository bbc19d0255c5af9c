# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots the kernels that livesnap has to do with, under emulation, and asks each what it does.

Each guest runs the built programs themselves, from an initramfs that holds nothing but them, their libraries and busybox:
first livesnap, then all that tests/platform has. See tests/kernels/init for the guest's side.
"""

import collections
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
QEMU = "qemu-system-x86_64"
# Longer than any takes on a machine that has other things to do; a kernel that hangs must end, too.
BOOT_TIMEOUT_S = 900
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on rootfstype=ramfs rdinit=/init"
# Two nodes, since there is no migration with one.
NODE_MIB = 384


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One column of the table."""

    title: str
    suite: str
    is_supported: bool


KERNELS = [
    Kernel("5.10", "bullseye", is_supported=False),
    Kernel("6.1", "bookworm", is_supported=True),
    Kernel("6.12", "trixie", is_supported=True),
    Kernel("newest", "trixie-backports", is_supported=True),
]
ORDINARY = ("5.10", "6.1", "6.12")


@dataclasses.dataclass
class Litmus:
    """What one test said on one kernel. Verdict: passed, failed or skipped."""

    program: str
    name: str
    verdict: str = "failed"
    found: list = dataclasses.field(default_factory=list)
    said: list = dataclasses.field(default_factory=list)

    @property
    def reason(self):
        """Of a skip, as platform_skip() prints it."""
        return next((line[len("skipped: "):] for line in self.said if line.startswith("skipped: ")), "gave no reason")


@dataclasses.dataclass
class Run:
    """All that one kernel did. `problem`: why it has no results, or not all; `is_absent`: it could not be had at all."""

    kernel: Kernel
    release: str = ""
    litmuses: list = dataclasses.field(default_factory=list)
    problem: str = ""
    is_absent: bool = False
    seconds: float = 0


# The initramfs

def libraries_of(program):
    """Paths of what the program is linked with, in the form in which the loader looks for them."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [pathlib.Path(path) for path in re.findall(r"(/\S+) \(0x", said)]


def collect_programs(build):
    """Where in the guest each program goes."""
    files = {
        "init": HERE / "init",
        "bin/busybox": pathlib.Path("/bin/busybox"),
        "bin/livesnapd": build / "daemon/livesnapd",
        "bin/livesnap": build / "client/livesnap",
        "bin/attach/livesnap-attach": build / "client/attach/livesnap-attach",
    }
    for name in ("oracle-writer", "oracle-client", "oracle-check"):
        files[f"bin/{name}"] = build / "tests/programs" / name
    for path in sorted((build / "tests/platform").glob("test_platform_*")):
        if path.is_file():
            files[f"bin/{path.name}"] = path
    return files


def make_initramfs(build, modules, directory):
    """Packs it in a directory of the caller's; returns its path."""
    root = directory / "root"
    files = collect_programs(build)
    for program in list(files.values())[2:]:
        for library in libraries_of(program):
            # Where the loader itself is asked for by path; all others it finds beside it.
            place = library if library.name.startswith("ld-") else pathlib.Path("/lib/x86_64-linux-gnu") / library.name
            files[str(place).lstrip("/")] = library
    for module in modules.glob("*.ko"):
        files[f"modules/{module.name}"] = module
    for place, path in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / place)
    names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with open(directory / "initramfs", "wb") as archive:
        subprocess.run(["cpio", "--quiet", "-0", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=names.encode(),
                       stdout=archive, check=True)
    shutil.rmtree(root)
    return directory / "initramfs"


# The guest

def fetch_kernel(suite):
    """The directory of a kernel, and why there is none."""
    done = subprocess.run([HERE / "fetch-kernel", suite], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        return None, (done.stderr.strip().splitlines() or ["fetch-kernel failed"])[-1]
    return pathlib.Path(done.stdout.strip()), ""


def boot(kernel, files, initramfs, directory):
    """Runs a guest until it ends; returns what it said on its result line, and what on its console."""
    results, console = directory / "results", directory / "console"
    command_line = COMMAND_LINE + ("" if kernel.is_supported else " livesnap.expect=refusal")
    command = [QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(2 * NODE_MIB),
               "-display", "none", "-no-reboot", "-nodefaults", "-kernel", files / "vmlinuz", "-initrd", initramfs,
               "-append", command_line, "-serial", f"file:{console}", "-serial", f"file:{results}"]
    for node in range(2):
        command += ["-object", f"memory-backend-ram,id=node{node},size={NODE_MIB}M",
                    "-numa", f"node,nodeid={node},memdev=node{node},cpus={node}"]
    problem = ""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=BOOT_TIMEOUT_S)
        problem = done.stderr.strip() if done.returncode != 0 else ""
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {BOOT_TIMEOUT_S} s"
    except FileNotFoundError:
        problem = f"there is no {QEMU}"
    read = [path.read_text(errors="replace").replace("\r", "") if path.exists() else "" for path in (results, console)]
    return *read, problem


def parse(results):
    """The litmuses in what a guest said, and whether it came to its end."""
    litmuses, program, current, before, is_whole = [], "", None, [], False
    for line in results.splitlines():
        if line.startswith("### program "):
            program, current, before = line.split()[2], None, []
        elif line.startswith("### status "):
            status = int(line.split()[2])
            n_failed = sum(litmus.program == program and litmus.verdict == "failed" for litmus in litmuses)
            if status not in (0, 77) and not n_failed:
                litmuses.append(Litmus(program, "itself", said=[f"ended with status {status}"]))
            if status == 77:
                litmuses.append(Litmus(program, "itself", "skipped", said=before))
            current = None
        elif line == "### end":
            is_whole = True
        elif match := re.match(r"\[ RUN +\] (\w+)$", line):
            current = Litmus(program, match[1].removeprefix("test_"))
            litmuses.append(current)
        elif match := re.match(r"\[ +(OK|FAILED|SKIPPED) +\] (\w+)$", line):
            # cmocka names the failed ones once more at the end.
            if current:
                current.verdict = {"OK": "passed", "SKIPPED": "skipped", "FAILED": "failed"}[match[1]]
                current = None
        elif current and line.startswith("found: "):
            current.found.append(line[len("found: "):])
        elif current:
            current.said.append(line)
        else:
            before.append(line)
    return litmuses, is_whole


def run_kernel(kernel, build):
    start = time.monotonic()
    files, problem = fetch_kernel(kernel.suite)
    if not files:
        return Run(kernel, problem=problem, is_absent=True)
    run = Run(kernel, release=(files / "release").read_text().strip())
    with tempfile.TemporaryDirectory(prefix="livesnap-kernels.") as name:
        directory = pathlib.Path(name)
        initramfs = make_initramfs(build, files / "modules", directory)
        results, console, problem = boot(kernel, files, initramfs, directory)
    run.litmuses, is_whole = parse(results)
    if problem or not is_whole:
        run.problem = "\n".join([problem or "the guest ended before its tests did", *console.splitlines()[-30:],
                                 *results.splitlines()[-10:]])
    run.seconds = time.monotonic() - start
    return run


# Tables

def describe(litmus):
    if litmus.verdict == "skipped":
        return f"skipped: {litmus.reason}"
    return "; ".join(["holds" if litmus.verdict == "passed" else "FAILS", *litmus.found])


def print_kernel(run):
    print(f"\n=== Linux {run.release or run.kernel.title} ({run.kernel.suite}), {run.seconds:.0f} s")
    if run.problem:
        print(run.problem)
    width = max((len(litmus.name) for litmus in run.litmuses), default=0)
    program = None
    for litmus in run.litmuses:
        if litmus.program != program:
            program = litmus.program
            print(f"  {program}")
        print(f"    {litmus.name.replace('_', ' '):{width}}  {describe(litmus)}")
        if litmus.verdict == "failed":
            print(*(f"      | {line.strip()}" for line in litmus.said), sep="\n")


def combine(runs):
    """Rows in the order in which they first appear: {(program, name): {title: litmus}}."""
    rows = collections.OrderedDict()
    for run in runs:
        for litmus in run.litmuses:
            rows.setdefault((litmus.program, litmus.name), {})[run.kernel.title] = litmus
    return rows


def print_combined(runs):
    rows = combine(runs)
    width = max((len(name) + len(program) + 2 for program, name in rows), default=0)
    words = {"passed": "holds", "failed": "FAILS", "skipped": "skipped", "": "-"}
    print("\n=== All kernels")
    print(" " * width, *(f"{run.kernel.title:>8}" for run in runs))
    for (program, name), cells in rows.items():
        verdicts = [words[cells[run.kernel.title].verdict if run.kernel.title in cells else ""] for run in runs]
        print(f"{program + ': ' + name.replace('_', ' '):{width}}", *(f"{verdict:>8}" for verdict in verdicts))


def summarize(cells, runs):
    """What was found, said once where all kernels agree."""
    found = [(run.release, "; ".join(cells[run.kernel.title].found)) for run in runs if run.kernel.title in cells]
    if len({text for _, text in found}) == 1:
        return found[0][1]
    return "<br>".join(f"{release}: {text}" for release, text in found if text)


def write_document(runs, path):
    """The same for docs/kernels.md, in Markdown."""
    words = {"passed": "holds", "failed": "**fails**", "skipped": "skipped"}
    with open(path, "w", encoding="utf-8") as file:
        titles = [run.release or run.kernel.title for run in runs]
        print("| what | " + " | ".join(titles) + " | found |\n|---|" + "---|" * len(runs) + "---|", file=file)
        program = None
        for (row_program, name), cells in combine(runs).items():
            if row_program != program:
                program = row_program
                print(f"| **{program.replace('_', ' ')}** |" + " |" * (len(runs) + 1), file=file)
            said = [words[cells[run.kernel.title].verdict] if run.kernel.title in cells else "–" for run in runs]
            print(f"| {name.replace('_', ' ')} | " + " | ".join(said) + f" | {summarize(cells, runs)} |", file=file)


def run_matrix(build, titles, document=None):
    """Run these kernels one after the other, print what they did, and return all runs."""
    runs = []
    for kernel in KERNELS:
        if kernel.title in titles:
            runs.append(run_kernel(kernel, build))
            print_kernel(runs[-1])
    print_combined(runs)
    if document:
        write_document(runs, document)
    return runs
