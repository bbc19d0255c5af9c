# SPDX-License-Identifier: GPL-2.0-or-later
"""How an unmodified program is taken in, what its regions are called, and that nothing stays behind in it."""

import os
import pathlib
import time

import pytest

from harness import wait_until


def domain_of(lab, name="d"):
    return lab.json("domains")[[d["name"] for d in lab.json("domains")].index(name)]


def region_names(lab, name="d"):
    return {region["bytes"]: region["name"] for region in domain_of(lab, name)["regions"]}


@pytest.mark.parametrize("kind", ["memfd", "tmpfs", "anonymous"])
def test_names_are_unique_and_stable(lab, kind):
    writer = lab.start_writer(kind=kind, regions=3, pages=64)
    lab.attach(writer)
    before = region_names(lab)
    assert len(set(before.values())) == len(before) >= 3
    if kind in ("memfd", "tmpfs"):
        assert all(region["name"] in before[region["bytes"]] for region in writer.regions)
    lab.cli("detach", "d")
    lab.attach(writer)
    assert region_names(lab) == before


def test_objects_of_the_same_name(lab):
    """Two programs may well call their memory the same."""
    writers = [lab.start_writer(pages=64), lab.start_writer(pages=65, seed=2)]
    for writer in writers:
        lab.attach(writer)
    names = region_names(lab)
    assert len(set(names.values())) == 2
    at_least = [writer.completed for writer in writers]
    snapshot = lab.snapshot()
    for writer, least in zip(writers, at_least):
        lab.check(writer, lab.images(writer, snapshot), least, writer.issued)


@pytest.mark.parametrize("kind,expected", [("memfd", "memfd"), ("sealed", "memfd"), ("tmpfs", "tmpfs"),
                                           ("anonymous", "anonymous")])
def test_kind_is_told(lab, kind, expected):
    writer = lab.start_writer(kind=kind, pages=64)
    lab.attach(writer)
    kinds = {region["bytes"]: region["kind"] for region in domain_of(lab)["regions"]}
    assert kinds[64 * 4096] == expected


@pytest.mark.parametrize("kind,expected", [("memfd", {"advisory"}), ("sealed", {"sealed"}),
                                           ("tmpfs", {"exclusive", "advisory"})])
def test_guarantee_is_told(lab, kind, expected):
    writer = lab.start_writer(kind=kind, pages=64)
    lab.attach(writer)
    assert lab.prove_snapshot(writer)["guarantee"] in expected


def test_sysv_memory_is_refused(lab):
    """The kernel has no userfaultfd for segments of shmget(2): better no domain than one that is not tracked."""
    writer = lab.start_writer(kind="sysv", pages=64)
    refused = lab.cli("attach", "--pid", writer.pid, "--domain", "d", "--object", "*SYSV*", check=False)
    assert refused.status == 1
    assert str(writer.pid) in refused.stderr
    assert lab.json("domains") == []
    writer.wait_progress(1000)


def test_all_processes_are_found(lab):
    """Named is one process; all that map the same objects come in."""
    writer = lab.start_writer(processes=4, pages=256)
    lab.attach(writer)
    domain = domain_of(lab)
    assert domain["processes"] == 4
    assert domain["regions"][0]["mappings"] == 4
    writer.fork()
    wait_until(lambda: domain_of(lab)["processes"] == 5, "arrival of the forked process")
    lab.prove_snapshot(writer)
    writer.leave()
    wait_until(lambda: domain_of(lab)["processes"] == 4, "departure of the process that ended")


def test_attach_by_any_of_the_processes(lab):
    writer = lab.start_writer(processes=3, pages=256)
    lab.json("attach", "--pid", writer.children[1], "--domain", "d")
    assert domain_of(lab)["processes"] == 3
    lab.prove_snapshot(writer)


def test_every_mapping_of_a_region_counts(lab):
    writer = lab.start_writer(aliases=2, processes=2, pages=256)
    lab.attach(writer)
    assert domain_of(lab)["regions"][0]["mappings"] == 4
    lab.prove_snapshot(writer)


def test_attach_twice(lab):
    """The second time either changes nothing or is refused; what is attached stays whole."""
    writer = lab.start_writer(pages=256)
    lab.attach(writer)
    again = lab.cli("attach", "--pid", writer.pid, "--domain", "d", "--object", "*oracle-*", check=False)
    assert again.status in (0, 1)
    assert domain_of(lab)["processes"] == 1
    lab.prove_snapshot(writer)


def process_traces(pid):
    """What somebody who was in a process could have left there."""
    process = pathlib.Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in process.joinpath("status").read_text().splitlines())
    return {
        "descriptors": sorted((fd.name, os.readlink(fd)) for fd in process.joinpath("fd").iterdir()),
        "threads": sorted(task.name for task in process.joinpath("task").iterdir()),
        "mappings": [line.split()[:2] + line.split()[5:] for line in process.joinpath("maps").read_text().splitlines()],
        "status": {key: status[key] for key in ("TracerPid", "SigBlk", "SigIgn", "SigCgt", "ShdPnd", "Seccomp",
                                                "NoNewPrivs", "CapEff")},
    }


def settled_traces(pids):
    """The traces of processes that have come to the end of their start: what they open and block has its final form."""
    seen = []

    def settled():
        time.sleep(0.2)
        seen.append({pid: process_traces(pid) for pid in pids})
        return len(seen) > 1 and seen[-1] == seen[-2]

    wait_until(settled, "end of the start of all processes")
    return seen[-1]


def test_attach_leaves_no_trace(lab):
    writer = lab.start_writer(threads=4, processes=2, pages=256)
    pids = [writer.pid, *writer.children]
    before = settled_traces(pids)
    lab.attach(writer)
    for pid in pids:
        assert process_traces(pid) == before[pid]
    lab.prove_snapshot(writer)
    lab.cli("detach", "d")
    for pid in pids:
        assert process_traces(pid) == before[pid]
        smaps = pathlib.Path(f"/proc/{pid}/smaps").read_text()
        flags = [line.split()[1:] for line in smaps.splitlines() if line.startswith("VmFlags")]
        assert not any("uw" in words for words in flags), "a mapping is still registered"


def test_detach_of_one_region(lab):
    writer = lab.start_writer(regions=2, pages=256)
    lab.attach(writer)
    first = region_names(lab)[writer.regions[0]["bytes"]]
    lab.cli("detach", "d", "--region", first)
    assert [region["bytes"] for region in domain_of(lab)["regions"]] == [writer.regions[1]["bytes"]]
    assert len(lab.snapshot()["regions"]) == 1


def test_read_only_mapping_that_becomes_writable(lab):
    """mprotect makes a writer of a reader: it must be tracked, or the snapshot must fail (G6)."""
    writer = lab.start_writer(pages=256)
    reader_source = (
        "import ctypes, mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n"
        "size = os.fstat(fd).st_size\n"
        "address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]\n"
        "assert libc.mprotect(address, size, mmap.PROT_READ | mmap.PROT_WRITE) == 0\n"
        "print('writable', flush=True)\n"
        "sys.stdin.readline()\n")
    import subprocess

    with subprocess.Popen(["/usr/bin/python3", "-c", reader_source, writer.region_paths()[0]], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout.readline() == "ready\n"
            lab.attach(writer)
            assert domain_of(lab)["processes"] == 2
            reader.stdin.write("go\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "writable\n"
            smaps = pathlib.Path(f"/proc/{reader.pid}/smaps").read_text()
            regions = smaps.split("memfd:oracle-0")[1:]
            assert regions and all(" uw" in region.split("VmFlags:")[1].splitlines()[0] for region in regions)
            lab.prove_snapshot(writer)
        finally:
            reader.kill()
