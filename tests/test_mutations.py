"""Every check of a keyholder is missed when it is gone."""

import os
import subprocess
import sys
from pathlib import Path

from tests.keyholder.asking import asking

ROOT = Path(__file__).parents[1]


def test_no_check_can_be_broken_without_a_test_that_notices():
    """In a process of its own, because functions are exchanged in it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutations", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_a_void_batch_uses_up_its_noise_key(tmp_path: Path):
    asked = asking(tmp_path)
    before = asked.keyholders[0]._store.noise_key(asked.world.plan_id)

    asked.skip(0)

    assert asked.keyholders[0]._store.noise_key(asked.world.plan_id) != before
