"""A visit in one call is the Player's steps, to the byte, and nothing it is told leads outside its buffers."""

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from tacit.engine import NotFinite, Player, WrongExamples
from tacit.engine.visit import FieldOf, PlaceOf, Progress, Result, RowsOf, Visiting, VisitOf
from tacit.plan.layout import TensorPlace, padded_size
from tacit.plan.program import Playable
from tacit.plan.tape import Fn, Kind, MapInput, MapInstruction, MapProgram, Mode, Op, Record, Region, map_parameters, up
from tests.engine.conftest import built
from tests.engine.test_player import (
    BIAS,
    CLASSES,
    DENSE,
    EACH,
    FEATURES,
    HIDDEN,
    IMAGES,
    INITIAL,
    LABELS,
    LOGITS,
    MICROBATCH,
    MOMENTUM,
    ONE,
    STATE,
    WEIGHT,
    Accumulate,
    Y,
    at,
    float_bits,
    logits,
    loss_parameters,
    small_model,
    tape,
    tensor,
)
from tests.plan.test_layout import places


@pytest.fixture(scope="module", autouse=True, params=["as built", "for any processor"])
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every visit here is played by the library as it is built, and by one of the kernels for any processor."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "as built":
            portable = built(request, "portable")
            patch.setattr("tacit.engine.tape.library", lambda: portable)
        yield


LINEAR, SCALAR = MapInput(Mode.LINEAR), MapInput(Mode.SCALAR)
CHANCE, PULL = 0.4, 0.25


def dropping_model() -> Playable:
    """The small model with dropout before its head, and a visit that is pulled back to where it began."""
    hidden, dropped = at(Region.KEPT, HIDDEN), at(Region.ARENA, HIDDEN)
    mask = at(Region.ARENA, HIDDEN, up(HIDDEN, 64))
    z, dz = at(Region.ARENA, LOGITS, 2 * up(HIDDEN, 64)), at(Region.ARENA, LOGITS, 2 * up(HIDDEN, 64) + 64)
    many, adds = MICROBATCH * FEATURES, Accumulate.UNLESS_FIRST
    drop = MapProgram(many, many, 1, (LINEAR, LINEAR), (MapInstruction(Fn.MUL, 2, 0, 1),), (2,))
    ce = loss_parameters(MICROBATCH, CLASSES)
    head = tensor(Region.GRADIENT, WEIGHT), at(Region.GRADIENT, 4 * CLASSES, BIAS.offset)
    train = (
        Record(Op.RANDOM_MASK, (mask, at(Region.SEED, 8)), (many, 0, float_bits(CHANCE))),
        Record(Op.MAP, (dropped, hidden, mask), map_parameters(drop)),
        logits(dropped, z),
        Record(Op.CROSS_ENTROPY, (at(Region.LOSS, 4), dz, z, Y, EACH, ONE), ce, adds),
        Record(Op.CONV_WEIGHT_GRADIENT, (head[0], None, dropped, dz), DENSE.parameters(), adds),
        Record(Op.SUM, (head[1], dz), (1, MICROBATCH, CLASSES, float_bits(1.0)), adds),
    )
    total = STATE // 4
    steps = (
        MapInstruction(Fn.SUB, 5, 2, 4),
        MapInstruction(Fn.MULI, 5, 5, imm=PULL),
        MapInstruction(Fn.ADD, 5, 5, 0),
        MapInstruction(Fn.MULI, 6, 1, imm=MOMENTUM),
        MapInstruction(Fn.ADD, 6, 6, 5),
        MapInstruction(Fn.MUL, 7, 6, 3),
        MapInstruction(Fn.SUB, 7, 2, 7),
    )
    program = MapProgram(total, total, 1, (LINEAR, LINEAR, LINEAR, SCALAR, LINEAR), steps, (6, 7))
    gradient, moment, state, start = (
        at(region, STATE) for region in (Region.GRADIENT, Region.MOMENT, Region.STATE, Region.START)
    )
    places = (moment, state, gradient, moment, state, at(Region.RATE, 4), start)
    apply = Record(Op.MAP, places, map_parameters(program))
    model = small_model()
    tapes = {**model.tapes, Kind.TRAIN: tape(Kind.TRAIN, *train), Kind.APPLY: tape(Kind.APPLY, apply)}
    return replace(model, tapes=tapes)


MODELS = {"plain": small_model(), "dropping": dropping_model()}


@dataclass
class Course:
    """What a visit is told."""

    model: str = "plain"
    kept: bool = False
    labels: Any = None
    weights: Any = None
    minibatches: Any = None
    rates: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.labels = LABELS if self.labels is None else self.labels
        self.weights = np.ones(10, np.float32) if self.weights is None else self.weights
        order = np.random.default_rng(self.seed % 97).permutation(10)
        self.minibatches = [order[:6], order[6:]] if self.minibatches is None else self.minibatches
        self.rates = [0.1] * len(self.minibatches) if self.rates is None else self.rates


@st.composite
def courses(draw: st.DrawFn) -> Course:
    """Minibatches of any sizes, examples more than once, weights of 0 among others."""
    some = st.sampled_from([0.0, 0.0, 1.0, 0.3, 2.5, 1e-6, 1e6])
    weights = np.array([draw(some) for _ in range(9)] + [1.0], np.float32)
    each = st.lists(st.integers(0, 9), min_size=1, max_size=11)
    minibatches = [np.array(part) for part in draw(st.lists(each, min_size=1, max_size=4))]
    minibatches = [part if weights[part].any() else np.append(part, 9) for part in minibatches]
    rates = [draw(st.sampled_from([0.01, 0.1, 0.003])) for _ in minibatches]
    return Course(
        draw(st.sampled_from(sorted(MODELS))),
        draw(st.booleans()),
        LABELS,
        weights,
        minibatches,
        rates,
        draw(st.sampled_from([0, 1, 77, 2**64 - 2, 2**65 + 3])),
    )


def rows_of(player: Player, course: Course, images: NDArray[np.float32]) -> Any:
    return player.keep({"image": images}) if course.kept else {"image": images}


def visiting(player: Player, course: Course, images: NDArray[np.float32] = IMAGES) -> Visiting:
    rows = rows_of(player, course, images)
    return player.visit(rows, course.labels, course.weights, course.minibatches, course.rates, INITIAL, course.seed)


def by_steps(player: Player, course: Course, images: NDArray[np.float32] = IMAGES) -> tuple[bytes, list[float]]:
    """The same visit by the Player's own steps: the delta, and the loss after each."""
    rows, losses = rows_of(player, course, images), []
    player.load(INITIAL)
    player.reseed(course.seed)
    for minibatch, rate in zip(course.minibatches, course.rates, strict=True):
        divisor = float(np.cumsum(course.weights[minibatch], dtype=np.float64)[-1])
        for start in range(0, len(minibatch), MICROBATCH):
            part = minibatch[start : start + MICROBATCH]
            given = [row[part] for row in rows] if course.kept else {name: v[part] for name, v in rows.items()}
            losses.append(player.step(given, course.labels[part], course.weights[part], divisor, start == 0))
        player.apply(rate)
    return (player.snapshot() - INITIAL).tobytes(), losses


@settings(max_examples=150)
@given(courses(), st.integers(0, 5))
def test_a_visit_is_the_players_steps_to_the_byte(course: Course, most: int):
    player, other = Player(MODELS[course.model]), Player(MODELS[course.model])
    visit, losses = visiting(player, course), []

    while not visit.over:
        visit.play(most)
        losses.append(visit.loss)

    delta, each = by_steps(other, course)
    assert visit.delta.tobytes() == delta
    assert player.snapshot().tobytes() == other.snapshot().tobytes()
    assert visit.microbatches == len(each) and visit.steps == len(course.minibatches)
    assert losses == (each[most - 1 :: most] if most else []) + ([each[-1]] if not most or len(each) % most else [])


def test_the_masks_and_the_pull_back_are_part_of_it():
    """The model of the property above really draws: another seed gives another delta."""
    deltas = {
        (model, seed): by_steps(Player(MODELS[model]), Course(model, seed=seed, minibatches=[np.arange(10)]))[0]
        for model in MODELS
        for seed in (1, 2)
    }

    assert deltas["plain", 1] == deltas["plain", 2]
    assert len(set(deltas.values())) == 3


@given(st.lists(places(), min_size=1, max_size=4))
def test_every_form_of_tensor_goes_into_its_panels_and_comes_back(tensors: list[TensorPlace]):
    """On tapes that train nothing and double the state: the delta is then the Snapshot."""
    ends = np.cumsum([up(4 * padded_size(place), 64) for place in tensors]).tolist()
    standing = tuple(changed(place, offset=at) for place, at in zip(tensors, [0, *ends], strict=False))[::-1]
    d, total = sum(int(np.prod(place.shape)) for place in standing), ends[-1] // 4
    double = MapProgram(total, total, 1, (LINEAR,), (MapInstruction(Fn.ADD, 1, 0, 0),), (1,))
    state = at(Region.STATE, ends[-1])
    model = MODELS["plain"]
    tapes = {
        Kind.TRAIN: tape(Kind.TRAIN, Record(Op.ZERO, (at(Region.LOSS, 4),), (4,))),
        Kind.APPLY: tape(Kind.APPLY, Record(Op.MAP, (state, state), map_parameters(double))),
    }
    snapshot = np.arange(1, d + 1, dtype=np.float32)
    program = changed(model.program, places=standing, d=d)
    player = Player(replace(model, program=program, tapes=tapes, initial=snapshot))
    visit = player.visit({"image": IMAGES}, LABELS, np.ones(10, np.float32), [np.arange(2)], [0.1], snapshot)

    visit.play()

    assert visit.delta.tobytes() == snapshot.tobytes()
    assert player.snapshot().tobytes() == (2 * snapshot).tobytes()


@pytest.mark.parametrize("after", [1, 2])
def test_a_visit_that_was_given_up_leaves_no_trace_in_the_next(after: int):
    player, course = Player(MODELS["dropping"]), Course("dropping")
    given_up = visiting(player, Course("dropping", seed=5))
    given_up.play(after)

    visit = visiting(player, course)
    visit.play()

    assert not given_up.over
    with pytest.raises(ValueError, match="no delta before a visit is over"):
        _ = given_up.delta
    assert visit.delta.tobytes() == by_steps(Player(MODELS["dropping"]), course)[0]


@settings(max_examples=30)
@given(courses(), st.integers(0, 9), st.sampled_from([np.inf, -np.inf, np.nan]))
def test_an_infinite_value_stops_a_visit_where_it_stops_the_steps(course: Course, example: int, value: float):
    images = IMAGES.copy()
    images[example, 1, 2, 2] = value
    player, other = Player(MODELS[course.model]), Player(MODELS[course.model])
    visit = visiting(player, course, images)

    try:
        delta, _ = by_steps(other, course, images)
    except NotFinite:
        with pytest.raises(NotFinite, match="loss is not a finite number"):
            visit.play()
        assert player.snapshot().tobytes() == other.snapshot().tobytes()
    else:
        visit.play()
        assert visit.delta.tobytes() == delta


def test_a_step_too_large_for_a_float_leaves_no_delta():
    visit = visiting(Player(MODELS["plain"]), Course(rates=[0.1, np.inf]))

    with pytest.raises(NotFinite, match="trained value became infinite"):
        visit.play()
    with pytest.raises(ValueError, match="no delta"):
        _ = visit.delta


def test_a_callback_sees_every_micro_batch_and_can_pause():
    player, seen = Player(MODELS["plain"]), []
    visit = visiting(player, Course())
    answers = iter([0, 1, 0])

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Progress))
    def after(context: int | None, progress: Any) -> int:
        at = progress.contents
        seen.append((context, at.microbatches, at.steps, at.within, at.loss))
        return next(answers)

    visit._visit.after, visit._visit.context = ctypes.cast(after, ctypes.c_void_p).value, 7
    paused, over = visit.play(), visit.play()

    delta, losses = by_steps(Player(MODELS["plain"]), Course())
    assert (paused, over) == (False, True) and visit.delta.tobytes() == delta
    assert seen == [(7, 1, 0, 4, losses[0]), (7, 2, 1, 0, losses[1]), (7, 3, 2, 0, losses[2])]


def test_visits_in_threads_do_not_disturb_each_other():
    alone = {seed: by_steps(Player(MODELS["dropping"]), Course("dropping", seed=seed))[0] for seed in range(4)}
    together: dict[int, bytes] = {}

    def train(seed: int) -> None:
        player = Player(MODELS["dropping"])
        for _ in range(20):
            visit = visiting(player, Course("dropping", seed=seed))
            visit.play()
            together[seed] = visit.delta.tobytes()

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert together == alone


@pytest.mark.parametrize(
    ("course", "says"),
    [
        (Course(weights=np.zeros(10, np.float32)), "a minibatch weighs nothing"),
        (Course(weights=np.full(10, np.float32(3e38))), "not finite"),
        (Course(weights=np.full(10, np.float32(-1))), "not negative"),
        (Course(weights=np.ones(9, np.float32)), "9 weights"),
        (Course(minibatches=[np.array([10])]), "outside 0 to 9"),
        (Course(minibatches=[np.array([-1])]), "outside 0 to 9"),
        (Course(minibatches=[np.array([2**32])]), "outside 0 to 9"),
        (Course(minibatches=[np.zeros(0, np.int64)]), "do not add up"),
        (Course(minibatches=[]), "do not add up"),
        (Course(rates=[0.1]), "a rate for every minibatch"),
        (Course(labels=np.full(10, CLASSES)), "outside 0 to 2"),
        (Course(labels=LABELS[:9]), "9 labels"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_a_sentence(course: Course, says: str):
    with pytest.raises(WrongExamples, match=says):
        visiting(Player(MODELS["plain"]), course).play()


def test_norms_of_whole_micro_batches_are_not_given_short_ones():
    model = MODELS["plain"]
    player = Player(replace(model, program=changed(model.program, whole=True)))
    some = np.array([1, 1, 1, 0, *[1] * 6], np.float32)

    for course in (Course(minibatches=[np.arange(5)]), Course(minibatches=[np.arange(4)], weights=some)):
        with pytest.raises(WrongExamples, match="whole micro-batches"):
            visiting(player, course).play()
    assert visiting(player, Course(minibatches=[np.arange(8)])).play()


def table(pointer: int, form: type) -> Any:
    return form.from_address(pointer)


Spoil = Callable[[VisitOf], object]


def spoilt(field: str, value: Any) -> Spoil:
    return lambda visit: setattr(visit, field, value)


def place(field: str, value: int) -> Spoil:
    return lambda visit: setattr(table(visit.places, PlaceOf), field, value)


def field(name: str, value: int) -> Spoil:
    return lambda visit: setattr(table(visit.fields, FieldOf), name, value)


def first_word(pointer: str, value: int) -> Spoil:
    return lambda visit: setattr(table(getattr(visit, pointer), ctypes.c_uint32), "value", value)


def size_of(region: Region, size: int) -> Spoil:
    return lambda visit: visit.size.__setitem__(region, size)


SPOILT: Mapping[str, tuple[Result, Spoil]] = {
    "no train tape": (Result.TAPES_WRONG, spoilt("train", None)),
    "no apply tape": (Result.TAPES_WRONG, spoilt("apply", None)),
    "the train tape as prefix": (Result.TAPES_WRONG, lambda visit: setattr(visit, "prefix", visit.train)),
    "a prefix and kept rows": (Result.TAPES_WRONG, spoilt("kept", 1)),
    "no places": (Result.PLACES_WRONG, spoilt("places", None)),
    "one place": (Result.PLACES_WRONG, spoilt("place_count", 1)),
    "another d": (Result.PLACES_WRONG, spoilt("values", 1)),
    "no snapshot": (Result.PLACES_WRONG, spoilt("snapshot", None)),
    "no delta": (Result.PLACES_WRONG, spoilt("delta", None)),
    "a place beyond the state": (Result.REGION_SMALL, place("offset", 4 * STATE)),
    "a place beyond all memory": (Result.REGION_SMALL, place("offset", 2**64 - 64)),
    "a place between floats": (Result.PLACES_WRONG, place("offset", 2)),
    "a tensor without outputs": (Result.PLACES_WRONG, place("outputs", 0)),
    "a tensor of too many groups": (Result.PLACES_WRONG, place("groups", 2**32 - 1)),
    "a tensor too large to count": (Result.PLACES_WRONG, place("pixels", 2**32 - 1)),
    "no fields": (Result.FIELDS_WRONG, spoilt("field_count", 0)),
    "no rows": (Result.FIELDS_WRONG, spoilt("rows", None)),
    "no examples": (Result.FIELDS_WRONG, spoilt("examples", 0)),
    "fewer rows than examples": (Result.FIELDS_WRONG, spoilt("examples", 11)),
    "more examples than memory": (Result.FIELDS_WRONG, spoilt("examples", 2**63)),
    "no micro-batch": (Result.FIELDS_WRONG, spoilt("microbatch", 0)),
    "a micro-batch beyond the regions": (Result.REGION_SMALL, spoilt("microbatch", 2**32 - 1)),
    "a field beyond X": (Result.REGION_SMALL, field("offset", 2**20)),
    "a field that ends beyond everything": (Result.REGION_SMALL, field("offset", 2**64 - 4)),
    "a row of nothing": (Result.FIELDS_WRONG, field("row", 0)),
    "a row that is no image": (Result.FIELDS_WRONG, field("channels", 5)),
    "a word that must be 0": (Result.FIELDS_WRONG, field("unused", 1)),
    "labels that are not there": (Result.FIELDS_WRONG, spoilt("labels", RowsOf(None, 2**20))),
    "labels that are too few": (Result.FIELDS_WRONG, lambda visit: setattr(visit.labels, "size", 39)),
    "a label beyond Y": (Result.REGION_SMALL, lambda visit: setattr(visit.label, "offset", 2**20)),
    "no order": (Result.ORDER_WRONG, spoilt("order", None)),
    "an example that is not there": (Result.ORDER_WRONG, first_word("order", 10)),
    "an empty minibatch": (Result.ORDER_WRONG, first_word("minibatches", 0)),
    "a minibatch beyond the order": (Result.ORDER_WRONG, first_word("minibatches", 2**32 - 1)),
    "examples left over": (Result.ORDER_WRONG, spoilt("step_count", 1)),
    "no steps": (Result.ORDER_WRONG, spoilt("step_count", 0)),
    "no rates": (Result.ORDER_WRONG, spoilt("rates", None)),
    "no weights": (Result.WEIGHTS_WRONG, spoilt("weights", None)),
    "a weight that is NaN": (Result.WEIGHTS_WRONG, first_word("weights", 0x7FC00000)),
    "a small arena": (Result.REGION_SMALL, size_of(Region.ARENA, 64)),
    "a small Y": (Result.REGION_SMALL, size_of(Region.Y, 12)),
    "no memory for the rate": (Result.REGION_SMALL, lambda visit: visit.memory.__setitem__(Region.RATE, None)),
    "memory out of step": (
        Result.REGION_ALIGNED,
        lambda visit: visit.memory.__setitem__(Region.LOSS, visit.memory[Region.LOSS] + 4),
    ),
    "memory twice": (
        Result.REGION_SHARED,
        lambda visit: visit.memory.__setitem__(Region.LOSS, visit.memory[Region.RATE]),
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_would_lead_outside_the_buffers_is_refused_and_nothing_is_touched(what: str):
    result, spoil = SPOILT[what]
    player = Player(MODELS["plain"])
    visit = visiting(player, Course())
    struct, progress = visit._visit, Progress()
    before = {region: block.tobytes() for region, block in player._memory.items()}

    spoil(struct)

    assert visit._engine.tacit_visit(ctypes.byref(struct), ctypes.byref(progress)) == result
    assert {region: block.tobytes() for region, block in player._memory.items()} == before
    assert progress.microbatches == 0 and not visit._delta.any()
    assert visit._engine.tacit_result_sentence(result).decode() != "no such result"


@pytest.mark.parametrize(
    ("later", "wanted"),
    [
        (lambda visit: setattr(table(visit.order + 16, ctypes.c_uint32), "value", 10), Result.ORDER_WRONG),
        (first_word("minibatches", 2**32 - 1), Result.ORDER_WRONG),
        (first_word("minibatches", 3), Result.ORDER_WRONG),
        (spoilt("step_count", 0), Result.PLAYED),
        (spoilt("order_count", 2), Result.ORDER_WRONG),
        (spoilt("examples", 1), Result.ORDER_WRONG),
    ],
)
def test_what_is_changed_under_a_visit_still_leads_nowhere(later: Spoil, wanted: Result):
    """The order is looked at again where it is used, because a visit pauses and its caller may write meanwhile."""
    visit = visiting(Player(MODELS["plain"]), Course(minibatches=[np.zeros(9, np.int64), np.arange(5)]))
    visit.play(1)

    later(visit._visit)
    visit._visit.most = 0
    result = visit._engine.tacit_visit(*visit._arguments)

    assert result == wanted


def test_the_library_says_how_large_each_region_is():
    """What the Player allocates for training alone, the frozen bytes among it."""
    player = Player(MODELS["dropping"])
    visit = visiting(player, Course("dropping"))
    struct = visit._visit

    sizes = {region: visit._engine.tacit_visit_region_size(ctypes.byref(struct), region) for region in Region}

    for region, size in sizes.items():
        assert size <= (player._memory[region].nbytes if region in player._memory else 0)
    for region in player._memory:
        struct.size[region] = sizes[region]
    assert visit._engine.tacit_visit(ctypes.byref(struct), ctypes.byref(Progress())) == Result.PLAYED
    for region in (region for region, size in sizes.items() if size):
        struct.size[region] -= 1
        assert visit._engine.tacit_visit(ctypes.byref(struct), ctypes.byref(Progress())) == Result.REGION_SMALL
        struct.size[region] += 1
