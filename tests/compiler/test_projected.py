"""A projected head: its features are the principal directions, its gradients PyTorch's, and it comes back whole."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tacit
from tacit.compiler.class_sums import asking
from tacit.compiler.compile import compile_program
from tacit.compiler.developer import DeveloperPlan
from tacit.compiler.errors import WrongSubset
from tacit.compiler.projected import ProjectedHead, project, reached
from tacit.errors import InputError
from tacit.plan.layout import TensorPlace, pack
from tacit.plan.narrow import narrow
from tacit.plan.tape import Kind, Number
from tacit.task import TaskInvalid
from tests.compiled import SMALL
from tests.compiled import plan_of as of_task
from tests.compiler.families import Tabular, family
from tests.compiler.models import CLASSES, MOMENTUM, Engine, by_name, compiled, far_apart, lenet, mlp, torch_step
from tests.compiler.slow_player import SlowPlayer

HEAD = ["head.weight", "head.bias"]


def normal(shape: Sequence[int], count: int = 120, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def named(name: str) -> nn.Module:
    torch.manual_seed(1)
    own: dict[str, Callable[[], nn.Module]] = {"small cnn": lenet, "mlp": mlp}
    return own[name]().eval() if name in own else family(name)


# Module, the layer behind which it is cut, the shape of an example, features.
CUTS: dict[str, tuple[str, str, tuple[int, ...], int]] = {
    "a pool of a small cnn": ("small cnn", "2", (1, 12, 12), 40),
    "a dense layer behind a flattened image": ("small cnn", "6", (1, 12, 12), 30),
    "the first block of a resnet": ("resnet with batch norm", "3", (3, 8, 8), 64),
    "the second, which strides": ("resnet with group norm", "4", (3, 8, 8), 100),
    "a hidden layer of an mlp": ("mlp", "1", (12,), 9),
    "a norm of a transformer": ("transformer encoder", "layer.norm1", (4, 8), 16),
    "a block of a vision transformer": ("vit", "block", (3, 8, 8), 24),
    "a pool over all of an image": ("resnet with group norm", "6", (3, 8, 8), 24),
    "a layer of a temporal cnn": ("temporal cnn", "2", (3, 24), 20),
}


def cut(name: str, start: str = "zero") -> tuple[ProjectedHead, tuple[int, ...]]:
    """The module with its head, which has been somewhere."""
    net, layer, shape, features = CUTS[name]
    made = project(named(net), tacit.projected(layer, features, start), [normal(shape)])
    with torch.no_grad():
        for tensor in made.head.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return made, shape


@pytest.mark.parametrize("start", ["zero", "model"])
@pytest.mark.parametrize("name", CUTS)
def test_the_heads_gradients_are_pytorchs_and_the_prefix_keeps_the_features(name: str, start: str) -> None:
    net, shape = cut(name, start)
    x = normal(shape, 4, seed=1)
    y, weight = np.array([0, 3, 2, 3]), np.array([0.5, 1, 1.5, 2], np.float32)

    result = compiled(net, shape, HEAD)

    answer = [4 * CLASSES] if start == "model" else []  # what the model answers depends on the example alone, too
    assert sorted(kept.example_bytes for kept in result.playable.program.kept) == sorted([4 * CUTS[name][3], *answer])
    _, right = torch_step(net, HEAD, x, y, weight)
    _, single = torch_step(net, HEAD, x, y, weight, torch.float32)
    for make in (SlowPlayer, Engine):
        player = make(result.playable)
        player.step(player.keep({"x": x}), y, weight, float(weight.sum()), first=True)
        assert not far_apart(by_name(net, HEAD, player.gradient()), right, single), make.__name__


@pytest.mark.parametrize("name", CUTS)
def test_nothing_behind_the_cut_is_delivered(name: str) -> None:
    net, shape = cut(name)

    program = compiled(net, shape, HEAD).playable.program

    features = net.projection(reached(net.body, net.layer, [torch.from_numpy(normal(shape, 2))]))
    parameters = dict(net.body.named_parameters())
    gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    behind = [f"body.{name}" for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]
    assert behind
    delivered = [half for place in program.places for half in place.name.split(" with ")]
    assert not set(delivered) & {*behind, *(name.rpartition(".")[0] for name in behind)}
    assert {name for name in delivered if name.startswith("projection.")} <= set(net.state_dict())


def test_categories_and_numbers_are_projected_together() -> None:
    torch.manual_seed(1)
    net, draw = Tabular().eval(), np.random.default_rng(0)
    categories = np.stack([draw.integers(0, 7, 100), draw.integers(0, 11, 100)], 1).astype(np.int32)
    given = {"categories": categories, "numbers": normal((5,), 100)}

    made = project(net, tacit.projected("body", 10), list(given.values()))
    nn.init.normal_(made.head.weight)

    fields = {"categories": ((2,), "int32"), "numbers": ((5,), "float32")}
    player = Engine(compile_program(made, fields, "y", CLASSES, subset=HEAD, microbatch=4, optimizer=MOMENTUM).playable)
    with torch.no_grad():
        right = made(*map(torch.from_numpy, given.values()))
    np.testing.assert_allclose(player.predict(given), right, rtol=1e-4, atol=1e-4)
    assert float(right.std()) > 0.1


def test_a_module_that_answers_at_every_position_has_no_projected_head() -> None:
    with pytest.raises(WrongSubset, match=r"the module answers \[6, 5\] for an example"):
        project(named("gpt"), tacit.projected("norm", 8), [np.zeros((50, 6), np.int32)])


def test_what_lies_behind_the_cut_need_not_compile() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x[:, :, None] * torch.eye(CLASSES))[:, 0]

    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES), Odd())

    made = project(net, tacit.projected("1", 6), [normal((6,))])

    assert Kind.PREFIX in compiled(made, (6,), HEAD).playable.tapes


class Given(nn.Module):
    """Its layer's output is the example."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1)[:, :3]


def kronecker(variances: Sequence[float], across: Sequence[float], count: int, seed: int) -> tuple[Any, Any, Any]:
    """Examples whose covariance is the product of two known ones, and the two sets of directions."""
    draw = np.random.default_rng(seed)
    along, over = (np.linalg.qr(draw.standard_normal((n, n)))[0] for n in (len(variances), len(across)))
    white = draw.standard_normal((count, len(variances), len(across)))
    x = np.einsum("ci,i,nij,j,pj->ncp", along, np.sqrt(variances), white, np.sqrt(across), over)
    return (x + 3 * draw.standard_normal(x.shape[1:])).astype(np.float32), along, over


def test_the_directions_are_those_of_a_known_kronecker_structure() -> None:
    variances, across = [16.0, 4.0, 1.0, 0.25, 0.1], [9.0, 3.0, 1.0, 0.3]
    x, along, over = kronecker(variances, across, 4000, 0)

    made = project(Given(), tacit.projected("layer", 6), [x.reshape(-1, 5, 2, 2)]).projection

    # The products in their order: 144 (0, 0), 48 (0, 1), 36 (1, 0), 16 (0, 2), 12 (1, 1), 9 (2, 0).
    assert made.widths == (3, 2, 1) and made.positions is not None
    for found, right in ((made.channels, along), (made.positions, over)):
        cosines = np.abs(found.numpy() @ right)
        assert np.diag(cosines).min() > 0.99
        assert (np.sort(cosines.ravel())[: -len(found)] < 0.1).all()


def test_the_directions_are_numpys_and_orthogonal() -> None:
    x = normal((3, 4, 4), 200) * np.linspace(1, 5, 16).reshape(4, 4).astype(np.float32)

    made = project(Given(), tacit.projected("layer", 12), [x]).projection

    flat = x.reshape(len(x), 3, 16).astype(np.float64)
    flat -= flat.mean(0)
    assert made.positions is not None
    for found, covariance in (
        (made.channels, np.einsum("ncp,ndp->cd", flat, flat)),
        (made.positions, np.einsum("ncp,ncq->pq", flat, flat)),
    ):
        _, vectors = np.linalg.eigh(covariance)
        right = vectors[:, ::-1][:, : len(found)]
        np.testing.assert_allclose(np.abs(np.diag(found.numpy() @ right)), 1, atol=0.01)
        np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=0.02)


@pytest.mark.parametrize("shape", [(7,), (4, 6), (3, 4, 5)])
def test_features_are_centred_and_half_whitened(shape: tuple[int, ...]) -> None:
    x = normal(shape, 300) + 2
    for axis, size in enumerate(shape, 1):
        x *= np.linspace(0.5, 4, size).astype(np.float32).reshape(-1, *(1,) * (x.ndim - 1 - axis))

    made = project(Given(), tacit.projected("layer", 6), [x])

    with torch.no_grad():
        features = made.projection(torch.from_numpy(x)).double().numpy()
        raw = made.projection.raw(torch.from_numpy(x)).double().numpy()
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(0), np.sqrt(raw.std(0)), rtol=1e-4)
    assert raw.std(0).max() > 1.2 * raw.std(0).min()
    np.testing.assert_allclose(made.projection.squared_length(), (features**2).sum(1).mean(), rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_directions_are_stored_in_8_bits_exactly(rows: int, columns: int, seed: int) -> None:
    from tacit.compiler.projected import _storable

    wide = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)))

    found = _storable(wide)

    assert float((found - wide).abs().max()) <= float(wide.abs().max()) / 254 + 1e-5
    panels = pack(found.numpy(), TensorPlace("", (rows, columns), "dense", "frozen", 0))
    row, blocks = narrow(panels, Number.INT8), -(-panels.size // 64)
    scales, steps = row[: 4 * blocks].view(np.float32), row[4 * blocks : 4 * blocks + panels.size].view(np.int8)
    assert (np.repeat(scales, 64)[: panels.size] * steps == panels).all()


def test_the_same_examples_make_the_same_head() -> None:
    x = normal((1, 12, 12))
    first, second = (project(named("small cnn"), tacit.projected("2", 40), [x]) for _ in range(2))

    assert first.cut == second.cut
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_head_that_starts_from_public_labels_knows_them_and_one_that_does_not_knows_nothing() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 4, 400)  # the class 4 is missing
    x = (draw.standard_normal((400, 12)) + 3 * np.eye(12)[y * 2]).astype(np.float32)
    body = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, CLASSES))

    known = project(body, tacit.projected("0", 12, start="public"), [x], y)
    blank = project(body, tacit.projected("0", 12), [x], y)

    with torch.no_grad():
        answers = known(torch.from_numpy(x))
        assert float((answers.argmax(1) == torch.from_numpy(y)).float().mean()) > 0.85
        assert float(answers.softmax(1)[:, 4].max()) < 0.5
        assert not blank(torch.from_numpy(x)).any()


@pytest.mark.parametrize("name", CUTS)
def test_a_head_that_starts_from_the_model_answers_as_the_model_and_goes_on_from_there(name: str) -> None:
    net, layer, shape, features = CUTS[name]
    own, x = named(net), torch.from_numpy(normal(shape, 9, seed=3))

    made = project(own, tacit.projected(layer, features, start="model"), [normal(shape)])

    with torch.no_grad():
        assert torch.equal(made(x), own(x))
        nn.init.normal_(made.head.weight)
        shown = made.projection(reached(made.body, layer, [x]))
        assert torch.equal(made(x), made.head(shown) + own(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused, self.both, self.head = nn.Linear(4, 4), nn.Linear(4, 4), Two(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(self.layer(self.layer(x)))
        return self.head(a + b)


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


@pytest.mark.parametrize(
    ("layer", "features", "count", "said"),
    [
        ("nowhere", 2, 50, "has no layer 'nowhere'; it has layer, unused"),
        ("", 2, 50, "has no layer ''"),
        ("layer", 2, 50, "calls layer 2 times"),
        ("unused", 2, 50, "calls unused not at all"),
        ("both", 2, 50, "both returns tuple"),
        ("head", 4, 50, "3 directions, not 4"),
        ("head", 2, 31, "2 features need 32"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(layer: str, features: int, count: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        project(Twice().eval(), tacit.projected(layer, features), [normal((4,), count)])


def test_directions_that_public_examples_do_not_show_are_refused() -> None:
    x = normal((6,)) * np.array([1, 1, 1, 0, 0, 0], np.float32)

    with pytest.raises(WrongSubset, match="show 3 directions of layer, not 4"):
        project(Given(), tacit.projected("layer", 4), [x])


def test_a_task_says_what_a_projected_head_lacks() -> None:
    example = {"x": tacit.array((4,)), "y": tacit.label(3)}
    with pytest.raises(TaskInvalid, match="public=lambda"):
        tacit.Task("t", Twice, example, subset=[tacit.projected("layer")])
    with pytest.raises(TaskInvalid, match="write the projected head alone"):
        tacit.Task("t", Twice, example, subset=["head", tacit.projected("layer")], public=dict)
    with pytest.raises(TaskInvalid, match="zero, public or model"):
        tacit.projected("layer", start="random")
    with pytest.raises(TaskInvalid, match="whole number of at least 1"):
        tacit.projected("layer", features=0)


# --- A Plan ------------------------------------------------------------------------------------------------


def plan_of(
    make: Callable[[], nn.Module], shape: tuple[int, ...], subset: Any, loss: str = "cross_entropy", **local: Any
) -> DeveloperPlan:
    task = tacit.Task(
        name="t",
        model=make,
        example={"x": tacit.array(shape), "y": tacit.label(CLASSES)},
        loss=loss,
        local=tacit.Local(**local),
        subset=subset,
        public=lambda: {"x": normal(shape), "y": np.arange(120) % CLASSES},
        privacy=SMALL,
    )
    return DeveloperPlan(of_task(task))


@pytest.mark.parametrize("start", ["zero", "model"])
@pytest.mark.parametrize("name", CUTS)
def test_the_module_that_comes_back_predicts_what_the_engine_predicts(name: str, start: str) -> None:
    net, layer, shape, features = CUTS[name]
    own = named(net)
    before = {key: value.clone() for key, value in own.state_dict().items()}
    plan = plan_of(lambda: own, shape, [tacit.projected(layer, features, start)])
    values = normal((plan.plan.manifest.program.d,), 1, seed=2)[0]
    x = normal(shape, 9, seed=3)
    player = Engine(plan.plan.playable())
    player.load(values)

    module = plan.module(values, like=own)

    with torch.no_grad():
        right = player.predict({"x": x})
        np.testing.assert_allclose(module(torch.from_numpy(x)), right, rtol=1e-5, atol=1e-5 * np.abs(right).max())
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    assert plan.plan.manifest.program.cut.layer == layer
    assert plan.plan.manifest.program.cut.added == (start == "model")


@pytest.mark.parametrize("subset", [["9"], [tacit.slices("7", inputs=range(4, 20)), "9"], [tacit.lowrank("7", rank=3)]])
def test_a_plan_without_a_cut_gives_the_developers_module_back(subset: Any) -> None:
    own = named("small cnn")
    plan = plan_of(lambda: own, (1, 12, 12), subset)
    values = 0.1 * normal((plan.plan.manifest.program.d,), 1)[0]
    x = normal((1, 12, 12), 9, seed=3)
    player = Engine(plan.plan.playable())
    player.load(values)

    module = plan.module(values, like=own)

    assert type(module) is type(own) and module is not own
    with torch.no_grad():
        right = player.predict({"x": x})
        np.testing.assert_allclose(module(torch.from_numpy(x)), right, rtol=1e-5, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("start", ["zero", "model"])
def test_balance_finds_the_bias_of_a_projected_head(start: str) -> None:
    plan = plan_of(lambda: named("small cnn"), (1, 12, 12), [tacit.projected("2", 40, start)], balance=True)

    assert plan.plan.manifest.program.logit_bias == 40 * CLASSES


def test_a_head_that_starts_from_the_model_is_asked_for_no_class_sums_and_starts_from_none() -> None:
    task = tacit.Task(
        name="t",
        model=lambda: named("small cnn"),
        example={"x": tacit.array((1, 12, 12)), "y": tacit.label(CLASSES)},
        subset=[tacit.projected("2", 40, start="model")],
        public=lambda: {"x": normal((1, 12, 12))},
        privacy=SMALL,
    )
    with pytest.raises(TaskInvalid, match="starts from what the model answers"):
        asking(task, SMALL)
    with pytest.raises(TaskInvalid, match="leave out --class-sums"):
        project(named("small cnn"), task.subset[0], [normal((1, 12, 12))], start=lambda head, features: None)


def test_the_comparison_is_with_the_whole_model() -> None:
    own = named("small cnn")
    whole = plan_of(lambda: own, (1, 12, 12), ["9"]).plan.manifest.program.resources
    cut = plan_of(lambda: own, (1, 12, 12), [tacit.projected("2", 40)]).plan.manifest.program.resources

    assert cut.full_training_bytes == whole.full_training_bytes > 0
    assert cut.model_parameters == whole.model_parameters == sum(p.numel() for p in own.parameters())
    assert cut.kept_per_example == 160 and cut.frozen < whole.frozen
