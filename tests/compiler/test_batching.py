"""What a Task says of batches and of the server's rule, in the Plan that it becomes."""

from typing import Any

from torch import nn

import tacit
from tacit.compiler.assemble import Assembled, assemble
from tacit.plan.bundle import build_plan, parse_plan
from tacit.plan.manifest import Places
from tacit.plan.server import Adam, Mean, Momentum, Server
from tests.compiled import AUTHOR, parties


def assembled(privacy: tacit.Privacy, **words: Any) -> Assembled:
    task = tacit.Task(
        name="linear",
        model=lambda: nn.Linear(4, 3),
        example={"x": tacit.array((4,)), "y": tacit.label(3)},
        subset=["weight", "bias"],
        privacy=privacy,
        **words,
    )
    return assemble(task, parties(), now=0)


def test_fedavg_fedbuff_and_age_are_numbers_of_the_plan():
    few: dict[str, Any] = {"noise": 1.0, "devices": 100, "snapshots": 20, "participations": 2}

    average, over, buffer, age = (
        assembled(tacit.Privacy(**few, **words)).manifest.batch
        for words in (tacit.fedavg(6), tacit.fedavg(6, selected=8), tacit.fedbuff(6), tacit.semi_async(20, max_age=3))
    )

    assert (average.target, average.threshold, average.max_age, average.weights) == (6, 6, 0, (1,))
    assert (average.places, over.places, buffer.places) == (Places(6, 900), Places(8, 900), None)
    assert (buffer.target, buffer.threshold, buffer.weights) == (6, 6, (1,) * 17)
    assert (age.target, age.threshold, age.weights) == (20, 10, (8, 6, 5, 4))


def test_the_servers_rule_is_the_plans_and_one_that_keeps_no_account_is_warned_of():
    correlated = tacit.Privacy(epsilon=8, devices=10**6, batch=100, max_age=4)
    plain = tacit.Privacy(epsilon=8, devices=10**6, batch=100, max_age=4, correlated=False)
    adam = tacit.Server(rate=1, optimizer=tacit.adam(eps=0.5), average=0.5)

    made = assembled(correlated, server=adam, local=tacit.Local(variance_weight=True))

    plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, AUTHOR))
    assert plan.manifest.server == Server(1.0, Adam(0.9, 0.99, 0.5), 0.5) and plan.manifest.local.variance_weight
    assert any("keeps no account" in warning for warning in made.warnings)
    assert assembled(plain).manifest.server == Server(1.0, Mean(), 0.8)
    momentum = assembled(correlated, server=tacit.Server(optimizer=tacit.momentum(0.5)))
    assert momentum.manifest.server.optimizer == Momentum(0.5)
    for quiet in (momentum, assembled(plain, server=adam)):
        assert not any("keeps no account" in warning for warning in quiet.warnings)
