# SPDX-License-Identifier: GPL-2.0-or-later
"""What is published: whole, checked, restorable, and gone when it is deleted (G4)."""

import filecmp
import os
import pathlib
import re
import time

import pytest

from harness import Connection, wait_until


@pytest.fixture
def taken(lab):
    """A snapshot of two regions of a program that goes on writing."""
    lab.writer = lab.start_writer(threads=2, regions=2, pages=2048)
    lab.attach(lab.writer)
    lab.snapshot("d", "--name", "s")
    lab.image_paths = lab.images(lab.writer, {"snapshot": "d/s"})
    return lab


def test_restore_is_the_image(taken):
    output = taken.directory / "out"
    taken.cli("restore", "d/s", "--output", output)
    restored = sorted(output.iterdir(), key=lambda path: path.stat().st_size)
    assert len(restored) == 2
    for image, copy in zip(taken.image_paths, restored):
        assert filecmp.cmp(image, copy, shallow=False)
    taken.check(taken.writer, restored)


def test_restore_of_one_region(taken):
    name = taken.json("show", "d/s")["regions"][1]["name"]
    output = taken.directory / "out"
    taken.cli("restore", "d/s", "--output", output, "--region", name)
    restored, = output.iterdir()
    assert name in restored.name
    refused = taken.cli("restore", "d/s", "--output", output, "--region", "no-such-region", check=False)
    assert refused.status == 1 and "no-such-region" in refused.stderr


def test_restore_overwrites_nothing(taken):
    output = taken.directory / "out"
    taken.cli("restore", "d/s", "--output", output)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    refused = taken.cli("restore", "d/s", "--output", output, check=False)
    assert refused.status == 1
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("where", [0.0, 0.31, 0.5, 0.999999])
def test_flipped_bit_in_an_image_is_found(taken, where):
    taken.cli("verify", "d/s")
    image = taken.image_paths[1]
    offset = int(image.stat().st_size * where)
    flip_bit(image, offset)
    found = taken.cli("verify", "d/s", check=False)
    assert found.status == 1
    assert re.search(rf"\b({offset}|{offset // 4096}|{offset // 4096 * 4096})\b", found.stderr), found
    # A restore must not hand on what is broken.
    output = taken.directory / "out"
    assert taken.cli("restore", "d/s", "--output", output, check=False).status == 1
    assert not output.exists() or not list(output.iterdir())
    flip_bit(image, offset)
    taken.cli("verify", "d/s")


@pytest.mark.parametrize("suffix", [".sum", "manifest.json"])
def test_flipped_bit_beside_an_image_is_found(taken, suffix):
    """Every file counts, and in a checksum file every byte that means something."""
    directory = taken.image_paths[0].parent
    path, *_ = sorted(path for path in directory.iterdir() if path.name.endswith(suffix))
    size = path.stat().st_size
    for offset in {0, size // 3, size // 2, size - 2}:
        flip_bit(path, offset)
        found = taken.cli("verify", "d/s", check=False)
        flip_bit(path, offset)
        assert found.status == 1, f"byte {offset} of {path.name}: {found}"
    taken.cli("verify", "d/s")


def test_no_byte_of_a_snapshot_is_without_meaning(lab):
    """Bits at even distances in each file; all is well without. The unit tests flip every one."""
    writer = lab.start_writer(pages=16)
    lab.attach(writer)
    lab.snapshot("d", "--name", "s")
    directory = lab.daemon.store / "d" / "s"
    with Connection(lab.daemon.socket) as connection:
        def verify():
            return connection.call("io.livesnap.VerifySnapshot", {"domain": "d", "name": "s"}).get("error")

        assert verify() is None
        for path in directory.iterdir():
            content = path.read_bytes()
            for offset in range(0, len(content), len(content) // 60 + 1):
                with open(path, "r+b") as file:
                    file.seek(offset)
                    file.write(bytes([content[offset] ^ 1 << offset % 8]))
                    file.flush()
                    assert verify() is not None, f"bit {offset % 8} of byte {offset} of {path.name}"
                    file.seek(offset)
                    file.write(content[offset:offset + 1])
        assert verify() is None


def test_truncated_image_is_found(taken):
    os.truncate(taken.image_paths[0], taken.image_paths[0].stat().st_size - 4096)
    assert taken.cli("verify", "d/s", check=False).status == 1


def test_page_zeroed_in_an_image_is_found(taken):
    """A hole reads as zero and zero has no blocks: the checksum must still know that there was something."""
    with open(taken.image_paths[0], "r+b") as file:
        file.seek(100 * 4096)
        file.write(bytes(4096))
    assert taken.cli("verify", "d/s", check=False).status == 1


def test_delete_leaves_nothing(taken):
    directory = taken.image_paths[0].parent
    taken.cli("delete", "d/s")
    assert not directory.exists()
    assert taken.is_store_clean()
    assert taken.json("list") == []
    # The name is free again.
    taken.snapshot("d", "--name", "s")


def test_store_is_private(taken):
    """Memory holds secrets: nobody else reads it from the store."""
    for path in (taken.daemon.store, *taken.image_paths):
        reachable = all(parent.stat().st_mode & 0o001 for parent in [taken.daemon.store])
        assert not path.stat().st_mode & 0o004 or not reachable, path


def test_snapshots_outlive_the_daemon(taken):
    store = taken.daemon.store
    taken.cli("detach", "d")
    assert taken.daemon.terminate() == 0
    taken.start_daemon(store=store)
    assert [listed["snapshot"] for listed in taken.json("list")] == ["d/s"]
    taken.cli("verify", "d/s")
    taken.check(taken.writer, taken.images(taken.writer, {"snapshot": "d/s"}))


def test_job_is_seen_and_cancelled(lab):
    writer = lab.start_writer(threads=2, pages=16384)
    lab.attach(writer)
    started = lab.json("snapshot", "d", "--name", "s", "--detach", "--max-rate", 4 << 20)
    job, = lab.running_jobs()
    assert job["job"] == started["job"] and job["kind"] == "snapshot" and job["name"] == "s"
    busy = lab.cli("snapshot", "d", check=False)
    assert busy.status == 1 and "d" in busy.stderr
    lab.cli("cancel", job["job"])
    lab.wait_no_jobs()
    assert lab.json("list") == []
    assert lab.is_store_clean()
    # The pages are free again, and the next snapshot is as good as ever.
    writer.wait_progress(10000)
    lab.prove_snapshot(writer)


def test_detached_snapshot_is_published(lab):
    writer = lab.start_writer(pages=4096)
    lab.attach(writer)
    at_least = writer.completed
    lab.json("snapshot", "d", "--name", "s", "--detach", "--max-rate", 32 << 20)
    at_most = writer.issued
    assert lab.json("list") == []
    wait_until(lambda: lab.json("list"), "publication")
    # The cut may come after the command that asked for it has returned, but not after the publication.
    lab.check(writer, lab.images(writer, {"snapshot": "d/s"}), at_least, max(at_most, writer.issued))


def test_interrupted_command_cancels_its_snapshot(lab):
    writer = lab.start_writer(pages=16384)
    lab.attach(writer)
    command = lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 4 << 20)
    wait_until(lab.running_jobs, "start of the job")
    command.kill()
    command.wait()
    lab.wait_no_jobs()
    assert lab.json("list") == []
    assert lab.is_store_clean()


def test_nothing_is_visible_before_it_is_whole(lab):
    writer = lab.start_writer(pages=8192)
    lab.attach(writer)
    command = lab.cli_start("snapshot", "d", "--name", "s", "--max-rate", 16 << 20, "--json")
    while command.poll() is None:
        directory = lab.daemon.store / "d" / "s"
        if directory.exists():
            assert (directory / "manifest.json").exists()
            assert [listed["snapshot"] for listed in lab.json("list")] == ["d/s"]
        time.sleep(0.01)
    assert command.returncode == 0, command.stderr.read()
    lab.cli("verify", "d/s")


def test_store_on_tmpfs(bare_lab, built, tmp_path_factory):
    """A filesystem that refuses O_DIRECT."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="livesnap-test-", dir="/dev/shm") as directory:
        bare_lab.start_daemon(store=pathlib.Path(directory) / "store")
        writer = bare_lab.start_writer(pages=4096)
        bare_lab.attach(writer)
        snapshot = bare_lab.prove_snapshot(writer)
        bare_lab.cli("verify", snapshot["snapshot"])
        bare_lab.close()
