# SPDX-License-Identifier: GPL-2.0-or-later
"""The second half of scripts/bench: everything after the build. See scripts/bench --help."""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import report
import rows_drain
import rows_faults
import rows_guest
import rows_increments
import rows_restore
from bench_lab import BenchLab, Failure, OutOfTime
from figures import Figure, remarks, text_table

TOP = pathlib.Path(__file__).resolve().parents[2]
# In this order, which is that of importance: when time is up, what is left is not measured.
ROWS = {
    "promises": rows_drain.promises,
    "drain": rows_drain.drain,
    "faults": rows_faults.first_write,
    "lost": rows_faults.lost,
    "sparse": rows_drain.sparse,
    "scale": rows_drain.scale,
    "restore": rows_restore.restore,
    "many": rows_drain.many,
    "max-rate": rows_restore.max_rate,
    "guest": rows_guest.guest,
    "increments": rows_increments.increments,
    "async": rows_increments.asynchronous,
}
PAIRS, PAIRS_QUICK = 7, 3
# Under the 30 and 5 minutes that were promised, since a round that has begun is finished.
LIMIT_S, LIMIT_QUICK_S = 25 * 60, 220
FAILURES = (Failure, OSError, ValueError, KeyError, subprocess.SubprocessError, rows_guest.GuestError)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", default="")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    arguments.rows = [row for row in arguments.rows.split(",") if row] or list(ROWS)
    unknown = [row for row in arguments.rows if row not in ROWS]
    if unknown:
        parser.error(f"no such rows: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return arguments


def measure(row, lab):
    """Returns the figures of a row, whatever becomes of it."""
    generator = ROWS[row](lab)
    figures = next(generator)
    started = time.monotonic()
    print(f"{row} ...", end="", file=sys.stderr, flush=True)
    reason = ""
    try:
        lab.check_time()
        next(generator, None)
    except OutOfTime:
        reason = "the time for the run was over"
    except FAILURES as failure:
        reason = str(failure).strip().replace("\n", "; ") or type(failure).__name__
    finally:
        generator.close()
    print(f" {time.monotonic() - started:.0f} s{': ' + reason if reason else ''}", file=sys.stderr, flush=True)
    for figure in figures:
        if reason and not figure.is_measured:
            figure.missing = figure.missing or reason
        elif reason:
            figure.note(f"fewer pairs than planned: {reason}")
    return figures


def not_measured():
    """What is asked for and no program here can do."""
    figure = Figure("swap", "region that is mostly in swap", "idle", "MiB/s")
    figure.missing = "it takes a swap device, and this benchmark changes nothing of the machine it runs on"
    return figure


def run(arguments, directory):
    started = time.monotonic()
    pairs = arguments.pairs or (PAIRS_QUICK if arguments.quick else PAIRS)
    load = os.getloadavg()[0]
    lab = BenchLab(directory, arguments.quick, pairs, started + (LIMIT_QUICK_S if arguments.quick else LIMIT_S))
    figures = []
    try:
        for row in arguments.rows:
            figures += measure(row, lab)
    finally:
        lab.close()
    if arguments.rows == list(ROWS):
        figures.append(not_measured())
    return figures, {"quick": arguments.quick, "pairs": pairs, "seconds": round(time.monotonic() - started), "load": load}


def by_key(figure):
    """Numbers in their order, then what has none."""
    digits = "".join(c for c in figure.key.split(" ")[0] if c.isdigit())
    return (int(digits) if digits else 1000, figure.key)


def interrupted(_number, _frame):
    raise KeyboardInterrupt


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, interrupted)
    is_whole = arguments.rows == list(ROWS)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="livesnap-bench.", dir=os.environ.get("LIVESNAP_BENCH_DIR", "/var/tmp")))
    directory.chmod(0o755)
    try:
        machine = report.describe_machine(directory)
        figures, how = run(arguments, directory)
    except KeyboardInterrupt:
        print("bench: interrupted; no table is written", file=sys.stderr)
        return 1
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    figures.sort(key=by_key)
    print(text_table(figures))
    print(f"\nRemarks:\n{remarks(figures)}")
    if is_whole or arguments.output:
        output = pathlib.Path(arguments.output) if arguments.output else TOP / "docs"
        report.write(output, figures, machine, how)
        print(f"\nWritten: {output / 'measurements.md'}, {output / 'measurements.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
