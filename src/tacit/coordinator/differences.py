"""Snapshots as what they differ by: for a device that has one already, and wants the newest.

Found out once for all that ask, in a thread, and kept in memory with the Snapshots. Only for what the newest Snapshot
or the one before it differs by from another that is published: nobody can ask for more pairs than there are Snapshots
twice over. Where the difference is hardly smaller than the Snapshot, the Snapshot is what there is.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacit.codec.difference import worth
from tacit.coordinator.description import says
from tacit.coordinator.served import for_ever
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, sha256

if TYPE_CHECKING:  # the server puts this route among its own
    from tacit.coordinator.server import Coordinator

MOST_WAITING = 8


def difference_route(asked: "Callable[[Request], Coordinator]") -> Route:
    """GET /v1/plans/ID/deltas/FROM/TO, two Snapshots by their hashes."""
    working, waiting = asyncio.Semaphore(1), 0

    @says(
        "what makes one Snapshot out of another, where that is shorter",
        gives="application/octet-stream",
        codes=(Code.E_HEAD,),
        tagged=True,
    )
    async def answer(request: Request) -> Response:
        nonlocal waiting
        coordinator = asked(request)
        before, after = _name(request.path_params["before"]), _name(request.path_params["after"])
        name = Digest(sha256(before + after))
        kept, store = coordinator.snapshots, coordinator.store
        if name not in kept:
            newest = store.newest()
            versions = () if newest is None else (newest.version, newest.version - 1)
            heads = [store.head(version) for version in versions]
            if after not in [head.snapshot_hash for head in heads if head is not None] or not store.published(before):
                raise Refusal(Code.E_HEAD, "no difference is kept of these; ask for the Snapshot itself")
            if waiting >= MOST_WAITING:
                raise Refusal(Code.E_RATE, "differences are being found out already; ask for the Snapshot itself", 1)
            waiting += 1
            try:
                async with working:
                    one = await kept.get(before, partial(store.snapshot, before))
                    two = await kept.get(after, partial(store.snapshot, after))
                    data = await kept.get(name, partial(worth, one, two))
            finally:
                waiting -= 1
        else:
            data = await kept.get(name, bytes)
        if not data:
            raise Refusal(Code.E_HEAD, "these two differ too much; ask for the Snapshot itself")
        return for_ever(request, data, f'"{name.hex()}"')

    return Route("/v1/plans/{plan_id}/deltas/{before}/{after}", answer)


def _name(text: str) -> Digest:
    try:
        return Digest(bytes.fromhex(text))
    except ValueError:
        return Digest(b"")
