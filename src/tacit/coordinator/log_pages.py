"""The log as files that never change: pages of `tacit.wire.log.PAGE` entries, for any cache between here and a reader.

A full page is immutable. The last one, which may be empty, is not full and has to be asked for anew.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacit.coordinator.description import says
from tacit.coordinator.served import IMMUTABLE, unchanged
from tacit.serving import natural
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import sha256
from tacit.wire.log import PAGE, encode_lines

if TYPE_CHECKING:
    from tacit.coordinator.server import Coordinator


def routes(asked: "Callable[[Request], Coordinator]") -> list[Route]:
    """`asked` finds the Plan that a request is about."""

    @says("a page of the log", gives="application/jsonl", codes=(Code.E_PLAN, Code.E_VERSION_FUTURE), tagged=True)
    async def page(request: Request) -> Response:
        coordinator = asked(request)
        number = natural(request.path_params["number"])
        if number is None:
            raise Refusal(Code.E_MALFORMED, "a page of the log is named by a number of at most 15 digits")
        entries = coordinator.store.log(number * PAGE, PAGE)
        if not entries and number > 0 and not coordinator.store.log(number * PAGE - 1, 1):
            raise Refusal(Code.E_VERSION_FUTURE, f"the log has no page {number} yet")
        body = encode_lines(entries)
        tag, cache = f'"{sha256(body).hex()[:32]}"', IMMUTABLE if len(entries) == PAGE else "no-cache"
        return unchanged(request, tag, cache) or Response(
            body, media_type="application/jsonl", headers={"ETag": tag, "Cache-Control": cache}
        )

    return [Route("/v1/plans/{plan_id}/log/pages/{number}", page)]
