# SPDX-License-Identifier: GPL-2.0-or-later
"""What is installed: everything where people and programs look for it, and of use there."""

import os
import re
import shutil
import subprocess

from harness import LIVESNAP, ROOT, find_one

EXPORTED = """
    livesnap_attach livesnap_call livesnap_cancel_job livesnap_close livesnap_compact livesnap_connect
    livesnap_delete livesnap_delete_fold livesnap_detach livesnap_diff livesnap_dispatch livesnap_get_errno
    livesnap_get_error livesnap_get_error_name livesnap_get_events livesnap_get_fd livesnap_get_version
    livesnap_prune livesnap_pruned_free livesnap_region_add_mapping livesnap_region_create livesnap_region_free
    livesnap_region_get_address livesnap_region_get_bytes livesnap_region_get_fd livesnap_region_make_writable
    livesnap_region_new livesnap_region_set_discard_zero livesnap_reply_continues livesnap_reply_free
    livesnap_reply_get_error_name livesnap_reply_get_message livesnap_reply_get_n_fds livesnap_reply_get_parameters
    livesnap_reply_take_fd livesnap_restore livesnap_restore_to_fd livesnap_restore_to_memory livesnap_restored_free
    livesnap_set_tracking livesnap_set_tracking_async livesnap_snapshot livesnap_snapshot_detached
    livesnap_snapshot_free livesnap_start_call livesnap_start_compact livesnap_start_delete_fold
    livesnap_start_prune livesnap_start_quiesce livesnap_start_snapshot livesnap_start_snapshot_options
    livesnap_start_verify livesnap_start_wait_job livesnap_verify livesnap_wait_job
""".split()


def test_example_compiles_against_what_is_installed(installed, lab, tmp_path):
    """With what pkg-config says and nothing of the source tree."""
    config = find_one(installed, "livesnap.pc")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(config.parent), "PKG_CONFIG_SYSROOT_DIR": str(installed)}

    def ask(*words):
        return subprocess.run(["pkg-config", *words, "livesnap"], env=environment, check=True, capture_output=True,
                              text=True).stdout.split()

    assert ask("--modversion") == [subprocess.run([LIVESNAP, "--version"], check=True, capture_output=True,
                                                  text=True).stdout.split()[1]]
    program = tmp_path / "counter"
    subprocess.run(["cc", "-Wall", "-Werror", shutil.copy(ROOT / "docs/examples/counter.c", tmp_path), "-o", program,
                    *ask("--cflags", "--libs"), "-pthread"], cwd=tmp_path, check=True)
    library = find_one(installed, "liblivesnap.so.*")
    said = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60, env={
        **os.environ, "LD_LIBRARY_PATH": str(library.parent), "LIVESNAP_SOCKET": str(lab.daemon.socket)}).stdout
    before, then, after = map(int, re.search(r"asked at (\d+), frozen at (\d+), done at (\d+)", said).groups())
    assert before <= then <= after


def test_exported_symbols(installed):
    """None goes, which would break programs; none comes that nobody decided on. A new one is added to the list above."""
    library = find_one(installed, "liblivesnap.so.*")
    shown = subprocess.run(["nm", "--dynamic", "--defined-only", "--with-symbol-versions", library], check=True,
                           capture_output=True, text=True).stdout
    symbols = [line.split()[2] for line in shown.splitlines() if line.split()[1] != "A"]
    assert all(re.fullmatch(r"livesnap_\w+@@LIVESNAP_\w+", symbol) for symbol in symbols), symbols
    assert sorted(symbol.partition("@")[0] for symbol in symbols) == EXPORTED


def test_exported_symbols_are_declared():
    """In the header, with a word on since when."""
    header = (ROOT / "include/livesnap/livesnap.h").read_text()
    assert [symbol for symbol in EXPORTED if not re.search(rf"\b{symbol}\(", header)] == []
