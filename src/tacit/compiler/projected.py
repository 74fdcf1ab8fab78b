"""A projected head: the model is cut behind a layer, and a linear head is trained on what that layer shows.

The layer's output, channels by positions, is projected on the directions in which it differs most between the
Task's public examples: eigenvectors of the covariance of its channels and of its positions, and of all pairs of
the two those with the largest product of eigenvalues (a Kronecker PCA). Each feature is centred and scaled by
sd^-1/2, half of the way to unit variance. The directions are rounded so that 8 bits store them exactly. All of it
depends on the example alone, so a device keeps the features of each example; what lies behind the cut is neither
played nor delivered.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.compiler.errors import WrongSubset
from tacit.plan.layout import TensorPlace, pack, unpack
from tacit.plan.narrow import SCALED
from tacit.plan.program import Cut
from tacit.task import MODEL, Projected, TaskInvalid

BATCH = 64  # public examples that run at once
MOST_POSITIONS = 2048  # their covariance is decomposed: time grows with the third power
LEAST_EXAMPLES = 32
# The sd of a feature over n examples is known to 1/sqrt(2n): 9 % for 64, and its root to half of that.
FEATURES_PER_EXAMPLE = 4
LEAST_VARIANCE = 1e-10  # a direction's share of the first one's variance, below which it is rounding
LEAST_SD = 1e-3  # an sd's share of the largest: rarer ones are not blown up further
SCALE_BITS = 17  # of a scale: 127 times it is then exact in float32, and storing and reading give the same bytes


class _Reached(Exception):
    """No error: the forward pass has come as far as it is needed."""

    def __init__(self, output: Tensor):
        self.output = output


class Projection(nn.Module):
    """Features of a tensor [N, C, ...] by directions of its channels and, where it has any, of its positions.

    The k-th direction of the channels goes with the first `widths[k]` directions of the positions.
    """

    channels: Tensor
    positions: Tensor | None
    scale: Tensor
    shift: Tensor

    def __init__(self, channels: Tensor, positions: Tensor | None, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.register_buffer("channels", channels)
        self.register_buffer("positions", positions)
        self.register_buffer("scale", torch.ones(sum(widths)))
        self.register_buffer("shift", torch.zeros(sum(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.raw(x) * self.scale + self.shift

    def squared_length(self) -> float:
        """The features' mean squared length over the public examples: each was scaled to a variance of scale^-2."""
        return float((self.scale.double() ** -2).sum())

    def raw(self, x: Tensor) -> Tensor:
        """The features before they are centred and scaled."""
        if self.positions is None:
            return F.linear(x.flatten(1), self.channels)
        # As plain matrices, which a dense kernel takes: [N·P, C], then [N·channels, P].
        x = x.flatten(2)
        along = F.linear(x.transpose(1, 2).reshape(-1, x.shape[1]), self.channels).unflatten(0, (-1, x.shape[2]))
        turned = along.transpose(1, 2).reshape(-1, x.shape[2])
        both = F.linear(turned, self.positions).unflatten(0, (-1, len(self.widths)))
        parts: list[Tensor] = []
        start = 0
        for width, group in itertools.groupby(self.widths):
            end = start + len(list(group))
            parts.append(both[:, start:end, :width].flatten(1))
            start = end
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class ProjectedHead(nn.Module):
    """The body as far as the layer, the projection, and the head, which alone is trained.

    Where the head is `added` to what the body answers, all of the body runs.
    """

    def __init__(
        self, body: nn.Module, layer: str, projection: Projection, outputs: int, *, added: bool = False
    ) -> None:
        super().__init__()
        self.body, self.layer, self.projection, self.added = body, layer, projection, added
        self.head = nn.Linear(sum(projection.widths), outputs)
        for tensor in self.head.parameters():
            nn.init.zeros_(tensor)

    def forward(self, *inputs: Tensor) -> Tensor:
        if not self.added:
            with torch.no_grad():
                features = self.projection(reached(self.body, self.layer, inputs))
            return self.head(features)
        with torch.no_grad():
            shown, answer = passed(self.body, self.layer, inputs)
            features = self.projection(shown)
        return self.head(features) + answer

    @property
    def cut(self) -> Cut:
        """What a Plan says of it."""
        return Cut(self.layer, self.projection.widths, self.added)


def reached(body: nn.Module, layer: str, inputs: Sequence[Tensor]) -> Tensor:
    """The layer's output. The forward pass goes no further than that.

    >>> net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(7, 7))
    >>> reached(net, "1", [torch.tensor([[-1.0, 2.0]])])
    tensor([[0., 2.]])
    """

    def leave(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        raise _Reached(output)

    hook = body.get_submodule(layer).register_forward_hook(leave)
    try:
        body(*inputs)
    except _Reached as found:
        return found.output
    finally:
        hook.remove()
    raise WrongSubset(f"the forward pass does not call the layer {layer}")


def passed(body: nn.Module, layer: str, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The layer's output, and what the body answers.

    >>> net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(2, 7))
    >>> shown, answer = passed(net, "1", [torch.tensor([[-1.0, 2.0]])])
    >>> shown, answer.shape
    (tensor([[0., 2.]]), torch.Size([1, 7]))
    """
    seen: list[Tensor] = []

    def see(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append(output)

    hook = body.get_submodule(layer).register_forward_hook(see)
    try:
        answer = body(*inputs)
    finally:
        hook.remove()
    if len(seen) != 1:
        raise WrongSubset(f"the forward pass calls the layer {layer} {len(seen)} times, not once")
    return seen[0], answer


def restored(body: nn.Module, cut: Cut, shapes: Mapping[str, Sequence[int]]) -> ProjectedHead:
    """A module of the form that was compiled, for a state dict with tensors of these shapes."""
    positions = shapes.get("projection.positions")
    projection = Projection(
        torch.zeros(*shapes["projection.channels"]), None if positions is None else torch.zeros(*positions), cut.widths
    )
    return ProjectedHead(body, cut.layer, projection, shapes["head.weight"][0], added=cut.added)


def project(
    module: nn.Module,
    part: Projected,
    inputs: Sequence[NDArray[np.generic]],
    labels: NDArray[np.generic] | None = None,
    start: Callable[[ProjectedHead, Tensor], None] | None = None,
) -> ProjectedHead:
    """The module with a projected head in place of what lies behind the layer.

    `inputs` are public examples, in the order of the module's arguments, and `labels` their classes, for a head that
    starts from them. `start` sets the head otherwise, and is shown the features of these examples.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    >>> made = project(net, Projected("1", 5), [x])
    >>> made(torch.from_numpy(x)).shape, [name for name, _ in made.head.named_parameters()]
    (torch.Size([100, 3]), ['weight', 'bias'])
    """
    body = copy.deepcopy(module).eval().to("cpu", torch.float32)
    examples = [torch.from_numpy(np.ascontiguousarray(values)) for values in inputs]
    count = len(examples[0])
    least = max(LEAST_EXAMPLES, part.features // FEATURES_PER_EXAMPLE)
    if start is not None and part.start == MODEL:
        raise TaskInvalid(
            "projected start",
            part.start,
            "what starts from class sums cannot start from what the model answers",
            'leave out --class-sums, or write start="zero"',
        )
    if count < least:
        raise TaskInvalid(
            "public", f"{count} examples", f"{part.features} features need {least}", "give more, or fewer features"
        )
    with torch.no_grad():
        _, outputs = _rehearse(body, part, examples)
        directions = _directions(body, part, examples)
        head = ProjectedHead(body, part.layer, directions, outputs, added=part.start == MODEL)
        features = _settle(head, examples)
        if start is not None:
            start(head, features)
        elif part.start == "public":
            _start(head, features, labels)
    return head


def sketched(module: nn.Module, part: Projected, examples: Sequence[Tensor]) -> ProjectedHead:
    """The module with a projected head of the same size whose directions say nothing: for what it would cost."""
    body = copy.deepcopy(module).eval().to("cpu", torch.float32)
    with torch.no_grad():
        shape, outputs = _rehearse(body, part, examples)
    channels, positions = shape[0], math.prod(shape[1:])
    width = min(positions, max(math.isqrt(part.features), -(-part.features // channels)))
    widths = [min(width, part.features - start) for start in range(0, part.features, width)]
    draw = torch.Generator().manual_seed(0)
    along = torch.randn(len(widths), channels, generator=draw)
    across = torch.randn(width, positions, generator=draw) if positions > 1 else None
    head = ProjectedHead(body, part.layer, Projection(along, across, widths), outputs, added=part.start == MODEL)
    for tensor in (head.projection.scale, head.projection.shift):
        tensor.normal_(generator=draw)
    return head


def _rehearse(body: nn.Module, part: Projected, examples: Sequence[Tensor]) -> tuple[tuple[int, ...], int]:
    """What the layer returns for an example, and how many numbers the module; refuses a layer that no cut suits."""
    layers = dict(body.named_modules())
    if part.layer not in layers or not part.layer:
        raise WrongSubset(
            f"the module has no layer {part.layer!r}; it has {', '.join(name for name in layers if name)}"
        )
    seen: list[object] = []
    hook = layers[part.layer].register_forward_hook(lambda _m, _i, output: seen.append(output))
    try:
        answer: object = body(*(x[:2] for x in examples))
        body(*(x[:3] for x in examples))
    finally:
        hook.remove()
    if len(seen) != 2:
        times = "not at all" if not seen else f"{len(seen) // 2} times"
        raise WrongSubset(f"the forward pass calls {part.layer} {times}; a model is cut behind a layer called once")
    for count, output in zip((2, 3), seen, strict=True):
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise WrongSubset(
                f"{part.layer} returns {kind}; a model is cut behind a layer that returns one tensor of floats"
            )
        if output.dim() not in (2, 3, 4) or len(output) != count:
            raise WrongSubset(
                f"{part.layer} returns {list(output.shape)} for {count} examples; a model is cut where a tensor is "
                "[examples, channels], [examples, channels, positions] or [examples, channels, height, width]"
            )
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        shape = list(answer.shape[1:]) if isinstance(answer, Tensor) else type(answer).__name__
        raise WrongSubset(
            f"the module answers {shape} for an example; a projected head gives one row of numbers, as [classes]"
        )
    shape = tuple(seen[0].shape[1:])  # pyright: ignore[reportAttributeAccessIssue]  # a tensor, as was checked
    if math.prod(shape) < part.features:
        raise WrongSubset(
            f"{part.layer} returns {list(shape)}, which has {math.prod(shape)} directions, not {part.features}; "
            "ask for fewer features or cut elsewhere"
        )
    if math.prod(shape[1:]) > MOST_POSITIONS or shape[0] > MOST_POSITIONS:
        raise WrongSubset(
            f"{part.layer} returns {list(shape)}; at most {MOST_POSITIONS} channels and as many positions are "
            "decomposed, so cut behind a later layer"
        )
    return shape, answer.shape[1]


def _outputs(body: nn.Module, layer: str, examples: Sequence[Tensor]) -> Iterator[Tensor]:
    """What the layer returns for all examples, in batches, as [n, channels, positions] in float64."""
    for start in range(0, len(examples[0]), BATCH):
        output = reached(body, layer, [x[start : start + BATCH] for x in examples])
        yield output.double().reshape(len(output), output.shape[1], -1)


@dataclass(frozen=True, eq=False)
class _Axis:
    """Variances along the principal directions of one axis, largest first, and the directions, a row each."""

    variances: Tensor
    directions: Tensor


def _principal(covariance: Tensor) -> _Axis:
    """The eigenvectors of a covariance.

    >>> _principal(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))).directions.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    variances, vectors = torch.linalg.eigh(covariance)
    directions = vectors.flip(1).T
    # A direction has no sign of its own: its largest component is positive.
    largest = directions.abs().argmax(1, keepdim=True)
    return _Axis(variances.flip(0).clamp(min=0), directions * directions.gather(1, largest).sign())


def _directions(body: nn.Module, part: Projected, examples: Sequence[Tensor]) -> Projection:
    """The best pairs of directions, rounded, and not yet centred or scaled."""
    count, total = 0, torch.zeros(())
    channels, positions = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    flat = True
    for output in _outputs(body, part.layer, examples):
        count += len(output)
        flat = output.shape[2] == 1
        total = total + output.sum(0)
        channels = channels + torch.einsum("ncp,ndp->cd", output, output)
        positions = positions + torch.einsum("ncp,ncq->pq", output, output)
    mean = total / count
    if not bool(torch.isfinite(channels).all()):
        raise WrongSubset(f"{part.layer} returns NaN or infinity for a public example; look at its weights")
    along = _principal(channels / count - mean @ mean.T)
    across = _principal(positions / count - mean.T @ mean)
    products = torch.outer(along.variances, across.variances)
    best = products.flatten().argsort(descending=True, stable=True)[: part.features]
    there = int((products.flatten() > LEAST_VARIANCE * products.max()).sum()) if float(products.max()) > 0 else 0
    if there < part.features:
        raise WrongSubset(
            f"the public examples show {there} directions of {part.layer}, not {part.features}; give more of them, "
            "ask for fewer features, or cut elsewhere"
        )
    # Products fall along both axes, so the chosen pairs are the first few positions of the first few channels.
    rows = torch.bincount(best // products.shape[1])
    widths = [int(width) for width in rows]
    kept = _storable(along.directions[: len(widths)])
    if flat:
        return Projection(kept, None, widths)
    return Projection(kept, _storable(across.directions[: max(widths)]), widths)


def _storable(matrix: Tensor) -> Tensor:
    """The matrix rounded to 8 bits and a scale for each block of its panels, as frozen tensors are stored."""
    place = TensorPlace("", tuple(matrix.shape), "dense", "frozen", 0)
    panels = pack(matrix.numpy().astype(np.float32), place)
    blocks = np.zeros(-(-panels.size // SCALED) * SCALED)
    blocks[: panels.size] = panels
    blocks = blocks.reshape(-1, SCALED)
    fraction, exponent = np.frexp(np.abs(blocks).max(axis=1) / 127)
    scales = np.ldexp(np.rint(np.ldexp(fraction, SCALE_BITS)), exponent - SCALE_BITS)
    steps = np.rint(blocks / np.where(scales > 0, scales, 1)[:, None])
    rounded = (steps * scales[:, None]).astype(np.float32).ravel()[: panels.size]
    return torch.from_numpy(unpack(rounded, place).copy())


def _settle(head: ProjectedHead, examples: Sequence[Tensor]) -> Tensor:
    """Centres and scales the features by what the rounded directions show of the examples; returns the features."""
    projection = copy.deepcopy(head.projection).double()
    raw = torch.cat([projection.raw(x) for x in _outputs(head.body, head.layer, examples)])
    sd = raw.std(0, correction=0)
    scale = sd.clamp(min=LEAST_SD * float(sd.max())) ** -0.5
    head.projection.scale.copy_(scale)
    head.projection.shift.copy_(-raw.mean(0) * scale)
    return (raw - raw.mean(0)) * scale


def short(values: Tensor) -> Tensor:
    """The same numbers in eight significant bits: where a start need be no more exact, half of its bytes pack away.

    >>> short(torch.tensor([1.0, 1.001, 3.14159]))
    tensor([1.0000, 1.0000, 3.1406])
    """
    return values.to(torch.bfloat16).to(values.dtype)


def _start(head: ProjectedHead, features: Tensor, labels: NDArray[np.generic] | None) -> None:
    """The linear discriminant of the public classes; a class that they lack begins at its prior alone."""
    classes = head.head.out_features
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise TaskInvalid(
            "projected start", "public", "the public examples have no classes", 'give them, or write start="zero"'
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise TaskInvalid(
            "public", f"label {labels.min()} to {labels.max()}", f"the model has {classes} classes", "count from 0"
        )
    found = F.one_hot(torch.from_numpy(labels.astype(np.int64)), classes).double()
    counts = found.sum(0)
    # One more example at the middle of all: a class seen once is believed half.
    means = found.T @ features / (counts + 1)[:, None]
    spread = features - means[labels.astype(np.int64)]
    within = spread.T @ spread / len(features)
    within += 0.01 * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64)
    weight = torch.linalg.solve(within, means.T).T
    prior = ((counts + 1) / (counts + 1).sum()).log()
    head.head.weight.copy_(short(weight))
    head.head.bias.copy_(prior - 0.5 * (weight * means).sum(1))
