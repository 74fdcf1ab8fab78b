"""Where a developer's and an operator's keys and runs live: `--home`, else TACIT_HOME, else ~/.tacit."""

import os
from pathlib import Path

from tacit.wire.keys import SigningKey


def home(given: str | None) -> Path:
    """The folder, made if it is not there, readable by its owner alone.

    >>> import tempfile; home(tempfile.mkdtemp()).is_dir()
    True
    """
    path = Path(given or os.environ.get("TACIT_HOME") or Path.home() / ".tacit").expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def author_key(path: Path) -> SigningKey:
    """The developer's signing key, made at the first compile and kept."""
    file = path / "author.key"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return SigningKey.from_seed(file.read_bytes())
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(os.urandom(32))
        stream.flush()
        os.fsync(stream.fileno())
    return SigningKey.from_seed(file.read_bytes())


def plan_home(path: Path, plan_id: bytes) -> Path:
    """Where the runs of one Plan live."""
    return path / "plans" / plan_id.hex()
