"""The numbers of a Plan: the inequalities every reader checks (device, coordinator, keyholder).

Nothing is trusted because it is signed: what can be computed is computed again. `broken_numbers` returns
the first sentence that does not hold, with its values, or nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from tacit.codec.errors import CodecError
from tacit.codec.quantise import inner_bound, ring_fits, sigma_total
from tacit.codec.ring import RING_BITS
from tacit.codec.rotate import MARGIN, largest_share
from tacit.plan.layout import TensorPlace, is_depthwise, stored_bytes
from tacit.plan.manifest import Alike, Bounded, Charter, KeyholderCard, Manifest, OnDevice, Plain, Trimmed
from tacit.plan.program import Program, has_confidence
from tacit.plan.server import Mean
from tacit.plan.silo import broken_silo
from tacit.plan.tape import ALIGNMENT, Kind, Number
from tacit.privacy.blt import Blt, broken, spread
from tacit.privacy.trust import Trust
from tacit.wire.ids import key_id
from tacit.wire.messages import MAX_KEYHOLDERS, Sketched

MOST_VALUES = 1 << 28
MOST_LANDINGS, MOST_SNAPSHOTS = 1 << 12, 1 << 20
LEAST_NOISE_UNDER_WEIGHTS = 4.0  # steps of the ring
MOST_IN_ROUND = 64
LEAST_ROWS, MOST_ROWS = 16, 256  # fewer let an attacker through too often
LEAST_Z, MOST_Z, MOST_ETA = 0.5, 1e3, 64.0
MOST_GROUPS, LONGEST_GROUP = 16, 32
MOST_GATE_DELTA = 1.01e-12  # 32 rows and η = 4.15 have 1.0008e-12


def broken_numbers(manifest: Manifest, charter: Charter, author: bytes, blobs: Mapping[str, int]) -> str | None:
    """The first thing that does not hold, in words; None where everything does."""
    for check in (
        _charter(manifest, charter, author),
        _evaluation(manifest, charter),
        _server(manifest),
        _model(manifest, blobs),
        _sums(manifest),
        _rounds(manifest),
        _trust(manifest),
        _privacy(manifest, charter),
        broken_silo(manifest),
    ):
        for sentence in check:
            return sentence
    return None


def _charter(manifest: Manifest, charter: Charter, author: bytes) -> Iterator[str]:
    if charter.author != author:
        yield "the charter names another author"
    if not 1 <= len(manifest.keyholders) <= MAX_KEYHOLDERS:
        yield f"it names {len(manifest.keyholders)} keyholders, and an Update is sealed to 1 to {MAX_KEYHOLDERS}"
    for card in manifest.keyholders:
        if card.sig_pk not in charter.keyholders:
            yield f"keyholder {card.key_id.hex()[:8]} is not in the charter"
        if len(card.sig_pk) != 32 or len(card.hpke_pk) != 32 or card.key_id != key_id(card.hpke_pk, card.sig_pk):
            yield f"keyholder {card.key_id.hex()[:8]} has an id that is not that of its keys"
    if len({card.sig_pk for card in manifest.keyholders}) != len(manifest.keyholders):
        yield "one keyholder is named twice"
    if manifest.limits.expires_at > charter.expires_at:
        yield "it outlives its charter"
    if manifest.device_class not in (charter.classes or ("",)):
        known = ", ".join(charter.classes) or "none"
        yield f"it is of class {manifest.device_class!r} and the classes of its charter are {known}"
    if (continues := manifest.continues) is not None:
        names = (continues.plan_id, continues.snapshot_hash, continues.lineage)
        if any(len(name) != 32 for name in names) or continues.before < 1:
            yield "what it says of the Plan that it continues cannot be"
        if (continues.lineage == continues.plan_id) != (continues.before == 1):
            yield f"a chain that began with another Plan than the last has more than {continues.before} before it"
        if continues.before >= charter.most_plans:
            yield f"it is Plan {continues.before + 1} of its chain and the charter allows {charter.most_plans}"
    if len(manifest.enrolment) != 32 or len(manifest.coordinator) != 32:
        yield "the keys of coordinator and enrolment must be 32 bytes each"


def _model(manifest: Manifest, blobs: Mapping[str, int]) -> Iterator[str]:
    program = manifest.program
    if program.runtime != "tape/1":
        yield f"its runtime is {program.runtime!r}, this tacit plays 'tape/1'"
    needed = {"frozen", "initial", *(f"tape/{k.name.lower()}" for k in Kind if k is not Kind.PREFIX)}
    if program.kept:
        needed.add("tape/prefix")
    for name in sorted(needed - blobs.keys()):
        yield f"{name} is missing"
    for name in sorted(blobs.keys() - needed):
        yield f"{name} has no use"
    if not 0 < program.d <= MOST_VALUES or program.microbatch < 1:
        yield f"it trains {program.d} values in micro-batches of {program.microbatch}"
    state = 0
    for place in program.places:
        if reason := _misplaced(place):
            yield f"tensor {place.name}: {reason}"
        elif place.place == "state":
            state += math.prod(place.shape)
        elif place.offset + stored_bytes(place) > blobs.get("frozen", 0):
            yield f"tensor {place.name} lies outside the frozen weights"
    if state != program.d:
        yield f"its trained tensors hold {state} values and it says d = {program.d}"
    if blobs.get("initial") != manifest.snapshot_bytes:
        yield f"Snapshot 0 has {blobs.get('initial')} bytes where d = {program.d} needs {manifest.snapshot_bytes}"
    if program.scouted:
        yield from _scouted(program)
    if program.cut is not None and not 0 < sum(program.cut.widths) <= MOST_VALUES:
        yield f"a projected head with {sum(program.cut.widths)} features is not possible"
    bias, classes = program.logit_bias, program.label.classes
    if manifest.local.balance and (bias is None or classes is None or not 0 <= bias <= program.d - classes):
        yield "balanced training needs the place of a trained output bias"
    if not (manifest.local.epochs >= 1 and manifest.local.minibatch >= 1):
        yield "a visit has no step (epochs and minibatch must be at least 1)"
    if program.whole and not (manifest.local.whole and manifest.local.minibatch == program.microbatch):
        yield "its norms use the statistics of whole minibatches, and it trains on others"


def _scouted(program: Program) -> Iterator[str]:
    if len(program.scouted) != program.d or len(set(program.scouted)) != program.d:
        count = len(set(program.scouted))
        yield f"it asks for {count} statistics of gradients and a visit's delta has {program.d} values"
    for stretch in program.scouted:
        ends = (stretch.start, stretch.stop)
        if ends != (None, None) and (None in ends or (stretch.start or 0) >= (stretch.stop or 0)):
            yield f"it asks for the gradients of {stretch}, which is no range"
    if program.logit_bias is not None or program.cut is not None or program.kept:
        yield "it asks for statistics of gradients and says what only a Plan that trains can have"


def _misplaced(place: TensorPlace) -> str | None:
    if not place.shape or any(size < 1 for size in place.shape) or math.prod(place.shape) > MOST_VALUES:
        return f"shape {place.shape} is not possible"
    if place.offset < 0 or place.offset % ALIGNMENT:
        return f"offset {place.offset} is not a multiple of {ALIGNMENT}"
    if place.form == "conv" and len(place.shape) != 4:
        return "a convolution's weight has four dimensions"
    sequence = place.form == "dense" and len(place.shape) == 3  # a convolution over a sequence: (O, C, K)
    if place.form == "dense" and len(place.shape) != 2 and not sequence:
        return "a dense weight has two dimensions, or three over a sequence"
    if place.form == "rows" and len(place.shape) != 2:
        return "an embedding's rows have two dimensions"
    grouped = place.form == "conv" or sequence
    if place.groups < 1 or (place.groups > 1 and (not grouped or place.shape[0] % place.groups)):
        return f"{place.groups} groups do not divide it"
    if place.form == "vector" and len(place.shape) != 1:
        return "a vector has one dimension"
    if reason := _narrow(place):
        return reason
    if place.image is not None and (place.form != "dense" or math.prod(place.image) != math.prod(place.shape[1:])):
        return f"its columns are not an image {place.image}"
    return None


def _narrow(place: TensorPlace) -> str | None:
    """Only what CONV reads may be held in fewer bits, and in those that it reads."""
    if place.number is Number.FLOAT32:
        return None
    if place.number is Number.BFLOAT16:
        return "weights are held in float32, float16 or int8"
    if place.place != "frozen" or place.form not in ("conv", "dense") or is_depthwise(place):
        return "only frozen weights of a layer that mixes channels are held in fewer bits"
    return None


def _sums(manifest: Manifest) -> Iterator[str]:
    quant, batch, d = manifest.quantisation, manifest.batch, manifest.values
    if quant.bits not in RING_BITS:
        yield f"a ring of {quant.bits} bits is not one of {RING_BITS}"
    if not 0 < quant.q < 1 << 20:
        yield f"Q = {quant.q} is not between 1 and 2^20"
        return
    try:
        inner = inner_bound(quant.q, d)
    except CodecError as error:
        yield f"Q = {quant.q} does not serve d = {d}: {error}"
        return
    if not 0 < quant.q_in <= inner:
        yield f"Q_in = {quant.q_in} is not between 1 and floor(sqrt(Q² - d/4 - 5Q)) = {inner}"
    if not 1 <= batch.threshold <= batch.target <= batch.most:
        yield f"threshold {batch.threshold} ≤ target {batch.target} ≤ most {batch.most} does not hold"
    if len(batch.weights) != batch.max_age + 1:
        yield f"it has {len(batch.weights)} age weights for ages 0 to {batch.max_age}"
    yield from _weights(manifest)
    if not ring_fits(quant.bits, batch.most, batch.weight_most, quant.q, noise_total(manifest), share_of(manifest)):
        yield f"a sum may wrap: {room_text(manifest)} is not below 2^{quant.bits - 1} = {1 << quant.bits - 1}"


def _rounds(manifest: Manifest) -> Iterator[str]:
    """Groups that are drawn from one crowd, and a mean of theirs that is worth its name."""
    batch, noise = manifest.batch, manifest.noise
    if not 1 <= batch.groups <= MOST_IN_ROUND:
        yield f"it has {batch.groups} groups, 1 to {MOST_IN_ROUND} are possible"
        return
    if isinstance(batch.robust, Trimmed) and not 1 <= batch.robust.cut <= (batch.groups - 1) // 2:
        yield f"of {batch.groups} groups it leaves out the {batch.robust.cut} on both sides, and none would be left"
    if batch.groups == 1 and not isinstance(batch.robust, Alike | Bounded):
        yield "of one group there is nothing to leave out"
    if batch.groups == 1 and isinstance(batch.robust, Alike):
        return
    if not isinstance(noise.mechanism, Plain) or manifest.evaluation is not None or manifest.program.scouted:
        yield "a robust mean, or groups, want a Plan that trains, and noise of its own for every sum (plain/1)"
    if batch.max_age < batch.groups - 1:
        yield (
            f"a round of {batch.groups} groups is as many versions, and with a max age of {batch.max_age} nothing is "
            "left for its last group"
        )
    if noise.snapshots % batch.groups:
        yield f"{noise.snapshots} batches are no whole number of rounds of {batch.groups}"


def share_of(manifest: Manifest) -> float:
    """What one value of an Update holds at most of its length. A sum beyond that wraps, which harms the model alone."""
    return 1.0 if manifest.quantisation.rotation == "none" else largest_share(manifest.values)


def room_text(manifest: Manifest) -> str:
    """What a sum needs of its ring, with the arithmetic."""
    quant, batch, share, total = manifest.quantisation, manifest.batch, share_of(manifest), noise_total(manifest)
    room = share * batch.most * batch.weight_most * quant.q + 8 * total
    formula, values = "n·W·Q", f"{batch.most}·{batch.weight_most}·{quant.q}"
    if share < 1:
        formula, values = f"6·{formula}/√B", f"6·{values}/√{round((MARGIN / share) ** 2)}"
    return f"{formula} + 8·σ_tot = {values} + 8·{total:.1f} = {room:.0f}"


def noise_total(manifest: Manifest) -> float:
    """The standard deviation of all keyholders' noise in one value of one sum, at its largest."""
    noise, big_q, weight = manifest.noise, manifest.quantisation.q, manifest.batch.weight_most
    match noise.mechanism:
        case OnDevice():
            return 0.0
        case Plain():
            amplified = 1.0
        case Blt() as blt:
            amplified = spread(blt, noise.snapshots)
    return sigma_total(len(manifest.keyholders), noise.sigma, noise.sensitivity, weight, big_q, amplified)


def _weights(manifest: Manifest) -> Iterator[str]:
    batch = manifest.batch
    if any(after > before for before, after in pairwise(batch.weights)) or min(batch.weights, default=1) < 1:
        yield f"its age weights {batch.weights} are not positive, or grow with age"
    if batch.weights and (reason := unequal_weights(manifest, manifest.trust)):
        yield reason


def unequal_weights(manifest: Manifest, trust: Trust) -> str | None:
    """Why weights by age may not stand under this trust: where the noise is known to somebody who sees the sum, they
    tell Updates apart. None where they may, or are all 1."""
    if manifest.batch.weight_most <= 1:
        return None
    single = manifest.noise.sigma * manifest.noise.sensitivity * manifest.quantisation.q
    if isinstance(manifest.noise.mechanism, OnDevice):
        return "age weights other than 1 are not allowed where keyholders add no noise"
    if trust is Trust.TWO_PARTY:
        return "age weights other than 1 are not allowed in two-party mode, whose keyholder knows the noise"
    if trust is Trust.THREE_PARTY and single < LEAST_NOISE_UNDER_WEIGHTS:
        return (
            f"age weights other than 1 need noise of at least {LEAST_NOISE_UNDER_WEIGHTS:g} steps: "
            f"σ·S_C·Q = {single:.3g}"
        )
    return None


def most_trust(cards: Sequence[KeyholderCard]) -> Trust:
    """The most that any device's directory could make of these keyholders, by the operators that they name."""
    operators = {card.operator for card in cards if card.operator}
    return (Trust.SINGLE_OPERATOR, Trust.TWO_PARTY, Trust.THREE_PARTY)[min(len(operators), 2)]


def _trust(manifest: Manifest) -> Iterator[str]:
    """What no directory could make true. Who is independent is for each device to say."""
    most = most_trust(manifest.keyholders)
    if not manifest.trust.at_most(most):
        operators = len({card.operator for card in manifest.keyholders if card.operator})
        yield f"it claims to be {manifest.trust} and its keyholders name {operators} operators: {most} at most"


def _evaluation(manifest: Manifest, charter: Charter) -> Iterator[str]:
    """What is said of a Snapshot is said of that one alone, and fits into the clip without being shortened."""
    asked, program = manifest.evaluation, manifest.program
    if (manifest.participation.cohort == "eval") != (asked is not None):
        yield f"it is for the cohort {manifest.participation.cohort!r} and says otherwise of what it asks"
    if asked is None:
        return
    if not charter.evaluators:
        yield "it is for the evaluation cohort and its charter names none"
    if len(asked.of) != 32 or manifest.continues is not None or program.scouted:
        yield "an evaluation judges the Snapshots of other Plans, continues none and asks for nothing else"
    if manifest.batch.max_age != 0:
        yield f"what a batch says would be of Snapshots up to {manifest.batch.max_age} versions apart"
    if manifest.quantisation.clip != 1 or not isinstance(manifest.noise.mechanism, Plain):
        yield "an evaluation has the clip 1 and plain/1 noise"
    if asked.right > (program.score == "accuracy") or (asked.bins and not asked.right):
        yield "it asks what is right where nothing is right or wrong"
    if len(set(asked.groups)) < len(asked.groups) or len(asked.groups) > MOST_GROUPS:
        yield f"it asks for {len(asked.groups)} groups: at most {MOST_GROUPS}, each once"
    if not all(0 < len(name) <= LONGEST_GROUP and name.isprintable() for name in asked.groups):
        yield f"a group's name has 1 to {LONGEST_GROUP} printable characters"
    if asked.bins and not has_confidence(program):
        yield "it asks for confidence where the model does not choose one class for an example"


def _server(manifest: Manifest) -> Iterator[str]:
    """What is read as a sum is added up as it is; and what a device says of its gradients has room for the others."""
    local, places, batch = manifest.local, manifest.batch.places, manifest.batch
    asks = manifest.evaluation is not None or manifest.program.scouted
    if asks and (manifest.server.optimizer != Mean() or manifest.server.average):
        yield "what its sums say is read as their mean, and its server's rule makes something else of them"
    if local.variance_weight and (asks or isinstance(manifest.noise.mechanism, OnDevice)):
        yield "a variance weight is for Plans that train and whose keyholders add the noise"
    if places is not None and batch.groups > 1:
        yield "places are for one Snapshot, and its groups are opened one after the other"
    if places is not None and not (places.selected >= batch.target and places.seconds >= 1):
        yield f"{places.selected} places of {places.seconds} s do not fill a batch of {batch.target}"


def _gate(manifest: Manifest) -> Iterator[str]:
    """Sketches whose noise is worth what is said of it, in a ring that holds them."""
    gate, quant = manifest.noise.gate, manifest.quantisation
    if gate is None:
        return
    if manifest.evaluation is not None or isinstance(manifest.noise.mechanism, OnDevice):
        # Nobody trains on an evaluation's answers. Of sites' Updates the sketches would need noise for the unit that
        # those protect, and sites are known by name.
        yield "a gate is for Plans that train and whose keyholders add the noise"
        return
    if not (LEAST_ROWS <= gate.rows <= MOST_ROWS and LEAST_Z <= gate.z <= MOST_Z and 1 < gate.eta <= MOST_ETA):
        yield (
            f"its gate has {gate.rows} rows, z = {gate.z:g} and η = {gate.eta:g}; {LEAST_ROWS} to {MOST_ROWS} rows, "
            f"z from {LEAST_Z:g} to {MOST_Z:g} and η from 1 to {MOST_ETA:g} are known"
        )
        return
    if gate.delta > MOST_GATE_DELTA:
        yield f"its gate adds {gate.delta:.2g} to δ for each landing, at most {MOST_GATE_DELTA:g} is allowed"
    if gate.rows * manifest.batch.most * 4 > Sketched.max_bytes // 2:
        yield f"{gate.rows} rows for each of {manifest.batch.most} Updates are more than one answer holds"
    if (needed := gate.bits(quant.q, len(manifest.keyholders))) > quant.bits:
        yield f"its gate's sketches need a ring of {needed} bits, and it has {quant.bits}"


def _privacy(manifest: Manifest, charter: Charter) -> Iterator[str]:
    noise, part, batch = manifest.noise, manifest.participation, manifest.batch
    if not noise.delta < 1e-3:
        yield f"delta = {noise.delta:g} is not below 0.001"
    if part.landings < 1 or part.separation < 1 or noise.snapshots < 1:
        yield "landings, separation and snapshots must be at least 1"
        return
    if part.landings > MOST_LANDINGS or noise.snapshots > MOST_SNAPSHOTS:
        yield f"{part.landings} landings in {noise.snapshots} batches are more than can be accounted for"
        return
    if isinstance(noise.mechanism, Blt):
        if reason := broken(noise.mechanism):
            yield reason
            return
        if part.devices < batch.target * (batch.max_age + part.separation):
            yield (
                f"correlated noise wants N ≥ n·(τ + sep) devices = {batch.target}·({batch.max_age} + {part.separation})"
                f" = {batch.target * (batch.max_age + part.separation)}, and it counts on {part.devices}"
            )
    if (noise.unit == "device") == isinstance(noise.mechanism, OnDevice) or noise.unit != charter.unit:
        yield f"its unit is the {noise.unit}, its charter's the {charter.unit}, and its noise protects another"
    yield from _gate(manifest)
    sensitivity = math.sqrt(manifest.squared_sensitivities[-1])
    if noise.sensitivity < sensitivity * (1 - 1e-12):
        yield f"it claims sensitivity {noise.sensitivity:g}; {part.landings} landings have {sensitivity:g}"
        return
    if noise.mu2_total < manifest.spent(part.landings) * (1 - 1e-12):
        yield (
            f"it claims a budget of mu² = {noise.mu2_total:g}; sigma = {noise.sigma:g} spends "
            f"{manifest.spent(part.landings):g}"
        )
    if noise.mu2_total > charter.mu2_total * (1 + 1e-12):
        yield f"mu² = {noise.mu2_total:g} is more than the charter's {charter.mu2_total:g}"
