"""What an Update costs in bytes, error and time, and whether sending half of the values at a time would pay.

Bytes are those of the whole message, against the whole model in float32 and against codecs that need no sum: deltas
rounded at random to 8 and to 4 bits by their largest value, with the entropy of the symbols (what an ideal coder of
single symbols would take) and what zlib makes of them. Masked bytes look random, so no coder makes them shorter: what
masks cost is the ring less the entropy of our own integers. Deltas are those of one visit on drawn examples. Errors are
of the mean of a batch, in units of the clip; keyholders' noise is not among them.

Times are of the processor, of each step of making an Update, beside a copy of the delta.
"""

import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from harness import Row, interleaved, run
from models import MODELS, SGD, subset_of
from numpy.typing import NDArray

from tacit.codec.quantise import dequantise_sum, quantise
from tacit.codec.ring import pack
from tacit.codec.rotate import rotate, rotate_back
from tacit.compiler.compile import compile_program
from tacit.engine.player import Player
from tacit.plan.estimate import update_bytes
from tacit.plan.manifest import Quantisation
from tacit.plan.numbers import chosen_ring
from tacit.privacy.blt import Blt, Correlated, sensitivity
from tacit.privacy.clip import clip
from tacit.privacy.mask import masked

Floats = NDArray[np.floating]
NAME = b"c" * 32  # a charter's id, of whose signs nothing depends
KEYHOLDERS, VISITS, EXAMPLES, MINIBATCH = 2, 20, 64, 16
# Batch, and both keyholders' noise in one value of a sum in units of Q: a dozen devices that claim no ε, and
# blt/1 at ε = 8 with four landings (σ = 0.70, S_C = 3.8, A = 1.13).
SETTINGS = {"20 devices, noise 0.02": (20, 0.02), "1,000 devices, ε = 8": (1000, 0.7 * 3.8 * 1.13 * math.sqrt(2))}
CASES = (("HAR MLP", "head"), ("LeNet", "head"), ("LeNet", "input slices"), ("LeNet", "full"), ("ResNet-8", "full"))


def bench(quick: bool) -> Sequence[Row]:
    """Rows of bytes and errors, of times, and of the half that a version would send."""
    cases = CASES[:2] if quick else CASES
    rows = [row for model, subset in cases for row in bytes_and_errors(model, subset)]
    rows += [
        row for d in ((1000, 20_000) if quick else (1000, 100_000, 500_000)) for row in times(d, 5 if quick else 21)
    ]
    return [*rows, *halves(200 if quick else 1000, 1 if quick else 3)]


def bytes_and_errors(name: str, subset: str) -> Iterator[Row]:
    model = MODELS[name]
    whole = sum(parameter.numel() for parameter in model.module().parameters())
    deltas = visited(name, subset)
    d, bound = deltas[0].size, float(np.median([np.linalg.norm(delta) for delta in deltas]))
    clipped = [clip(delta, bound).values.astype(np.float64) for delta in deltas]
    for setting, (batch, noise) in SETTINGS.items():
        quant = chosen_ring(d, batch, bound, noise)
        what = f"{name}, {subset}, {setting}"
        message = update_bytes(d, quant.bits, KEYHOLDERS)
        yield Row(f"{what}: an Update of {d:,} values", message, "bytes", "", None)
        yield Row(f"{what}: of the whole model in float32", 100 * message / (4 * whole), "%", "", None)
        turned = " after the rotation" if quant.rotation != "none" else ""
        yield Row(f"{what}: the ring{turned}", quant.bits, "bits a value", "", None)
        if turned:
            plain = chosen_ring(d, batch, bound, noise, rotations=["none"])
            yield Row(f"{what}: the ring without the rotation", plain.bits, "bits a value", "", None)
        entropies = [entropy(integers(one, quant, turn)) for one in clipped for turn in (False, True)]
        least = min(np.mean(entropies[0::2]), np.mean(entropies[1::2]))
        yield Row(f"{what}: the entropy of the integers", float(least), "bits a value", "", None)
        error = mean_error(clipped, batch, bound, lambda one, quant=quant: decoded(one, quant))
        yield Row(f"{what}: error of the mean", 100 * error, "% of the clip", "at most 5", error <= 0.05)
        for bits in (8, 4):
            symbols = [uniform(one, bits)[0] for one in clipped]
            squeezed = [8 * len(zlib.compress(one.astype(np.int8).tobytes(), 9)) / d for one in symbols]
            error = mean_error(clipped, batch, bound, lambda one, bits=bits: np.multiply(*uniform(one, bits)))
            coded = f"{what}: unmasked in {bits} bits"
            yield Row(f"{coded}, entropy", float(np.mean([entropy(one) for one in symbols])), "bits a value", "", None)
            yield Row(f"{coded}, zlib", float(np.mean(squeezed)), "bits a value", "", None)
            yield Row(f"{coded}, error of the mean", 100 * error, "% of the clip", "", None)


def visited(name: str, subset: str) -> list[NDArray[np.float32]]:
    """The deltas of visits by devices with examples of their own."""
    model = MODELS[name]
    module, names = subset_of(model, subset)
    playable = compile_program(
        module, model.inputs, "y", model.classes, loss=model.loss, subset=names, microbatch=8, optimizer=SGD
    ).playable
    player, deltas = Player(playable), []
    parts = [np.arange(start, start + MINIBATCH) for start in range(0, EXAMPLES, MINIBATCH)]
    for device in range(VISITS):
        x, y = model.examples(EXAMPLES, seed=device)
        rows = player.keep({"x": x}) or {"x": x}
        weights = np.ones(EXAMPLES, np.float32)
        visiting = player.visit(rows, y, weights, parts, [0.01] * len(parts), playable.initial)
        while not visiting.play(0):
            pass
        deltas.append(visiting.delta.copy())
    return deltas


RNG = np.random.default_rng(0)


def integers(values: Floats, quant: Quantisation, turn: bool) -> NDArray[np.int64]:
    return quantise(rotate(values, NAME) if turn else values, quant.clip, quant.q, quant.q_in, RNG.bytes)


def decoded(values: Floats, quant: Quantisation) -> Floats:
    """What is left of one delta."""
    turn = quant.rotation != "none"
    found = dequantise_sum(integers(values, quant, turn), quant.clip, quant.q_in, 1)
    return rotate_back(found, NAME) if turn else found


def uniform(values: Floats, bits: int) -> tuple[Floats, float]:
    """The usual unmasked codec: whole steps of the largest value, rounded at random, and the step."""
    step = float(np.abs(values).max()) / (2 ** (bits - 1) - 1) or 1.0
    return np.floor(values / step + RNG.random(values.size)), step


def entropy(symbols: NDArray[np.integer] | Floats) -> float:
    """Bits a symbol, by how often each occurs."""
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(shares * np.log2(shares)).sum())


def mean_error(deltas: Sequence[Floats], batch: int, bound: float, coded: Callable[[Floats], Floats]) -> float:
    """How far the mean of a batch is off; where it is larger than there are deltas, each is rounded again and again."""
    chosen = [deltas[i % len(deltas)] for i in range(batch)]
    off = sum((coded(one) - one for one in chosen), np.zeros(deltas[0].size))
    return float(np.linalg.norm(off)) / batch / bound


def times(d: int, rounds: int) -> Iterator[Row]:
    values = np.random.default_rng(1).standard_normal(d).astype(np.float32)
    quant, copy = chosen_ring(d, 1000, 1.0, 0.02), np.empty_like(values)
    clipped = clip(values, 1.0).values
    q = quantise(clipped, 1.0, quant.q, quant.q_in, np.random.bytes)
    keys = [bytes([j]) * 16 for j in range(KEYHOLDERS)]
    words = masked(q, keys, quant.bits)
    steps: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(copy, values),
        "clip": lambda: clip(values, 1.0),
        "rotate": lambda: rotate(clipped, NAME),
        "quantise": lambda: quantise(clipped, 1.0, quant.q, quant.q_in, np.random.bytes),
        "mask for two keyholders": lambda: masked(q, keys, quant.bits),
        f"pack in {quant.bits} bits": lambda: pack(words, quant.bits),
    }
    again = max(1, 200_000 // d)

    def repeated(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: [work() for _ in range(again)]

    found = interleaved({name: repeated(work) for name, work in steps.items()}, rounds=rounds, clock=time.process_time)
    for name, timing in found.items():
        yield Row(f"{d:,} values, {name}", 1e9 * timing.median_s / again / d, "ns a value", "", None)
        if name != "copy":
            yield Row(f"{d:,} values, {name}", timing.ratio, "x the copy", "", None)


# Strategies fitted for four landings: 1,000 batches with 200 between, and 500 with 100 between.
FULL = Blt((0.49949, 0.81202, 0.98946, 0.98948), (0.14799, 0.17904, 0.05114, 0.1209))
HALF = Blt((0.5015, 0.69444, 0.98167, 0.97874), (0.18454, 0.08669, 0.01343, 0.22867))


def halves(batches: int, seeds: int) -> Iterator[Row]:
    """Softmax regression at ε = 1: all values a version, or a public half in turn at twice the rate and C/√2."""
    for mechanism, (full, half) in {"none": (None, None), "plain/1": ("", ""), "blt/1": (FULL, HALF)}.items():
        arms = {"all values": (full, 1), "half of them in turn": (half, 2)}
        for arm, (strategy, parts) in arms.items():
            found = [learnt(batches, parts, strategy, seed) for seed in range(seeds)]
            spread = f"({min(found):.1f} to {max(found):.1f})" if seeds > 1 else ""
            yield Row(f"{arm}, {mechanism}: accuracy {spread}".rstrip(), float(np.mean(found)), "%", "", None)
    for strategy, parts, arm in ((FULL, 1, "all values"), (HALF, 2, "half of them in turn")):
        size = sensitivity(strategy, 4, 200 // parts, 1000 // parts) * running_sum(strategy, 1000 // parts)
        yield Row(f"{arm}, blt/1: noise of the Snapshot", size * math.sqrt(parts), "C·W/μ a value", "", None)


def running_sum(strategy: Blt, batches: int) -> float:
    """The root mean square over time of the sum of C⁻¹z, z being standard normal."""
    noise = Correlated(strategy, 1)
    response = np.cumsum([noise.step(np.array([float(t == 0)]))[0] for t in range(batches)])
    return float(np.sqrt(np.mean(np.cumsum(response**2))))


def learnt(batches: int, parts: int, strategy: Blt | str | None, seed: int) -> float:
    """The accuracy of a softmax regression of 510 values after so many batches of 100 devices of ten examples each."""
    rng, n, each, features, classes, mu, landings = np.random.default_rng(seed), 100, 10, 50, 10, 0.214, 4
    centres = 0.35 * rng.normal(size=(classes, features))

    def drawn(labels: NDArray[np.integer]) -> Floats:
        x = centres[labels] + rng.normal(size=(*labels.shape, features))
        return np.concatenate((x, np.ones((*labels.shape, 1))), -1)

    d = (features + 1) * classes
    model, order = np.zeros(d), rng.permutation(d)
    pieces = np.array_split(order, parts)
    bound, rate = 1.0 / math.sqrt(parts), 0.15 * parts
    if isinstance(strategy, Blt):
        deviation = sensitivity(strategy, landings, max(1, batches // 5 // parts), batches // parts) / mu
        streams = [Correlated(strategy, piece.size) for piece in pieces]
    else:
        deviation, streams = (0.0 if strategy is None else math.sqrt(landings) / mu), None
    for t in range(batches):
        labels = rng.integers(0, classes, (n, 2))[:, rng.integers(0, 2, each)]  # each device knows two classes
        x = drawn(labels)
        logits = x @ model.reshape(features + 1, classes)
        chance = np.exp(logits - logits.max(-1, keepdims=True))
        chance /= chance.sum(-1, keepdims=True)
        chance[np.arange(n)[:, None], np.arange(each)[None], labels] -= 1
        piece = pieces[t % parts]
        deltas = -np.einsum("nei,nec->nic", x, chance).reshape(n, d)[:, piece] / each
        lengths = np.linalg.norm(deltas, axis=1, keepdims=True)
        deltas *= np.minimum(1.0, bound / lengths)
        z = rng.normal(size=piece.size) * deviation * bound
        model[piece] += rate * (deltas.sum(0) + (streams[t % parts].step(z) if streams else z)) / n
    labels = rng.integers(0, classes, 20_000)
    return 100 * float(np.mean((drawn(labels) @ model.reshape(features + 1, classes)).argmax(-1) == labels))


if __name__ == "__main__":
    sys.exit(run(bench))
