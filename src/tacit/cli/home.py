"""Where a developer's and an operator's keys and runs live: `--home`, else TACIT_HOME, else ~/.tacit."""

import os
from pathlib import Path

from tacit.durable import load_or_make_seed, make_folder
from tacit.wire.keys import SigningKey


def home(given: str | None) -> Path:
    """The folder, made if it is not there, readable by its owner alone.

    >>> import tempfile; home(tempfile.mkdtemp()).is_dir()
    True
    """
    path = Path(given or os.environ.get("TACIT_HOME") or Path.home() / ".tacit").expanduser().resolve()
    return make_folder(path)


def author_key(path: Path) -> SigningKey:
    """The developer's signing key, made at the first compile and kept."""
    return SigningKey.from_seed(load_or_make_seed(path / "author.key", os.urandom))
