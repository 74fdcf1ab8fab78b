"""Whom this keyholder listens to: signed calls, each taken once, and no more of them than it can bear.

HOME/calls.sqlite    the nonces of the last ten minutes, for all processes of one home

A coordinator of a Plan that was loaded has a share of its own; everybody else shares one. The share is asked for after
the signature, so nobody uses up another's.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tacit.durable import open_database, transaction
from tacit.rates import Bucket, Share
from tacit.wire.calls import WINDOW_MS, Call, check_call
from tacit.wire.codes import Code, Refusal

_MIGRATIONS = ("CREATE TABLE nonces (caller BLOB, nonce BLOB, time_ms INTEGER, PRIMARY KEY (caller, nonce));",)


COORDINATORS = Share(400, 100)
STRANGERS = Share(60, 10)


class Callers:
    """The door. `coordinators` are the keys of those that have a Plan here."""

    def __init__(
        self, home: Path, keyholder: bytes, coordinators: Callable[[], frozenset[bytes]], clock: Callable[[], float]
    ):
        self._keyholder, self._coordinators, self._clock = keyholder, coordinators, clock
        self._db = open_database(home / "calls.sqlite", _MIGRATIONS, any_thread=True)
        self._turn = threading.Lock()
        self._buckets: dict[bytes, Bucket] = {}

    def close(self) -> None:
        with self._turn:
            self._db.close()

    def admit(self, call: Call, signature: bytes) -> None:
        """Returns once for a call that is signed, meant for this keyholder, of now, and new. E_SIG, E_RATE."""
        now_ms = int(self._clock() * 1000)
        check_call(call, signature, self._keyholder, now_ms)
        with self._turn:
            self._draw(call.caller)
            with transaction(self._db):
                # Whoever is older than the window is refused by its time, so its nonce need not be known.
                self._db.execute("DELETE FROM nonces WHERE time_ms < ?", (now_ms - 2 * WINDOW_MS,))
                row = (call.caller, call.nonce, call.time_ms)
                if self._db.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?, ?)", row).rowcount == 0:
                    raise Refusal(Code.E_SIG, "this call was made before; a new one has a nonce of its own")

    def _draw(self, caller: bytes) -> None:
        known = self._coordinators()
        share, name = (COORDINATORS, caller) if caller in known else (STRANGERS, b"")
        now = self._clock()
        kept: Mapping[bytes, Bucket] = {one: self._buckets[one] for one in self._buckets if one in known or not one}
        self._buckets = {**kept, name: kept.get(name, Bucket(share.burst, now)).drawn(share, now)}
