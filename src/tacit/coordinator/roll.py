"""The roll: which device keys may take part, where enrolment is not open to everybody.

    open       whoever holds a device key is enrolled; only keys that were revoked are not
    invited    an invitation lets one key in, once
    listed     keys on the newest list that the Plan's author or its enrolment authority has signed

One coordinator has one roll, for all its Plans. Of an invitation only the SHA-256 is kept. Who was revoked stays so.
A keyholder knows nothing of this: what it checks is a credential, and a credential cannot be taken back. So what the
roll decides is what the coordinator takes in and puts into batches, never what a keyholder would open.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tacit.coordinator.database import Database, Row
from tacit.errors import InputError
from tacit.faults import crash_point
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, Lineage
from tacit.wire.messages import DeviceList
from tacit.wire.signed import check_device_list

TABLES = """
CREATE TABLE invitations (
    name       BLOB PRIMARY KEY,                -- SHA-256 of the token
    made_at    INTEGER NOT NULL,                -- seconds of Unix time, as are all below
    expires_at INTEGER NOT NULL,
    dpk        BLOB,                            -- the device key that it let in
    used_at    INTEGER,
    withdrawn  INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX invitations_used ON invitations (dpk) WHERE dpk IS NOT NULL;
CREATE TABLE listed (
    lineage BLOB NOT NULL,
    dpk     BLOB NOT NULL,
    PRIMARY KEY (lineage, dpk)
);
CREATE TABLE lists (
    lineage BLOB PRIMARY KEY,
    number  INTEGER NOT NULL,
    signer  BLOB NOT NULL
);
CREATE TABLE revoked (
    dpk BLOB PRIMARY KEY,
    at  INTEGER NOT NULL
);
"""
MIGRATIONS = (TABLES,)
AT_ONCE = 500  # values in one question


class Door(StrEnum):
    """Whom a coordinator enrols."""

    OPEN = "open"
    INVITED = "invited"
    LISTED = "listed"


@dataclass(frozen=True)
class Record:
    """What the roll says of one device key in one lineage."""

    revoked: bool = False
    invited: bool = False  # an invitation has let it in
    listed: bool = False


@dataclass(frozen=True)
class Unused:
    """An invitation that lets somebody in, until then."""

    expires_at: int


@dataclass(frozen=True)
class Used:
    """An invitation that has let somebody in."""

    dpk: DeviceKey


@dataclass(frozen=True)
class Withdrawn:
    """An invitation that an operator took back before anybody came with it."""


Invitation = Unused | Used | Withdrawn


def barred(door: Door, record: Record) -> Code | None:
    """Why nothing of this key is taken in, if so.

    >>> barred(Door.OPEN, Record()), barred(Door.INVITED, Record())
    (None, <Code.E_CRED: 'E_CRED'>)
    """
    if record.revoked:
        return Code.E_REVOKED
    if (door is Door.INVITED and not record.invited) or (door is Door.LISTED and not record.listed):
        return Code.E_CRED
    return None


def check_on_roll(door: Door, record: Record) -> None:
    """Refusal with a reason where nothing of this key is taken in."""
    match barred(door, record):
        case None:
            return
        case Code.E_REVOKED as code:
            raise Refusal(code, "this device was revoked by the coordinator's operator")
        case code:
            raise Refusal(code, _NOT_ON_ROLL[door])


_NOT_ON_ROLL = {
    Door.INVITED: "devices take part here by invitation, and no invitation has let this one in; ask for one",
    Door.LISTED: "this device is not on the list of devices that take part here; ask who keeps it",
}


def let_in(door: Door, record: Record, dpk: DeviceKey, invitation: Invitation | None, now: int) -> bool:
    """Whether the invitation is used up by letting this key in. Refusal where it is not let in.

    A key that is on the roll already is let in again, with its own invitation or with none: a device that was cut off
    before it heard the answer asks once more, and so does one whose credential has ended.

    >>> let_in(Door.INVITED, Record(), DeviceKey(bytes(32)), Unused(expires_at=9), now=8)
    True
    >>> let_in(Door.INVITED, Record(), DeviceKey(bytes(32)), Used(DeviceKey(bytes(31) + b"1")), now=8)
    Traceback (most recent call last):
    tacit.wire.codes.Refusal: E_CRED: this invitation has let another device in; ask for one of your own
    """
    if record.revoked or door is not Door.INVITED or record.invited:
        check_on_roll(door, record)
        return False
    match invitation:
        case None:
            check_on_roll(door, record)
            raise AssertionError("such a key is not on the roll")
        case Used(other) if other != dpk:
            raise Refusal(Code.E_CRED, "this invitation has let another device in; ask for one of your own")
        case Used():
            return False
        case Withdrawn():
            raise Refusal(Code.E_CRED, "this invitation was withdrawn; ask for another")
        case Unused(expires_at) if expires_at <= now:
            raise Refusal(Code.E_CRED, "the time of this invitation is over; ask for another")
        case Unused():
            return True


def token_name(token: str) -> Digest:
    """What is kept of an invitation. A token has 128 random bits, so nobody finds it from this.

    >>> token_name("AAAAAAAAAAAAAAAAAAAAAA").hex()[:8]
    'acd1e5fb'
    """
    return Digest(hashlib.sha256(b"TACIT1/invitation\0" + token.encode()).digest())


@dataclass(frozen=True)
class Listed:
    """An invitation as an operator looks at it."""

    name: Digest
    made_at: int
    expires_at: int
    dpk: DeviceKey | None
    used_at: int | None
    withdrawn: bool


class Roll:
    """The roll as it is stored. Opened by the thread that first asks, and belongs to it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from tacit.coordinator.database import SqliteDatabase
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     roll = Roll(lambda: SqliteDatabase(Path(folder) / "roll.sqlite", MIGRATIONS), Door.INVITED)
    ...     device, lineage = DeviceKey(bytes(32)), Lineage(bytes(32))
    ...     roll.invite([token_name("please")], expires_at=9, now=0)
    ...     roll.enrol(device, lineage, "please", now=8)
    ...     roll.check(device, lineage)
    ...     roll.revoke([device], now=8)
    ...     roll.barred(lineage, [device])[device].value
    1
    'E_REVOKED'
    """

    def __init__(self, open_database: Callable[[], Database], door: Door = Door.OPEN):
        self._open, self.door = open_database, door
        self._opened: Database | None = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # Devices

    def enrol(self, dpk: DeviceKey, lineage: Lineage, token: str, now: int) -> None:
        """Returns where this key is let in, and with what invitation is on the disk then. Refusal otherwise."""
        record = self._record(dpk, lineage)
        if self.door is not Door.INVITED or record.invited or record.revoked:
            let_in(self.door, record, dpk, None, now)
            return
        name = token_name(token)
        let_in(self.door, record, dpk, self._invitation(name), now)  # whoever only guesses holds up nobody
        with self._db.transaction():  # one writer at a time: two devices with one invitation do not both find it unused
            if let_in(self.door, self._record(dpk, lineage), dpk, self._invitation(name), now):
                self._db.run("UPDATE invitations SET dpk = ?, used_at = ? WHERE name = ?", (dpk, now, name))
            crash_point("coordinator.enrol.used")
        crash_point("coordinator.enrol.committed")

    def check(self, dpk: DeviceKey, lineage: Lineage) -> None:
        """Refusal where nothing of this key is taken in."""
        check_on_roll(self.door, self._record(dpk, lineage))

    def barred(self, lineage: Lineage, devices: Collection[DeviceKey]) -> dict[DeviceKey, Code]:
        """Which of these keys nothing is taken in of, and why."""
        revoked = self._among("SELECT dpk FROM revoked WHERE dpk IN", devices)
        invited = set[bytes]()
        listed = set[bytes]()
        match self.door:
            case Door.OPEN:
                pass
            case Door.INVITED:
                invited = self._among("SELECT dpk FROM invitations WHERE dpk IN", devices)
            case Door.LISTED:
                listed = self._among("SELECT dpk FROM listed WHERE lineage = ? AND dpk IN", devices, lineage)
        found = {one: barred(self.door, Record(one in revoked, one in invited, one in listed)) for one in devices}
        return {one: code for one, code in found.items() if code is not None}

    # Operators

    def invite(self, names: Sequence[Digest], expires_at: int, now: int) -> None:
        """From now on these invitations each let one device in."""
        with self._db.transaction():
            self._db.run_many(
                "INSERT INTO invitations (name, made_at, expires_at) VALUES (?, ?, ?)",
                [(name, now, expires_at) for name in names],
            )

    def invitations(self) -> list[Listed]:
        """All of them, the newest last."""
        rows = self._db.rows(
            "SELECT name, made_at, expires_at, dpk, used_at, withdrawn FROM invitations ORDER BY made_at, name"
        )
        return [_listed(row) for row in rows]

    def revoke(self, devices: Sequence[DeviceKey], now: int) -> int:
        """Nothing more is taken in of these keys, and what waits of them leaves before the next batch closes; how many
        of them were not revoked yet."""
        with self._db.transaction():
            return sum(
                self._db.run("INSERT INTO revoked VALUES (?, ?) ON CONFLICT (dpk) DO NOTHING", (dpk, now))
                for dpk in devices
            )

    def withdraw(self, beginning: str, now: int) -> Listed:
        """An invitation, by how its name begins, lets nobody in any more, and whom it has let in is revoked."""
        found = [one for one in self.invitations() if len(beginning) >= 4 and one.name.hex().startswith(beginning)]
        if len(found) != 1:
            raise InputError(f"{len(found)} invitations have a name that begins with {beginning!r}; say one of them")
        with self._db.transaction():
            self._db.run("UPDATE invitations SET withdrawn = 1 WHERE name = ?", (found[0].name,))
            # Whoever used it meanwhile is seen here: nobody else writes now.
            row = self._db.row("SELECT dpk FROM invitations WHERE name = ?", (found[0].name,))
            assert row is not None, "invitations are never deleted"
            if row[0] is not None:
                self._db.run("INSERT INTO revoked VALUES (?, ?) ON CONFLICT (dpk) DO NOTHING", (bytes(row[0]), now))
        return next(one for one in self.invitations() if one.name == found[0].name)

    def take_list(self, listed: DeviceList, authorities: Collection[bytes]) -> None:
        """The devices of a lineage are these from now on, and those of no list before. E_SIG, E_STALE."""
        signer = check_device_list(listed, authorities)
        with self._db.transaction():
            row = self._db.row("SELECT number FROM lists WHERE lineage = ?", (listed.lineage,))
            if row is not None and listed.number <= row[0]:
                raise Refusal(Code.E_STALE, f"this is list {listed.number}, and list {row[0]} was loaded before")
            self._db.run("DELETE FROM listed WHERE lineage = ?", (listed.lineage,))
            self._db.run_many("INSERT INTO listed VALUES (?, ?)", ((listed.lineage, dpk) for dpk in listed.devices))
            self._db.run(
                "INSERT INTO lists VALUES (?, ?, ?) "
                "ON CONFLICT (lineage) DO UPDATE SET number = excluded.number, signer = excluded.signer",
                (listed.lineage, listed.number, signer),
            )

    # Inside

    @property
    def _db(self) -> Database:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _record(self, dpk: DeviceKey, lineage: Lineage) -> Record:
        row = self._db.row(
            "SELECT EXISTS (SELECT 1 FROM revoked WHERE dpk = ?), EXISTS (SELECT 1 FROM invitations WHERE dpk = ?), "
            "EXISTS (SELECT 1 FROM listed WHERE lineage = ? AND dpk = ?)",
            (dpk, dpk, lineage, dpk),
        )
        assert row is not None, "such a question has one answer"
        return Record(*map(bool, row))

    def _invitation(self, name: Digest) -> Invitation | None:
        row = self._db.row("SELECT expires_at, dpk, withdrawn FROM invitations WHERE name = ?", (name,))
        match row:
            case None:
                return None
            case (_, bytes(dpk), _):
                return Used(DeviceKey(dpk))
            case (expires_at, _, withdrawn):
                return Withdrawn() if withdrawn else Unused(int(expires_at))
            case _:
                raise AssertionError("three columns were asked for")

    def _among(self, query: str, devices: Iterable[DeviceKey], *before: bytes) -> set[bytes]:
        found = set[bytes]()
        many = list(devices)
        for start in range(0, len(many), AT_ONCE):
            some = many[start : start + AT_ONCE]
            marks = ", ".join("?" * len(some))
            found |= {bytes(row[0]) for row in self._db.rows(f"{query} ({marks})", (*before, *some))}
        return found


def _listed(row: Row) -> Listed:
    name, made_at, expires_at, dpk, used_at, withdrawn = row
    key = None if dpk is None else DeviceKey(bytes(dpk))
    return Listed(Digest(bytes(name)), made_at, expires_at, key, used_at, bool(withdrawn))
