"""Which parameters to train: the longest run of last layers that fits the limits.

A layer is a module with parameters of its own, taken whole; layers are in the order in which the forward pass
first uses them. What fits is known exactly, because every candidate is compiled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from tacit.compiler.compile import EXACT, plan_training, training_bytes, training_tapes
from tacit.compiler.errors import NothingFits, NotLowered
from tacit.compiler.trace import Model, Traced
from tacit.compiler.weights import Weights
from tacit.plan.program import Optimizer
from tacit.plan.tape import Number
from tacit.task import Precision


@dataclass(frozen=True)
class Choice:
    """The subset, and why it is that one."""

    names: tuple[str, ...]
    reasons: tuple[str, ...]


def choose_subset(
    model: Model,
    traced: Traced,
    *,
    memory: int,
    most_values: int,
    microbatch: int,
    optimizer: Optimizer,
    precision: Precision = EXACT,
    recompute: bool = False,
) -> Choice:
    """The longest run of last layers with at most `most_values` values and `memory` bytes of training.

    >>> from tacit.compiler.trace import model_of, rehearse, trace_step
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> model = rehearse(model_of(net, {"x": ((4,), "float32")}, 3))
    >>> choose_subset(model, trace_step(model), memory=1 << 20, most_values=30, microbatch=2,
    ...     optimizer=Optimizer(0.1)).names
    ('2.weight', '2.bias')
    """
    layers = used_layers(model, traced)
    if not layers:
        raise NothingFits("the module has no parameters; there is nothing to train")
    chosen: tuple[str, ...] = ()
    reasons: list[str] = []
    paths = list(layers)
    for count in range(1, len(paths) + 1):
        names = tuple(name for path in paths[-count:] for name in layers[path])
        here = model.kind(paths[-count])
        values = sum(model.parameters[name].numel() for name in names)
        if values > most_values:
            reasons.append(f"with {here} it would be {values:,} values, and {most_values:,} are allowed")
            break
        try:
            needed, _ = costs(model, traced, names, microbatch, optimizer, precision, recompute)
        except NotLowered as error:
            if count == 1:
                # Not a matter of limits: no subset of this module can be trained, and this says why.
                raise
            reasons.append(f"{here} cannot be reached: {error}")
            break
        if needed > memory:
            reasons.append(f"with {here} training takes {needed:,} bytes, and {memory:,} are allowed")
            continue
        chosen = names
        every = f"all {count} layers" if count == len(paths) else f"the last {count} of {len(paths)} layers"
        reasons = [f"trained: {every}, from {here} on: {values:,} values, {needed:,} bytes of training"]
    if not chosen:
        raise NothingFits(
            f"not even the last layer fits: {'; '.join(reasons)}. Allow more memory or upload, a smaller "
            "micro-batch, or give the module a smaller last layer."
        )
    return Choice(chosen, tuple(reasons))


def used_layers(model: Model, traced: Traced) -> Mapping[str, list[str]]:
    """The parameters of every layer that the forward pass uses, in the order of first use."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    first: dict[str, int] = {}
    for node, (role, name) in traced.sources.items():
        if role == "tensor" and traced.outputs.get(name) is not None:
            # The step works on a leaf of its own, so the placeholder is only detached; its readers are the layers.
            uses = [order[user] for leaf in node.users for user in leaf.users]
            path = name.rpartition(".")[0]
            first[path] = min(uses, default=len(order)) if path not in first else min(first[path], *uses)
    return {
        path: [
            name for name in model.parameters if name.rpartition(".")[0] == path and traced.outputs[name] is not None
        ]
        for path in sorted(first, key=first.__getitem__)
    }


def costs(
    model: Model,
    traced: Traced,
    names: Sequence[str],
    microbatch: int,
    optimizer: Optimizer,
    precision: Precision = EXACT,
    recompute: bool = False,
) -> tuple[int, int]:
    """What training these parameters takes, and what is kept per example, in bytes."""
    weights = Weights({**model.parameters, **model.buffers}, names, Number[precision.frozen.upper()])
    training = plan_training(model, traced, weights, microbatch, optimizer, True, precision, recompute)
    kept = sum(part.example_bytes for part in training.split.kept)
    return training_bytes(training_tapes(model, training, microbatch)), kept


def parameters_of(module: nn.Module, wanted: Sequence[str]) -> list[str]:
    """The names of all parameters that are named, or belong to a module that is.

    >>> parameters_of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), ["0", "1.bias"])
    ['0.weight', '0.bias', '1.bias']
    """
    return [name for name, _ in module.named_parameters() if any(name == w or name.startswith(f"{w}.") for w in wanted)]
