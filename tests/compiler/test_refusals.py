"""What cannot be compiled is refused by operator, by the module that made it, and with a way out."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

from tacit.compiler.compile import compile_program
from tacit.compiler.errors import NotLowered, NotTraceable, PaddingNotExact, WrongSubset
from tacit.errors import InputError
from tacit.plan.program import Optimizer
from tests.compiler.models import CLASSES, compiled
from tests.compiler.nets import weight_norms

IMAGE = (2, 8, 8)


class _Net(nn.Module):
    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.ReLU(), layer)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


REFUSED: list[tuple[str, nn.Module, str, str]] = [
    (
        "a convolution in space",
        Call(lambda x: F.conv3d(x[:, :, None], torch.ones(2, 2, 1, 1, 1))[:, :, 0]),
        "aten.convolution.default",
        "Conv2d",
    ),
    ("wide padding", nn.Conv2d(2, 2, 1, padding=1), "aten.convolution.default", "less padding"),
    ("batch statistics", nn.BatchNorm2d(2, track_running_stats=False), "aten.native_batch_norm.default", "running"),
    ("rounded-up pool", nn.MaxPool2d(3, ceil_mode=True), "aten.max_pool2d_with_indices.default", "ceil_mode=False"),
    ("dropout that is always on", Call(F.dropout), "aten.bernoulli_", "self.training"),
    ("an activation without a kernel", Call(torch.sin), "aten.sin.default", "operators.md"),
    ("a sorted example", Call(lambda x: x.sort(1)[0]), "aten.sort", "max pooling"),
    ("a pad with ones", Call(lambda x: F.pad(x, (1, 1), value=1.0)), "aten.constant_pad_nd", "add that number"),
    ("a maximum over time", Call(lambda x: x.amax(2, keepdim=True)), "aten.amax", "AdaptiveMaxPool"),
    ("uneven windows of a maximum", nn.AdaptiveMaxPool2d(3), "aten.adaptive_max_pool2d", "MaxPool2d"),
    ("a norm that is not Euclidean", Call(lambda x: F.normalize(x, p=1.0)), "aten.linalg_vector_norm", "ord=2"),
    ("a mean over the batch", Call(lambda x: x - x.mean(0)), "aten", "by itself"),
    (
        "an example that knows its neighbours",
        Call(lambda x: x + torch.arange(len(x))[:, None, None, None]),
        "aten",
        "whole",
    ),
    (
        "constants spread over the batch",
        Call(lambda x: x + torch.arange(len(x)).exp()[:, None, None, None]),
        "aten",
        "whole",
    ),
    ("control flow on values", Call(lambda x: x if x.sum() > 0 else -x), "aten._local_scalar_dense", "control flow"),
]


@pytest.mark.parametrize(("layer", "operator", "remedy"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_refusal_names_the_operator_the_module_and_a_way_out(layer: nn.Module, operator: str, remedy: str) -> None:
    with pytest.raises(NotLowered) as refused:
        compiled(_Net(layer, 2).eval(), IMAGE, ["head.2.weight", "head.2.bias"])

    assert operator in refused.value.operator
    assert refused.value.module == f"features.1 ({type(layer).__name__})"
    assert remedy in refused.value.remedy
    assert str(refused.value).startswith(f"features.1 ({type(layer).__name__}) uses aten")


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"late": nn.Sequential(nn.Linear(4, 4), Call(torch.sin))})
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body["late"](x))


def test_the_path_is_that_of_the_innermost_module() -> None:
    with pytest.raises(NotLowered, match=r"^body\.late\.1 \(Call\) uses aten\.sin"):
        compiled(Deep(), (4,), ["head.weight"])


class Inverted(nn.Module):
    """Its gradient has no kernel: only what trains something before it is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fold, self.last = nn.Linear(4, 4), Call(lambda x: (x * x + 1) ** -0.5), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fold(self.first(x)))


def test_whole_numbers_are_not_computed_with() -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor, flags: Tensor) -> Tensor:
            return self.head(x * (flags > 0))

    inputs = {"x": ((4,), "float32"), "flags": ((4,), "int32")}
    with pytest.raises(NotLowered, match=r"Flagged\) uses aten\.gt\.Scalar.* input of float32"):
        compile_program(Flagged(), inputs, "y", CLASSES, subset=["head.bias"], microbatch=1, optimizer=Optimizer(0.1))


def test_a_weight_computed_from_others_is_refused_and_the_remedy_works() -> None:
    net = weight_norms()
    with pytest.raises(NotLowered, match=r"0\.parametrizations\.weight.*remove_parametrizations"):
        compiled(net, (6,), ["0.parametrizations.weight.original0"])

    for layer in (net[0], net[2]):
        remove_parametrizations(layer, "weight")

    assert compiled(net, (6,), ["0.weight"]).playable.program.d == 48


def test_a_weight_computed_from_others_is_a_plain_tensor_where_it_is_frozen() -> None:
    assert compiled(weight_norms(), (6,), ["2.bias"]).playable.program.d == CLASSES


def test_a_missing_gradient_is_the_fault_of_the_module_whose_forward_it_undoes() -> None:
    with pytest.raises(NotLowered) as refused:
        compiled(Inverted(), (4,), ["first.weight"])

    assert refused.value.module == "fold (Call)"


# --- The line of the developer's own file ---------------------------------------------------------------------


class Astray(nn.Module):
    """Each line that is marked cannot be compiled."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.first, self.last = way, nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        match self.way:
            case "a shape that depends on values":
                x = x * len(torch.nonzero(x))  # dynamic shape
            case "control flow on values":
                x = x if x.sum() > 0 else -x  # control flow
            case "a factorisation":
                x = x + torch.linalg.svd(x.reshape(-1, 2, 2))[1].repeat(1, 2)  # factored
            case "a mean over the batch":
                x = x - x.mean(0)  # mixed
            case "an example for each other":
                x = torch.softmax(x @ x.T, 1) @ x  # attended
            case "a gradient without a kernel":
                x = (x * x + 1) ** -0.5  # folded
            case _:
                x = x @ torch.ones(3, 3)  # misfit
        return self.last(x)


def line_of(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    (number,) = (i + 1 for i, line in enumerate(lines) if line.endswith(f"  # {mark}"))
    return f"test_refusals.py:{number}"


@pytest.mark.parametrize(
    ("way", "operator", "mark", "remedy"),
    [
        ("a shape that depends on values", "aten.nonzero", "dynamic shape", "operations on tensors instead"),
        ("control flow on values", "aten._local_scalar_dense", "control flow", "operations on tensors instead"),
        ("a factorisation", "aten._linalg_svd", "factored", "before training"),
        ("a mean over the batch", "aten.sub.Tensor", "mixed", "each example by itself"),
        ("an example for each other", "aten.", "attended", "each example by itself"),
        ("a gradient without a kernel", "aten.pow", "folded", "no kernel"),
    ],
)
def test_a_refusal_names_the_line_of_the_developer_s_file(way: str, operator: str, mark: str, remedy: str) -> None:
    with pytest.raises(NotLowered) as refused:
        compiled(nn.Sequential(nn.Tanh(), Astray(way)), (4,), ["1.first.weight"])

    assert refused.value.line.endswith(line_of(mark)) and f"({refused.value.line})" in str(refused.value)
    assert operator in refused.value.operator
    assert refused.value.module == "1 (Astray)"
    assert remedy in refused.value.remedy


def test_a_module_that_does_not_run_is_refused_with_the_line_too() -> None:
    with pytest.raises(NotTraceable, match=rf"shapes cannot be multiplied .*{line_of('misfit')}\)"):
        compiled(Astray("otherwise"), (4,), ["first.weight"])


def test_a_module_of_pytorch_s_own_parts_has_no_line() -> None:
    with pytest.raises(NotLowered) as refused:
        compiled(nn.Sequential(nn.Linear(4, CLASSES), nn.Hardshrink()), (4,), ["0.weight"])

    assert refused.value.line == ""
    assert str(refused.value).startswith("1 (Hardshrink) uses aten.hardshrink.default, which tacit cannot compile.")


@pytest.mark.parametrize("way", ["a mean over the batch", "an example for each other"])
def test_a_module_that_mixes_the_examples_is_refused_because_padding_would_not_be_exact(way: str) -> None:
    with pytest.raises(PaddingNotExact, match=r"mixes the examples of a micro-batch: padding it would not be exact"):
        compiled(Astray(way), (4,), ["last.weight"])


MIXING: dict[str, Any] = {
    "the first for all": lambda x: x + x[0],
    "the next one's": lambda x: torch.cat([x[1:], x[:1]], 0),
    "a softmax over examples": lambda x: torch.softmax(x, 0),
    "a norm over examples": lambda x: F.layer_norm(x.t(), (len(x),)).t(),
    "groups of examples": lambda x: F.group_norm(x.t()[None], 2)[0].t(),
    "a window over examples": lambda x: F.avg_pool1d(x.t()[None], 3, 1, 1)[0].t(),
    "products of all with all": lambda x: (x @ x.t()).sum(1, keepdim=True) * x,
    "attention between examples": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
    "examples moved by padding": lambda x: F.pad(x, (0, 0, 1, 0))[:-1],
    "statistics by hand": lambda x: F.batch_norm(x, None, None, training=True),
    "a recurrence over examples": lambda x: x + x.unbind(0)[0],
    "a mean in another shape": lambda x: x.view(1, -1, 4).mean(1) + x,
}


@pytest.mark.parametrize("way", MIXING)
def test_every_way_of_mixing_examples_is_refused_in_words(way: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), Call(MIXING[way]), nn.Linear(4, CLASSES))

    with pytest.raises(
        PaddingNotExact, match=r"padding it would not be exact.*(each example by itself|running statistics)"
    ):
        compiled(net, (4,), ["0.weight", "2.weight"])


def test_a_module_that_wants_an_even_number_of_examples_is_refused() -> None:
    pairs = Call(lambda x: x.reshape(-1, 8)[:, :4].repeat_interleave(2, 0))

    with pytest.raises(
        NotTraceable, match=r"^0 \(Call\) runs on 2 examples and cannot be traced with 509: .*invalid.*by itself"
    ):
        compiled(nn.Sequential(pairs, nn.Linear(4, CLASSES)), (4,), ["1.weight"])


def test_dropout_is_off_and_norms_are_frozen_and_the_explanation_says_so() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(), nn.Flatten(), nn.Linear(144, CLASSES))

    notes = compiled(net.train(), IMAGE, ["4.weight"]).explanation.notes

    assert notes == (
        "dropout is off in local training: 2 (Dropout2d)",
        "statistics stay frozen in local training: 1 (BatchNorm2d)",
    )
    assert net.training


def test_an_unknown_parameter_is_refused_with_names_like_it() -> None:
    with pytest.raises(WrongSubset, match=r"no parameter head\.weigth; did you mean head\.weight"):
        compiled(Deep(), (4,), ["head.weigth"])


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, CLASSES), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_parameter_without_influence_is_refused_by_name() -> None:
    with pytest.raises(WrongSubset, match=r"spare\.bias does not influence the loss"):
        compiled(Spare(), (4,), ["used.weight", "spare.bias"])


class Closure(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mean = nn.Linear(4, CLASSES), torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - self.mean)


def test_a_tensor_that_is_no_buffer_is_refused_with_the_line_to_write() -> None:
    with pytest.raises(NotTraceable, match=r"the module itself \(Closure\) .*register_buffer"):
        compiled(Closure(), (4,), ["layer.weight"])


def test_a_module_that_does_not_take_the_example_is_refused_with_pytorchs_reason() -> None:
    with pytest.raises(NotTraceable, match=r"^0 \(Linear\) does not run on .*\[\[7\]\].*shapes cannot be multiplied"):
        compiled(nn.Sequential(nn.Linear(4, CLASSES)), (7,), ["0.weight"])


def test_a_module_that_is_no_classifier_is_refused() -> None:
    with pytest.raises(NotTraceable, match=r"returns \[3\] for an example; .* \[5\]"):
        compiled(nn.Linear(4, 3), (4,), ["weight"])


def test_other_losses_and_types_are_refused() -> None:
    net = nn.Linear(4, CLASSES)

    with pytest.raises(InputError, match="loss = 'hinge': it is one of"):
        compiled(net, (4,), ["weight"], loss="hinge")
    with pytest.raises(InputError, match="inputs are float32 or int32"):
        compile_program(
            net, {"x": ((4,), "int64")}, "y", CLASSES, subset=["weight"], microbatch=1, optimizer=Optimizer(0.1)
        )
