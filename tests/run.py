# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds, runs all tests and counts them. scripts/test, which starts this, says how it is used."""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("LIVESNAP_BUILD", ROOT / "build")).resolve()

# What takes long and is not needed to see whether a change is roughly right.
SLOW_TESTS = ("test_qemu.py", "test_pool.py")

Outcome = collections.namedtuple("Outcome", "verdict name detail")


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/test")
    parser.add_argument("--unit", action="store_true")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("-k", metavar="EXPR")
    parser.add_argument("--kernels", nargs="?", const="ordinary", metavar="WHICH")
    parser.add_argument("--kernels-table", metavar="FILE")
    parser.add_argument("--packages", action="store_true")
    return parser.parse_args()


def run(*command, **options):
    return subprocess.run([str(word) for word in command], cwd=ROOT, check=False, **options).returncode


def read_junit(path):
    """All outcomes in a JUnit file, whoever wrote it."""
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname') or case.get('file') or ''}::{case.get('name')}".lstrip(":")
        bad = [case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None]
        skipped = case.find("skipped")
        output = case.findtext("system-out") or ""
        if bad:
            detail = "\n".join(filter(None, [bad[0].get("message"), bad[0].text, output, case.findtext("system-err")]))
            yield Outcome("failed", name, detail)
        elif skipped is not None:
            yield Outcome("skipped", name, skipped.get("message") or skipped.text or output)
        else:
            yield Outcome("passed", name, "")


def build():
    if not (BUILD / "build.ninja").exists() and run("meson", "setup", BUILD) != 0:
        return False
    return run("ninja", "-C", BUILD) == 0


def read_cmocka(program, said):
    """The single tests of a unit test program, or nothing where it did not get as far as to run them."""
    verdicts = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}
    found = {name: word for word, name in re.findall(r"^\[ +(OK|FAILED|SKIPPED) +\] (\w+)$", said, re.MULTILINE)}
    reasons = dict(re.findall(r"^\[ RUN +\] (\w+)\nskipped: (.*)$", said, re.MULTILINE))
    for name, word in found.items():
        yield Outcome(verdicts[word], f"{program}::{name}", said if word == "FAILED" else reasons.get(name, ""))


def read_meson_log():
    """Meson's own account: its JUnit file says neither why a test skipped nor how one failed."""
    verdicts = {"OK": "passed", "SKIP": "skipped", "EXPECTEDFAIL": "passed"}
    with open(BUILD / "meson-logs" / "testlog.json", encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            said = "\n".join(filter(None, [test.get("stdout"), test.get("stderr")])).strip()
            verdict = verdicts.get(test["result"], "failed")
            single = list(read_cmocka(test["name"], said))
            if single and (verdict == "failed") == any(outcome.verdict == "failed" for outcome in single):
                yield from single
            elif verdict == "skipped":
                yield Outcome(verdict, test["name"], said.splitlines()[-1] if said else "")
            else:
                yield Outcome(verdict, test["name"], f"{test['result']}\n{said}" if verdict == "failed" else "")


def run_meson_tests():
    log = BUILD / "meson-logs" / "testlog.json"
    log.unlink(missing_ok=True)
    status = run("meson", "test", "-C", BUILD, "--no-rebuild", "--print-errorlogs")
    outcomes = list(read_meson_log()) if log.exists() else []
    if status != 0 and not any(outcome.verdict == "failed" for outcome in outcomes):
        outcomes.append(Outcome("failed", "meson test", f"ended with status {status}"))
    return outcomes


def run_pytest(arguments, directory="tests/integration"):
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--durations=10",
                   f"--junitxml={report.name}", directory]
        if arguments.k:
            command += ["-k", arguments.k]
        if arguments.fast:
            command += [f"--ignore=tests/integration/{name}" for name in SLOW_TESTS]
        status = run(*command, env={**os.environ, "LIVESNAP_BUILD": str(BUILD), "PYTHONDONTWRITEBYTECODE": "1"})
        outcomes = list(read_junit(report.name)) if os.path.getsize(report.name) else []
    # 5: -k left nothing over.
    if status not in (0, 5) and not any(outcome.verdict == "failed" for outcome in outcomes):
        outcomes.append(Outcome("failed", "pytest", f"ended with status {status}"))
    return outcomes


def run_kernels(which, table):
    """The kernels of the matrix: each test on each counts as one."""
    sys.path.insert(0, str(ROOT / "tests/kernels"))
    import matrix

    known = [kernel.title for kernel in matrix.KERNELS]
    titles = {"ordinary": matrix.ORDINARY, "all": known}.get(which, which.split(","))
    if unknown := set(titles) - set(known):
        return [Outcome("failed", "kernels", f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")]
    outcomes = []
    for run in matrix.run_matrix(BUILD, titles, table):
        name = f"kernel {run.kernel.title}"
        if run.problem:
            outcomes.append(Outcome("skipped" if run.is_absent else "failed", name, run.problem))
        for litmus in run.litmuses:
            detail = litmus.reason if litmus.verdict == "skipped" else "\n".join(litmus.said)
            outcomes.append(Outcome(litmus.verdict, f"{name}::{litmus.program}::{litmus.name}", detail))
    return outcomes


def report(outcomes):
    by_verdict = collections.defaultdict(list)
    for outcome in outcomes:
        by_verdict[outcome.verdict].append(outcome)
    for outcome in by_verdict["failed"]:
        print(f"\n=== FAILED {outcome.name}\n{outcome.detail}")
    if by_verdict["failed"]:
        print("\nFailed:", *(outcome.name for outcome in by_verdict["failed"]), sep="\n  ")
    if by_verdict["skipped"]:
        print("\nSkipped:")
        for outcome in by_verdict["skipped"]:
            print(f"  {outcome.name}: {outcome.detail or 'gave no reason'}")
    print("\n" + ", ".join(f"{len(by_verdict[verdict])} {verdict}" for verdict in ("passed", "failed", "skipped")))
    return 1 if by_verdict["failed"] else 0


def main():
    arguments = parse_arguments()
    sys.stdout.reconfigure(line_buffering=True)
    if not build():
        return report([Outcome("failed", "build", "the project does not build")])
    if arguments.kernels:
        return report(run_kernels(arguments.kernels, arguments.kernels_table))
    if arguments.packages:
        return report(run_pytest(arguments, "tests/packaging"))
    outcomes = [] if arguments.k else run_meson_tests()
    if not arguments.unit:
        outcomes += run_pytest(arguments)
    if not (arguments.unit or arguments.fast or arguments.k):
        outcomes += run_kernels("ordinary", None)
    return report(outcomes)


if __name__ == "__main__":
    sys.exit(main())
