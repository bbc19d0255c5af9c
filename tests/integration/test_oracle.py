# SPDX-License-Identifier: GPL-2.0-or-later
"""The oracle itself, without livesnap: what it must accept and, above all, what it must not."""

import itertools
import os
import shutil
import signal
import struct

import pytest

from harness import Failure, thread_states, wait_until

PAGE = 4096
KINDS_WITH_FD = ["memfd", "sealed", "tmpfs"]


def copy_images(writer, directory):
    """A copy of all regions with nothing else happening in between."""
    images = []
    for index, path in enumerate(writer.region_paths()):
        images.append(directory / f"{index}.mem")
        shutil.copyfile(path, images[-1])
    return images


def copy_while_writing(writer, directory):
    """A copy without a cut: first one half of each region, then, many writes later, the other."""
    images = [directory / f"{index}.mem" for index in range(len(writer.regions))]
    for half in (0, 1):
        for path, image, region in zip(writer.region_paths(), images, writer.regions):
            middle = region["bytes"] // 2 // PAGE * PAGE
            source = os.open(path, os.O_RDONLY)
            with open(image, "r+b" if half else "wb") as out:
                out.seek(half * middle)
                out.write(os.pread(source, region["bytes"] - middle if half else middle, half * middle))
            os.close(source)
        writer.wait_progress(10000)
    return images


@pytest.fixture
def writer(bare_lab):
    return bare_lab.start_writer(threads=4, processes=3, regions=2, pages=2048, seed=42)


@pytest.mark.parametrize("kind", KINDS_WITH_FD)
def test_copy_of_paused_memory_is_accepted(bare_lab, kind):
    writer = bare_lab.start_writer(kind=kind, threads=4, processes=3, regions=2, pages=2048, zap=True,
                                   kernel_reads=True, aliases=2)
    writer.fork()
    writer.wait_progress(20000)
    writer.command("remap")
    writer.command("pause")
    sequence = writer.completed
    assert bare_lab.check(writer, copy_images(writer, bare_lab.directory), sequence, sequence) == sequence
    writer.command("resume")
    result = writer.stop()
    assert result["kernel_reads"] > 0 and result["dontneed"] > 0


@pytest.mark.parametrize("kind", ["anonymous", "sysv", "hugetlb"])
def test_every_kind_of_memory_is_written(bare_lab, huge_pages, kind):
    if kind == "hugetlb":
        huge_pages(12)
    writer = bare_lab.start_writer(kind=kind, threads=2, processes=2, regions=2, pages=1024, zap=True, aliases=2)
    writer.wait_progress(1000)
    writer.stop()


@pytest.mark.parametrize("order", ["lock", "ticket"])
def test_copy_without_a_cut_is_refused(bare_lab, order):
    writer = bare_lab.start_writer(threads=2, regions=2, pages=2048, order=order)
    writer.wait_progress(1000)
    with pytest.raises(Failure, match="pages differ from the state after"):
        bare_lab.check(writer, copy_while_writing(writer, bare_lab.directory))


def test_two_regions_at_different_instants_are_refused(bare_lab, writer):
    images = []
    for index, path in enumerate(writer.region_paths()):
        writer.command("pause")
        images.append(bare_lab.directory / f"{index}.mem")
        shutil.copyfile(path, images[-1])
        writer.command("resume")
        writer.wait_progress(1000)
    with pytest.raises(Failure, match="pages differ from the state after"):
        bare_lab.check(writer, images)


def find_word(images, wanted):
    """File and offset of the word that holds a sequence number, or None where a later write covered it."""
    for image in images:
        offset = image.read_bytes().find(struct.pack("<Q", wanted))
        if offset >= 0:
            return image, offset
    return None


@pytest.mark.parametrize("behind", [1, 5])
def test_image_that_lacks_one_write_is_refused(bare_lab, writer, behind):
    writer.wait_progress(1000)
    writer.command("pause")
    images = copy_images(writer, bare_lab.directory)
    sequence = bare_lab.check(writer, images)
    image, offset = next(filter(None, (find_word(images, s) for s in range(sequence - behind, 0, -1))))
    with open(image, "r+b") as out:
        out.seek(offset)
        out.write(struct.pack("<Q", 1 << 63))
    with pytest.raises(Failure, match="expected write"):
        bare_lab.check(writer, images)


def test_image_with_one_write_too_many_is_refused(bare_lab, writer):
    """A number from the future is taken for N, and then all that lies between is missing."""
    writer.wait_progress(1000)
    writer.command("pause")
    images = copy_images(writer, bare_lab.directory)
    sequence = bare_lab.check(writer, images)
    with open(images[0], "r+b") as out:
        out.write(struct.pack("<Q", sequence + 3))
    with pytest.raises(Failure, match="pages differ from the state after"):
        bare_lab.check(writer, images)


def test_lost_page_is_refused(bare_lab, writer):
    writer.command("pause")
    images = copy_images(writer, bare_lab.directory)
    with open(images[1], "r+b") as out:
        out.seek(100 * PAGE)
        out.write(bytes(PAGE))
    with pytest.raises(Failure, match="page 100 .* found zero"):
        bare_lab.check(writer, images)


def test_state_outside_the_bounds_is_refused(bare_lab, writer):
    writer.command("pause")
    images = copy_images(writer, bare_lab.directory)
    with pytest.raises(Failure, match="not one of"):
        bare_lab.check(writer, images, writer.completed + 1, writer.completed + 100)


def test_ticket_order_allows_only_what_can_be_in_flight(bare_lab):
    threads = 4
    writer = bare_lab.start_writer(threads=threads, order="ticket", pages=512)
    writer.wait_progress(2000)
    # A stopped process is a cut; any of its threads may have been about to store.
    os.kill(writer.pid, signal.SIGSTOP)
    wait_until(lambda: all("state T" in state for state in thread_states(writer.pid)), "stop of all threads")
    images = copy_images(writer, bare_lab.directory)
    os.kill(writer.pid, signal.SIGCONT)
    sequence = bare_lab.check(writer, images)

    found = filter(None, (find_word(images, s) for s in range(sequence - 1, 0, -1)))
    for image, offset in itertools.islice(found, threads):
        with open(image, "r+b") as out:
            out.seek(offset)
            out.write(struct.pack("<Q", 1))
    with pytest.raises(Failure, match="differ from the state after"):
        bare_lab.check(writer, images)


def test_sparse_region_stays_sparse(bare_lab):
    writer = bare_lab.start_writer(pages=1 << 20, data_pages=3)
    writer.wait_progress(1000)
    writer.command("pause")
    assert os.stat(writer.region_paths()[0]).st_blocks * 512 == 3 * PAGE
    image = bare_lab.directory / "0.mem"
    with open(writer.region_paths()[0], "rb") as source, open(image, "wb") as out:
        os.truncate(image, writer.regions[0]["bytes"])
        for page in range(3):
            offset = page * ((1 << 20) // 3) * PAGE
            source.seek(offset)
            out.seek(offset)
            out.write(source.read(PAGE))
    bare_lab.check(writer, [image], writer.completed, writer.completed)
    with open(image, "r+b") as out:
        out.seek(7 * PAGE)
        out.write(b"\1")
    with pytest.raises(Failure, match="page 7: expected a hole"):
        bare_lab.check(writer, [image])
