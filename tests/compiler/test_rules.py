"""Every rule of a legal graph fires on a graph that breaks it, and names the pass and the step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tacit.compiler.errors import RuleBroken
from tacit.compiler.ir import Graph, Step, Value
from tacit.compiler.lower import lower_training
from tacit.compiler.rules import GRAPH, check
from tacit.compiler.trace import model_of, trace_step
from tacit.compiler.weights import Weights
from tacit.plan.tape import Accumulate, Fn, Kind, MapInput, MapInstruction, Mode, Op, Region, float_bits
from tests.compiler.models import CLASSES, build


def legal() -> Graph:
    net = build("lenet")
    model = model_of(net, {"x": ((1, 12, 12), "float32")}, CLASSES)
    subset = [name for name, _ in net.named_parameters()]
    weights = Weights({**model.parameters, **model.buffers}, subset)
    return lower_training(trace_step(model), model, weights, 4)


def first(graph: Graph, op: Op) -> Step:
    return next(step for step in graph.steps if step.op is op)


def with_step(graph: Graph, old: Step, new: Step) -> Graph:
    return graph.with_steps(new if step is old else step for step in graph.steps)


def changed(op: Op, **fields: Any) -> Callable[[Graph], Graph]:
    """The graph with the first such step changed."""
    return lambda graph: with_step(graph, first(graph, op), replace(first(graph, op), **fields))


def without(op: Op) -> Callable[[Graph], Graph]:
    return lambda graph: graph.with_steps(step for step in graph.steps if step is not first(graph, op))


def twice(op: Op) -> Callable[[Graph], Graph]:
    return lambda graph: graph.with_steps([*graph.steps, first(graph, op)])


def other_value(op: Op, **fields: Any) -> Callable[[Graph], Graph]:
    """The graph where the first result of the first such step is another kind of value."""

    def change(graph: Graph) -> Graph:
        (old, *_) = first(graph, op).written()
        return graph.with_values({old: replace(old, **fields)})

    return change


def program(**fields: Any) -> Callable[[Graph], Graph]:
    def change(graph: Graph) -> Graph:
        step = first(graph, Op.MAP)
        assert step.program is not None
        return with_step(graph, step, replace(step, program=replace(step.program, **fields)))

    return change


def reading_its_result(graph: Graph) -> Graph:
    step = first(graph, Op.MAP)
    return with_step(graph, step, replace(step, outputs=(step.read()[0],)))


def sharing_scratch(graph: Graph) -> Graph:
    convolutions = [step for step in graph.steps if step.op is Op.CONV_INPUT_GRADIENT]
    wanted, other = convolutions[:2]
    assert wanted.outputs[1] is not None and other.outputs[1] is not None
    return graph.with_values({other.outputs[1]: replace(wanted.outputs[1], shape=(64,))})


def one_example_for_all(graph: Graph) -> Graph:
    step = first(graph, Op.MAP)
    assert step.program is not None
    changed_program = replace(step.program, inputs=(MapInput(Mode.SCALAR),))
    x = replace(step.read()[0], shape=(1,))
    return Graph(graph.kind, (replace(step, inputs=(x,), program=changed_program),), (), graph.microbatch)


def two_gradients(graph: Graph) -> Graph:
    return replace(graph, results=(*graph.results, graph.results[-1]))


X, Y = Value("x", (4, 1, 2, 8), Region.ARENA), Value("y", (4, 1, 2, 8), Region.ARENA)


def copying(sizes: tuple[int, ...], pace: tuple[int, ...], strides: tuple[int, ...], begin: int = 0) -> Graph:
    """A copy of four examples of 16 numbers, or of a part of them."""
    step = Step(Op.COPY, (Y,), (X.part(begin),), (*sizes, *strides, *pace))
    return Graph(Kind.TRAIN, (step,), (), 4)


def multiplying(*parameters: int) -> Graph:
    step = Step(Op.MATMUL, (Y, None), (X, replace(X, name="w")), (*parameters, float_bits(1.0)))
    return Graph(Kind.TRAIN, (step,), (), 4)


def an_example_later(_: Graph) -> Graph:
    return copying((1, 1, 3, 16), (0, 0, 16, 1), (0, 0, 16, 1), begin=16)


def across_examples(_: Graph) -> Graph:
    return copying((1, 1, 4, 16), (0, 0, 1, 4), (0, 0, 16, 1))


def each_example_with_each(_: Graph) -> Graph:
    return multiplying(1, 1, 4, 4, 16, 0, 0, 16, 1, 0, 0, 1, 16, 0, 0, 16, 1)


def summed_over_examples(_: Graph) -> Graph:
    return multiplying(1, 1, 16, 1, 4, 0, 0, 1, 16, 0, 0, 16, 1, 0, 0, 1, 1)


MET = Value("gradient of w", (16,), Region.ARENA, batched=False, tensor="w")


def given_back_to_examples(_: Graph) -> Graph:
    met = Step(Op.SUM, (MET,), (X,), (1, 4, 16, float_bits(1.0)))
    back = Step(Op.COPY, (Y,), (MET,), (1, 1, 4, 16, 0, 0, 0, 1, 0, 0, 16, 1))
    return Graph(Kind.TRAIN, (met, back), (), 4)


def added_to_nothing(_: Graph) -> Graph:
    met = Step(Op.SUM, (MET,), (X,), (1, 4, 16, float_bits(1.0)), Accumulate.YES)
    return Graph(Kind.TRAIN, (met,), (), 4)


GATE_TOO_EARLY = (MapInstruction(Fn.GATE, 1, 0, 5),)
BROKEN: list[tuple[str, Callable[[Graph], Graph]]] = [
    ("operation has the operands", changed(Op.MAX_POOL, inputs=())),
    ("operation has the operands", changed(Op.SUM, parameters=(1, 2))),
    ("operation has the operands", changed(Op.MAX_POOL, outputs=(None, None))),
    ("what is read was written before", without(Op.CONV)),
    ("a value is written once", twice(Op.MAX_POOL)),
    ("a value is written once", twice(Op.CROSS_ENTROPY)),
    ("a value is written once", changed(Op.CONV_WEIGHT_GRADIENT, accumulate=Accumulate.YES)),
    ("a value is written once", added_to_nothing),
    ("every result is written", without(Op.CONV_WEIGHT_GRADIENT)),
    ("a tape writes only the regions", other_value(Op.MAX_POOL, region=Region.STATE)),
    ("an operand has the size", other_value(Op.MAX_POOL, shape=(4, 1, 1, 1))),
    ("an operand has the type", other_value(Op.CONV, dtype="int32")),
    ("no step writes a value that it reads", reading_its_result),
    ("a map's registers", program(instructions=GATE_TOO_EARLY)),
    ("a map's registers", program(outputs=(9,))),
    ("a map's registers", program(instructions=tuple(MapInstruction(Fn.NEG, i + 1, i) for i in range(25)))),
    ("scratch has the size", changed(Op.CONV, outputs=(Value("y", (4, 12, 12, 6), Region.ARENA), None))),
    ("scratch has the size", sharing_scratch),
    ("examples meet only in gradients", other_value(Op.MAX_POOL, batched=False)),
    ("examples meet only in gradients", one_example_for_all),
    ("what examples have met in goes into gradients alone", given_back_to_examples),
    ("stays with its example", an_example_later),
    ("stays with its example", across_examples),
    ("stays with its example", each_example_with_each),
    ("stays with its example", summed_over_examples),
    ("every tensor of the subset has one gradient", two_gradients),
]


def test_a_lowered_graph_is_legal() -> None:
    check(legal(), "lower")


@pytest.mark.parametrize(("rule", "spoil"), BROKEN, ids=[f"{i} {rule}" for i, (rule, _) in enumerate(BROKEN)])
def test_each_rule_fires(rule: str, spoil: Callable[[Graph], Graph]) -> None:
    graph = spoil(legal())
    wanted = [(sentence, find) for sentence, find in GRAPH if rule in sentence]

    assert wanted and all(list(find(graph)) for _, find in wanted)
    with pytest.raises(RuleBroken, match='after "a pass"'):
        check(graph, "a pass")


def test_copies_and_products_within_an_example_are_legal() -> None:
    """Whole, turned around, a part of each, and each example's own product."""
    (stays,) = (find for sentence, find in GRAPH if "stays with its example" in sentence)

    for graph in (
        copying((1, 1, 1, 64), (0, 0, 0, 1), (0, 0, 0, 1)),
        copying((1, 4, 8, 2), (0, 16, 2, 1), (0, 16, 1, 8)),
        copying((1, 4, 1, 8), (0, 16, 8, 1), (0, 16, 8, 1), begin=8),
        copying((1, 1, 8, 8), (0, 0, 8, 1), (0, 0, 8, 1)),
        multiplying(1, 4, 2, 2, 8, 0, 16, 8, 1, 0, 16, 1, 8, 0, 16, 2, 1),
    ):
        assert list(stays(graph)) == []


def test_no_rule_is_left_untested() -> None:
    assert [s for s, _ in GRAPH if not any(rule in s for rule, _ in BROKEN)] == []
