"""A device posts something: who calls is known before the body is read, and what is refused is counted.

A post may be a signed call (`tacit.wire.calls`), and must be one where enrolment is not open: then whoever is not on
the roll is refused before a byte of their body is read. Elsewhere anybody can make keys, so knowing one is worth
nothing, and the message's own signature is enough. No nonces are kept, because the same post again changes nothing.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.requests import Request

from tacit.coordinator.roll import Door
from tacit.rates import Share
from tacit.serving import Unheard, read_body
from tacit.wire.calls import Call, check_body, check_call, read_call
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey

if TYPE_CHECKING:
    from tacit.coordinator.server import Coordinator

DEVICE = Share(30, 0.5)  # what one device key may post
REFUSED_DEVICE = (Code.E_PLAN, Code.E_SIG, Code.E_CRED, Code.E_REVOKED)
REFUSED_UPDATE = (
    *REFUSED_DEVICE,
    *(Code.E_VERSION_FUTURE, Code.E_HEAD, Code.E_STALE, Code.E_DUP_ID, Code.E_PARTICIPATION),
    *(Code.E_BUDGET, Code.E_EXPIRED, Code.E_SUCCEEDED),
)


@contextmanager
def counted(coordinator: "Coordinator") -> Generator[None, None, None]:
    """What is refused inside is counted by its code."""
    try:
        yield
    except Refusal as refusal:
        if coordinator.intake is not None:
            coordinator.intake.count(refusal.code)
        raise


def heard(coordinator: "Coordinator", request: Request) -> Call | None:
    """Who calls; None where the call is not signed and need not be. `Unheard`, E_RATE."""
    if "tacit-signature" not in request.headers and coordinator.roll.door is Door.OPEN:
        return None
    try:
        call, signature = read_call(f"{request.method} {request.url.path}", request.headers)
        check_call(call, signature, coordinator.keys.sig.public, int(time.time() * 1000))
    except Refusal as refusal:
        raise Unheard(refusal.reason) from None
    coordinator.rates.draw(call.caller)
    return call


async def body_of(request: Request, most: int, call: Call | None) -> bytes:
    """What was sent, and was signed by whoever calls."""
    body = await read_body(request, most)
    if call is not None:
        try:
            check_body(call, body)
        except Refusal as refusal:
            raise Unheard(refusal.reason) from None
    return body


def by_caller(coordinator: "Coordinator", dpk: DeviceKey, call: Call | None, what: str) -> None:
    """What is signed by `dpk` came by a call of the same device, if by a signed one. `Unheard`, E_RATE."""
    if call is None:
        coordinator.rates.draw(dpk)  # after its signature, so nobody uses up another's
    elif dpk != call.caller:
        raise Unheard(f"the call is signed by another device than the {what}")
