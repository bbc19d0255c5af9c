# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the figures go: docs/measurements.md, between two marks, and a JSON file beside it."""

import json
import os
import pathlib
import platform
import re

from figures import markdown_table, remarks

BEGIN, END = "<!-- measured: written by scripts/bench -->", "<!-- end of what scripts/bench writes -->"

INTRODUCTION = f"""# Measurements

Made by `scripts/bench`. Each figure is a ratio against a reference that was measured in the same run, in pairs that take
turns in going first; the ratio is the median over the pairs, and the two columns of absolute figures are medians too. Only
ratios travel: the absolute figures are those of one machine on one day.

{BEGIN}
{END}
"""


def describe_machine(directory):
    """The machine in general words."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1)) >> 20
    release = re.match(r"\d+\.\d+", platform.release()).group()
    return {
        "cores": os.cpu_count(),
        "is_virtualised": "hypervisor" in cpuinfo,
        "memory_gib": memory,
        "kernel": release,
        "architecture": platform.machine(),
        "filesystem": _filesystem(directory),
    }


def _filesystem(directory):
    best = ("", "unknown")
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if (str(directory) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def _sentence(machine, run):
    kind = "virtualised" if machine["is_virtualised"] else "not virtualised"
    sort = "A quick run, of a quarter of the sizes" if run["quick"] else "A whole run"
    return (f"{sort}: {run['pairs']} pairs of each, {run['seconds'] / 60:.0f} minutes in all, on {machine['cores']} {machine['architecture']} "
            f"cores ({kind}), {machine['memory_gib']} GiB of memory, Linux {machine['kernel']}, {machine['filesystem']}. "
            f"Before it began {run['load']:.1f} processes were ready to run in the mean of a minute, so what else the "
            f"machine did {'may have had a part in the figures' if run['load'] > 0.7 else 'had no part in the figures'}.")


def write(directory, figures, machine, run):
    """measurements.md and measurements.json in the directory. What people wrote outside of the marks is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "measurements.md"
    text = path.read_text() if path.exists() else INTRODUCTION
    if BEGIN not in text or END not in text:
        text = INTRODUCTION
    measured = f"\n{_sentence(machine, run)}\n\n{markdown_table(figures)}\n\nRemarks:\n\n{remarks(figures)}\n\n"
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END):]
    path.write_text(f"{before}{measured}{after}")
    result = {"machine": machine, "run": run, "figures": [figure.as_json() for figure in figures]}
    (directory / "measurements.json").write_text(json.dumps(result, indent=1) + "\n")
