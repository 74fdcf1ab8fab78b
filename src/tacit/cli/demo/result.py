"""The end of a run, told and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.cli.demo.audit import audit, claims_for, made_by, openings_of
from tacit.cli.demo.judge import Curve
from tacit.cli.demo.watch import Watched
from tacit.cli.figures import bytes_text, trust
from tacit.plan.bundle import Plan
from tacit.privacy.account import Statement, epsilon_text, statement
from tacit.privacy.trust import sentence


@dataclass(frozen=True)
class Spent:
    """ε of what ran, and what the same settings mean for a large fleet."""

    said: Statement
    landings: int  # of the device that landed most often
    fleet: Statement  # at a million devices, at most as many landings
    fleet_few: Statement  # the same, with landings limited as a large fleet would


FLEET, FLEET_BATCH, FLEET_LANDINGS = 1_000_000, 1000, 4


def spent(plan: Plan, landings: Mapping[str, int]) -> Spent:
    """ε of the device that landed most often, against one keyholder's noise; and of a large fleet.

    At a million devices a batch holds 1,000. For the same noise *in the mean* the noise in the sum is larger by
    that factor, while one device still adds at most one unit.
    """
    manifest, noise = plan.manifest, plan.manifest.noise
    most, allowed = max(landings.values(), default=0), manifest.participation.landings

    def said(count: int, less: float = 1.0) -> Statement:
        return statement(manifest.spent(count) ** 0.5 * less, manifest.delta, unit=noise.unit, trust=trust(plan))

    scale = manifest.batch.target / FLEET_BATCH
    return Spent(said(most), most, said(allowed, scale), said(min(FLEET_LANDINGS, allowed), scale))


def gather(
    plan: Plan, link: str, keyholder_port: int, devices: Sequence[Watched], curve: Curve, yardstick: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of the run; what became of Updates is counted from the devices' ledgers and the keyholder's lists."""
    manifest = plan.manifest
    made = made_by({device.role.name: device.home for device in devices}, plan)
    openings = openings_of(f"http://127.0.0.1:{keyholder_port}", plan)
    counted = audit(made, openings, claims_for(made, openings, link), max_age=manifest.batch.max_age, ended=True)
    cost = spent(plan, counted.landings)
    resources = manifest.program.resources
    sends = sum(device.sent for device in devices)
    alone = yardstick["alone"]
    return {
        "accuracy": curve.points[-1][2],
        "accuracy_snapshot": curve.points[-1][1],
        "accuracy_start": curve.points[0][1],
        "accuracy_central": yardstick["central"],
        "accuracy_alone_mean": sum(alone) / len(alone),
        "accuracy_alone_worst": min(alone),
        "accuracy_alone_best": max(alone),
        "bytes_up_per_device": sum(device.sent_bytes for device in devices) / len(devices),
        "bytes_full_model": 4 * resources.model_parameters * sends / len(devices),
        "update_bytes": sum(device.sent_bytes for device in devices) / max(1, sends),
        "updates_per_device": sends / len(devices),
        "model_parameters": resources.model_parameters,
        "trained_values": manifest.program.d,
        "arena_bytes": resources.arena,
        "training_bytes": resources.training_bytes,
        "full_training_bytes": resources.full_training_bytes,
        "device_peak_rss_bytes": max(device.peak_rss for device in devices),
        "epsilon": cost.said.epsilon,
        "delta": cost.said.delta,
        "unit": cost.said.unit,
        "relation": cost.said.relation,
        "privacy": cost.said.sentence,
        "landings_most": cost.landings,
        "landings_allowed": manifest.participation.landings,
        "epsilon_at_million": cost.fleet.epsilon,
        "epsilon_at_million_few": cost.fleet_few.epsilon,
        "privacy_at_million": cost.fleet.sentence,
        "trust": trust(plan).value,
        "trust_claimed": manifest.trust.value,
        "trust_sentence": sentence(trust(plan)),
        "updates_accepted": counted.accepted,
        "updates_opened": counted.opened,
        "updates_too_old": counted.too_old,
        "updates_waiting": counted.waiting,
        "updates_lost": counted.lost,
        "updates_doubled": counted.doubled,
        "updates_unknown": counted.unknown,
        "snapshots": sum(not opening.void for opening in openings),
        "plan_id": plan.plan_id.hex(),
    }


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
            f"privacy          spent by the device that landed most often: {result['privacy']}",
            f"  at scale       computed, not run: the same noise in the mean with batches of {FLEET_BATCH:,} out of "
            f"{FLEET:,} devices and at most {result['landings_allowed']} Updates each: {result['privacy_at_million']}",
            f"                 with at most {FLEET_LANDINGS} Updates each: "
            f"ε = {epsilon_text(result['epsilon_at_million_few'])}, in the same terms",
            f"trust            {result['trust_sentence']}",
            f"Updates          {result['updates_accepted']} accepted = {result['updates_opened']} opened in sums + "
            f"{result['updates_too_old']} too old + {result['updates_waiting']} waiting at the end; "
            f"{result['updates_lost']} lost; {result['updates_doubled']} doubled, {result['updates_unknown']} unknown",
            "                 (the devices' ledgers against the keyholder's lists)",
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
    epsilon_of: str,
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
    bottom.set(ylabel="ε so far", xlabel="Snapshot")
    bottom.set_title(epsilon_of, fontsize=8, loc="left")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)  # pyright: ignore[reportUnknownMemberType] - matplotlib leaves **kwargs untyped
    pyplot.close(figure)
