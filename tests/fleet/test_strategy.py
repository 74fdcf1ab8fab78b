"""Strategies: what each makes of a Task and of a run, what it is without an ingredient, and that each is played."""

from dataclasses import fields, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tacit
from tacit.cli.simulating import bare, in_one_place, parameters_of, plan_of, prepared, with_subset
from tacit.compiler.assemble import build_module
from tacit.errors import InputError
from tacit.fleet.alone import alone
from tacit.fleet.folder import Folder, Summary
from tacit.fleet.parties import TITLE, keys_of
from tacit.fleet.run import play
from tacit.fleet.settings import Scenario
from tacit.fleet.strategy import (
    INGREDIENTS,
    NEVER_BINDS,
    STRATEGIES,
    Sizes,
    Strategy,
    StrategyUnknown,
    claims,
    parse,
    parse_many,
    scenario_for,
    starts_by_sums,
    task_for,
    without,
)
from tacit.task import TaskInvalid
from tests.fleet.small import TASK, claiming, stage

NAMES = parameters_of(TASK)
SIZES = Sizes(devices=100, updates=200)
PLAIN = [one for one in STRATEGIES.values() if one.plain]


def asked(name: str, **sizes: float) -> tacit.Privacy:
    privacy = task_for(parse(name), TASK, replace(SIZES, **sizes), NAMES).privacy
    assert isinstance(privacy, tacit.Privacy)
    return privacy


def played(name: str, folder: Path, sizes: Sizes, **common: object) -> tuple[Summary, Folder]:
    strategy, run = parse(name), Folder(folder / "run")
    scenario = msgspec.convert({"strategy": "", "seed": 5, **common}, Scenario)
    world, how = prepared(strategy, stage(sizes.devices), sizes, scenario, folder / "starts")
    return (alone if strategy.who == "alone" else play)(world, how, run, {}, workers=1), run


def test_fedavg_waits_for_all_who_began_and_the_other_drops_the_last_of_more():
    waits, drops = asked("fedavg"), asked("fedavg-drop")

    assert (waits.batch, waits.threshold, waits.selected, waits.max_age) == (10, 10, 10, 0)
    assert (drops.batch, drops.threshold, drops.max_age) == (10, 10, 0) and drops.selected == 13


def test_who_takes_what_comes_takes_old_ones_and_counts_them_alike_or_less():
    assert len(set(asked("fedbuff").age_weights)) == 1 and asked("fedbuff").max_age >= 16
    assert asked("tacit").age_weights[0] > asked("tacit").age_weights[-1] == 2
    assert asked("ftte").weights == "age" and task_for(parse("ftte"), TASK, SIZES, NAMES).local.variance_weight


@pytest.mark.parametrize("strategy", PLAIN, ids=lambda one: one.name)
def test_baselines_claim_nothing_and_are_neither_clipped_nor_balanced_nor_averaged(strategy: Strategy):
    task = task_for(strategy, TASK, SIZES, NAMES)

    assert isinstance(task.privacy, tacit.Privacy)
    assert task.privacy.clip == NEVER_BINDS and not claims(task.privacy) and not task.local.balance
    assert task.server == tacit.Server() and task.budget.memory_bytes > 1 << 40
    assert strategy.trains != "every" or task.subset == NAMES
    scenario = scenario_for(strategy, task, SIZES, Scenario("", masking="real", keep=True))
    assert scenario.counted != "messages" and scenario.masking == "counted" and not scenario.keep
    assert scenario.clip == "plan" and not scenario.replay


def test_fedprox_is_fedavg_and_a_pull():
    prox, avg = (task_for(parse(name), TASK, SIZES, NAMES) for name in ("fedprox", "fedavg"))

    assert prox.local.proximal == 0.01 and replace(prox.local, proximal=0.0) == avg.local
    assert replace(prox, local=avg.local) == avg


def test_the_recipe_has_all_its_ingredients():
    task = task_for(parse("tacit"), TASK, SIZES, NAMES)
    scenario = scenario_for(parse("tacit"), task, SIZES, Scenario(""))

    assert task.subset == TASK.subset and task.local.balance and task.server.average == 0.8
    assert task.local.epochs == 2 * TASK.local.epochs and task.local.optimizer.schedule is not None
    assert (scenario.clip, scenario.replay, scenario.keep, scenario.counted) == ("median", 2, True, "messages")
    assert scenario.at_work == 20 and starts_by_sums(parse("tacit"), task)


def test_a_head_that_starts_from_the_model_asks_for_no_class_sums():
    task = replace(TASK, subset=[tacit.projected("1", start="model")])

    assert starts_by_sums(parse("tacit"), TASK) and not starts_by_sums(parse("tacit"), task)


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_each_ingredient_changes_what_is_played_and_nothing_that_it_does_not_name(ingredient: str):
    whole, less = parse("tacit"), parse(f"tacit:without={ingredient}")

    changed = {one.name for one in fields(Strategy) if getattr(whole, one.name) != getattr(less, one.name)}
    assert changed == {"without", *INGREDIENTS[ingredient][1]} and less.name == "tacit"
    if ingredient in ("class-sums", "backbone"):
        return  # seen in what is prepared: below
    # Also where the Task itself has some of them.
    rich = replace(TASK, local=replace(TASK.local, balance=True, optimizer=tacit.sgd(0.1, decay=0.9)))
    tasks = [task_for(one, rich, SIZES, NAMES) for one in (whole, less)]
    scenarios = [scenario_for(one, t, SIZES, Scenario("")) for one, t in zip((whole, less), tasks, strict=True)]
    assert tasks[0] != tasks[1] or scenarios[0] != msgspec.structs.replace(scenarios[1], strategy="tacit")


@given(st.lists(st.sampled_from(sorted(INGREDIENTS)), min_size=1, max_size=4, unique=True))
def test_what_is_left_out_is_written_and_read_again_in_any_order(gone: list[str]):
    strategy = without(parse("tacit"), gone)

    assert parse(strategy.label) == strategy == without(parse("tacit"), gone[::-1])
    assert set(strategy.slug) <= set("abcdefghijklmnopqrstuvwxyz-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fedavgg", "there are tacit, fedavg,"),
        ("tacit:with=replay", "tacit:without=replay"),
        ("tacit:without=magic", "there are backbone, subset"),
        ("fedavg:without=replay", "has no replay"),
    ],
)
def test_what_is_no_strategy_is_told_which_there_are(text: str, said: str):
    with pytest.raises(StrategyUnknown, match=said):
        parse_many(text)


def test_an_ablation_is_the_recipe_and_the_recipe_without_each():
    labels = [one.label for one in parse_many("tacit,fedavg", ablation=True)]

    assert labels[:2] == ["tacit", "fedavg"] and len(labels) == 2 + len(INGREDIENTS)


def test_a_claim_stands_in_the_recipe_and_in_no_baseline():
    task = claiming()
    recipe, baseline = (task_for(parse(name), task, replace(SIZES, updates=48), NAMES) for name in ("tacit", "fedavg"))

    assert isinstance(recipe.privacy, tacit.Privacy) and isinstance(baseline.privacy, tacit.Privacy)
    assert (recipe.privacy.epsilon, recipe.privacy.batch, recipe.privacy.devices) == (8, 8, 100)
    assert claims(recipe.privacy) and not claims(baseline.privacy)
    # What the data say decides nothing.
    scenario = scenario_for(parse("tacit"), task, SIZES, Scenario(""))
    assert scenario.clip == "plan" and not starts_by_sums(parse("tacit"), task)
    with pytest.raises(InputError, match="may not depend on their data"):
        scenario_for(parse("tacit"), task, SIZES, Scenario("", trigger=0.5))


def test_what_cannot_be_is_refused_before_anything_is_compiled():
    with pytest.raises(InputError, match="waits for more devices than the 20"):
        task_for(parse("fedavg"), TASK, Sizes(20, 100, batch=50), NAMES)
    with pytest.raises(InputError, match="waits for more devices than the 20"):
        task_for(parse("tacit"), claiming(batch=30), Sizes(20, 100), NAMES)
    with pytest.raises(TaskInvalid, match="a fleet plays devices"):
        task_for(parse("fedavg"), replace(TASK, privacy=tacit.Silo(epsilon=4, sites=4, rounds=9)), SIZES, NAMES)


def test_a_simulated_plan_says_what_it_is_and_comes_from_its_seed():
    here, task = stage(), task_for(parse("fedbuff"), TASK, SIZES, NAMES)
    world, _ = prepared(parse("fedbuff"), here, SIZES, Scenario("", seed=5), Path("unused"))

    assert world.plan.manifest.title.startswith(TITLE) and "simulation" in world.plan.charter.purpose
    assert world.plan.manifest.created_at == 0 and world.plan.manifest.program.d == 83
    assert world.plan.author == keys_of(5, TASK.privacy.claimed).author.public
    assert bytes(plan_of(task, here).raw) == bytes(plan_of(task, here).raw)
    assert bytes(plan_of(task, here).raw) != bytes(plan_of(task, replace(here, seed=6)).raw)


def test_without_a_backbone_every_layer_draws_its_weights():
    def flat() -> nn.Module:
        net = nn.Sequential(nn.Linear(6, 3))
        nn.init.zeros_(net[0].weight)
        return net

    brought = replace(TASK, model=flat, subset=["0"])

    assert not next(build_module(brought).parameters()).any() and next(build_module(bare(brought)).parameters()).all()


def test_ftte_trains_whole_parameters_that_the_planner_found_and_a_second_search_is_saved():
    here, said = stage(), list[str]()
    for name in ("ftte", "ftte", "tacit"):
        found = with_subset(parse(name), replace(TASK, subset=None), here, said.append)
        assert name == "tacit" or all(isinstance(part, str) for part in found.subset or ())

    assert sum("looking for what" in line for line in said) == 1


def test_ftte_weighs_variance_against_a_clip_that_is_near_and_the_others_have_one_that_never_binds():
    clips: dict[str, float] = {}
    for name in ("ftte", "fedbuff"):
        here = stage(task=replace(TASK, subset=None))
        world, _ = prepared(parse(name), here, Sizes(24, 30), Scenario("", seed=5), Path("unused"))
        clips[name] = world.plan.manifest.quantisation.clip
        assert world.plan.manifest.local.variance_weight == (name == "ftte")
        assert world.plan.manifest.quantisation.q >= 1 << 19

    assert clips["fedbuff"] == NEVER_BINDS > 10 * clips["ftte"]


def test_a_baseline_is_not_held_to_a_rate_that_was_meant_for_something_else():
    """At a rate that is far too large, nothing is learnt; the trial finds a smaller one."""
    wild = replace(TASK, local=replace(TASK.local, optimizer=tacit.sgd(30.0)))
    rates = []
    for sizes in (Sizes(24, 30), Sizes(24, 30, rate=0.5)):
        world, _ = prepared(parse("fedavg"), stage(task=wild), sizes, Scenario("", seed=5), Path("unused"))
        rates.append(world.plan.manifest.program.optimizer.rate)

    assert rates == [pytest.approx(0.9), 0.5]


def test_one_place_has_what_all_devices_have_and_sends_nothing():
    here = stage()
    world, scenario = prepared(parse("central"), here, Sizes(24, 3), Scenario("", seed=5), Path("unused"))

    assert len(world.population) == len(world.shares) == 1 and scenario.counted == "nothing"
    assert sorted(world.shares.of(0)) == list(range(24 * 12)) and not world.population.profiles[0].radios
    assert world.plan.manifest.batch.target == 1 and in_one_place(world).shares.sizes.tolist() == [24 * 12]


def test_the_recipe_starts_from_class_sums_and_pays_for_them(tmp_path: Path):
    summed, run = played("tacit", tmp_path, Sizes(24, 8), masking="real")
    bare_start, other = played("tacit:without=class-sums", tmp_path / "other", Sizes(24, 8))

    first, zero = run.points()[0], other.points()[0]
    spent = run.settings().scenario.before
    assert spent.visits >= 4 and spent.time > 0 and spent.up > 0 and first.accuracy > zero.accuracy + 0.2
    assert (first.time, first.visits, first.up) == (spent.time, spent.visits, spent.up)
    assert (zero.time, zero.visits, zero.up) == (0, 0, 0)
    # The batch that asks waits for its last device before anybody trains.
    assert summed.time > spent.time and summed.up > spent.up and bare_start.visits < summed.visits


def test_the_clip_lies_above_the_median_that_binds(tmp_path: Path):
    _, run = played("tacit:without=class-sums", tmp_path, Sizes(24, 24))
    lengths = run.visits()["norm"]

    clips = [point.clip for point in run.points()]
    assert clips[0] > 1.5 * np.nanmedian(lengths) and clips[-1] < clips[0] / 1.5


def test_a_claim_is_kept_by_what_is_played(tmp_path: Path):
    world, how = prepared(parse("tacit"), stage(60, task=claiming()), Sizes(60, 48), Scenario("", seed=5), tmp_path)
    summary = play(world, msgspec.structs.replace(how, masking="real"), Folder(tmp_path / "run"), {}, workers=1)

    assert summary.updates == 48 and summary.most_landings == 2
    assert summary.epsilon == pytest.approx(8, rel=1e-3) and "ε = 8.00" in summary.statement


@pytest.mark.parametrize("name", ["fedavg", "fedbuff", "central", "alone"])
def test_what_is_played_learns(name: str, tmp_path: Path):
    updates = {"central": 3, "alone": 3}.get(name, 60)
    summary, run = played(name, tmp_path, Sizes(24, updates), every=3)

    assert summary.accuracy > run.points()[0].accuracy + 0.15 and summary.accuracy > 0.55
    assert run.is_over and (summary.up == 0) == (name in ("central", "alone"))


def test_the_reference_names_every_strategy_and_every_ingredient_and_says_what_they_do():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "strategies.md").read_text()

    rows = {line.split("|")[1].strip().strip("`") for line in text.splitlines() if line.startswith("| `")}
    assert rows == {*STRATEGIES, *INGREDIENTS}
    assert f"under a clip of {NEVER_BINDS:g} that never" in text and "four times the median" in text
