"""What people and their tools look at: is it well, what are the numbers, what changes, what was logged.

GET /healthz                    this process runs; nothing else is asked, so a store that is away restarts nobody
GET /readyz                     whether Updates can be taken, with every part; `?whole` also minds lease and keyholders
GET /metrics                    for Prometheus
GET /v1/plans/ID/events         the status whenever it changes, as server-sent events
GET /v1/plans/ID/log/pages/N    the log as files
GET /dashboard/ID               the status for people; /dashboard.js keeps it up to date
"""

import asyncio
import ipaddress
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tacit.coordinator import dashboard, gauges, log_pages
from tacit.coordinator.description import says
from tacit.coordinator.events import MOST_LISTENERS, Feed, Listening
from tacit.coordinator.metrics import CONTENT_TYPE, Family, Sample, text
from tacit.coordinator.operators import Role, allowed
from tacit.coordinator.orders import Orders
from tacit.coordinator.store import Store
from tacit.errors import TacitError
from tacit.wire.codes import Code, Refusal

if TYPE_CHECKING:
    from tacit.coordinator.server import Coordinator

# Who may read the numbers: `token` who may operate as a viewer, `local` also whoever asks from this machine and through
# no proxy, everybody, nobody. Asked for every few seconds they say when an Update arrived, and with few devices that is
# when somebody was at home.
WhoReads = Literal["local", "token", "open", "off"]
WHO_READS: tuple[WhoReads, ...] = ("local", "token", "open", "off")
PROBE_EVERY_S = 10.0  # between two writes of a blob
PROBE = "probe/ready"
_PASSED_ON = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


class Part(msgspec.Struct, frozen=True):
    """One thing that must be so. Reasons are for the operator, in words without names."""

    ok: bool
    reason: str = ""


def routes(
    served: "Mapping[str, Coordinator]", asked: "Callable[[Request], Coordinator]", who_reads: WhoReads
) -> list[Route]:
    """`asked` finds the Plan that a request is about; `served` are all, by their ids, and may become more."""
    feeds: dict[str, Feed] = {}
    probes: dict[str, Probe] = {}

    @says("this process runs")
    async def healthz(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    @says("whether Updates can be taken; 503 where not", gives="application/json", query={"whole": "minds all parts"})
    async def readyz(request: Request) -> Response:
        for plan_id, coordinator in served.items():
            probes.setdefault(plan_id, Probe(coordinator.store))
        found = {plan_id[:8]: await probe.parts() for plan_id, probe in probes.items()}
        minded = None if "whole" in request.query_params else ("store", "blobs")
        fails = sorted(
            {
                name
                for parts in found.values()
                for name, part in parts.items()
                if not part.ok and name in (minded or parts)
            }
        )
        body = msgspec.json.encode({"ready": not fails, "fails": fails, "plans": found})
        return Response(body, 503 if fails else 200, media_type="application/json")

    @says("numbers for Prometheus; from elsewhere for a viewer", gives=CONTENT_TYPE.partition(";")[0])
    async def metrics(request: Request) -> Response:
        if who_reads == "off":
            raise Refusal(Code.E_PLAN, "nobody reads the numbers of this coordinator")
        if who_reads == "token" or (who_reads == "local" and not _is_here(request)):
            allowed(request, Role.VIEWER)
        listening = Sample(sum(feed.listeners for feed in feeds.values()), {})
        families = [
            *gauges.measured(),
            Family("tacit_listeners", "gauge", "Who follows the events of this process.", [listening]),
        ]
        coordinators = list(served.values())
        if coordinators:
            families.append(gauges.disk(coordinators[0].plan_file.parent))
            try:
                families += gauges.told(coordinators, time.time())
                reached = True
            except TacitError:
                reached = False
            families.append(Family("tacit_store_up", "gauge", "1 where the store answers.", [Sample(reached, {})]))
        return Response(text(families), media_type=CONTENT_TYPE)

    @says("the status whenever it changes", gives="text/event-stream", codes=(Code.E_PLAN,))
    async def events(request: Request) -> Response:
        plan_id = asked(request).plan_id.hex()
        feed = feeds.setdefault(plan_id, Feed(_status_of(served, plan_id)))
        if sum(one.listeners for one in feeds.values()) >= MOST_LISTENERS:
            raise Refusal(Code.E_RATE, f"{MOST_LISTENERS} listen already; ask for the status from time to time", 5)
        return _Forwarded(Listening(feed, request.headers.get("last-event-id", "")))

    @says("the status for people", gives="text/html", codes=(Code.E_PLAN,))
    async def page(request: Request) -> Response:
        coordinator = asked(request)
        going = Orders(coordinator.store.database).now().going
        shown = dashboard.page(coordinator.plan, coordinator.status(), coordinator.store.batch(), going, time.time())
        headers = {"Content-Security-Policy": dashboard.CONTENT_SECURITY_POLICY, "Cache-Control": "no-store"}
        return Response(shown, media_type="text/html", headers=headers)

    @says("what keeps that page up to date", gives="text/javascript")
    async def script(request: Request) -> Response:
        return Response(dashboard.SCRIPT, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/v1/plans/{plan_id}/events", events),
        Route("/dashboard/{plan_id}", page),
        Route("/dashboard.js", script),
        *log_pages.routes(asked),
    ]


class Timed:
    """Measures how long every answer takes, by its route. What goes on for ever is not measured."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, statuses = time.perf_counter(), list[int]()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            # Addresses that are none of ours are one: a scanner would make a series of each.
            found = scope.get("route")
            route = found.path if isinstance(found, Route) else "none"
            status = statuses[0] if statuses else 500
            if not (route.endswith("/events") and status == 200):
                method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "PUT") else "other"
                gauges.REQUESTS.observe(time.perf_counter() - begun, method, route, str(status))


class Probe:
    """Whether what one Plan stands on is there. A blob is written at most every so many seconds."""

    def __init__(self, store: Store, every: float = PROBE_EVERY_S):
        self._store, self._every = store, every
        self._probed_at = -math.inf
        self._written = Part(True)

    async def parts(self) -> dict[str, Part]:
        answers = self._answers()
        return {"store": answers, "blobs": await self._blobs(), **(self._told() if answers.ok else {})}

    def _answers(self) -> Part:
        try:
            self._store.batch()
        except TacitError:
            return Part(False, "it does not answer")
        return Part(True)

    async def _blobs(self) -> Part:
        if time.monotonic() >= self._probed_at + self._every:
            self._probed_at = time.monotonic()
            try:
                await asyncio.to_thread(self._store.blobs.put, PROBE, b"ready\n")
                self._written = Part(True)
            except (TacitError, OSError):
                self._written = Part(False, "nothing can be written")
        return self._written

    def _told(self) -> dict[str, Part]:
        try:
            row = self._store.database.row("SELECT until FROM lease")
            held = row is not None and row[0] > self._store.database.now(time.time())
            lease = Part(held, "" if held else "no process opens batches")
            down = sorted(self._store.troubles())
        except TacitError:
            return {"lease": Part(False, "the store does not answer")}
        words = f"keyholder {', '.join(map(str, down))} does not serve" if down else ""
        return {"lease": lease, "keyholders": Part(not down, words)}


class _Forwarded(Response):
    """A response that is an application of its own."""

    def __init__(self, app: ASGIApp):
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _status_of(served: "Mapping[str, Coordinator]", plan_id: str) -> Callable[[], bytes | None]:
    def read() -> bytes | None:
        try:
            return msgspec.json.encode(served[plan_id].status())
        except TacitError:
            return None

    return read


def _is_here(request: Request) -> bool:
    """Whether who asks is on this machine. A proxy on it is not, as far as it says that it is one."""
    if request.client is None or any(name in request.headers for name in _PASSED_ON):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
