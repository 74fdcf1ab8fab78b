"""The operators' routes: `desk` does what they ask for, `operators` says who may ask.

GET    /v1/admin/status              viewer     how every Plan is doing, and what its operators have asked of it
POST   /v1/admin/pause               operator   no Update is taken, no batch is closed; `?plan=ID` means one Plan
POST   /v1/admin/resume              operator
POST   /v1/admin/drain               operator   what waits is opened as far as it can be, then it pauses
POST   /v1/admin/roll-back           operator   `?to=…&why=…&plan=ID`: devices train from an older Snapshot again
POST   /v1/admin/plans/ID/verdicts   evaluator  what a Snapshot is worth: `publishing.Reported`, in the query
GET    /v1/admin/tokens              owner      tokens and certificates, by their digests
POST   /v1/admin/tokens              owner      `?name=…&role=…&days=…`: a new one, said once
DELETE /v1/admin/tokens/DIGEST       owner      takes one back
POST   /v1/admin/upgrade             operator   a Plan's bytes: it goes on from the one that it continues
POST   /v1/admin/tidy                operator   what need be kept no more goes; `?dry=1`: says what that would be
POST   /v1/admin/forget-device       owner      `?dpk=HEX`: what is held of a device goes
POST   /v1/admin/invitations         operator   `?count=…&days=…`: new ones, said once
GET    /v1/admin/invitations         operator   all of them, and whom they have let in
DELETE /v1/admin/invitations/NAME    operator   takes one back, and revokes whom it has let in
POST   /v1/admin/revoke              operator   `?device=KEY`, again for more: nothing more is taken in of these
GET    /v1/admin/backup              owner      everything but the keys, in one file

Answers are JSON. Whatever looks into the records does so in a thread of its own: no operator holds up the devices.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tacit.coordinator.backup import MOST_PLAN
from tacit.coordinator.description import says
from tacit.coordinator.desk import Desk, GoingBack, Listed, Made, Ordered, PlanStanding, Upgraded
from tacit.coordinator.enrolling import InvitationSaid, Invited, Revoked
from tacit.coordinator.operators import AdminDoor, NotAllowed, Operator, Role, allowed, turned_away
from tacit.coordinator.orders import Going
from tacit.coordinator.publishing import Answered
from tacit.coordinator.tidying import Forgotten, Tidied
from tacit.errors import InputError, TacitError
from tacit.serving import SecurityHeaders, natural, read_body

log = logging.getLogger("tacit.coordinator.operators")

Said = (
    list[PlanStanding]
    | list[Ordered]
    | list[Listed]
    | Listed
    | Made
    | Invited
    | list[InvitationSaid]
    | InvitationSaid
    | Revoked
    | Answered
    | GoingBack
    | dict[str, Tidied]
    | dict[str, Forgotten]
)
Act = Callable[[Operator, Request], Said]


def admin_routes(desk: Desk) -> list[Route]:
    """The routes of a coordinator's operators."""

    @says("everything but the keys, in one file", gives="application/x-tar", needs=Role.OWNER)
    async def backup(request: Request) -> Response:
        operator = allowed(request, Role.OWNER)
        for left_over in desk.records.home.glob(".backup-*"):  # by a process that was killed
            if left_over.stat().st_mtime < desk.clock() - 86400:
                shutil.rmtree(left_over)
        folder = tempfile.mkdtemp(prefix=".backup-", dir=desk.records.home)
        gone = BackgroundTask(shutil.rmtree, folder)
        try:
            await asyncio.to_thread(desk.back_up, Path(folder) / "backup.tar", keys=False)
        except TacitError as error:
            await gone()
            return _failed(error)
        log.warning("%r, %s: backup", operator.name, operator.role)
        return FileResponse(Path(folder) / "backup.tar", media_type="application/x-tar", background=gone)

    @says("go on with this Plan from the one that it continues", takes=MOST_PLAN, gives=Upgraded, needs=Role.OPERATOR)
    async def upgrade(request: Request) -> Response:
        operator = allowed(request, Role.OPERATOR)
        try:
            upgraded = await asyncio.to_thread(desk.upgrade, await read_body(request, MOST_PLAN))
        except TacitError as error:
            return _failed(error)
        log.warning("%r, %s: upgrade to %s", operator.name, operator.role, upgraded.plan_id)
        return Response(msgspec.json.encode(upgraded), media_type="application/json")

    def order(going: Going) -> Act:
        return lambda operator, request: desk.order(going, operator.name, request.query_params.get("plan", ""))

    def invite(_operator: Operator, request: Request) -> Invited:
        count, days = (natural(request.query_params.get(name, "")) for name in ("count", "days"))
        if count is None or days is None:
            raise InputError("say ?count=…&days=…")
        return desk.invite(count, days)

    def revoke(_operator: Operator, request: Request) -> Revoked:
        keys = request.query_params.getlist("device")
        if not keys:
            raise InputError("say ?device=…, a device key in 64 hex digits, and again for more")
        return desk.revoke(keys)

    def roll_back(operator: Operator, request: Request) -> GoingBack:
        asked = request.query_params
        to = natural(asked.get("to", ""))
        if to is None:
            raise InputError("say ?to=… the version of the Snapshot to go back to")
        return desk.roll_back(asked.get("plan", ""), to, asked.get("why", ""), operator.name)

    def make_token(_operator: Operator, request: Request) -> Made:
        asked = request.query_params
        days = natural(asked.get("days", ""))
        if asked.get("role") not in list(Role) or not asked.get("name") or days is None:
            raise InputError(f"say ?name=…&days=… and ?role= one of {', '.join(Role)}")
        return desk.make_token(asked["name"], Role(asked["role"]), days)

    def tidy(_operator: Operator, request: Request) -> dict[str, Tidied]:
        return desk.tidy(request.query_params.get("plan", ""), dry=request.query_params.get("dry") == "1")

    def forget(_operator: Operator, request: Request) -> dict[str, Forgotten]:
        try:
            dpk = bytes.fromhex(request.query_params.get("dpk", ""))
        except ValueError:
            dpk = b""
        if len(dpk) != 32:
            raise InputError("say ?dpk= and the device's key, 64 hex digits")
        return desk.forget(dpk)

    return [
        _route("GET", "status", Role.VIEWER, lambda _operator, _request: desk.standing()),
        _route("POST", "pause", Role.OPERATOR, order(Going.PAUSED)),
        _route("POST", "resume", Role.OPERATOR, order(Going.RUNNING)),
        _route("POST", "drain", Role.OPERATOR, order(Going.DRAINING)),
        _route("POST", "roll-back", Role.OPERATOR, roll_back),
        _route(
            "POST",
            "plans/{plan_id}/verdicts",
            Role.EVALUATOR,
            lambda _operator, request: desk.verdict(request.path_params["plan_id"], request.query_params),
        ),
        _route("POST", "tidy", Role.OPERATOR, tidy),
        _route("POST", "forget-device", Role.OWNER, forget),
        Route("/v1/admin/backup", backup),
        _route("POST", "invitations", Role.OPERATOR, invite),
        _route("GET", "invitations", Role.OPERATOR, lambda _operator, _request: desk.invitations()),
        _route(
            "DELETE",
            "invitations/{begins}",
            Role.OPERATOR,
            lambda _operator, request: desk.withdraw(request.path_params["begins"]),
        ),
        _route("POST", "revoke", Role.OPERATOR, revoke),
        Route("/v1/admin/upgrade", upgrade, methods=["POST"]),
        _route("GET", "tokens", Role.OWNER, lambda _operator, _request: desk.tokens()),
        _route("POST", "tokens", Role.OWNER, make_token),
        _route(
            "DELETE",
            "tokens/{digest}",
            Role.OWNER,
            lambda _operator, request: desk.take_back(request.path_params["digest"]),
        ),
    ]


def admin_app(door: AdminDoor, desk: Desk) -> Starlette:
    """The same routes behind an address of their own."""
    app = Starlette(
        routes=admin_routes(desk),
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={NotAllowed: turned_away},
    )
    app.state.admin_door = door
    return app


def _failed(error: TacitError) -> Response:
    status = 400 if isinstance(error, InputError) else 503 if error.retryable else 409
    return Response(msgspec.json.encode({"error": str(error)}), status, media_type="application/json")


def _route(method: str, path: str, role: Role, act: Act) -> Route:
    @says(f"of operators: {method} {path}", gives="application/json", needs=role)
    async def answer(request: Request) -> Response:
        operator = allowed(request, role)
        try:
            said = await asyncio.to_thread(act, operator, request)
        except TacitError as error:
            return _failed(error)
        if method != "GET":
            log.warning("%r, %s: %s %s", operator.name, operator.role, method, path)
        return Response(msgspec.json.encode(said), media_type="application/json")

    return Route(f"/v1/admin/{path}", answer, methods=[method])
