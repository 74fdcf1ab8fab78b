"""Prefix results on disk are found whole or not at all, and stay within the storage allowed."""

from pathlib import Path

import numpy as np

from tacit.device.kept import erase_kept, kept_bytes, load_kept, save_kept
from tacit.plan.program import KeptTensor

PLAN, OTHER, DIGEST = b"p" * 32, b"q" * 32, b"d" * 32
TENSORS = (KeptTensor("a", 0, 8), KeptTensor("b", 64, 16))
KEPT = [np.arange(24, dtype=np.uint8).reshape(3, 8), np.arange(48, dtype=np.uint8).reshape(3, 16)]


def test_what_is_kept_is_found_by_the_digest_of_its_examples(tmp_path: Path):
    kept = save_kept(tmp_path, PLAN, DIGEST, KEPT, 1 << 20)
    found = load_kept(tmp_path, PLAN, DIGEST, TENSORS, 3)

    assert kept and found is not None
    assert [one.tolist() for one in found] == [one.tolist() for one in KEPT]
    assert load_kept(tmp_path, PLAN, b"e" * 32, TENSORS, 3) is None
    assert load_kept(tmp_path, OTHER, DIGEST, TENSORS, 3) is None


def test_what_does_not_fit_the_plan_is_not_used(tmp_path: Path):
    save_kept(tmp_path, PLAN, DIGEST, KEPT, 1 << 20)

    assert load_kept(tmp_path, PLAN, DIGEST, TENSORS, 4) is None
    assert load_kept(tmp_path, PLAN, DIGEST, TENSORS[:1] * 2, 3) is None


def test_what_was_kept_for_other_examples_goes(tmp_path: Path):
    save_kept(tmp_path, PLAN, DIGEST, KEPT, 1 << 20)
    save_kept(tmp_path, PLAN, b"e" * 32, KEPT, 1 << 20)

    assert load_kept(tmp_path, PLAN, DIGEST, TENSORS, 3) is None
    assert load_kept(tmp_path, PLAN, b"e" * 32, TENSORS, 3) is not None


def test_storage_is_one_allowance_for_all_plans(tmp_path: Path):
    assert save_kept(tmp_path, PLAN, DIGEST, KEPT, 500)
    assert not save_kept(tmp_path, OTHER, DIGEST, KEPT, 300)
    assert kept_bytes(tmp_path, OTHER) == 0 < kept_bytes(tmp_path, PLAN)


def test_a_folder_that_was_cut_off_while_written_is_not_found(tmp_path: Path):
    save_kept(tmp_path, PLAN, DIGEST, KEPT, 1 << 20)
    folder = tmp_path / "kept" / PLAN.hex() / DIGEST.hex()
    (folder / "1.npy").write_bytes((folder / "1.npy").read_bytes()[:20])

    assert load_kept(tmp_path, PLAN, DIGEST, TENSORS, 3) is None
    assert save_kept(tmp_path, PLAN, DIGEST, KEPT, 1 << 20)


def test_erased_is_erased(tmp_path: Path):
    save_kept(tmp_path, PLAN, DIGEST, KEPT, 1 << 20)
    erase_kept(tmp_path, PLAN)

    assert not list((tmp_path / "kept").rglob("*.npy"))
