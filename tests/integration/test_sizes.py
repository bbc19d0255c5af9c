# SPDX-License-Identifier: GPL-2.0-or-later
"""Regions of every awkward size and content."""

import os

import pytest

PAGE = 4096
CHUNK_PAGES = 512


def blocks_bytes(path):
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize("pages", [1, 2, CHUNK_PAGES - 1, CHUNK_PAGES, CHUNK_PAGES + 1, 3 * CHUNK_PAGES + 7])
def test_size(lab, pages):
    writer = lab.start_writer(pages=pages)
    lab.attach(writer)
    snapshot = lab.prove_snapshot(writer)
    assert [region["bytes"] for region in snapshot["regions"]] == [pages * PAGE]
    lab.cli("verify", snapshot["snapshot"])


def test_sparse_region_of_4_gib(lab):
    writer = lab.start_writer(pages=1 << 20, data_pages=3)
    lab.attach(writer)
    snapshot = lab.prove_snapshot(writer)
    image, = lab.images(writer, snapshot)
    assert os.stat(image).st_size == 4 << 30
    # Holes stay holes in the image, and in the client: nothing was populated by looking at it.
    assert blocks_bytes(image) <= 3 * 64 * 1024
    assert blocks_bytes(writer.region_paths()[0]) == 3 * PAGE
    assert snapshot["bytes_written"] <= 3 * 64 * 1024
    output = lab.directory / "restored"
    lab.cli("restore", snapshot["snapshot"], "--output", output)
    restored, = output.iterdir()
    assert blocks_bytes(restored) <= 3 * 64 * 1024
    lab.check(writer, [restored])


def test_all_zero(lab):
    """Populated zeros: they are read, and found to be nothing."""
    writer = lab.start_writer(pages=16 * CHUNK_PAGES, fill="zero", idle=True)
    lab.attach(writer)
    snapshot = lab.prove_snapshot(writer)
    image, = lab.images(writer, snapshot)
    assert blocks_bytes(image) == 0
    assert snapshot["pages_zero"] == 16 * CHUNK_PAGES
    lab.cli("verify", snapshot["snapshot"])


def test_all_random(lab):
    writer = lab.start_writer(pages=16 * CHUNK_PAGES, idle=True)
    lab.attach(writer)
    snapshot = lab.prove_snapshot(writer)
    assert snapshot["pages_zero"] == 0
    assert snapshot["pages_sweep"] == 16 * CHUNK_PAGES
    assert snapshot["bytes_written"] >= 16 * CHUNK_PAGES * PAGE


def test_empty_region_beside_a_full_one(lab):
    """A region without a single page of data is part of the snapshot all the same."""
    writer = lab.start_writer(regions=2, pages=CHUNK_PAGES, data_pages=1, fill="zero", idle=True)
    lab.attach(writer)
    assert len(lab.prove_snapshot(writer)["regions"]) == 2


def test_zeros_that_are_written_over_during_the_drain(lab):
    """A page of zeros that was captured by fault is a zero of the cut, whatever is there now."""
    writer = lab.start_writer(threads=4, pages=32 * CHUNK_PAGES, fill="zero")
    lab.attach(writer)
    lab.prove_snapshot(writer, "--max-rate", 16 << 20)
