# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that use liblivesnap."""

import json
import pathlib
import subprocess

from harness import PROGRAMS, PATIENCE_S, open_descriptors, wait_until


def test_event_loop(lab):
    """A program takes a snapshot of itself and works on: it is called back, and never blocked for long."""
    ran = subprocess.run([PROGRAMS / "loop-client", "d", lab.daemon.socket], capture_output=True, text=True,
                         timeout=2 * PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["snapshot"] == "d/from-a-loop"
    assert said["done"] == said["free"] == 1
    assert said["progress"] > 0
    assert said["work"] > 50
    shown = lab.json("show", said["snapshot"])
    assert shown["guarantee"] == "sealed"
    assert shown["regions"][0]["name"] == "state"
    # The image is of one instant: the pages that the loop had worked on come first, in order, and then the old ones.
    image = pathlib.Path(shown["regions"][0]["path"]).read_bytes()
    pages = [image[offset] for offset in range(0, len(image), 4096)]
    worked = next((index for index, byte in enumerate(pages) if byte != 1 + index % 255), len(pages))
    assert set(pages[worked:]) <= {7}
    lab.cli("verify", said["snapshot"])


def test_unprivileged_client(lab):
    """A user who may not open /dev/userfaultfd attaches memory of his own all the same: the daemon lends the device."""
    lab.daemon.socket.chmod(0o666)
    directory = pathlib.Path(lab.directory)
    ran = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", PROGRAMS / "loop-client", "d",
                          lab.daemon.socket], capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
                         cwd=directory)
    assert ran.returncode == 0, ran.stderr
    assert lab.json("show", "d/from-a-loop")["uid"] == 65534


def test_client_keeps_no_descriptor(lab):
    """Any copy of a userfaultfd that stays in the client would leave it hanging when the daemon dies."""
    writer = lab.start_client("d", processes=3, regions=2, pages=256)
    for pid in (writer.pid, *writer.children):
        # In no table of any thread, the one included that attached and is about to be gone: the kernel lets it be joined
        # before it has left.
        descriptors = open_descriptors(pid)
        assert descriptors and not any("userfaultfd" in target for target in descriptors), descriptors
        wait_until(lambda: len(list(pathlib.Path(f"/proc/{pid}/task").iterdir())) == 2, "end of the thread that attached")
    lab.prove_snapshot(writer)
