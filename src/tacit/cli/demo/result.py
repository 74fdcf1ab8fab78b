"""The end of a run: counted from the devices' ledgers and the keyholder's lists, then told and drawn."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.cli.figures import bytes_text
from tacit.privacy.account import epsilon_of_mu


@dataclass(frozen=True)
class Receipted:
    """An Update that a device holds a signed receipt for."""

    update_id: bytes
    device: str
    version: int  # the Snapshot it started from


@dataclass(frozen=True)
class Audit:
    """What became of every accepted Update. Neither figure is taken from the coordinator."""

    accepted: int
    opened: int
    too_old: int  # not opened within the ages the Plan allows
    waiting: int  # still young enough when the run ended
    lost: int
    doubled: int
    landings: Mapping[str, int]  # of each device


def audit(
    receipts: Sequence[Receipted],
    opened: Iterable[Sequence[bytes]],
    claims: Mapping[bytes, str],
    *,
    last: int,
    max_age: int,
    ended: bool,
) -> Audit:
    """Compare the devices' receipts with the keyholder's lists; `last` is the number of the last batch.

    An accepted Update that was not opened counts as lost unless the coordinator still owns up to it
    (`claims`: queued or expired) *and* the numbers bear that out: an expired one must have been too old
    before the last batch, a queued one still young enough; where the run has `ended`, no further batch will
    come for the young ones either, and both words mean that they waited in vain.

    >>> one = Receipted(b"a", "d", 0)
    >>> [audit([one], opened, {}, last=0, max_age=8, ended=True).lost for opened in ([[b"a"]], [])]
    [0, 1]
    """
    times: dict[bytes, int] = {}
    for batch in opened:
        for update_id in batch:
            times[update_id] = times.get(update_id, 0) + 1
    too_old = waiting = lost = 0
    landings: dict[str, int] = {}
    for receipt in receipts:
        old, said = receipt.version + max_age <= last, claims.get(receipt.update_id)
        if receipt.update_id in times:
            landings[receipt.device] = landings.get(receipt.device, 0) + 1
        elif old and said == "expired":
            too_old += 1
        elif not old and (said == "queued" or (ended and said == "expired")):
            waiting += 1
        else:
            lost += 1
    ids = [receipt.update_id for receipt in receipts]
    doubled = sum(count - 1 for count in times.values()) + len(ids) - len(set(ids))
    return Audit(len(receipts), len(times), too_old, waiting, lost, doubled, landings)


@dataclass(frozen=True)
class Spent:
    """ε of what ran, and what the same settings mean for a large fleet."""

    epsilon: float
    delta: float
    landings: int  # of the device that landed most often
    at_million: float


FLEET, FLEET_BATCH, FLEET_LANDINGS = 1_000_000, 1000, 4


def spent(landings: Mapping[str, int], noise: float, batch: int, delta: float) -> Spent:
    """`noise` is the deviation of the noise in one sum, in units of one device's bound.

    At a million devices a batch holds 1,000 instead of `batch`. For the same noise *in the mean* the noise in the
    sum is larger by that factor, while one device still adds at most one unit, and lands four times at most.

    >>> s = spent({"d": 25}, 0.1, 4, 1e-7)
    >>> round(s.epsilon), round(s.at_million, 2)
    (1509, 0.35)
    """
    most = max(landings.values(), default=0)
    epsilon = epsilon_of_mu(math.sqrt(most) / noise, delta)
    fleet_noise = noise * FLEET_BATCH / batch
    return Spent(epsilon, delta, most, epsilon_of_mu(math.sqrt(FLEET_LANDINGS) / fleet_noise, delta))


def table(result: Mapping[str, Any]) -> str:
    """The table at the end."""
    less = 1 - result["bytes_up_per_device"] / result["bytes_full_model"]
    memory = 1 - result["training_bytes"] / result["full_training_bytes"]
    return "\n".join(
        [
            "",
            f"accuracy         {result['accuracy']:.1%}   (Snapshot {result['snapshots']}; before any training "
            f"{result['accuracy_start']:.1%})",
            f"  central        {result['accuracy_central']:.1%}   the whole model trained on all the data in one place",
            f"  alone          {result['accuracy_alone_mean']:.1%}   mean of each device by itself "
            f"({result['accuracy_alone_worst']:.1%} to {result['accuracy_alone_best']:.1%})",
            f"bytes sent       {bytes_text(result['bytes_up_per_device'])} a device for "
            f"{result['updates_per_device']:.1f} Updates of {bytes_text(result['update_bytes'])}; {less:.0%} less "
            f"than the float32 model as often ({bytes_text(result['bytes_full_model'])})",
            f"memory           {bytes_text(result['training_bytes'])} to train (arena "
            f"{bytes_text(result['arena_bytes'])}), {memory:.1%} less than the whole model 32 at a time",
            f"  process        {bytes_text(result['device_peak_rss_bytes'])} at the peak of the largest device "
            "process, Python included",
            f"privacy          {result['privacy']}",
            f"  at scale       the same noise in the mean with batches of {FLEET_BATCH:,} out of {FLEET:,} "
            f"devices, {FLEET_LANDINGS} Updates each: ε = {result['epsilon_at_million']:.2g} at "
            f"δ = {result['delta']:g} (computed, not run)",
            f"trust            {result['trust_sentence']}",
            f"Updates          {result['updates_accepted']} accepted = {result['updates_opened']} opened in sums + "
            f"{result['updates_too_old']} too old + {result['updates_waiting']} waiting at the end; "
            f"{result['updates_lost']} lost, {result['updates_doubled']} doubled",
            "                 (the devices' receipts against the keyholder's lists)",
            f"mishaps          {result['mishaps']}",
            f"took             {result['seconds']:.0f} s",
            "",
            f"files            {result['folder']}",
            f"  picture        {result['picture']}",
        ]
    )


def draw(
    path: Path,
    curve: Sequence[tuple[int, float, float]],
    epsilons: Sequence[tuple[int, float]],
    central: float,
    alone: float,
) -> None:
    """Accuracy over Snapshots with its two yardsticks, and ε below, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    versions = [version for version, _, _ in curve]
    top.plot(versions, [100 * raw for _, raw, _ in curve], color="0.75", lw=1, label="each Snapshot")
    top.plot(versions, [100 * mean for _, _, mean in curve], color="C0", lw=2, label="average of Snapshots")
    top.axhline(100 * central, color="C2", ls="--", label=f"central {central:.1%}")
    top.axhline(100 * alone, color="C3", ls=":", label=f"each device alone {alone:.1%}")
    top.set(ylabel="right on the test images, %", title="Digits on twelve device processes")
    top.legend(loc="lower right")
    bottom.plot([version for version, _ in epsilons], [epsilon for _, epsilon in epsilons], color="C1")
    bottom.set(ylabel="ε, busiest device", xlabel="Snapshot")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)  # pyright: ignore[reportUnknownMemberType] - matplotlib leaves **kwargs untyped
    pyplot.close(figure)
