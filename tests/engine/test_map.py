"""Maps: every function alone, then random programs with every way of reading an input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tacit.engine.memory import allocate
from tacit.engine.tape import VerifiedTape
from tacit.plan.tape import (
    IMMEDIATE,
    MAP_REGISTERS,
    TERNARY,
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
    map_parameters,
)
from tests.engine.played import play

pytestmark = pytest.mark.usefixtures("every_build")

F64 = NDArray[np.float64]
BINARY = (Fn.ADD, Fn.SUB, Fn.MUL, Fn.DIV, Fn.GATE, Fn.MAX, Fn.MIN)
LINEAR = MapInput(Mode.LINEAR)


def exact(fn: Fn, a: F64, b: F64, c: F64, imm: float) -> F64:
    with np.errstate(all="ignore"):
        match fn:
            case Fn.ADD:
                return a + b
            case Fn.SUB:
                return a - b
            case Fn.MUL:
                return a * b
            case Fn.DIV:
                return a / b
            case Fn.MADD:
                return a * b + c
            case Fn.MULI:
                return a * imm
            case Fn.ADDI:
                return a + imm
            case Fn.RELU:
                return np.where(a <= 0, 0, a)
            case Fn.GATE:
                return np.where(b <= 0, 0, a)
            case Fn.NEG:
                return -a
            case Fn.ABS:
                return np.abs(a)
            case Fn.MAX:
                return np.maximum(a, b)
            case Fn.MIN:
                return np.minimum(a, b)
            case Fn.EXP:
                return np.exp(a)
            case Fn.LOG:
                return np.log(a)
            case Fn.TANH:
                return np.tanh(a)
            case Fn.SIGMOID:
                return 1 / (1 + np.exp(-a))
            case Fn.SQRT:
                return np.sqrt(a)
            case Fn.RECIPROCAL:
                return 1 / a
            case Fn.SET:
                return np.full_like(a, imm)
            case Fn.ERF:
                return np.vectorize(math.erf)(a)
            case Fn.SELECT:
                return np.where(np.isnan(a), a, np.where(a > 0, b, c))


def apply(fn: Fn, *sources: NDArray[np.float32], imm: float = 0.0) -> NDArray[np.float32]:
    """One function over whole arrays."""
    total, count = sources[0].size, len(sources)
    step = MapInstruction(fn, count, *range(count), imm=imm) if fn is not Fn.SET else MapInstruction(fn, count, imm=imm)
    program = MapProgram(total, 1, total, (LINEAR,) * count, (step,), (count,))
    (out,) = play(Op.MAP, map_parameters(program), sources, outputs=(True,))
    return out.view(np.float32)


def ulps(got: NDArray[np.float32], wanted: F64) -> F64:
    """The distance in units in the last place of the float32 nearest to the exact value."""
    unit = np.spacing(np.maximum(np.abs(wanted), np.finfo(np.float32).tiny).astype(np.float32))
    return np.abs(got.astype(np.float64) - wanted) / unit


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1.2e-38], np.float32)


@pytest.mark.parametrize("fn", [f for f in Fn if f not in TERNARY])
def test_a_function_is_what_it_is_called_for_ordinary_and_special_values(fn: Fn):
    a, b = (grid.ravel() for grid in np.meshgrid(SPECIAL, SPECIAL))
    random = np.random.default_rng(0).standard_normal((2, 1003)).astype(np.float32)
    a, b = np.concatenate([a, random[0]]), np.concatenate([b, random[1]])

    got = apply(fn, a, b, imm=0.75) if fn in BINARY else apply(fn, a, imm=0.75)

    wanted = exact(fn, a.astype(np.float64), b.astype(np.float64), a.astype(np.float64), 0.75)
    with np.errstate(over="ignore"):
        wanted32 = wanted.astype(np.float32)
    wanted32[np.abs(wanted32) < np.finfo(np.float32).tiny] = 0
    np.testing.assert_allclose(got, wanted32, rtol=4e-7, atol=1.3e-38)


@pytest.mark.parametrize(
    ("fn", "low", "high", "most"),
    [
        (Fn.EXP, -87.3, 88.7, 1.0),
        (Fn.LOG, 1.2e-38, 3.4e38, 1.0),
        (Fn.LOG, 0.5, 2.0, 1.0),
        (Fn.TANH, -10.0, 10.0, 2.0),
        (Fn.SIGMOID, -80.0, 20.0, 3.0),
        (Fn.ERF, -4.5, 4.5, 2.0),
        (Fn.ERF, -1e-3, 1e-3, 2.0),
    ],
)
def test_elementary_functions_keep_the_error_they_state(fn: Fn, low: float, high: float, most: float):
    random = np.random.default_rng(1)
    x = random.uniform(low, high, 400_000)
    if high > 1e30:
        x = np.exp(random.uniform(np.log(low), np.log(high), 400_000))
    x = x.astype(np.float32)

    x64 = x.astype(np.float64)
    error = ulps(apply(fn, x), exact(fn, x64, x64, x64, 0))

    assert error.max() <= most


@st.composite
def programs(draw: st.DrawFn) -> MapProgram:
    """Straight-line programs without division or growth, so that rounding stays small."""
    channels, rows, examples = draw(
        st.one_of(
            st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4)),
            st.tuples(st.sampled_from([255, 256, 257, 300, 520]), st.integers(1, 3), st.integers(1, 3)),
        )
    )
    modes = draw(st.lists(st.sampled_from(Mode), min_size=1, max_size=5))
    far = {Mode.EXAMPLE_CHANNEL: (channels, channels + 3), Mode.PERIODIC: (1, 700)}
    strides = [draw(st.integers(*far[m])) if m in far else 0 for m in modes]
    functions = [Fn.ADD, Fn.SUB, Fn.RELU, Fn.GATE, Fn.NEG, Fn.ABS, Fn.MAX, Fn.MIN, Fn.TANH, Fn.MULI, Fn.ADDI, Fn.SET]
    steps: list[MapInstruction] = []
    known = list(range(len(modes)))
    for _ in range(draw(st.integers(1, 8))):
        fn, to = draw(st.sampled_from(functions)), draw(st.integers(len(modes), min(len(modes) + 4, MAP_REGISTERS - 1)))
        a, b = (draw(st.sampled_from(known)) for _ in range(2))
        steps.append(
            MapInstruction(
                fn,
                to,
                a=0 if fn is Fn.SET else a,
                b=b if fn in BINARY else 0,
                imm=draw(st.sampled_from([0.5, -1.0])) if fn in IMMEDIATE else 0.0,
            )
        )
        known.append(to)
    temporaries = sorted({r for r in known if r >= len(modes)})
    outputs = draw(st.lists(st.sampled_from(temporaries), min_size=1, max_size=8 - len(modes)))
    inputs = tuple(MapInput(m, s) for m, s in zip(modes, strides, strict=True))
    return MapProgram(examples * rows * channels, channels, rows, inputs, tuple(steps), tuple(outputs))


def spread(program: MapProgram, source: MapInput, x: NDArray[np.float32]) -> F64:
    """An input at every element."""
    i = np.arange(program.total)
    c, n = i % program.channels, i // (program.rows * program.channels)
    at = {
        Mode.LINEAR: i,
        Mode.SCALAR: 0 * i,
        Mode.CHANNEL: c,
        Mode.EXAMPLE_CHANNEL: n * source.stride + c,
        Mode.EXAMPLE: n,
        Mode.PERIODIC: i % max(source.stride, 1),
    }
    return x.astype(np.float64)[at[source.mode]]


def size(program: MapProgram, source: MapInput) -> int:
    examples = program.total // (program.rows * program.channels)
    return {
        Mode.LINEAR: program.total,
        Mode.SCALAR: 1,
        Mode.CHANNEL: program.channels,
        Mode.EXAMPLE_CHANNEL: (examples - 1) * source.stride + program.channels,
        Mode.EXAMPLE: examples,
        Mode.PERIODIC: min(source.stride, program.total),
    }[source.mode]


@settings(max_examples=200)
@given(programs(), st.integers(0, 99))
def test_a_program_computes_its_instructions_in_order(program: MapProgram, seed: int):
    random = np.random.default_rng(seed)
    inputs = [random.standard_normal(size(program, source)).astype(np.float32) for source in program.inputs]

    outputs = play(Op.MAP, map_parameters(program), inputs, outputs=(True,) * len(program.outputs))

    registers = dict(enumerate(spread(program, s, x) for s, x in zip(program.inputs, inputs, strict=True)))
    for step in program.instructions:
        sources = registers[step.a], registers[step.b] if step.b in registers else registers[0], registers[0]
        registers[step.to] = exact(step.fn, *sources, step.imm)
    for register, output in zip(program.outputs, outputs, strict=True):
        np.testing.assert_allclose(output.view(np.float32), registers[register], rtol=1e-5, atol=1e-4)


@given(st.integers(1, 1100))
def test_an_output_may_stand_on_a_linear_input(total: int):
    """As an optimizer does: the moment and the state are read and written in one pass."""
    steps = (
        MapInstruction(Fn.MULI, 3, 1, imm=0.9),
        MapInstruction(Fn.ADD, 4, 3, 0),
        MapInstruction(Fn.NEG, 3, 4),
        MapInstruction(Fn.ADD, 5, 3, 2),
    )
    program = MapProgram(total, total, 1, (LINEAR,) * 3, steps, (4, 5))
    moment, state = Operand(Region.MOMENT, 0, 4 * total), Operand(Region.STATE, 0, 4 * total)
    record = Record(
        Op.MAP, (moment, state, Operand(Region.GRADIENT, 0, 4 * total), moment, state), map_parameters(program)
    )
    sizes = {Region.MOMENT: 4 * total, Region.STATE: 4 * total, Region.GRADIENT: 4 * total}
    memory = allocate(sizes)
    g, m, s = (np.random.default_rng(i).standard_normal(total).astype(np.float32) for i in range(3))
    memory[Region.GRADIENT].view(np.float32)[:] = g
    memory[Region.MOMENT].view(np.float32)[:] = m
    memory[Region.STATE].view(np.float32)[:] = s

    VerifiedTape.load(encode(counted(Tape(Kind.APPLY, sizes, (record,))))).on(memory)()

    moment_now = m * np.float32(0.9) + g
    assert memory[Region.MOMENT].view(np.float32).tobytes() == moment_now.tobytes()
    assert memory[Region.STATE].view(np.float32).tobytes() == (-moment_now + s).tobytes()


def test_madd_multiplies_and_adds():
    a, b, c = (np.random.default_rng(i).standard_normal(999).astype(np.float32) for i in range(3))

    got = apply(Fn.MADD, a, b, c)

    np.testing.assert_allclose(got, a.astype(np.float64) * b + c, rtol=1e-6, atol=1e-6)


def test_select_takes_the_second_where_the_first_is_positive_and_keeps_nan():
    a = np.array([1, 0, -0.0, -1, np.nan, np.inf] * 7, np.float32)

    got = apply(Fn.SELECT, a, np.full_like(a, 2), np.full_like(a, 3))

    assert np.array_equal(got, np.array([2, 3, 3, 3, np.nan, 2] * 7, np.float32), equal_nan=True)
