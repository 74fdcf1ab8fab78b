"""The keyholder's routes. None of them accepts an Update's payload: an Entry has no field for one.

POST /v1/load           a Plan's bytes; `Tacit-Head` may carry the newest HEAD, base64
POST /v1/prepare        PrepareRequest -> PrepareReply
POST /v1/open           OpenRequest -> Opened
POST /v1/sign_head      SignHeadRequest -> HeadSignature
GET  /v1/plans/ID/opened    what every OPEN held: [{"t": t, "void": bool, "updates": [update_id, ...]}, ...] as JSON
GET  /v1/status             every Plan and its state as JSON
GET  /healthz
"""

import base64
from collections.abc import Callable
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacit.keyholder.keyholder import Keyholder, describe
from tacit.serving import MESSAGE_TYPE, SecurityHeaders, read_body, refused
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import PlanId
from tacit.wire.messages import MIB, Head, Message, OpenRequest, PrepareRequest, SignHeadRequest, decode, encode

MOST_PLAN = 512 * MIB

_Asked = TypeVar("_Asked", bound=Message)


def make_app(keyholder: Keyholder) -> Starlette:
    """The application around one keyholder."""

    def answering(kind: type[_Asked], answer: Callable[[_Asked], Message]) -> Callable[[Request], object]:
        def work(body: bytes) -> bytes:
            return encode(answer(decode(kind, body)))

        async def endpoint(request: Request) -> Response:
            body = await read_body(request, kind.max_bytes)
            return Response(await run_in_threadpool(work, body), media_type=MESSAGE_TYPE)

        return endpoint

    async def load(request: Request) -> Response:
        shown = _shown_head(request)
        body = await read_body(request, MOST_PLAN)
        record = await run_in_threadpool(keyholder.load, body, shown)
        return _json(describe(record))

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

    return Starlette(
        routes=[
            Route("/v1/load", load, methods=["POST"]),
            Route("/v1/prepare", answering(PrepareRequest, keyholder.prepare), methods=["POST"]),
            Route("/v1/open", answering(OpenRequest, keyholder.open), methods=["POST"]),
            Route("/v1/sign_head", answering(SignHeadRequest, keyholder.sign_head), methods=["POST"]),
            Route("/v1/plans/{plan_id}/opened", opened),
            Route("/v1/status", status),
            Route("/healthz", healthz),
        ],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={Refusal: _on_refusal},
    )


def _shown_head(request: Request) -> Head | None:
    text = request.headers.get("tacit-head")
    if text is None:
        return None
    try:
        return decode(Head, base64.b64decode(text, validate=True))
    except ValueError:
        raise Refusal(Code.E_MALFORMED, "the header Tacit-Head is not base64") from None


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal), "registered for Refusal"
    return refused(error)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
