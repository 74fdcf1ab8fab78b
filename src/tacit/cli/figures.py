"""What a Plan is and costs, as figures and as the lines people read. No torch."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tacit.codec.errors import CodecError
from tacit.codec.ring import packed_size
from tacit.coordinator.bounds import longest_mean
from tacit.plan.bundle import Plan
from tacit.plan.checks import noise_total, room_text
from tacit.plan.claim import claim
from tacit.plan.manifest import Manifest, OnDevice
from tacit.plan.numbers import Numbers, chosen_ring, noise_to_signal
from tacit.plan.price import price, price_text
from tacit.plan.scouted import asks
from tacit.privacy.account import Statement, epsilon_text
from tacit.privacy.blt import Blt
from tacit.privacy.trust import Trust, sentence, trust_of

if TYPE_CHECKING:
    from tacit.compiler.assemble import Assembled


def promise(plan: Plan) -> Statement:
    """What the Plan promises over its whole life, as seen by somebody who knows no keyholder."""
    return claim(plan.manifest, plan.manifest.mu2_life, trust(plan))


def charter_promise(plan: Plan) -> Statement:
    """The same over every Plan of its charter together, which share one budget for a device."""
    return claim(plan.manifest, plan.charter.mu2_total, trust(plan))


def trust(plan: Plan) -> Trust:
    """The trust its keyholders give to somebody whose directory of operators is empty."""
    return trust_of([card.sig_pk for card in plan.manifest.keyholders], {})


def trust_text(plan: Plan) -> str:
    """What is said of its keyholders: what everybody may count on, and what its author claims."""
    text = sentence(trust(plan))
    operators = dict.fromkeys(card.operator for card in plan.manifest.keyholders if card.operator)
    if not operators:
        return text
    claim = plan.manifest.trust
    return (
        f"{text}\n           That is so for a device that pinned no key. Its author claims {claim}, with keyholders of "
        f"{', '.join(operators)}; a device that pinned theirs works it out by itself:\n           {sentence(claim)}"
    )


def figures(plan: Plan, size: int) -> dict[str, Any]:
    """The figures of a Plan, for machines."""
    manifest = plan.manifest
    program, resources, noise = manifest.program, manifest.program.resources, manifest.noise
    said = promise(plan)
    return {
        "plan_bytes": size,
        "trained_values": program.d,
        "scouted": [str(stretch) for stretch in program.scouted],
        "subset": [place.name for place in program.places if place.place == "state"],
        "arena_bytes": resources.arena,
        "arena_bound_bytes": resources.arena_bound,
        "training_bytes": resources.training_bytes,
        "full_training_bytes": resources.full_training_bytes,
        "kept_bytes_per_example": resources.kept_per_example,
        "operations_per_microbatch": resources.operations,
        "microbatch": program.microbatch,
        "upload_bytes": manifest.limits.max_upload_bytes,
        "payload_bytes": packed_size(manifest.words, manifest.quantisation.bits),
        "ring_bits": manifest.quantisation.bits,
        "rotation": manifest.quantisation.rotation,
        "batch": manifest.batch.target,
        "threshold": manifest.batch.threshold,
        "groups": manifest.batch.groups,
        "robust": type(manifest.batch.robust).__struct_config__.tag,
        "noise_of_groups": price(manifest.batch, manifest.values),
        "longest_step": longest_step(manifest),
        "snapshots": noise.snapshots,
        "landings": manifest.participation.landings,
        "separation": manifest.participation.separation,
        "mechanism": type(noise.mechanism).__struct_config__.tag,
        "sigma": noise.sigma,
        "sensitivity": noise.sensitivity,
        "gate": None if noise.gate is None else {name: getattr(noise.gate, name) for name in ("rows", "z", "eta")},
        "noise_to_signal": noise_of(plan),
        "epsilon": said.epsilon,
        "charter_epsilon": charter_promise(plan).epsilon,
        "most_plans": plan.charter.most_plans,
        "continues": None if manifest.continues is None else manifest.continues.plan_id.hex(),
        "device_class": manifest.device_class,
        "delta": said.delta,
        "relation": said.relation,
        "trust": trust(plan).value,
        "trust_claimed": plan.manifest.trust.value,
        "keyholders": [
            {"operator": card.operator, "sig_pk": card.sig_pk.hex(), "url": card.url}
            for card in plan.manifest.keyholders
        ],
        "unit": noise.unit,
    }


def summary(plan: Plan, size: int) -> str:
    """The lines `compile` and `inspect` print."""
    manifest = plan.manifest
    program, resources = manifest.program, manifest.program.resources
    subset = [place for place in program.places if place.place == "state"]
    quant, batch, noise = manifest.quantisation, manifest.batch, manifest.noise
    if resources.full_training_bytes:
        less = 1 - resources.training_bytes / resources.full_training_bytes
        against = (
            f"{less:.1%} less than training the whole model 32 examples at a time "
            f"({bytes_text(resources.full_training_bytes)}); "
        )
    else:
        against = ""
    kept = f"{bytes_text(resources.kept_per_example)} kept an example" if resources.kept_per_example else "nothing kept"
    each = "" if noise.unit == "device" else f" {noise.unit}s"
    passes = "1 pass" if manifest.local.epochs == 1 else f"{manifest.local.epochs} passes"
    return "\n".join(
        [
            f"Plan       {plan.name}   {bytes_text(size)}   signed by {plan.author.hex()[:16]}",
            f"asks       {asking.removeprefix('asks ')}"
            if (asking := asks(plan))
            else f"trains     {program.d:,} values: "
            + ", ".join(f"{place.name} {'x'.join(map(str, place.shape))}" for place in subset),
            f"memory     {bytes_text(resources.training_bytes)} to train: arena {bytes_text(resources.arena)}, state "
            f"{bytes_text(resources.state)}, in and out {bytes_text(resources.io)}, frozen "
            f"{bytes_text(resources.frozen_touched)}",
            f"           {against}the peak is at {resources.peak}; {kept}",
            f"visit      {passes} in minibatches of {manifest.local.minibatch}{each}, {program.microbatch} at a time, "
            f"{operations_text(resources.operations)} each",
            f"Update     at most {bytes_text(manifest.limits.max_upload_bytes)}: {quant.bits} bits a value and "
            f"{bytes_text(manifest.limits.max_upload_bytes - packed_size(manifest.words, quant.bits))} of keys, "
            "signatures",
            f"           {_ring(manifest)}",
            f"batch      opened at {batch.target}, never below {batch.threshold}; an Update may be "
            f"{batch.max_age} Snapshots old",
            *_rounds(manifest),
            f"life       {noise.snapshots:,} Snapshots, at most {manifest.participation.landings} Updates a device"
            + (
                f", {manifest.participation.separation:,} batches apart"
                if manifest.participation.separation > 1
                else ""
            ),
            f"noise      {_noise(plan)}",
            f"privacy    over the Plan's whole life, at most: {promise(plan).sentence}",
            f"charter    {_charter(plan)}",
            f"trust      {trust_text(plan)}",
        ]
    )


def _rounds(manifest: Manifest) -> list[str]:
    """What moves a Snapshot, and how far at most."""
    batch, quant = manifest.batch, manifest.quantisation
    groups = [f"groups     {price_text(batch, manifest.values)}"] if batch.groups > 1 else []
    return [
        *groups,
        f"bound      the mean of a full batch is at most {longest_step(manifest):.3g} long, noise included, for a clip "
        f"of {quant.clip:.3g}; a longer one is void",
    ]


def longest_step(manifest: Manifest) -> float:
    """The most that the mean of a full batch may be, before the server's rule."""
    return longest_mean([manifest.batch.weight_most] * manifest.batch.target, manifest)


def _noise(plan: Plan) -> str:
    noise = plan.manifest.noise
    if isinstance(noise.mechanism, OnDevice):
        return f"added by each device itself: σ = {noise.sigma:.4g}"
    how = "correlated from sum to sum" if isinstance(noise.mechanism, Blt) else "of its own for every sum"
    ratio = "" if (found := noise_of(plan)) is None else f"; {found:.2g} of the run's signal"
    gate = "" if noise.gate is None else f"; a gate, for μ² = {noise.gate.z**-2:.4g} a landing"
    return f"{how}: σ = {noise.sigma:.4g}, S_C = {noise.sensitivity:.4g}{ratio}{gate}"


def noise_of(plan: Plan) -> float | None:
    """The keyholders' noise over the signal of the run, where there is a run: the Plan trains, and they add some."""
    manifest = plan.manifest
    trains = not manifest.program.scouted and manifest.participation.cohort == "train"
    if not trains or isinstance(manifest.noise.mechanism, OnDevice):
        return None
    numbers = Numbers(manifest.quantisation, manifest.batch, manifest.participation, manifest.noise)
    return noise_to_signal(numbers, manifest.program.d, len(manifest.keyholders))


def _ring(manifest: Manifest) -> str:
    """Why the ring has so many bits, and what the rotation has to do with it."""
    batch, quant = manifest.batch, manifest.quantisation
    text = f"a sum fits: {room_text(manifest)} < 2^{quant.bits - 1}"
    if quant.rotation == "none":
        return text
    noise = noise_total(manifest) / quant.q
    try:
        wide = chosen_ring(manifest.values, batch.most, quant.clip, noise, batch.weight_most, rotations=["none"])
        plain = str(wide.bits)
    except CodecError:
        plain = "more than 32"
    return f"{text}; without the public rotation a value takes {plain} bits"


def _charter(plan: Plan) -> str:
    manifest, charter = plan.manifest, plan.charter
    number = 1
    text = ""
    if (continues := manifest.continues) is not None:
        number = continues.before + 1
        text = f"continues Plan {continues.plan_id.hex()[:8]} from its Snapshot {continues.version}; "
    if manifest.device_class:
        text += f"for the class {manifest.device_class} of {', '.join(charter.classes)}; "
    return (
        f"{text}Plan {number} of at most {charter.most_plans}; for one {manifest.noise.unit}, over all of them, at "
        f"most ε = {epsilon_text(charter_promise(plan).epsilon)}"
    )


def compared(made: "Assembled") -> dict[str, Any]:
    """The subset among others, for machines."""
    from tacit.compiler.planner.front import front_json

    assert made.family is not None, "a subset is trained"
    family = {"family": made.family.value, "proposals": [asdict(proposal) for proposal in made.proposals]}
    if made.found is not None:
        return family | {"front": front_json(made.found)}
    return family | {"candidates": [asdict(one) | {"fits": not one.stopped} for one in made.comparison or ()]}


def comparison_lines(made: "Assembled") -> list[str]:
    """The same as people read it."""
    from tacit.compiler.candidates import table
    from tacit.compiler.planner.front import front_lines

    assert made.family is not None, "a subset is trained"
    head = [
        f"family     {made.family.value}",
        *(f"proposed   {proposal.setting}: {proposal.reason}" for proposal in made.proposals),
    ]
    if made.found is not None:
        told = "a star is what was compiled, a dot a point that nothing beats in memory and in what is expected"
        return [*head, f"subsets    {told}; bytes, and seconds of a later visit's computing", *front_lines(made.found)]
    told = "a star is what was compiled; bytes: upload of one Update, memory of training, kept an example"
    return [*head, f"subsets    {told}", *table(made.comparison or ())]


def bytes_text(size: float) -> str:
    """A size as people read it.

    >>> bytes_text(1536), bytes_text(12)
    ('1.5 KiB', '12 B')
    """
    if size < 1024:
        return f"{size:.0f} B"
    power = min(3, int(math.log(size, 1024)))
    return f"{size / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def operations_text(count: int) -> str:
    """A count of operations as people read it.

    >>> operations_text(2_500_000)
    '2.5 million operations'
    """
    for size, word in ((10**9, "billion "), (10**6, "million "), (10**3, "thousand ")):
        if count >= size:
            return f"{count / size:.3g} {word}operations"
    return f"{count} operations"
