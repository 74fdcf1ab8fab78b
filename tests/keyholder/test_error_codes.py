"""Every error code of the protocol, provoked once at those who give it, and what each of them leaves unchanged."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tacit.coordinator.batch import Collecting, Member
from tacit.coordinator.intake import Standing, admit
from tacit.keyholder.callers import Callers
from tacit.keyholder.cards import GivenCards
from tacit.keyholder.server import Service, make_app
from tacit.keyholder.states import Active, Done, Halted, Loaded, PlanState, resume
from tacit.wire.codes import Code
from tacit.wire.ids import DeviceKey, PlanId, UpdateId, sha256
from tacit.wire.messages import Head, OpenRequest, decode, encode
from tests.factory import PATIENCE_S, Device, identity, make_world
from tests.keyholder.asking import Asking, asking, code_of
from tests.keyholder.test_checks import ENTRIES, current
from tests.keyholder.test_keyholder import head, lose_state
from tests.keyholder.test_succession import loaded, successor

HASH = sha256(b"a Snapshot")


def malformed(asked: Asking) -> Code:
    request = encode(asked.open_request(0, asked.entries(asked.updates(3))))
    return code_of(lambda: asked.keyholders[0].open(decode(OpenRequest, request + b"\0")))


def too_large(asked: Asking) -> Code:
    most = asked.world.plan.manifest.batch.most
    return code_of(lambda: asked.open(0, asked.updates(most + 1)))


def too_much_at_once(asked: Asking) -> Code:
    """Of the coordinator: a keyholder has no queue."""
    manifest = asked.world.plan.manifest
    member = Member(UpdateId(bytes(16)), sha256(b"update"), DeviceKey(bytes(32)), 0)
    full = Standing(Collecting(0, 0), 0, 0, 0, queued=manifest.batch.most * (manifest.batch.max_age + 1))
    return code_of(lambda: admit(member, full, manifest))


def an_expired_plan(asked: Asking) -> Code:
    uploads = asked.updates(3)
    asked.now[0] = asked.world.plan.manifest.limits.expires_at
    return code_of(lambda: asked.open(0, uploads))


def a_device_twice(asked: Asking) -> Code:
    device = Device(asked.world)
    twice = [device.update(0, asked.head_hash(0)) for _ in range(2)]
    return code_of(lambda: asked.open(0, [*twice, *asked.updates(2)]))


def too_few(asked: Asking) -> Code:
    return code_of(lambda: asked.open(0, asked.updates(2)))


def out_of_order(asked: Asking) -> Code:
    return code_of(lambda: asked.keyholders[0].open(asked.open_request(1, [], asked.heads[0])))


def another_list(asked: Asking) -> Code:
    asked.open(0, asked.updates(3))
    return code_of(lambda: asked.open(0, asked.updates(3)))


def no_batch_left(asked: Asking) -> Code:
    for t in range(asked.world.plan.manifest.noise.snapshots):
        asked.skip(t)
    return code_of(lambda: asked.keyholders[0].open(asked.open_request(max(asked.heads), [])))


def lost(asked: Asking) -> Code:
    shown = head(asked, 0)
    lose_state(asked)
    return code_of(lambda: asked.keyholders[0].load(bytes(asked.world.plan.raw), shown))


def halted(asked: Asking) -> Code:
    uploads = asked.updates(3)
    assert lost(asked) is Code.E_STATE_LOST
    return code_of(lambda: asked.open(0, uploads))


def succeeded(asked: Asking) -> Code:
    uploads = asked.updates(3)
    loaded(asked, successor(asked))
    return code_of(lambda: asked.open(0, uploads))


def one_bad_entry(code: Code) -> Callable[[Asking], Code]:
    bad = next(bad for bad, of in ENTRIES if of is code)

    def provoke(asked: Asking) -> Code:
        entry = bad(asked)
        t = current(asked)
        entries = [entry, *asked.entries(asked.updates(3, t))]
        return code_of(lambda: asked.keyholders[0].open(asked.open_request(t, entries)))

    return provoke


PROVOKED: dict[Code, Callable[[Asking], Code]] = {
    **{code: one_bad_entry(code) for _, code in ENTRIES},
    Code.E_MALFORMED: malformed,
    Code.E_TOO_LARGE: too_large,
    Code.E_RATE: too_much_at_once,
    Code.E_EXPIRED: an_expired_plan,
    Code.E_DUP_DEVICE: a_device_twice,
    Code.E_BELOW_T: too_few,
    Code.E_T_ORDER: out_of_order,
    Code.E_CHANGED: another_list,
    Code.E_BUDGET: no_batch_left,
    Code.E_STATE_LOST: lost,
    Code.E_HALTED: halted,
    Code.E_SUCCEEDED: succeeded,
}
# After these the Plan is over here; after all others its next batch opens as if nothing had been asked.
LAST = {Code.E_EXPIRED, Code.E_BUDGET, Code.E_STATE_LOST, Code.E_HALTED, Code.E_SUCCEEDED}


# E_GATE is what the coordinator makes of sketches, not what it or a keyholder answers: tests/coordinator/test_gate.py.
# What only a server at its edge, or a coordinator of its devices, says: tests/coordinator/test_bad_input.py.
NOT_A_KEYHOLDERS = {Code.E_GATE, Code.E_REVOKED, Code.E_ROUTE, Code.E_INTERNAL}


@pytest.mark.parametrize("code", [code for code in Code if code not in NOT_A_KEYHOLDERS])
def test_every_code_is_given_and_changes_nothing(tmp_path: Path, code: Code):
    asked = asking(tmp_path)

    assert PROVOKED[code](asked) is code

    if code in LAST:
        return
    t = current(asked)
    if code is Code.E_CHANGED:  # its batch is opened, with the first list
        asked.skip(t)
        t += 1
    asked.advance(t, asked.updates(3, t))


def test_a_refusal_says_nothing_of_what_is_secret(tmp_path: Path):
    """No seed, no key, no mask: neither in hex nor as bytes."""
    asked = asking(tmp_path)
    card = asked.world.keyholder_home() / "cards"
    secrets = [path.read_bytes() for path in card.iterdir()]
    secrets.append(asked.keyholders[0]._store.noise_key(asked.world.plan_id))
    entries = [bad(asked) for bad, code in ENTRIES if code in (Code.E_UNSEAL, Code.E_SIG, Code.E_CRED)]

    reply = asked.keyholders[0].prepare(asked.prepare_request(0, entries))

    assert len(reply.rejected) == len(entries) >= 5
    for one in msgspec.to_builtins(reply.rejected):
        assert not any(secret.hex()[:16] in repr(one) for secret in secrets)


def test_a_plan_is_shown_by_its_own_coordinator_or_by_nobody(tmp_path: Path):
    asked = asking(tmp_path, begun=False)
    keyholder, data = asked.keyholders[0], bytes(asked.world.plan.raw)

    assert code_of(lambda: keyholder.load(data, None, asked.world.author.public)) is Code.E_SIG
    assert keyholder.load(data, None, asked.world.coordinator.sig.public).state == Loaded()


@pytest.mark.parametrize(
    "state", [Loaded(), Active(1, HASH), Done(Code.E_BUDGET), Halted(Code.E_SIG, "another reason")]
)
def test_a_keyholder_that_has_lost_nothing_does_not_begin_anew(tmp_path: Path, state: PlanState):
    """Whatever HEAD it was shown: two phases of one state would have one card and two kinds of noise."""
    plan = make_world(tmp_path).plan
    shown = Head(plan_id=PlanId(plan.plan_id), version=1, snapshot_hash=HASH, signatures=(bytes(64),))

    assert code_of(lambda: resume(state, shown, None, plan.manifest)) is Code.E_HALTED
    assert resume(Halted(Code.E_STATE_LOST, "lost"), shown, None, plan.manifest) == (Active(1, HASH), 3)


def test_a_plan_whose_last_day_has_passed_loses_its_keys_though_nobody_asks(tmp_path: Path):
    asked = asking(tmp_path)
    home, keyholder = asked.world.keyholder_home(), asked.keyholders[0]
    card = next((home / "cards").iterdir())
    callers = Callers(home, keyholder.public, lambda: keyholder.coordinators, time.time)
    cards = GivenCards(home, None, keyholder.has_loaded, os.urandom, time.time)
    app = make_app(Service(keyholder, identity(asked.world), callers, cards), look_every=0.01)
    asked.now[0] = asked.world.plan.manifest.limits.expires_at

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            end = time.monotonic() + PATIENCE_S
            while card.exists() and time.monotonic() < end:
                await asyncio.sleep(0.01)

    assert card.exists()
    asyncio.run(serve())

    assert not card.exists()
    callers.close()
    cards.close()
