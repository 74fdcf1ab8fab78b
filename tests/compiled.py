"""A Plan from a Task, signed with keys of the tests."""

import tacit
from tacit.compiler.assemble import Assembled, Parties, assemble
from tacit.plan.bundle import Plan, build_plan, parse_plan
from tacit.plan.manifest import KeyholderCard
from tacit.wire.ids import key_id
from tacit.wire.keys import SealingKey, SigningKey

SMALL = tacit.Privacy(noise=0.1, devices=4, batch=2, threshold=2)
AUTHOR, OTHER, KEYHOLDER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))


def parties() -> Parties:
    hpke = SealingKey.from_seed(bytes(32)).public
    card = KeyholderCard(KEYHOLDER.public, hpke, key_id(hpke, KEYHOLDER.public), "embedded:")
    return Parties(AUTHOR.public, OTHER.public, OTHER.public, (card,))


def assembled(task: tacit.Task) -> Assembled:
    return assemble(task, parties(), now=0)


def plan_of(task: tacit.Task) -> Plan:
    made = assembled(task)
    return parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
