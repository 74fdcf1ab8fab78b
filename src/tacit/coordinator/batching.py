"""The routes of batches: places, and the average that is published beside the Snapshot that people get."""

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacit.coordinator.calling import REFUSED_DEVICE, body_of, counted, heard
from tacit.coordinator.description import says
from tacit.coordinator.memories import Memories
from tacit.coordinator.orders import Orders, check_running
from tacit.coordinator.publishing import published_head
from tacit.serving import MESSAGE_TYPE, refused
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest
from tacit.wire.messages import Ask, Averaged, Place, encode
from tacit.wire.signed import sign_averaged

if TYPE_CHECKING:
    from tacit.coordinator.server import Coordinator

IMMUTABLE = "public, max-age=31536000, immutable"


def batch_routes(asked: "Callable[[Request], Coordinator]") -> list[Route]:
    """`asked` is the coordinator of the Plan in a request."""

    @says("a device asks for a place", takes=Ask, gives=Place, codes=(*REFUSED_DEVICE, Code.E_STALE), signed=True)
    async def places(request: Request) -> Response:
        coordinator = asked(request)
        with counted(coordinator):
            call = heard(coordinator, request)
            check_running(Orders(coordinator.store.database).now(), os.urandom(4))
            place = await coordinator.place(await body_of(request, Ask.max_bytes, call), call)
        return Response(encode(place), media_type=MESSAGE_TYPE)

    @says(
        "which average is published",
        gives=Averaged,
        codes=(Code.E_PLAN, Code.E_HEAD, Code.E_VERSION_FUTURE),
        tagged=True,
    )
    async def average(request: Request) -> Response:
        coordinator = asked(request)
        store = coordinator.store
        newest = published_head(store)
        if newest is None:
            return refused(Refusal(Code.E_VERSION_FUTURE, "the keyholders have not signed HEAD 0 yet"))
        name = Memories(store.database, store.blobs).average_of(newest.snapshot_hash)
        if name is None:
            raise Refusal(Code.E_HEAD, f"no average is published beside Snapshot {newest.version}")
        tag = f'"{newest.version}-{name.hex()[:16]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        said = sign_averaged(coordinator.keys.sig, coordinator.plan_id, newest.version, name)
        return Response(encode(said), media_type=MESSAGE_TYPE, headers=headers)

    @says("its bytes; immutable", gives="application/octet-stream", codes=(Code.E_PLAN, Code.E_HEAD))
    async def averages(request: Request) -> Response:
        store = asked(request).store
        try:
            name = Digest(bytes.fromhex(request.path_params["name"]))
        except ValueError:
            name = Digest(b"")
        if not Memories(store.database, store.blobs).publishes(name):
            raise Refusal(Code.E_HEAD, "this average is not published, or not any more")
        data = await asyncio.to_thread(store.blobs.get, f"averages/{name.hex()}")
        headers = {"ETag": f'"{name.hex()}"', "Cache-Control": IMMUTABLE}
        return Response(data, 200, headers, "application/octet-stream")

    here = "/v1/plans/{plan_id}"
    return [
        Route(f"{here}/places", places, methods=["POST"]),
        Route(f"{here}/average", average),
        Route(f"{here}/averages/{{name}}", averages),
    ]
