"""What protecting each patient costs: four hospitals with hearts, and fifty drawn clinics, at ε of 2, 4 and 8.

*Sites* is what tacit does: every visit by the device's own code and engine, its Updates masked and sealed, the sums
opened by a keyholder and applied by the coordinator, all in this process. *One place* has all patients and the same ε:
the same steps with one site's noise instead of every site's (numpy). *Alone* is the mean over sites of what each
reaches by itself at the same ε. *No noise* is the same model trained to its end on all patients. Accuracy is on
patients that nobody trained on: a quarter of each hospital's, or a thousand of another clinic.

Rates, rounds and clips were chosen on other drawn patients, for ε = 2 and 4 together; nothing was chosen on the hearts.
The hearts are taken from TACIT_DATA.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from harness import Row, run
from numpy.typing import NDArray

from tacit.compiler.assemble import Parties, assemble
from tacit.compiler.load import load_task
from tacit.coordinator.intake import check_upload
from tacit.coordinator.keys import load_or_make
from tacit.coordinator.opener import Opener, Trouble
from tacit.coordinator.records import local_store
from tacit.coordinator.sql_store import SqlStore
from tacit.device.silo import train_groups
from tacit.device.update import make_update
from tacit.device.visit import Visit
from tacit.engine.player import Player
from tacit.keyholder.keyholder import Keyholder
from tacit.keyholder.keys import new_card
from tacit.plan.bundle import Plan, build_plan, decode_snapshot, parse_plan
from tacit.privacy.account import mu_of_epsilon
from tacit.privacy.groups import members
from tacit.task import Silo, Task
from tacit.wire import preimage
from tacit.wire.ids import DeviceKey, KeyId, PlanId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Head
from tacit.wire.signed import sign_credential

EXAMPLE = Path(__file__).parents[1] / "examples/clinic"
EPSILONS = (2.0, 4.0, 8.0)
DELTA, CLIP, RATE, ROUNDS = 1e-5, 1.0, 4.0, 20
Floats = NDArray[np.float64]


def _data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clinic_data", EXAMPLE / "data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


data = _data()


@dataclass(frozen=True, eq=False)
class Setting:
    """Sites that train, somebody else's patients to test on, and how many patients make up a step."""

    name: str
    sites: Sequence[Any]  # of the example's Visits
    test: Any
    step: int

    @property
    def patients(self) -> int:
        return sum(len(np.unique(site.patient)) for site in self.sites)


def hearts(seed: int) -> Setting | None:
    """The four hospitals, a quarter of the patients of each held back; None where the data are not at hand."""
    path = Path(os.environ.get("TACIT_DATA", "")) / "uci-heart/uci_heart.npz"
    if "TACIT_DATA" not in os.environ or not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        columns, ill, hospital = arrays["x"].astype(float), arrays["y"] > 0, arrays["hospital"]
    for column in (3, 4):  # a pressure or a cholesterol of 0 was not measured
        columns[columns[:, column] == 0, column] = np.nan
    x, y, patient = data.prepared(columns), ill.astype(np.float32)[:, None], np.arange(len(ill))
    held = np.random.default_rng(seed).random(len(ill)) < 0.25
    sites = [data.Visits(x[mine], y[mine], patient[mine]) for mine in (~held & (hospital == site) for site in range(4))]
    return Setting("four hospitals", sites, data.Visits(x[held], y[held], patient[held]), step=300)


def clinics(seed: int) -> Setting:
    """Fifty of 30 to 89 patients, each ill and missing in its own way; the test is of a clinic like their mean."""
    draw = np.random.default_rng(seed)
    sites = [
        data.visits(int(draw.integers(30, 90)), 10_000 * (seed + 1) + site, draw.normal(0, 0.8), draw.uniform(0, 0.5))
        for site in range(50)
    ]
    return Setting("fifty clinics", sites, data.visits(1000, 10_000 * (seed + 1) + 99, 0.0, 0.25), step=90)


# -- what tacit does ----------------------------------------------------------------------------------


class _Beside:
    """A keyholder in this process, as the opener asks one."""

    def __init__(self, keyholder: Keyholder):
        self.prepare, self.open, self.sign_head = keyholder.prepare, keyholder.open, keyholder.sign_head
        self._keyholder = keyholder

    def load(self, plan: Plan, newest: Head | None) -> None:
        self._keyholder.load(bytes(plan.raw), newest)


def together(setting: Setting, task: Task) -> Floats:
    """The weights, then the bias, after all rounds of the Task with all sites."""
    author = SigningKey.from_seed(os.urandom(32))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        keys = load_or_make(home / "coordinator", os.urandom)
        card = new_card(home / "keyholder", "embedded:", os.urandom)
        made = assemble(task, Parties(author.public, keys.sig.public, keys.enrolment.public, (card,)))
        plan = parse_plan(build_plan(made.manifest, made.charter, made.blobs, author))
        keyholder = Keyholder(home / "keyholder", frozenset({author.public}), os.urandom, time.time)
        store = local_store(home / "store", plan, keys.sig)
        opener = Opener(plan, keys.sig, [_Beside(keyholder)], 0, Trouble([None]))
        player = Player(plan.playable())
        devices = [SigningKey.from_seed(os.urandom(32)) for _ in setting.sites]
        manifest, plan_id, hour = plan.manifest, PlanId(plan.plan_id), int(time.time()) // 3600
        for version in range(manifest.noise.snapshots):
            _until(opener, store, version)
            head = store.newest()
            assert head is not None and head.version == version, "every round is of all sites"
            snapshot = decode_snapshot(store.snapshot(head.snapshot_hash), manifest.program.d)
            names = [KeyId(one.key_id) for one in manifest.keyholders]
            head_hash = sha256(preimage.head(plan_id, version, head.snapshot_hash, names))
            for site, key in zip(setting.sites, devices, strict=True):
                groups, order = members(site.patient), key.public
                rows, never = {"x": site.x}, lambda: False
                done = train_groups(player, rows, site.y, groups, manifest, snapshot, version, order, os.urandom, never)
                assert isinstance(done, Visit), done
                upload = make_update(
                    done.delta,
                    manifest=manifest,
                    plan_id=plan_id,
                    base_version=version,
                    head_hash=head_hash,
                    key=key,
                    hedge_key=os.urandom(32),
                    credential=sign_credential(keys.enrolment, DeviceKey(key.public), plan.lineage, hour + 24),
                    random=os.urandom,
                )
                store.accept([check_upload(upload, plan, head_hash, hour)], hour)
        _until(opener, store, manifest.noise.snapshots)
        head = store.newest()
        assert head is not None
        return decode_snapshot(store.snapshot(head.snapshot_hash), manifest.program.d).astype(np.float64)


def _until(opener: Opener, store: SqlStore, version: int) -> None:
    """Steps of the coordinator up to this Snapshot."""
    for _ in range(20):
        head = store.newest()
        if head is not None and head.version >= version and not opener.step(store, int(time.time())):
            return
        if head is None or head.version < version:
            opener.step(store, int(time.time()))


# -- what it is compared with ------------------------------------------------------------------------


def _rows(visits: Sequence[Any]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """All examples, with a one for the bias, ordered by patient; and where each patient begins."""
    x = np.concatenate([np.c_[one.x, np.ones(len(one))] for one in visits]).astype(np.float64)
    y = np.concatenate([one.y[:, 0] for one in visits]).astype(np.float64)
    patient = np.concatenate([one.patient + 10**6 * number for number, one in enumerate(visits)])
    order = np.argsort(patient, kind="stable")
    return x[order], y[order], np.r_[0, np.flatnonzero(np.diff(patient[order])) + 1]


def _gradients(x: Floats, y: Floats, weights: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x @ weights)) - y)[:, None] * x


def in_one_place(visits: Sequence[Any], step: float, epsilon: float, rounds: int, seed: int) -> Floats:
    """The same steps on all these patients at once, clipped by patient, with the noise of one mechanism."""
    x, y, starts = _rows(visits)
    multiplier = np.sqrt(rounds) / mu_of_epsilon(epsilon, DELTA)
    draw, weights = np.random.default_rng(seed), np.zeros(x.shape[1])
    for _ in range(rounds):
        each = np.add.reduceat(_gradients(x, y, weights), starts, axis=0)
        norms = np.linalg.norm(each, axis=1, keepdims=True)
        total = (each * np.minimum(1, CLIP / np.maximum(norms, 1e-12))).sum(0)
        weights = weights - RATE * (total + draw.normal(0, multiplier * CLIP, len(total))) / step
    return weights


def without_noise(visits: Sequence[Any]) -> Floats:
    """Logistic regression to its end, every example counting alike, by Newton's steps with a little ridge."""
    x, y, _ = _rows(visits)
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(len(weights))
        weights = weights - np.linalg.solve(hessian, x.T @ (p - y) + weights)
    return weights


def right(weights: Floats, test: Any) -> float:
    """The share of the test's examples that these weights get right."""
    said = test.x.astype(np.float64) @ weights[:-1] + weights[-1] > 0
    return float((said == (test.y[:, 0] > 0.5)).mean())


def alone(setting: Setting, epsilon: float, rounds: int, seed: int) -> float:
    found = [
        right(in_one_place([site], len(np.unique(site.patient)), epsilon, rounds, seed + number), setting.test)
        for number, site in enumerate(setting.sites)
    ]
    return statistics.mean(found)


def task_of(setting: Setting, epsilon: float, rounds: int) -> Task:
    """The example's Task for these sites."""
    task = load_task(EXAMPLE / "task.py")
    most = max(len(np.unique(site.patient)) for site in setting.sites)
    silo = Silo(epsilon, len(setting.sites), rounds, clip=CLIP, people=most, delta=DELTA)
    return replace(task, privacy=silo, local=replace(task.local, minibatch=setting.step))


def compare(settings: Sequence[Setting], epsilons: Sequence[float], rounds: int) -> Iterator[Row]:
    """The rows of one kind of setting, over its seeds."""
    name, count = settings[0].name, len(settings)
    patients = settings[0].patients
    whole = [right(without_noise(one.sites), one.test) for one in settings]
    yield _row(f"{name}, {patients} patients: no noise, one place", whole)
    for epsilon in epsilons:
        sites, place, single = [], [], []
        for seed, one in enumerate(settings):
            sites.append(right(together(one, task_of(one, epsilon, rounds)), one.test))
            print(f"{name}, ε = {epsilon:g}, {seed + 1} of {count}: {100 * sites[-1]:.1f} %", file=sys.stderr)
            draws = [
                right(in_one_place(one.sites, one.step * len(one.sites), epsilon, rounds, 100 * seed + k), one.test)
                for k in range(20)
            ]
            place.append(statistics.mean(draws))
            single.append(alone(one, epsilon, rounds, 1000 * seed))
        yield _row(f"{name}: sites, ε = {epsilon:g}", sites)
        yield _row(f"{name}: one place, ε = {epsilon:g}", place)
        yield _row(f"{name}: each site alone, ε = {epsilon:g}", single)


def _row(measure: str, shares: Sequence[float]) -> Row:
    spread = (
        f" (least {100 * min(shares):.1f}, most {100 * max(shares):.1f}, n={len(shares)})" if len(shares) > 1 else ""
    )
    return Row(measure, 100 * statistics.mean(shares), f"% right{spread}", "", None)


def bench(quick: bool, seeds: int) -> list[Row]:
    """Accuracy of sites that protect each patient, of one place at the same ε, and of sites alone."""
    epsilons, rounds = ((4.0,), 5) if quick else (EPSILONS, ROUNDS)
    seeds = 1 if quick else seeds
    rows: list[Row] = []
    four = [one for seed in range(seeds) if (one := hearts(seed)) is not None]
    if four:
        rows += compare(four, epsilons, rounds)
    else:
        print("hearts are not at hand; set TACIT_DATA to the folder that holds uci-heart", file=sys.stderr)
    return [*rows, *compare([clinics(seed) for seed in range(1 if quick else max(1, seeds // 2))], epsilons, rounds)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seeds", type=int, default=6, help="splits of the hearts; half as many draws of the clinics")
    asked, rest = parser.parse_known_args()
    raise SystemExit(run(partial(bench, seeds=asked.seeds), rest))
