"""The keyholder's routes. None of them accepts an Update's payload: an Entry has no field for one.

POST /v1/load           a Plan's bytes; `Tacit-Head` may carry the newest HEAD, base64
POST /v1/prepare        PrepareRequest -> PrepareReply
POST /v1/commit         CommitRequest -> Committed
POST /v1/freeze         FreezeRequest -> Revealed
POST /v1/sketch         SketchRequest -> Sketched
POST /v1/open           OpenRequest -> Opened
POST /v1/sign_head      SignHeadRequest -> HeadSignature
POST /v1/cards          nothing -> a fresh card for one Plan of whoever asks, as JSON
GET  /v1/plans/ID/opened    what every OPEN held: [{"t": t, "void": bool, "updates": [update_id, ...]}, ...] as JSON
GET  /v1/status             every Plan and its state as JSON
GET  /healthz

What is posted is a signed call (`tacit.wire.calls`), and so is what comes back, refusals too. Who calls is known before
the body is read. 401 is for calls that are not what they claim, before anybody looked at what they say.
"""

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacit.keyholder.approvals import approved
from tacit.keyholder.callers import Callers
from tacit.keyholder.cards import GivenCards
from tacit.keyholder.keyholder import Keyholder, describe
from tacit.serving import MESSAGE_TYPE, ON_ERROR, SecurityHeaders, read_body, refused
from tacit.wire.calls import Call, check_body, read_call, sign_answer
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import PlanId
from tacit.wire.keys import SigningKey
from tacit.wire.messages import (
    MIB,
    CommitRequest,
    FreezeRequest,
    Head,
    Message,
    OpenRequest,
    PrepareRequest,
    SignHeadRequest,
    SketchRequest,
    decode,
    encode,
)

log = logging.getLogger("tacit.keyholder")

MOST_PLAN = 512 * MIB
LOOK_EVERY_S = 600.0
MOST_LISTS = 4  # bodies of up to 64 MiB in memory

_Asked = TypeVar("_Asked", PrepareRequest, CommitRequest, FreezeRequest, SketchRequest, OpenRequest, SignHeadRequest)


@dataclass(frozen=True, eq=False)
class Service:
    """A keyholder at work: `identity` signs its answers."""

    keyholder: Keyholder
    identity: SigningKey
    callers: Callers
    cards: GivenCards

    def load(self, call: Call, body: bytes) -> Response:
        return _json(describe(self.keyholder.load(body, _shown_head(call), call.caller)))

    def card(self, call: Call, body: bytes) -> Response:
        known = any(charter.author == call.caller for charter in approved(self.keyholder.home))
        return Response(self.cards.give(call.caller, known), media_type="application/json")


def make_app(service: Service, look_every: float = LOOK_EVERY_S) -> Starlette:
    """The application around one keyholder."""
    keyholder = service.keyholder

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        looking = asyncio.create_task(_look(keyholder, look_every))
        yield
        looking.cancel()

    def answering(kind: type[_Asked], answer: Callable[[_Asked], Message]) -> Callable[[Request], Awaitable[Response]]:
        def work(call: Call, body: bytes) -> Response:
            asked = decode(kind, body)
            if keyholder.coordinator_of(asked.plan_id) != call.caller:
                raise Refusal(Code.E_SIG, "the Plan names another coordinator than the one that calls")
            return Response(encode(answer(asked)), media_type=MESSAGE_TYPE)

        return _endpoint(service, work, kind.max_bytes, MOST_LISTS)

    async def opened(request: Request) -> Response:
        try:
            plan_id = PlanId(bytes.fromhex(request.path_params["plan_id"]))
        except ValueError:
            raise Refusal(Code.E_PLAN, "a Plan's id has 64 hex digits") from None
        lists = await run_in_threadpool(keyholder.opened_lists, plan_id)
        return _json([{"t": one.t, "void": one.void, "updates": [i.hex() for i in one.updates]} for one in lists])

    async def status(request: Request) -> Response:
        records = await run_in_threadpool(keyholder.records)
        return _json({"sig_pk": keyholder.public.hex(), "plans": [describe(record) for record in records]})

    async def healthz(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    app = Starlette(
        routes=[
            Route("/v1/load", _endpoint(service, service.load, MOST_PLAN, 1), methods=["POST"]),
            Route("/v1/prepare", answering(PrepareRequest, keyholder.prepare), methods=["POST"]),
            Route("/v1/commit", answering(CommitRequest, keyholder.commit), methods=["POST"]),
            Route("/v1/freeze", answering(FreezeRequest, keyholder.freeze), methods=["POST"]),
            Route("/v1/sketch", answering(SketchRequest, keyholder.sketch), methods=["POST"]),
            Route("/v1/open", answering(OpenRequest, keyholder.open), methods=["POST"]),
            Route("/v1/sign_head", answering(SignHeadRequest, keyholder.sign_head), methods=["POST"]),
            Route("/v1/cards", _endpoint(service, service.card, 0, MOST_LISTS), methods=["POST"]),
            Route("/v1/plans/{plan_id}/opened", opened),
            Route("/v1/status", status),
            Route("/healthz", healthz),
        ],
        lifespan=lifespan,
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers=ON_ERROR,
    )
    app.router.redirect_slashes = False  # an address is right or it is not
    return app


async def _look(keyholder: Keyholder, every: float) -> None:
    """Ends Plans whose last day has passed, though nobody asks: their keys are gone soon after it."""
    while True:
        await asyncio.sleep(every)
        try:
            await run_in_threadpool(keyholder.records)
        except Exception:
            log.exception("whether a Plan has ended could not be looked at; it is tried again")


def _endpoint(
    service: Service, work: Callable[[Call, bytes], Response], most: int, at_once: int
) -> Callable[[Request], Awaitable[Response]]:
    """A signed call, its body of at most `most` bytes, and a signed answer; so many bodies in memory at once.

    Coordinators that have a Plan here and those that do not yet have do not stand in each other's way.
    """
    known, strange = asyncio.Semaphore(at_once), asyncio.Semaphore(at_once)

    async def answered(call: Call, signature: bytes, request: Request) -> Response:
        try:
            await run_in_threadpool(service.callers.admit, call, signature)
        except Refusal as refusal:
            return _unheard(refusal)
        try:
            room = known if call.caller in service.keyholder.coordinators else strange
            if room.locked():
                raise Refusal(Code.E_RATE, "others are being answered; come again in a second", 1)
            async with room:
                body = await read_body(request, most)
                check_body(call, body)
                return await run_in_threadpool(work, call, body)
        except Refusal as refusal:
            return refused(refusal)

    async def endpoint(request: Request) -> Response:
        try:
            call, signature = read_call(f"{request.method} {request.url.path}", request.headers)
        except Refusal as refusal:
            return _unheard(refusal)  # without a nonce there is nothing that an answer could be bound to
        response = await answered(call, signature, request)
        response.headers.update(sign_answer(service.identity, call, response.status_code, response.body))
        return response

    return endpoint


def _unheard(refusal: Refusal) -> Response:
    response = refused(refusal)
    if refusal.code is Code.E_SIG:
        response.status_code = 401
    return response


def _shown_head(call: Call) -> Head | None:
    if not call.shown:
        return None
    try:
        return decode(Head, base64.b64decode(call.shown, validate=True))
    except ValueError:
        raise Refusal(Code.E_MALFORMED, "the header Tacit-Head is not base64") from None


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
