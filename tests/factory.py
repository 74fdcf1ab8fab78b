"""Small Plans, devices without data, and the two servers as processes: what tests of both rooms need.

Nothing here trains: a device is a key and integers. Masks, seals and signatures are the production functions.
"""

import contextlib
import http.client
import importlib
import json
import multiprocessing
import os
import select
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tacit.codec.ring import pack
from tacit.codec.rotate import rotate_back
from tacit.coordinator.keys import CoordinatorKeys, load_or_make
from tacit.keyholder.keys import load_identity, new_card
from tacit.plan.bundle import Plan, build_plan, decode_snapshot, encode_snapshot, parse_plan
from tacit.plan.cards import cards_at, key_ids_at
from tacit.plan.chain import continuation
from tacit.plan.layout import TensorPlace
from tacit.plan.manifest import (
    FORMAT,
    Alike,
    BatchRule,
    Charter,
    Continues,
    Gate,
    KeyholderCard,
    Limits,
    LocalTraining,
    Manifest,
    Mechanism,
    Noise,
    OnDevice,
    Participation,
    Places,
    Plain,
    Quantisation,
    Robust,
    Rotation,
    Unit,
)
from tacit.plan.program import Field, Optimizer, Program, Resources
from tacit.plan.server import Server
from tacit.privacy.blt import Blt, sensitivity
from tacit.privacy.mask import mask_key, masked
from tacit.privacy.seal import seal
from tacit.wire import preimage
from tacit.wire.calls import Call, sign_call
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, Digest, KeyId, PlanId, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Credential, ErrorReply, Head, Message, Receipt, Rekeyed, Upload, decode, encode
from tacit.wire.signed import sign_credential, sign_upload

D = 32
BLT = Blt((0.5, 0.9), (0.3, 0.2))
PATIENCE_S = 30
M = TypeVar("M", bound=Message)


def make_plan(
    author: SigningKey,
    coordinator: CoordinatorKeys,
    cards: Sequence[KeyholderCard],
    *,
    d: int = D,
    bits: int = 24,
    rotation: Rotation = "none",
    target: int = 4,
    most: int = 8,
    threshold: int = 3,
    max_age: int = 2,
    landings: int = 3,
    separation: int = 1,
    devices: int = 10**6,
    snapshots: int = 5,
    sigma: float = 1e-6,
    most_plans: int = 3,
    budgets: float = 3.0,
    expires_at: int | None = None,
    max_upload_bytes: int = 4096,
    title: str = "numbers",
    charter_keyholders: Sequence[bytes] | None = None,
    charter: Charter | None = None,
    continues: Continues | None = None,
    initial: bytes | None = None,
    device_class: str = "",
    mechanism: Mechanism = Plain(),  # noqa: B008 - immutable
    gate: Gate | None = None,
    server: Server = Server(0.5),  # noqa: B008 - immutable
    places: Places | None = None,
    weights: tuple[int, ...] | None = None,
    groups: int = 1,
    robust: Robust = Alike(),  # noqa: B008 - immutable
) -> bytes:
    """The bytes of a Plan of one vector of d values, with tapes of no use. `budgets`: how many such Plans its
    charter has room for. `sigma` defaults to noise that rounds to zero, so that sums are exact."""
    expires_at = int(time.time()) + 30 * 24 * 3600 if expires_at is None else expires_at
    mu2_total = 1 / sigma**2 + (0 if gate is None else landings / gate.z**2)
    charter = charter or Charter(
        title=title,
        purpose="to test <sums> & nothing else",
        data_sources=("integers <1..9>",),
        author=author.public,
        keyholders=tuple(charter_keyholders or [card.sig_pk for card in cards]),
        most_plans=most_plans,
        mu2_total=mu2_total * budgets,
        unit=_unit(mechanism),
        expires_at=expires_at,
    )
    manifest = Manifest(
        format=FORMAT,
        title=title,
        charter_id=b"",
        created_at=0,
        program=Program(
            runtime="tape/1",
            microbatch=1,
            d=d,
            places=(TensorPlace("head.bias", (d,), "vector", "state", 0),),
            inputs=(Field("x", (1,), "float32", 0),),
            label=Field("y", (), "int32", 0, classes=2),
            kept=(),
            output_shape=(2,),
            optimizer=Optimizer(0.1),
            resources=Resources(64, 0, 64, 384, 64, 0, 0, 0, "head", 1, 4096),
        ),
        local=LocalTraining(mechanism.passes if isinstance(mechanism, OnDevice) else 1, minibatch=1),
        server=server,
        quantisation=Quantisation(bits=bits, q=512, q_in=450, clip=1.0, rotation=rotation),
        batch=BatchRule(target, most, threshold, max_age, weights or (1,) * (max_age + 1), places, groups, robust),
        participation=Participation(landings=landings, separation=separation, devices=devices),
        noise=Noise(
            mechanism=mechanism,
            sigma=sigma,
            sensitivity=worst(mechanism, landings, separation, snapshots),
            snapshots=snapshots,
            mu2_total=mu2_total,
            delta=1e-7,
            unit=_unit(mechanism),
            gate=gate,
        ),
        keyholders=tuple(cards),
        enrolment=coordinator.enrolment.public,
        coordinator=coordinator.sig.public,
        limits=Limits(max_upload_bytes=max_upload_bytes, max_memory=1 << 20, max_seconds=60, expires_at=expires_at),
        blobs=(),
        continues=continues,
        device_class=device_class,
    )
    blobs = {f"tape/{name}": b"tape" for name in ("train", "apply", "evaluate", "predict")}
    initial = initial or encode_snapshot(np.arange(d, dtype=np.float32) / np.float32(8))
    return build_plan(manifest, charter, {**blobs, "frozen": b"", "initial": initial}, author)


def worst(mechanism: Mechanism, landings: int, separation: int, snapshots: int) -> float:
    """S_C of a Plan."""
    if isinstance(mechanism, Blt):
        return sensitivity(mechanism, landings, separation, snapshots)
    return (landings * (mechanism.passes if isinstance(mechanism, OnDevice) else 1)) ** 0.5


def _unit(mechanism: Mechanism) -> Unit:
    if not isinstance(mechanism, OnDevice):
        return "device"
    return "patient" if mechanism.group else "record"


@dataclass(frozen=True, eq=False)
class World:
    """The keys of everybody and one Plan, in a folder."""

    folder: Path
    author: SigningKey
    coordinator: CoordinatorKeys
    plan: Plan
    file: str = "plan.tacit"

    @property
    def plan_id(self) -> PlanId:
        return PlanId(self.plan.plan_id)

    @property
    def coordinator_home(self) -> Path:
        return self.folder / "coordinator"

    def keyholder_home(self, j: int = 1) -> Path:
        return self.folder / f"keyholder{j}"

    @property
    def plan_file(self) -> Path:
        return self.folder / self.file

    def credential(self, dpk: bytes, hours: int = 24) -> Credential:
        hour = int(time.time()) // 3600 + hours
        return sign_credential(self.coordinator.enrolment, DeviceKey(dpk), self.plan.lineage, hour)

    def head_hash(self, version: int, snapshot_hash: Digest, rekeyed: Sequence[Rekeyed] = ()) -> Digest:
        key_ids = key_ids_at(self.plan.manifest, self.plan_id, rekeyed, version)
        return sha256(preimage.head(self.plan_id, version, snapshot_hash, key_ids))

    def hash_of(self, head: Head) -> Digest:
        return self.head_hash(head.version, head.snapshot_hash, head.rekeyed)

    @property
    def initial_hash(self) -> Digest:
        return sha256(self.plan.initial_snapshot)


def make_world(folder: Path, keyholders: int = 1, *, operators: Sequence[str] = (), **rules: Any) -> World:
    """Fresh keys and a Plan with these rules (see `make_plan`). `operators` names whose the keyholders are."""
    author = SigningKey.from_seed(os.urandom(32))
    coordinator = load_or_make(folder / "coordinator", os.urandom)
    names = operators or [""] * keyholders
    cards = [
        new_card(folder / f"keyholder{j}", "http://127.0.0.1:1", os.urandom, name) for j, name in enumerate(names, 1)
    ]
    data = make_plan(author, coordinator, cards, **rules)
    (folder / "plan.tacit").write_bytes(data)
    return World(folder, author, coordinator, parse_plan(data))


def following(world: World, version: int, snapshot: bytes | None = None, **rules: Any) -> World:
    """The same keys with the next Plan of the chain, which starts from this Snapshot of the Plan before: its own
    first one, if none is given."""
    before = world.plan
    snapshot = before.initial_snapshot if snapshot is None else snapshot
    cards = [
        new_card(world.keyholder_home(j), card.url, os.urandom) for j, card in enumerate(before.manifest.keyholders, 1)
    ]
    continues = continuation(before, version, sha256(snapshot))
    fixed = {"charter": before.charter, "continues": continues, "expires_at": before.charter.expires_at}
    fixed |= {"initial": None if "d" in rules else snapshot, "device_class": before.manifest.device_class}
    data = make_plan(world.author, world.coordinator, cards, **{**fixed, **rules})
    file = f"plan{continues.before + 1}.tacit"
    (world.folder / file).write_bytes(data)
    return replace(world, plan=parse_plan(data), file=file)


def identity(world: World, j: int = 1) -> SigningKey:
    """The signing key of a keyholder."""
    return load_identity(world.keyholder_home(j), os.urandom)


@dataclass(frozen=True, eq=False)
class Device:
    """A key that sends integers."""

    world: World
    key: SigningKey = field(default_factory=lambda: SigningKey.from_seed(os.urandom(32)))

    @property
    def upload_key(self) -> DeviceKey:
        return DeviceKey(self.key.public)

    def integers(self) -> NDArray[np.int64]:
        """Some, well within the bound; another device has others."""
        seed = int.from_bytes(self.key.public[:8], "big")
        return np.random.default_rng(seed).integers(-40, 41, self.world.plan.manifest.values)

    def update(
        self,
        version: int,
        head_hash: Digest,
        *,
        q: NDArray[np.int64] | None = None,
        update_id: bytes | None = None,
        credential: Credential | None = None,
        plan_id: bytes | None = None,
        cards: Sequence[KeyholderCard] | None = None,
        rekeyed: Sequence[Rekeyed] = (),
    ) -> Upload:
        """A whole Update: masked, sealed and signed."""
        manifest = self.world.plan.manifest
        plan = PlanId(self.world.plan_id if plan_id is None else plan_id)
        name = UpdateId(os.urandom(16) if update_id is None else update_id)
        q = self.integers() if q is None else q
        cards = cards_at(manifest, self.world.plan_id, rekeyed, version) if cards is None else cards
        seeds = [os.urandom(32) for _ in cards]
        keys = [mask_key(seed, plan, name) for seed in seeds]
        payload = pack(masked(q, keys, manifest.quantisation.bits), manifest.quantisation.bits)
        dpk = DeviceKey(self.key.public)
        sealed = [
            seal(
                seed,
                card.hpke_pk,
                preimage.seal_info(j, plan, version, name, dpk, sha256(payload), KeyId(card.key_id)),
            )
            for j, (seed, card) in enumerate(zip(seeds, cards, strict=True), 1)
        ]
        return sign_upload(
            self.key,
            plan_id=plan,
            base_version=version,
            head_hash=head_hash,
            update_id=name,
            payload=payload,
            sealed=sealed,
            credential=self.world.credential(dpk) if credential is None else credential,
        )


def next_snapshot(world: World, before: bytes, total: NDArray[np.int64], count: int) -> bytes:
    """What the Snapshot must be after `count` Updates whose integers and noise sum to `total`."""
    manifest = world.plan.manifest
    quant = manifest.quantisation
    delta = total.astype(np.float64) * (quant.clip / quant.q_in / manifest.divisor([1] * count))
    if quant.rotation == "hadamard/1":
        delta = rotate_back(delta, manifest.charter_id)
    values = decode_snapshot(before, manifest.program.d).astype(np.float64) + delta * manifest.server.rate
    return encode_snapshot(values.astype(np.float32))


def wait_for(what: Callable[[], bool], description: str, seconds: float = PATIENCE_S) -> None:
    """Until it holds; AssertionError when it does not in time."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"after {seconds} s still not: {description}"
        select.select([], [], [], 0.01)


class Refused(Exception):
    """What a server said no with."""

    def __init__(self, status: int, reply: ErrorReply):
        self.status, self.code, self.reply = status, reply.code, reply
        super().__init__(f"{status} {reply.code}: {reply.reason}")


# Processes are forked from one that has imported everything, so a start costs a tenth of a second, not one.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tacit.coordinator.__main__", "tacit.keyholder.__main__", "tacit.device.agent", "tests.factory"]
)

_TOLD = ("TACIT_CRASH_AT", "TACIT_STORE", "TACIT_BLOBS", "AWS_")  # what processes are told by their environment


def _become(
    module: str,
    arguments: list[str],
    environment: Mapping[str, str],
    crash_at: str | None,
    log_path: str,
    stdout: Connection,
) -> None:
    """In the child: what `python -m module arguments` does, from a state in which nothing has run."""
    for name in [name for name in os.environ if name.startswith(_TOLD)]:
        del os.environ[name]  # the process from which this one was forked may be older than what they say
    os.environ.update(environment)
    if crash_at is not None:
        os.environ["TACIT_CRASH_AT"] = crash_at
    os.dup2(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(f"{module}.__main__").main())


@dataclass(eq=False)
class Process:
    """A server of ours, listening."""

    module: str
    arguments: list[str]
    log_path: Path
    port: int = 0
    caller: SigningKey | None = None  # whose calls a keyholder is posted; unsigned ones if nobody's
    keyholder: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    said: dict[str, Any] = field(default_factory=dict)  # when it began to listen
    _process: ForkServerProcess | None = None

    def start(self, crash_at: str | None = None, expect_ready: bool = True) -> "Process":
        """Returns when it listens. With `expect_ready` false it may die before that."""
        reading, writing = FORKS.Pipe(duplex=False)
        arguments = [*self.arguments, "--port", str(self.port)]
        told = (self.module, arguments, dict(self.environment), crash_at, str(self.log_path), writing)
        process = FORKS.Process(target=_become, args=told, daemon=True)
        process.start()
        self._process = process
        writing.close()
        with open(reading.fileno(), closefd=False) as lines:
            line = lines.readline()
        reading.close()
        assert line or not expect_ready, f"{arguments} ended before it listened:\n{self.log_path.read_text()[-3000:]}"
        if line:
            self.said = json.loads(line)
            self.port = self.said["port"]
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> ForkServerProcess:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        self.process.kill()
        self.wait_dead()

    def wait_dead(self) -> int:
        """Its exit code, -9 if it was killed."""
        self.process.join(PATIENCE_S)
        assert self.process.exitcode is not None, "it goes on living"
        return self.process.exitcode

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        if self._process is None:
            return 0
        if self.alive:
            self.process.terminate()
        return self.wait_dead()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        sent = dict(headers or {})
        if self.caller is not None and method == "POST":
            call = self.call(path, body, sent.get("Tacit-Head", ""))
            sent |= sign_call(self.caller, call)
        try:
            connection.request(method, path, body or None, sent)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def call(self, path: str, body: bytes, shown: str = "") -> Call:
        assert self.caller is not None
        now = int(time.time() * 1000)
        return Call(self.caller.public, self.keyholder, f"POST {path}", now, os.urandom(16), sha256(body), shown)

    def get(self, path: str) -> bytes:
        status, _, data = self.request("GET", path)
        if status != 200:
            raise Refused(status, decode(ErrorReply, data))
        return data

    def post(self, path: str, body: bytes | Message, reply: type[M]) -> M:
        data = body if isinstance(body, bytes) else encode(body)
        status, _, data = self.request("POST", path, data)
        if status != 200:
            raise Refused(status, decode(ErrorReply, data))
        return decode(reply, data)


def coordinator_process(
    world: World, keyholders: Sequence[Process], deadline_s: int = 600, more: Sequence[str] = ()
) -> Process:
    arguments = ["--home", str(world.coordinator_home), "--plan", str(world.plan_file)]
    arguments += ["--keyholder", *(keyholder.url for keyholder in keyholders), "--deadline", str(deadline_s), *more]
    here = {name: value for name, value in os.environ.items() if name.startswith(_TOLD[1:])}
    return Process("tacit.coordinator", arguments, world.folder / "coordinator.log", environment=here)


def keyholder_process(world: World, j: int = 1, more: Sequence[str] = ()) -> Process:
    arguments = ["--home", str(world.keyholder_home(j)), "--approve-author", world.author.public.hex(), *more]
    log, public = world.folder / f"keyholder{j}.log", identity(world, j).public
    return Process("tacit.keyholder", arguments, log, caller=world.coordinator.sig, keyholder=public)


@dataclass(eq=False)
class Site:
    """Coordinator and keyholders of a world, as processes."""

    world: World
    coordinator: Process
    keyholders: list[Process]

    @property
    def path(self) -> str:
        return f"/v1/plans/{self.world.plan_id.hex()}"

    def status(self) -> dict:
        return json.loads(self.coordinator.get(f"{self.path}/status"))

    def head(self) -> Head:
        return decode(Head, self.coordinator.get(f"{self.path}/head"))

    def head_of(self, version: int) -> Head:
        return decode(Head, self.coordinator.get(f"{self.path}/heads/{version}"))

    def wait_version(self, version: int, seconds: float = PATIENCE_S) -> Head:
        def there() -> bool:
            try:
                return self.head().version >= version
            except (Refused, OSError, http.client.HTTPException):
                return False

        wait_for(there, f"HEAD {version}; {self.logs()}", seconds)
        return decode(Head, self.coordinator.get(f"{self.path}/heads/{version}"))

    def snapshot(self, head: Head) -> bytes:
        return self.coordinator.get(f"{self.path}/snapshots/{head.snapshot_hash.hex()}")

    def send(self, upload: Upload | bytes) -> Receipt:
        return self.coordinator.post(f"{self.path}/updates", upload, Receipt)

    def logs(self) -> str:
        processes = [self.coordinator, *self.keyholders]
        return "\n".join(p.log_path.read_text()[-1500:] for p in processes if p.log_path.exists())

    def opened_ids(self, j: int = 1) -> list[tuple[int, list[str]]]:
        lists = json.loads(self.keyholders[j - 1].get(f"{self.path}/opened"))
        return [(one["t"], one["updates"]) for one in lists]


@contextlib.contextmanager
def running(
    world: World, deadline_s: int = 600, more: Sequence[str] = (), every: Sequence[str] = ()
) -> Generator[Site]:
    """Everybody up, with `more` on the coordinator's command line and `every` on all; ended with the block."""
    keyholders = [keyholder_process(world, j, every) for j in range(1, len(world.plan.manifest.keyholders) + 1)]
    for keyholder in keyholders:
        keyholder.start()
    coordinator = coordinator_process(world, keyholders, deadline_s, [*more, *every]).start()
    site = Site(world, coordinator, keyholders)
    try:
        yield site
    finally:
        for process in [coordinator, *keyholders]:
            process.stop()


def refusal_code(call: Callable[[], object]) -> Code:
    """The code that a call to a server is refused with."""
    try:
        call()
    except Refused as refused:
        return refused.code
    raise AssertionError("it was not refused")
