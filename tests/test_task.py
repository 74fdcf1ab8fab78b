"""A Task is checked when it is made; every error names the field, the value and a way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tacit
from tacit.task import TaskInvalid, parse_bytes

EXAMPLE = {"x": tacit.array((1, 8, 8)), "y": tacit.label(10)}


def task(**changes):
    return tacit.Task(**{"name": "t", "model": object, "example": EXAMPLE, **changes})


def test_a_task_needs_a_name_a_model_and_an_example_only():
    made = task()

    assert made.loss == "cross_entropy"
    assert made.privacy == tacit.Privacy() and tacit.Privacy().threshold_or_default == 500


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("name", lambda: task(name="")),
        ("name", lambda: task(name="a/b")),
        ("model", lambda: task(model=3)),
        ("example", lambda: task(example={"x": tacit.array((2,))})),
        ("example", lambda: task(example={"y": tacit.label(2)})),
        ("example", lambda: task(example={"x": 3, "y": tacit.label(2)})),
        ("loss", lambda: task(loss="hinge")),
        ("metrics", lambda: task(metrics=["f1"])),
        ("subset", lambda: task(subset="head")),
        ("subset", lambda: task(subset=[])),
        ("server rate", lambda: tacit.Server(0)),
        ("server average", lambda: tacit.Server(average=1)),
        ("momentum beta", lambda: tacit.momentum(-0.1)),
        ("adam eps", lambda: tacit.adam(eps=float("nan"))),
        ("yogi beta2", lambda: tacit.yogi(beta2=1)),
        ("privacy selected", lambda: tacit.Privacy(batch=4, selected=3)),
        ("privacy place_seconds", lambda: tacit.Privacy(batch=4, selected=4, place_seconds=0)),
        ("local variance_weight", lambda: task(local=tacit.Local(variance_weight=True), privacy=SILO)),
        ("array shape", lambda: tacit.array(())),
        ("array shape", lambda: tacit.array((0, 2))),
        ("array dtype", lambda: tacit.array((2,), "float64")),
        ("label classes", lambda: tacit.label(1)),
        ("sgd rate", lambda: tacit.sgd(0)),
        ("sgd rate", lambda: tacit.sgd(float("nan"))),
        ("sgd momentum", lambda: tacit.sgd(0.1, momentum=1)),
        ("sgd decay", lambda: tacit.sgd(0.1, decay=0)),
        ("sgd nesterov", lambda: tacit.sgd(0.1, nesterov=True)),
        ("sgd decay", lambda: tacit.sgd(0.1, decay=0.9, schedule=tacit.inverse(10))),
        ("sgd schedule", lambda: tacit.sgd(0.1, schedule=tacit.cosine(10, floor=0.2))),
        ("sign rate", lambda: tacit.sign(-1)),
        ("cosine over", lambda: tacit.cosine(0)),
        ("cosine floor", lambda: tacit.cosine(10, floor=-1)),
        ("inverse over", lambda: tacit.inverse(0.5)),
        ("local proximal", lambda: tacit.Local(proximal=-1)),
        ("local epochs", lambda: tacit.Local(epochs=0)),
        ("local minibatch", lambda: tacit.Local(minibatch=True)),
        ("local microbatch", lambda: tacit.Local(minibatch=4, microbatch=5)),
        ("budget memory", lambda: tacit.Budget(memory="lots")),
        ("budget upload", lambda: tacit.Budget(upload="3 parsecs")),
        ("budget seconds", lambda: tacit.Budget(seconds=0)),
        ("privacy noise", lambda: tacit.Privacy(epsilon=1, noise=1)),
        ("privacy noise", lambda: tacit.Privacy(noise=0)),
        ("privacy epsilon", lambda: tacit.Privacy(epsilon=-1)),
        ("privacy epsilon", lambda: tacit.Privacy(epsilon=float("inf"))),
        ("privacy delta", lambda: tacit.Privacy(delta=0.5)),
        ("privacy batch", lambda: tacit.Privacy(devices=3)),
        ("privacy threshold", lambda: tacit.Privacy(batch=4, threshold=5)),
        ("privacy max_age", lambda: tacit.Privacy(max_age=-1)),
        ("privacy separation", lambda: tacit.Privacy(separation=0)),
        ("privacy correlated", lambda: tacit.Privacy(correlated=True, devices=10_000)),
        ("privacy trust", lambda: tacit.Privacy(trust="nobody")),
        ("privacy weights", lambda: tacit.Privacy(weights="young")),
        ("privacy weights", lambda: tacit.Privacy(weights="age", trust="two-party")),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_a_fix(field, make):
    with pytest.raises(TaskInvalid) as refused:
        make()

    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field} = ")
    assert "; " in str(refused.value)
    assert refused.value.exit_code == 2


@given(st.integers(1, 10**6), st.sampled_from([("", 1), ("KiB", 1024), (" MiB", 1024**2), ("kB", 1000)]))
def test_sizes_are_read_as_people_write_them(count, unit):
    assert parse_bytes(f"{count}{unit[0]}") == count * unit[1]


OF_PATIENTS = {**EXAMPLE, "patient": tacit.group()}
SILO = tacit.Silo(epsilon=4, sites=4, rounds=10)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("silo epsilon", lambda: tacit.Silo(epsilon=0, sites=4, rounds=10)),
        ("silo clip", lambda: tacit.Silo(epsilon=4, sites=4, rounds=10, clip=float("inf"))),
        ("silo delta", lambda: tacit.Silo(epsilon=4, sites=4, rounds=10, delta=0.1)),
        ("silo rounds", lambda: tacit.Silo(epsilon=4, sites=4, rounds=0)),
        ("silo sites", lambda: tacit.Silo(epsilon=4, sites=2, rounds=10)),
        ("silo sites", lambda: tacit.Silo(epsilon=4, sites=4, rounds=10, absent=2)),
        ("silo absent", lambda: tacit.Silo(epsilon=4, sites=4, rounds=10, absent=-1)),
        ("example patient", lambda: task(example=OF_PATIENTS)),
        ("example", lambda: task(example={**OF_PATIENTS, "w": tacit.weight()}, privacy=SILO)),
        ("example weight", lambda: task(example={**EXAMPLE, "w": tacit.weight()}, privacy=SILO)),
        ("local balance", lambda: task(privacy=SILO, local=tacit.Local(balance=True))),
        ("local batch_statistics", lambda: task(privacy=SILO, local=tacit.Local(batch_statistics=True))),
    ],
)
def test_what_would_not_protect_people_within_a_site_is_refused(field, make):
    with pytest.raises(TaskInvalid) as refused:
        make()

    assert refused.value.field == field and "; " in str(refused.value)


def test_who_is_protected_within_a_site_is_whose_examples_a_group_tells_apart():
    assert task(example=OF_PATIENTS, privacy=SILO).group == "patient"
    assert task(privacy=SILO).group == ""
