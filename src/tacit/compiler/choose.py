"""The layers of a module in the order in which its forward pass uses them, and what training some of them takes."""

from collections.abc import Mapping, Sequence

from torch import nn

from tacit.compiler.compile import EXACT, plan_training, training_bytes, training_tapes
from tacit.compiler.trace import Model, Traced
from tacit.compiler.weights import Weights, held
from tacit.plan.program import Optimizer
from tacit.task import Precision


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
    weights = Weights({**model.parameters, **model.buffers}, names, held(precision.frozen))
    training = plan_training(model, traced, weights, microbatch, optimizer, True, precision, recompute)
    kept = sum(part.example_bytes for part in training.split.kept)
    return training_bytes(training_tapes(model, training, microbatch)), kept


def parameters_of(module: nn.Module, wanted: Sequence[str]) -> list[str]:
    """The names of all parameters that are named, or belong to a module that is.

    >>> parameters_of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), ["0", "1.bias"])
    ['0.weight', '0.bias', '1.bias']
    """
    return [name for name, _ in module.named_parameters() if any(name == w or name.startswith(f"{w}.") for w in wanted)]
