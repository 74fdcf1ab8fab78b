"""The coordinator's routes. Devices read immutable files and one small HEAD, and write one thing: an Update.

GET  /v1/plans/ID                    the Plan's bytes; ranges, immutable; packed for who takes gzip
GET  /v1/plans/ID/head               the newest HEAD; ETag; `Tacit-Successor` names the Plan that continues this one,
                                     `Tacit-Evaluation` the one by which the evaluation cohort judges it
GET  /v1/plans/ID/heads/V            an older one; immutable
GET  /v1/plans/ID/published          the HEAD of the Snapshot that people get: the newest that passed its check; ETag
GET  /v1/plans/ID/snapshots/HASH     a Snapshot's bytes; ranges, immutable
GET  /v1/plans/ID/deltas/FROM/TO     what makes one Snapshot out of another, where that is shorter; immutable
GET  /v1/plans/ID/average            Averaged: which average of Snapshots is published beside the newest one; ETag
GET  /v1/plans/ID/averages/HASH      its bytes; immutable
POST /v1/plans/ID/enrol              Enrol -> Credential
POST /v1/plans/ID/places             Ask -> Place, where the Plan gives places
POST /v1/plans/ID/updates            Upload -> Receipt; both are signed calls (`tacit.wire.calls`) where enrolment is
                                     not open, and may be elsewhere: then who calls is known before the body is read
POST /v1/plans/ID/proof              16 bytes, an update_id -> Proof
GET  /v1/plans/ID/log                the log, one JSON object a line; `?after=N` leaves out the first N
GET  /v1/plans/ID/status             JSON, for people
GET  /v1/openapi.json                what every route takes and gives
GET  /join/ID                        a page for people
GET  /healthz
/v1/admin/…                          what operators ask for: see `admin`
"""

import asyncio
import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tacit.coordinator import watching
from tacit.coordinator.admin import admin_routes
from tacit.coordinator.arriving import Arriving, places
from tacit.coordinator.batch import Ended, Fate
from tacit.coordinator.batching import batch_routes
from tacit.coordinator.calling import DEVICE, REFUSED_DEVICE, REFUSED_UPDATE, body_of, by_caller, counted, heard
from tacit.coordinator.database import Unavailable
from tacit.coordinator.description import openapi, says
from tacit.coordinator.desk import Desk
from tacit.coordinator.differences import difference_route
from tacit.coordinator.gauges import STORE
from tacit.coordinator.intake import Offer, check_upload
from tacit.coordinator.keys import CoordinatorKeys
from tacit.coordinator.opener import OpenerThread
from tacit.coordinator.operators import AdminDoor, NotAllowed, turned_away
from tacit.coordinator.orders import Going, Order, Orders, check_running
from tacit.coordinator.page import CONTENT_SECURITY_POLICY, join_page
from tacit.coordinator.publishing import checks_of, published_head
from tacit.coordinator.records import Records
from tacit.coordinator.roll import Roll
from tacit.coordinator.served import IMMUTABLE, LONGEST_KEPT, Fresh, Snapshots, for_ever, packed_file, takes, unchanged
from tacit.coordinator.status import Status, status_of
from tacit.coordinator.store import Store
from tacit.coordinator.upgrading import take_in
from tacit.coordinator.watching import Timed, WhoReads
from tacit.plan.bundle import Plan
from tacit.plan.cards import key_ids_at
from tacit.plan.packing import ENCODING
from tacit.rates import Rates, Share
from tacit.serving import MESSAGE_TYPE, ON_ERROR, AddressRate, SecurityHeaders, natural, read_body, refused
from tacit.wire import preimage
from tacit.wire.calls import Call
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey, Digest, PlanId, UpdateId, sha256
from tacit.wire.log import encode_lines
from tacit.wire.messages import (
    Ask,
    Credential,
    Enrol,
    Head,
    Message,
    Outcome,
    Place,
    Proof,
    Receipt,
    Upload,
    decode,
    encode,
    update_hash,
)
from tacit.wire.signed import check_ask, check_credential, check_enrol, sign_credential, sign_proof

MOST_IN_COMMIT = 256
NOT_HERE_RETRY_S = 1
BYTES = "application/octet-stream"

log = logging.getLogger("tacit.coordinator")

_OUTCOMES: dict[Fate, Outcome] = {
    Fate.QUEUED: "queued",
    Fate.IN: "queued",
    Fate.APPLIED: "opened",
    Fate.SPOILT: "spoilt",
    Fate.EXPIRED: "expired",
    Fate.REFUSED: "refused",
}


T = TypeVar("T")


_Offered = tuple[Offer, "asyncio.Future[Receipt]"]
_Asked = tuple[Ask, "asyncio.Future[int]"]


class IntakeThread:
    """Stores Updates, many in one commit: a Receipt is given only once its Update is on the disk."""

    def __init__(self, open_store: Callable[[], Store], arrived: Callable[[], None]):
        self._open_store, self._arrived = open_store, arrived
        self._opened: Store | None = None  # by the thread, when it needs it first
        self._uncounted: Counter[Code] = Counter()
        self._waiting: queue.SimpleQueue[_Offered | _Asked | Code | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when everything that was offered has been stored or refused."""
        self._waiting.put(None)
        self._thread.join(timeout=5)

    async def wait_stored(self, offer: Offer) -> Receipt:
        """The Receipt, after the commit."""
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting.put((offer, answer))
        return await answer

    async def wait_place(self, ask: Ask) -> int:
        """Until when the device has its place, after the commit."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.put((ask, answer))
        return await answer

    def count(self, refused: Code) -> None:
        """One more refusal. Written with the next commit; a kill may lose the last few."""
        self._waiting.put(refused)

    def _run(self) -> None:
        ending = False
        while not ending:
            offers: list[_Offered] = []
            asks: list[_Asked] = []
            for one in _all_of(self._waiting):
                match one:
                    case None:
                        ending = True
                    case Code():
                        self._uncounted[one] += 1
                    case (Offer() as offer, answer):
                        offers.append((offer, answer))
                    case (Ask() as ask, answer):
                        asks.append((ask, answer))
            if offers:
                self._store(offers)
            if asks:
                _answer(asks, partial(self._give_places, [ask for ask, _ in asks]))
            self._count()
        if self._opened is not None:
            self._opened.close()

    def _give_places(self, asks: list[Ask]) -> list[int | Refusal]:
        return self._there().give_places(asks)

    def _store(self, offers: list[_Offered]) -> None:
        def stored() -> list[Receipt | Refusal]:
            with STORE.time("accept"):
                return self._there().accept([offer for offer, _ in offers], int(time.time()) // 3600)

        results = _answer(offers, stored)
        if any(isinstance(result, Receipt) for result in results):
            self._arrived()

    def _count(self) -> None:
        with contextlib.suppress(Unavailable):  # then with the next ones
            if self._uncounted:
                self._there().count_refusals(self._uncounted)
                self._uncounted.clear()

    def _there(self) -> Store:
        if self._opened is None:
            self._opened = self._open_store()
        return self._opened


def _all_of(waiting: "queue.SimpleQueue[T]") -> list[T]:
    """What waits, as soon as anything does."""
    taken = [waiting.get()]
    with contextlib.suppress(queue.Empty):
        while len(taken) < MOST_IN_COMMIT:
            taken.append(waiting.get_nowait())
    return taken


def _answer(
    asked: Sequence[tuple[object, "asyncio.Future[T]"]], work: Callable[[], Sequence[T | Refusal]]
) -> list[T | Exception]:
    """Does what was asked, for all together, and tells each what came of it."""
    results: list[T | Exception]
    try:
        results = list(work())
    except Exception as error:
        # The edge of this thread: nothing was stored (a full disk, say), and whoever waits is told so.
        log.warning("what %d devices asked could not be stored; they come again: %s", len(asked), error)
        results = [error] * len(asked)
    for (_, answer), result in zip(asked, results, strict=True):
        answer.get_loop().call_soon_threadsafe(_settle, answer, result)
    return results


def _settle(answer: "asyncio.Future[T]", result: T | Exception) -> None:
    if answer.done():  # whoever asked has gone
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


@dataclass(frozen=True, eq=False)
class Coordinator:
    """One Plan, served. `store` and `roll` belong to the thread of the event loop; the two threads have their own.

    `successor` continues it: then it takes no more Updates, and everything else is served on. By `evaluation` its
    Snapshots are judged.
    """

    plan: Plan
    plan_file: Path
    keys: CoordinatorKeys
    store: Store
    roll: Roll
    intake: IntakeThread | None  # none in a process that only opens
    opener: OpenerThread | None  # none in one that only takes Updates
    urls: tuple[str, ...]
    deadline_s: int
    successor: Plan | None = None
    evaluation: Plan | None = None
    public: str = ""  # where devices reach it, if not at the address they asked for
    rates: Rates = field(default_factory=lambda: Rates(DEVICE, time.monotonic))  # of device keys
    continued_by: Callable[[Plan], "Coordinator"] | None = None  # makes what serves the Plan that goes on from here
    snapshots: Snapshots = field(default_factory=Snapshots)
    _head_hashes: dict[int, Digest] = field(default_factory=lambda: dict[int, Digest]())

    def start(self) -> None:
        if self.intake is not None:
            self.intake.start()
        if self.opener is not None:
            self.opener.start()

    def stop(self) -> None:
        if self.opener is not None:
            self.opener.stop()
        if self.intake is not None:
            self.intake.stop()
        self.store.close()
        self.roll.close()

    @property
    def plan_id(self) -> PlanId:
        return PlanId(self.plan.plan_id)

    @property
    def most_body(self) -> int:
        """A Plan may say what it likes; a message that is an Upload is never longer than that."""
        return min(self.plan.manifest.limits.max_upload_bytes, Upload.max_bytes)

    @cached_property
    def newest(self) -> "Fresh[Newest | None]":
        """What is published now, or was a moment ago."""
        return Fresh(self._newest)

    def _newest(self) -> "Newest | None":
        head = self.store.newest()
        if head is None:
            return None
        ended = self.successor is not None and isinstance(self.store.batch(), Ended)
        return Newest(head.version, _tag_of(head), encode(head), ended)

    @cached_property
    def orders(self) -> Fresh[Order]:
        """What operators have ordered, or had a moment ago."""
        return Fresh(Orders(self.store.database).now)

    def status(self) -> Status:
        head = self.store.newest()
        troubles = self.store.troubles()
        return status_of(
            self.plan,
            self.store.batch(),
            self.store.counts(),
            None if head is None else head.version,
            self.deadline_s,
            self.urls,
            [troubles.get(j) for j in range(1, len(self.urls) + 1)],
            self.successor,
            checks_of(self.store),
        )

    def head_hash(self, version: int) -> Digest | None:
        if (found := self._head_hashes.get(version)) is not None:
            return found
        head = self.store.head(version)
        if head is None:
            return None
        key_ids = key_ids_at(self.plan.manifest, self.plan_id, head.rekeyed, version)
        found = sha256(preimage.head(self.plan_id, version, head.snapshot_hash, key_ids))
        self._head_hashes[version] = found  # which never changes any more
        return found

    async def take(self, body: bytes, call: Call | None) -> Receipt:
        """An Upload's Receipt, or `Refusal`."""
        upload = decode(Upload, body)
        head_hash = self.head_hash(upload.base_version)
        newest = self.newest() if head_hash is None else None
        hour = int(time.time()) // 3600
        try:
            if newest is not None and upload.base_version < newest.version:
                # After a restore from a backup: see `behind`.
                raise Refusal(
                    Code.E_STALE, f"HEAD {upload.base_version} is not known here any more; train from a newer one"
                )
            # Signatures and hashes, which other threads can work on meanwhile.
            offer = await asyncio.to_thread(check_upload, upload, self.plan, head_hash, hour)
            self.roll.check(upload.dpk, self.plan.lineage)
            by_caller(self, upload.dpk, call, "Update")
        except Refusal:
            # Whatever else has happened since: what was received has its receipt.
            known = self.store.known(upload.update_id)
            if known is None or known.member.update_hash != update_hash(upload):
                raise
            return known.receipt
        if self.intake is None:
            raise Refusal(Code.E_RATE, "this process takes no Updates, another one does", NOT_HERE_RETRY_S)
        return await self.intake.wait_stored(offer)

    async def place(self, body: bytes, call: Call | None) -> Place:
        """A device may train from the Snapshot that it names; or `Refusal`, and when to ask again."""
        ask = decode(Ask, body)
        if ask.plan_id != self.plan_id:
            raise Refusal(Code.E_PLAN, "this place was asked for in another Plan")
        check_credential(
            ask.credential,
            ask.dpk,
            self.plan.manifest.enrolment,
            lineage=self.plan.lineage,
            hour=int(time.time()) // 3600,
        )
        check_ask(ask)
        by_caller(self, ask.dpk, call, "request for a place")
        self.roll.check(ask.dpk, self.plan.lineage)
        if self.intake is None:
            raise Refusal(Code.E_RATE, "this process takes no Updates, another one does", NOT_HERE_RETRY_S)
        return Place(plan_id=self.plan_id, version=ask.version, until=await self.intake.wait_place(ask))

    def enrol(self, body: bytes, call: Call | None) -> Credential:
        """A credential for whoever holds a device key and is let in by the roll, for the Plan's whole life."""
        enrol = decode(Enrol, body)
        check_enrol(enrol)
        by_caller(self, enrol.dpk, call, "enrolment")
        if self.keys.enrolment.public != self.plan.manifest.enrolment:
            raise Refusal(Code.E_CRED, "this Plan's devices are enrolled by another authority")
        if enrol.lineage != self.plan.lineage:
            raise Refusal(Code.E_CRED, "devices are enrolled here for the lineage of this Plan only")
        self.roll.enrol(enrol.dpk, enrol.lineage, enrol.invitation, int(time.time()))
        expires_hour = -(-self.plan.manifest.limits.expires_at // 3600)
        return sign_credential(self.keys.enrolment, enrol.dpk, enrol.lineage, expires_hour)

    def proof(self, body: bytes) -> Proof:
        """What became of an Update."""
        if len(body) != 16:
            raise Refusal(Code.E_MALFORMED, f"an update_id has 16 bytes, got {len(body)}")
        update_id = UpdateId(body)
        known = self.store.known(update_id)
        outcome: Outcome = "unknown" if known is None else _OUTCOMES[known.fate]
        if known is None or known.t is None or outcome not in ("opened", "spoilt"):
            head = self.store.newest()
            return sign_proof(self.keys.sig, self.plan_id, update_id, outcome, head.version if head else 0)
        members = self.store.members(known.t)
        return sign_proof(self.keys.sig, self.plan_id, update_id, outcome, known.t, members)


@dataclass(frozen=True)
class Newest:
    """The newest HEAD as it is served; `ended` if another Plan goes on from there."""

    version: int
    tag: str
    head: bytes
    ended: bool


def make_app(
    *coordinators: Coordinator,
    door: AdminDoor | None = None,
    desk: Desk | None = None,
    share: Share | None = None,
    metrics: WhoReads = "local",
    records: Records | None = None,
) -> Starlette:
    """The application around the Plans of one chain; their threads live as long as the application does.

    `door` lets operators in, and `desk` serves them here: without it they have an address of their own. `share` is what
    one address may ask for, if that is limited. In `records` it looks for Plans that go on from one that is served.
    """
    arriving = Arriving(places(max((one.most_body for one in coordinators), default=0)), time.monotonic)
    by_id = {coordinator.plan_id.hex(): coordinator for coordinator in coordinators}

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        for coordinator in coordinators:
            coordinator.start()
        looking = None if records is None else asyncio.create_task(take_in(records, by_id))
        yield
        if looking is not None:
            looking.cancel()
        for coordinator in by_id.values():
            coordinator.stop()
        if door is not None:
            door.operators.close()

    def asked(request: Request) -> Coordinator:
        found = by_id.get(request.path_params["plan_id"])
        if found is None:
            raise Refusal(Code.E_PLAN, "this Plan is not served here")
        return found

    @says(
        "the Plan's bytes; ranges, immutable; packed for who takes gzip", gives=BYTES, codes=(Code.E_PLAN,), tagged=True
    )
    async def plan(request: Request) -> Response:
        coordinator = asked(request)
        answer: Response | None = None
        # A range is one of the Plan itself.
        if "range" not in request.headers and takes(request.headers.get("accept-encoding", ""), ENCODING):
            beside = await packed_file(coordinator.plan_file)
            if beside is not None:
                answer = _file(request, beside, coordinator.plan_id, ENCODING)
        answer = answer or _file(request, coordinator.plan_file, coordinator.plan_id)
        answer.headers["Vary"] = "Accept-Encoding"
        return answer

    @says("the newest HEAD", gives=Head, codes=(Code.E_PLAN, Code.E_VERSION_FUTURE), tagged=True)
    async def head(request: Request) -> Response:
        coordinator = asked(request)
        newest = coordinator.newest()
        if newest is None:
            return refused(Refusal(Code.E_VERSION_FUTURE, "the keyholders have not signed HEAD 0 yet"))
        following: dict[str, str] = {}
        if coordinator.evaluation is not None:
            following["Tacit-Evaluation"] = coordinator.evaluation.plan_id.hex()
        if coordinator.successor is None or not newest.ended:
            answer = unchanged(request, newest.tag, "no-cache") or _head(newest.head, newest.tag, "no-cache")
        else:
            # This was the last one. Whoever has it already has to hear all the same that another Plan goes on from
            # here.
            answer = _head(newest.head, newest.tag, "no-cache")
            following["Tacit-Successor"] = coordinator.successor.plan_id.hex()
        answer.headers.update(following)
        return answer

    @says("the newest HEAD that passed its check", gives=Head, codes=(Code.E_PLAN, Code.E_VERSION_FUTURE), tagged=True)
    async def published(request: Request) -> Response:
        found = published_head(asked(request).store)
        if found is None:
            return refused(Refusal(Code.E_VERSION_FUTURE, "the keyholders have not signed HEAD 0 yet"))
        tag = _tag_of(found)
        return unchanged(request, tag, "no-cache") or _head(encode(found), tag, "no-cache")

    @says("an older HEAD; immutable", gives=Head, codes=(Code.E_PLAN, Code.E_VERSION_FUTURE), tagged=True)
    async def head_of_version(request: Request) -> Response:
        coordinator = asked(request)
        version = natural(request.path_params["version"])
        if version is None:
            raise Refusal(Code.E_MALFORMED, "a version is a number of at most 15 digits")
        found = coordinator.store.head(version)
        if found is None:
            raise Refusal(Code.E_VERSION_FUTURE, f"there is no Snapshot {version} yet")
        tag = _tag_of(found)
        return unchanged(request, tag, IMMUTABLE) or _head(encode(found), tag, IMMUTABLE)

    @says("a Snapshot's bytes; ranges, immutable", gives=BYTES, codes=(Code.E_PLAN, Code.E_HEAD), tagged=True)
    async def snapshot(request: Request) -> Response:
        coordinator = asked(request)
        try:
            name = Digest(bytes.fromhex(request.path_params["name"]))
        except ValueError:
            name = Digest(b"")
        kept = coordinator.snapshots
        if name not in kept and not coordinator.store.published(name):
            raise Refusal(Code.E_HEAD, "no HEAD names this Snapshot, or it is kept no more")
        path = None if name in kept else coordinator.store.snapshot_path(name)
        if path is not None and path.exists() and path.stat().st_size > LONGEST_KEPT:
            return _file(request, path, name)
        data = await kept.get(name, partial(coordinator.store.snapshot, name))
        return for_ever(request, data, f'"{name.hex()}"')

    @says("an Update is handed in", takes=Upload, gives=Receipt, codes=REFUSED_UPDATE, signed=True)
    async def updates(request: Request) -> Response:
        coordinator = asked(request)
        with counted(coordinator):
            call = heard(coordinator, request)
            if call is not None:
                coordinator.roll.check(DeviceKey(call.caller), coordinator.plan.lineage)
            if (order := coordinator.orders()).going is not Going.RUNNING:
                check_running(order, os.urandom(4))
            async with arriving.place():
                body = await body_of(request, coordinator.most_body, call)
            return _message(await coordinator.take(body, call))

    @says("a device key is let in", takes=Enrol, gives=Credential, codes=REFUSED_DEVICE, signed=True)
    async def enrol(request: Request) -> Response:
        coordinator = asked(request)
        with counted(coordinator):
            call = heard(coordinator, request)
            return _message(coordinator.enrol(await body_of(request, Enrol.max_bytes, call), call))

    @says("what became of an Update: its update_id", takes=16, gives=Proof, codes=(Code.E_PLAN,))
    async def proof(request: Request) -> Response:
        coordinator = asked(request)
        with counted(coordinator):
            return _message(coordinator.proof(await read_body(request, 64)))

    @says("the log", gives="application/jsonl", codes=(Code.E_PLAN,), query={"after": "leaves out so many entries"})
    async def log(request: Request) -> Response:
        coordinator = asked(request)
        after = natural(request.query_params.get("after", "0"))
        if after is None:
            raise Refusal(Code.E_MALFORMED, "`after` is the number of entries that were seen already")
        return Response(encode_lines(coordinator.store.log(after)), media_type="application/jsonl")

    @says("how the Plan is doing", gives=Status, codes=(Code.E_PLAN,))
    async def status(request: Request) -> Response:
        coordinator = asked(request)
        return Response(msgspec.json.encode(coordinator.status()), media_type="application/json")

    @says("a page for people", gives="text/html", codes=(Code.E_PLAN,), query={"author": "whose Plan it must be"})
    async def join(request: Request) -> Response:
        coordinator = asked(request)
        author = request.query_params.get("author")
        here = coordinator.public or f"{request.url.scheme}://{request.headers.get('host', '')}"
        last = coordinator
        while last.successor is not None:
            last = by_id[last.successor.plan_id.hex()]
        text = join_page(coordinator.plan, here, author, last.plan, coordinator.roll.door)
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    @says("this description", gives="application/json")
    async def described(request: Request) -> Response:
        return Response(description, media_type="application/json")

    here = "/v1/plans/{plan_id}"
    app = Starlette(
        routes=[
            Route(here, plan),
            Route(f"{here}/head", head),
            Route(f"{here}/heads/{{version}}", head_of_version),
            Route(f"{here}/published", published),
            Route(f"{here}/snapshots/{{name}}", snapshot),
            difference_route(asked),
            Route(f"{here}/enrol", enrol, methods=["POST"]),
            Route(f"{here}/updates", updates, methods=["POST"]),
            Route(f"{here}/proof", proof, methods=["POST"]),
            Route(f"{here}/log", log),
            Route(f"{here}/status", status),
            Route("/v1/openapi.json", described),
            *batch_routes(asked),
            Route("/join/{plan_id}", join),
            *watching.routes(by_id, asked, metrics),
            *([] if desk is None else admin_routes(desk)),
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(Timed),
            Middleware(SecurityHeaders),
            *([] if share is None else [Middleware(AddressRate, share=share)]),
        ],
        exception_handlers={**ON_ERROR, Unavailable: _on_unavailable, NotAllowed: turned_away},
    )
    description = msgspec.json.encode(openapi(app.routes))
    app.router.redirect_slashes = False  # an address is right or it is not
    app.state.admin_door = door
    return app


async def _on_unavailable(request: Request, error: Exception) -> Response:
    # What exactly is for the log. Not all at once: whoever waited comes back within ten seconds.
    later = 2 + os.urandom(1)[0] % 9
    reason = "the coordinator's records cannot be reached at the moment; nothing is lost, come again"
    return refused(Refusal(Code.E_RATE, reason, later), 503)


def _message(message: Message) -> Response:
    return Response(encode(message), media_type=MESSAGE_TYPE)


def _tag_of(head: Head) -> str:
    return f'"{head.version}-{head.snapshot_hash.hex()[:16]}"'


def _head(head: bytes, tag: str, cache: str) -> Response:
    return Response(head, media_type=MESSAGE_TYPE, headers={"ETag": tag, "Cache-Control": cache})


def _file(request: Request, path: Path, name: bytes, encoding: str = "") -> Response:
    """A file that never changes, named by the digest of what it holds."""
    tag = f'"{name.hex()}-{encoding}"' if encoding else f'"{name.hex()}"'
    headers = {"ETag": tag, "Cache-Control": IMMUTABLE}
    if encoding:
        headers["Content-Encoding"] = encoding
    return unchanged(request, tag, IMMUTABLE) or FileResponse(
        path, headers=headers, media_type="application/octet-stream"
    )
