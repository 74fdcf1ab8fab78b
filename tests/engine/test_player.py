"""A small model by hand: a frozen convolution, kept, and a trained linear layer on it."""

import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.engine import EngineMissing, NotFinite, Player, TapeRefused, VerifiedTape, WrongExamples
from tacit.engine.library import load
from tacit.engine.memory import aligned, allocate
from tacit.errors import InputError
from tacit.plan.layout import TensorPlace, pack, padded_size
from tacit.plan.program import Field, KeptTensor, Optimizer, Playable, Program, Resources
from tacit.plan.tape import (
    Accumulate,
    Fn,
    Kind,
    MapInput,
    MapInstruction,
    MapProgram,
    Mode,
    Op,
    Operand,
    Record,
    Region,
    Tape,
    counted,
    encode,
    float_bits,
    loss_parameters,
    map_parameters,
    scratch_bytes,
    up,
)
from tests.engine.test_conv import Shape, forward

MICROBATCH, CLASSES, MOMENTUM = 4, 3, 0.9
CONV = Shape(MICROBATCH, 3, 4, 2, 3, 3, 1, 1, 1, 1, 8)
FEATURES = 3 * 4 * 8
DENSE = Shape(MICROBATCH, 1, 1, FEATURES, 1, 1, 1, 1, 0, 0, CLASSES)

WEIGHT = TensorPlace("head.weight", (CLASSES, FEATURES), "dense", "state", 0, image=(8, 3, 4))
BIAS = TensorPlace("head.bias", (CLASSES,), "vector", "state", 4 * padded_size(WEIGHT))
KERNEL = TensorPlace("conv.weight", (8, 2, 3, 3), "conv", "frozen", 0)
SHIFT = TensorPlace("conv.bias", (8,), "vector", "frozen", 4 * padded_size(KERNEL))
STATE = BIAS.offset + 64
D = CLASSES * FEATURES + CLASSES
HIDDEN, LOGITS = 4 * MICROBATCH * FEATURES, 4 * MICROBATCH * CLASSES
SCRATCH = scratch_bytes(Op.CONV, CONV.parameters())


def at(region: Region, size: int, offset: int = 0) -> Operand:
    return Operand(region, offset, size)


def tensor(region: Region, place: TensorPlace) -> Operand:
    return at(region, 4 * padded_size(place), place.offset)


X = at(Region.X, 4 * MICROBATCH * 24)
Y, EACH, ONE = at(Region.Y, 4 * MICROBATCH), at(Region.WEIGHT, 4 * MICROBATCH), at(Region.DIVISOR, 4)


def convolve(to: Operand, scratch: Operand) -> Record:
    weights = tensor(Region.FROZEN, KERNEL), tensor(Region.FROZEN, SHIFT)
    return Record(Op.CONV, (to, scratch, X, *weights), CONV.parameters(act=1))


def logits(hidden: Operand, to: Operand) -> Record:
    weights = tensor(Region.STATE, WEIGHT), tensor(Region.STATE, BIAS)
    return Record(Op.CONV, (to, None, hidden, *weights), DENSE.parameters())


def tape(kind: Kind, *records: Record) -> bytes:
    """Regions as large as the records reach."""
    sizes: dict[Region, int] = {}
    for record in records:
        for operand in record.operands:
            if operand is not None:
                end = up(operand.offset + operand.extent, 64)
                sizes[operand.region] = max(end, sizes.get(operand.region, 0))
    return encode(counted(Tape(kind, sizes, records)))


def train_tape() -> bytes:
    hidden, z = at(Region.KEPT, HIDDEN), at(Region.ARENA, LOGITS)
    dz = at(Region.ARENA, LOGITS, 64)
    adds = Accumulate.UNLESS_FIRST
    loss = Record(
        Op.CROSS_ENTROPY, (at(Region.LOSS, 4), dz, z, Y, EACH, ONE), loss_parameters(MICROBATCH, CLASSES), adds
    )
    weight = Record(
        Op.CONV_WEIGHT_GRADIENT, (tensor(Region.GRADIENT, WEIGHT), None, hidden, dz), DENSE.parameters(), adds
    )
    bias_place = at(Region.GRADIENT, 4 * CLASSES, BIAS.offset)
    bias = Record(Op.SUM, (bias_place, dz), (1, MICROBATCH, CLASSES, float_bits(1.0)), adds)
    return tape(Kind.TRAIN, logits(hidden, z), loss, weight, bias)


def apply_tape() -> bytes:
    total = STATE // 4
    linear, steps = MapInput(Mode.LINEAR), []
    steps.append(MapInstruction(Fn.MULI, 4, 1, imm=MOMENTUM))
    steps.append(MapInstruction(Fn.ADD, 4, 4, 0))
    steps.append(MapInstruction(Fn.MUL, 5, 4, 3))
    steps.append(MapInstruction(Fn.SUB, 5, 2, 5))
    program = MapProgram(total, total, 1, (linear,) * 3 + (MapInput(Mode.SCALAR),), tuple(steps), (4, 5))
    moment, state, gradient = (at(r, STATE) for r in (Region.MOMENT, Region.STATE, Region.GRADIENT))
    places = (moment, state, gradient, moment, state, at(Region.RATE, 4))
    return tape(Kind.APPLY, Record(Op.MAP, places, map_parameters(program)))


def evaluate_tape(kind: Kind) -> bytes:
    hidden, scratch = at(Region.ARENA, HIDDEN), at(Region.ARENA, SCRATCH, up(HIDDEN, 64))
    if kind is Kind.PREDICT:
        return tape(kind, convolve(hidden, scratch), logits(hidden, at(Region.OUTPUT, LOGITS)))
    z, out = at(Region.ARENA, LOGITS, up(HIDDEN, 64)), at(Region.OUTPUT, 8 * MICROBATCH)
    score = Record(Op.CROSS_ENTROPY_SCORE, (out, z, Y, EACH), loss_parameters(MICROBATCH, CLASSES)[:4])
    return tape(kind, convolve(hidden, scratch), logits(hidden, z), score)


random = np.random.default_rng(5)
KERNEL_VALUES = random.standard_normal(KERNEL.shape).astype(np.float32)
SHIFT_VALUES = random.standard_normal(SHIFT.shape).astype(np.float32)
INITIAL = (0.1 * random.standard_normal(D)).astype(np.float32)
IMAGES = random.standard_normal((10, 2, 3, 4)).astype(np.float32)
LABELS = random.integers(0, CLASSES, 10)


def small_model() -> Playable:
    frozen = aligned(SHIFT.offset + 64)
    for place, values in ((KERNEL, KERNEL_VALUES), (SHIFT, SHIFT_VALUES)):
        frozen.view(np.float32)[place.offset // 4 :][: padded_size(place)] = pack(values, place)
    program = Program(
        runtime="tape/1",
        microbatch=MICROBATCH,
        d=D,
        places=(WEIGHT, BIAS, KERNEL, SHIFT),
        inputs=(Field("image", (2, 3, 4), "float32", 0, channels_last=True),),
        label=Field("label", (), "int32", 0, classes=CLASSES),
        kept=(KeptTensor("hidden", 0, 4 * FEATURES),),
        output_shape=(CLASSES,),
        optimizer=Optimizer(0.1, MOMENTUM),
        resources=Resources(64, 0, 0, 0, 0, 0, 0, 0, "head", 0, 0),
    )
    tapes = {
        Kind.PREFIX: tape(Kind.PREFIX, convolve(at(Region.KEPT, HIDDEN), at(Region.ARENA, SCRATCH))),
        Kind.TRAIN: train_tape(),
        Kind.APPLY: apply_tape(),
        Kind.EVALUATE: evaluate_tape(Kind.EVALUATE),
        Kind.PREDICT: evaluate_tape(Kind.PREDICT),
    }
    return Playable(program, tapes, frozen, INITIAL)


def hidden_exact(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """As PyTorch orders it: [n, C * H * W]."""
    shape = replace(CONV, n=len(images))
    h = forward(images.transpose(0, 2, 3, 1), KERNEL_VALUES, shape) + SHIFT_VALUES
    return np.maximum(h, 0).transpose(0, 3, 1, 2).reshape(len(images), -1)


class Exact:
    """The same model in float64."""

    def __init__(self):
        self.values, self.moment = INITIAL.astype(np.float64), np.zeros(D)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        w, b = self.values[: CLASSES * FEATURES].reshape(CLASSES, FEATURES), self.values[CLASSES * FEATURES :]
        return hidden_exact(images) @ w.T + b

    def losses(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        z = self.logits(images)
        return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]

    def train(self, images: NDArray[np.float32], labels: NDArray[np.int64], rate: float) -> float:
        loss, z = self.losses(images, labels).mean(), self.logits(images)
        dz = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        dz[np.arange(len(z)), labels] -= 1
        dz /= len(z)
        gradient = np.concatenate([(dz.T @ hidden_exact(images)).ravel(), dz.sum(axis=0)])
        self.moment = MOMENTUM * self.moment + gradient
        self.values = self.values - rate * self.moment
        return float(loss)


def test_a_snapshot_goes_in_and_comes_out():
    player, other = Player(small_model()), np.arange(D, dtype=np.float32)

    assert player.snapshot().tolist() == INITIAL.tolist()
    player.load(other)
    assert player.snapshot().tolist() == other.tolist()


def test_the_prefix_is_kept_in_rows_of_one_example():
    kept = Player(small_model()).keep({"image": IMAGES})

    assert kept is not None
    (rows,) = kept
    hidden = rows.view(np.float32).reshape(10, 3, 4, 8).transpose(0, 3, 1, 2).reshape(10, -1)
    np.testing.assert_allclose(hidden, hidden_exact(IMAGES), rtol=1e-5, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(1, 10), st.booleans())
def test_training_by_micro_batches_is_training_on_the_minibatch(n: int, from_kept: bool):
    player, exact, chosen = Player(small_model()), Exact(), np.arange(10)[::-1][:n]
    kept = player.keep({"image": IMAGES})
    assert kept is not None

    for _ in range(3):
        examples = kept if from_kept else {"image": IMAGES}
        loss = player.train_minibatch(examples, LABELS, chosen, rate=0.01)
        wanted = exact.train(IMAGES[chosen], LABELS[chosen], 0.01)
        assert loss == pytest.approx(wanted, rel=1e-3, abs=1e-5)

    np.testing.assert_allclose(player.snapshot(), exact.values, rtol=1e-3, atol=1e-4)


def test_kept_rows_and_images_train_to_the_same_bytes():
    kept_player, image_player = Player(small_model()), Player(small_model())
    kept, every = kept_player.keep({"image": IMAGES}), np.arange(10)
    assert kept is not None

    kept_player.train_minibatch(kept, LABELS, every, 0.1)
    image_player.train_minibatch({"image": IMAGES}, LABELS, every, 0.1)

    assert kept_player.snapshot().tobytes() == image_player.snapshot().tobytes()


def test_loading_forgets_momentum_and_gradients():
    player, fresh = Player(small_model()), Player(small_model())
    every = np.arange(10)
    player.train_minibatch({"image": IMAGES}, LABELS, every, 0.1)

    player.load(INITIAL)
    for each in (player, fresh):
        each.train_minibatch({"image": IMAGES}, LABELS, every, 0.1)

    assert player.snapshot().tobytes() == fresh.snapshot().tobytes()


def test_evaluation_and_prediction_start_from_the_images():
    player, exact = Player(small_model()), Exact()

    loss, right, n = player.evaluate({"image": IMAGES}, LABELS)
    z = player.predict({"image": IMAGES})

    assert n == 10
    assert loss == pytest.approx(exact.losses(IMAGES, LABELS).sum(), rel=1e-4)
    assert right == (exact.logits(IMAGES).argmax(axis=1) == LABELS).sum()
    np.testing.assert_allclose(z, exact.logits(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_weight_of_zero_is_no_example():
    with_it, without = Player(small_model()), Player(small_model())
    weights = np.array([1, 0, 0.5], np.float32)

    a = with_it.step({"image": IMAGES[:3]}, LABELS[:3], weights, 1.5, first=True)
    b = without.step({"image": IMAGES[[0, 2]]}, LABELS[[0, 2]], weights[[0, 2]], 1.5, first=True)

    assert a == b


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_step_that_leaves_the_numbers_stops_and_tells_nothing(value: float):
    player, images = Player(small_model()), IMAGES.copy()
    images[3, 1, 2, 2] = value

    with pytest.raises(NotFinite) as stopped:
        player.train_minibatch({"image": images}, LABELS, np.arange(10), 0.1)

    assert not any(character.isdigit() for character in str(stopped.value))
    assert player.snapshot().tolist() == INITIAL.tolist()


def test_what_stood_in_the_padding_does_not_matter():
    player, fresh = Player(small_model()), Player(small_model())
    with pytest.raises(NotFinite):
        player.train_minibatch({"image": np.full_like(IMAGES, np.nan)}, LABELS, np.arange(4), 0.1)

    for each in (player, fresh):
        each.load(INITIAL)
        each.train_minibatch({"image": IMAGES}, LABELS, np.arange(2), 0.1)

    assert player.snapshot().tobytes() == fresh.snapshot().tobytes()


@pytest.mark.parametrize(
    ("inputs", "labels", "says"),
    [
        ({"picture": IMAGES}, LABELS, "takes"),
        ({"image": IMAGES[:, :1]}, LABELS, "float32"),
        ({"image": IMAGES.astype(np.complex64)}, LABELS, "complex64"),
        ({"image": IMAGES}, LABELS[:9], "9 labels and 10 examples"),
        ({"image": IMAGES}, np.full(10, CLASSES), "outside 0 to 2"),
        ({"image": IMAGES}, np.full(10, -1), "outside 0 to 2"),
    ],
)
def test_examples_that_do_not_fit_are_refused(inputs: dict[str, NDArray], labels: NDArray, says: str):
    with pytest.raises(WrongExamples, match=says):
        Player(small_model()).evaluate(inputs, labels)


def test_a_step_takes_a_micro_batch_and_no_more():
    player = Player(small_model())

    with pytest.raises(WrongExamples, match="1 to 4 examples"):
        player.step({"image": IMAGES[:5]}, LABELS[:5], np.ones(5, np.float32), 5.0, first=True)
    with pytest.raises(WrongExamples, match="compute them anew"):
        player.step([np.zeros((2, 8), np.uint8)], LABELS[:2], np.ones(2, np.float32), 2.0, first=True)


def test_frozen_weights_may_be_a_read_only_map(tmp_path: Path):
    model = small_model()
    model.frozen.tofile(tmp_path / "frozen")
    mapped = np.memmap(tmp_path / "frozen", np.uint8, "r")

    z = Player(replace(model, frozen=mapped)).predict({"image": IMAGES})

    assert z.tobytes() == Player(model).predict({"image": IMAGES}).tobytes()


def test_frozen_weights_at_any_address_are_read_right():
    model = small_model()
    room = np.zeros(model.frozen.size + 1, np.uint8)
    room[1:] = model.frozen

    z = Player(replace(model, frozen=room[1:])).predict({"image": IMAGES})

    assert z.tobytes() == Player(model).predict({"image": IMAGES}).tobytes()


def test_a_plan_that_does_not_add_up_is_refused():
    model = small_model()

    def without(kind: Kind) -> Playable:
        return replace(model, tapes={k: v for k, v in model.tapes.items() if k is not kind})

    def changed(**fields: object) -> Playable:
        return replace(model, program=msgspec.structs.replace(model.program, **fields))

    refused = [
        (without(Kind.TRAIN), "without a train tape"),
        (replace(model, tapes={**model.tapes, Kind.PREDICT: model.tapes[Kind.TRAIN]}), "says that it is a train tape"),
        (replace(model, frozen=model.frozen[:-64]), "frozen bytes"),
        (replace(model, initial=INITIAL[:-1]), "do not add up"),
        (changed(d=D + 1), "do not add up"),
        (changed(microbatch=0), "does not exist"),
        (changed(kept=(KeptTensor("hidden", -4, 4),)), "does not exist"),
        (changed(label=Field("label", (2,), "int32", 0)), "one of so many classes"),
        (changed(inputs=(Field("image", (2,), "float64", 0),)), "does not know"),
    ]
    for playable, says in refused:
        with pytest.raises(InputError, match=says):
            Player(playable)
    with pytest.raises(InputError, match="are allowed; nothing was run"):
        Player(model, most_memory=100)
    with pytest.raises(TapeRefused, match="more operations"):
        Player(model, most_operations=100)
    with pytest.raises(InputError, match="has 4 values"):
        Player(model).load(INITIAL[:4])


def test_the_arena_is_shared_by_all_tapes():
    player = Player(small_model())

    assert player.arena_bytes == up(HIDDEN, 64) + up(SCRATCH, 64)
    gradients_and_state = 3 * STATE
    io = up(HIDDEN, 64) + 5 * 64  # kept; labels, weights, divisor, loss and rate
    assert player.training_bytes == 128 + gradients_and_state + io


def test_many_threads_play_one_tape_on_memory_of_their_own():
    model, images = small_model(), IMAGES[:4].transpose(0, 2, 3, 1).ravel()
    weights = np.random.default_rng(0).standard_normal(STATE // 4).astype(np.float32)
    shared = VerifiedTape.load(model.tapes[Kind.PREDICT])
    results: dict[int, bytes] = {}

    def play(which: int) -> None:
        memory = allocate({r: s for r, s in shared.regions.items() if r is not Region.FROZEN})
        memory[Region.FROZEN] = model.frozen
        memory[Region.STATE].view(np.float32)[:] = weights
        memory[Region.X].view(np.float32)[:] = (which + 1) * images
        on = shared.on(memory)
        for _ in range(200):
            on()
        results[which] = memory[Region.OUTPUT].tobytes()

    threads = [threading.Thread(target=play, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(results)
    for which in range(4):
        play(which)
    assert together == results
    assert len(set(results.values())) == 4


def test_denormals_are_flushed_inside_and_kept_outside():
    program = MapProgram(16, 16, 1, (MapInput(Mode.LINEAR),), (MapInstruction(Fn.MULI, 1, 0, imm=1.0),), (1,))
    place, to = at(Region.X, 64), at(Region.ARENA, 64)
    played = VerifiedTape.load(tape(Kind.PREFIX, Record(Op.MAP, (to, place), map_parameters(program))))
    memory, tiny = allocate(played.regions), np.full(16, 1e-40, np.float32)
    memory[Region.X].view(np.float32)[:] = tiny

    played.on(memory)()

    assert not memory[Region.ARENA].any()
    assert (tiny * np.float32(1.0)).tobytes() == tiny.tobytes()


def test_memory_that_does_not_fit_is_refused_before_anything_is_played():
    played = VerifiedTape.load(tape(Kind.PREFIX, Record(Op.ZERO, (at(Region.ARENA, 64),), (64,))))

    with pytest.raises(ValueError, match="ARENA needs 64 bytes"):
        played.on({Region.ARENA: aligned(32)})
    with pytest.raises(ValueError, match="multiple of 64"):
        played.on({Region.ARENA: aligned(128)[4:]})


def test_regions_that_overlap_are_refused():
    copy = Record(Op.COPY, (at(Region.ARENA, 64), at(Region.X, 64)), (16, 1, 1, 1, 1, *(0,) * 3, 1, *(0,) * 3))
    played, block = VerifiedTape.load(tape(Kind.PREFIX, copy)), aligned(64)

    with pytest.raises(ValueError, match="share memory"):
        played.on({Region.ARENA: block, Region.X: block})()


def test_a_missing_library_says_what_to_run(tmp_path: Path):
    (tmp_path / "libtacit.so").write_bytes(b"not a library")

    with pytest.raises(EngineMissing, match="make engine"):
        load(tmp_path / "nothing.so")
    with pytest.raises(EngineMissing, match="cannot be loaded"):
        load(tmp_path / "libtacit.so")
