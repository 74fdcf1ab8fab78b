"""A module's training step as PyTorch's graph of ATen operators.

Fake tensors, so nothing is computed and nothing large is allocated. The module is traced in eval form: BatchNorm
with its frozen statistics, dropout off; or as `in_training` makes it. The loss is one operator of our own that
returns the loss and its gradient with respect to the logits, so neither autograd nor a pattern has to find them;
the gradients come from `torch.autograd.grad` on detached leaves, which asks for no derivatives of derivatives.
Every node carries the path of the module that made it, backward nodes that of the module whose forward they undo.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from tacit.compiler.errors import NotLowered, NotTraceable
from tacit.compiler.source import line_of_error, line_of_text
from tacit.compiler.spelled import Spelled
from tacit.compiler.view import EXAMPLES
from tacit.plan.tape import Measure
from tacit.task import OF_CLASSES, Loss

# No parameter's name has a space.
aten = torch.ops.aten
LOGITS, LOSS, LOSSES = "logits of the micro-batch", "loss of the micro-batch", "losses of its examples"
CROSS_ENTROPY = Loss("cross_entropy")
MEASURES = {
    "mse": Measure.SQUARE,
    "huber": Measure.HUBER,
    "binary_cross_entropy": Measure.BINARY_CROSS_ENTROPY,
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# What PyTorch itself spells out as operators that are known here.
DECOMPOSED: dict[Any, Any] = get_decompositions(
    [
        *(aten._prelu_kernel, aten._prelu_kernel_backward, aten.glu, aten.glu_backward),
        *(aten.log_sigmoid_forward, aten.log_sigmoid_backward, aten.lerp),
    ]
)
Inputs = Mapping[str, tuple[tuple[int, ...], str]]  # name -> (shape without the batch, dtype)


@torch.library.custom_op("tacit::cross_entropy", mutates_args=())
def cross_entropy(
    logits: Tensor, labels: Tensor, weight: Tensor, divisor: Tensor, ignored: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The weighted loss and its gradient with respect to the logits; only ever traced."""
    raise NotImplementedError("this operator is played by the engine, not by PyTorch")


@cross_entropy.register_fake
def _(
    logits: Tensor, labels: Tensor, weight: Tensor, divisor: Tensor, ignored: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(()), torch.empty_like(logits)


@torch.library.custom_op("tacit::measure", mutates_args=())
def measure(
    output: Tensor, target: Tensor, weight: Tensor, divisor: Tensor, kind: int, delta: float
) -> tuple[Tensor, Tensor]:
    """The same for losses of numbers; `kind` is a `Measure`."""
    raise NotImplementedError("this operator is played by the engine, not by PyTorch")


@measure.register_fake
def _(
    output: Tensor, target: Tensor, weight: Tensor, divisor: Tensor, kind: int, delta: float
) -> tuple[Tensor, Tensor]:
    return output.new_empty(()), torch.empty_like(output)


@torch.library.custom_op("tacit::total", mutates_args=())
def total(losses: Tensor, weight: Tensor, divisor: Tensor) -> Tensor:
    """The weighted sum of losses of examples."""
    raise NotImplementedError("this operator is played by the engine, not by PyTorch")


@total.register_fake
def _(losses: Tensor, weight: Tensor, divisor: Tensor) -> Tensor:
    return losses.new_empty(())


@dataclass(frozen=True, eq=False)
class Model:
    """A module in eval form with what its examples look like; the caller's module is not touched."""

    module: nn.Module
    inputs: Inputs
    classes: int
    label: str = "y"
    loss: Loss = CROSS_ENTROPY
    output: tuple[int, ...] = ()  # what the module returns for an example, once it was rehearsed
    drops: bool = False  # dropout is on
    meets: bool = False  # batch norms use the statistics of a micro-batch, so its examples meet

    @property
    def of_classes(self) -> bool:
        """Whether labels are whole numbers."""
        return self.loss.name in OF_CLASSES or (self.loss.function is not None and self.classes > 0)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """A label's shape: a class for each row of logits, or a number for each of the output's."""
        if self.loss.function is not None:
            return self.loss.label
        return self.output[:-1] if self.loss.name in OF_CLASSES else self.output

    @property
    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.module.named_parameters()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        return {name: b.detach() for name, b in self.module.named_buffers()}

    def kind(self, path: str) -> str:
        """A module's path with its class: what errors and tapes call it."""
        module = self.module.get_submodule(path)
        return f"{path or 'the module itself'} ({type(module).__name__})"


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph, and what its placeholders and outputs stand for."""

    graph: fx.Graph
    owner: fx.GraphModule
    sources: Mapping[fx.Node, tuple[str, str]]  # placeholder -> (role, name)
    outputs: Mapping[str, fx.Node | None]  # the logits, the loss, and by its name each parameter's gradient


def model_of(module: nn.Module, inputs: Inputs, classes: int, label: str = "y", loss: Loss = CROSS_ENTROPY) -> Model:
    """The module in eval form, on the CPU, as float32.

    >>> model_of(nn.Linear(2, 3), {"x": ((2,), "float32")}, 3).kind("")
    'the module itself (Linear)'
    """
    return Model(copy.deepcopy(module).eval().to("cpu", torch.float32), inputs, classes, label, loss)


def in_training(model: Model, dropout: bool, batch_statistics: bool) -> Model:
    """The model as local training sees it: the same, but for what the Task asks for.

    >>> model = model_of(nn.Sequential(nn.Linear(2, 3), nn.Dropout()), {"x": ((2,), "float32")}, 3)
    >>> in_training(model, False, False) is model, in_training(model, True, False).module[1].training
    (True, True)
    """
    if not (dropout or batch_statistics):
        return model
    module = copy.deepcopy(model.module)
    for part in module.modules():
        if batch_statistics and isinstance(part, BATCH_NORMS):
            part.running_mean = part.running_var = part.num_batches_tracked = None
        elif dropout and not isinstance(part, (*BATCH_NORMS, nn.RReLU)):
            part.training = True
    return replace(model, module=module, drops=dropout, meets=batch_statistics)


def rehearse(model: Model) -> Model:
    """Runs the module on two examples of zeros: what is wrong with it, PyTorch says best itself.

    What comes back knows the shape of the output.
    """
    paths = _Paths()
    given = zeros(model, 2)
    try:
        # What PyTorch warns of here is which of its own kernels it takes.
        with torch.no_grad(), warnings.catch_warnings(action="ignore"), _watching(model.module, paths):
            logits: object = model.module(*given)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotTraceable(
            f"{model.kind(paths.current)} does not run on examples of shape "
            f"{[list(shape) for shape, _ in model.inputs.values()]}: {reason}{_at(line_of_error(error))}"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    rank = {"cross_entropy": 2, "next_token": 3}.get(model.loss.name)
    of_classes = model.loss.name in OF_CLASSES
    if len(shape) < 2 or shape[0] != 2 or (of_classes and (shape[-1] != model.classes or len(shape) != rank)):
        seen = list(shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = {
            "cross_entropy": f"a classifier returns one logit per class: [{model.classes}]",
            "next_token": f"a model of tokens returns logits at every position: [positions, {model.classes}]",
        }.get(model.loss.name, "with this loss it returns a tensor with an axis of examples first")
        raise NotTraceable(f"the module returns {seen} for an example; {wanted}")
    return replace(model, output=shape[1:])


def zeros(model: Model, count: int) -> list[Tensor]:
    """So many examples of zeros, in the order of the module's arguments."""
    types = {"float32": torch.float32, "int32": torch.int32}
    return [torch.zeros(count, *shape, dtype=types[dtype]) for shape, dtype in model.inputs.values()]


def trace_step(model: Model, wanted: Collection[str] | None = None) -> Traced:
    """The logits and the loss of one micro-batch, and the loss's gradient with respect to every parameter.

    One trace serves every tape and every subset: what a tape does not ask for is not lowered. A parameter that
    has no influence has None for a gradient. Where only a few gradients are `wanted`, the trace is a shorter one.
    """
    paths = _Paths()
    module = copy.deepcopy(model.module)  # PyTorch leaves fake tensors behind in a part that has two names

    def step(
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: list[Tensor],
        labels: Tensor,
        weight: Tensor,
        divisor: Tensor,
    ) -> list[Tensor | None]:
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with _watching(module, paths), Spelled():
            logits: Tensor = functional_call(module, {**leaves, **buffers}, tuple(inputs))
        kind, given = model.loss, (logits.detach(), labels, weight, divisor)
        losses = None
        if kind.function is not None:
            losses, loss, gradient = _of_ones_own(kind.function, *given)
        elif kind.name in OF_CLASSES:
            loss, gradient = torch.ops.tacit.cross_entropy(*given, kind.ignore_index, kind.label_smoothing)
        else:
            delta = kind.delta if kind.name == "huber" else 0.0
            loss, gradient = torch.ops.tacit.measure(*given, MEASURES[kind.name], delta)
        if not logits.requires_grad:
            return [logits, None, losses, *(None for _ in leaves)]
        with _undoing(paths):
            asked = {name: leaf for name, leaf in leaves.items() if wanted is None or name in wanted}
            gradients = torch.autograd.grad(logits, list(asked.values()), gradient, allow_unused=True)
            found = dict(zip(asked, gradients, strict=True))
        return [logits, loss, losses, *(found.get(name) for name in leaves)]

    parameters, buffers = model.parameters, model.buffers
    inputs = zeros(model, EXAMPLES)
    label_type = torch.int32 if model.of_classes else torch.float32
    labels = torch.zeros(EXAMPLES, *model.label_shape, dtype=label_type)
    weight, divisor = torch.ones(EXAMPLES), torch.ones(())
    owner = _traced(model, paths, step, parameters, buffers, inputs, labels, weight, divisor)
    roles = [("tensor", name) for name in (*parameters, *buffers)] + [("input", name) for name in model.inputs]
    roles += [("label", "label"), ("weight", "weight"), ("divisor", "divisor")]
    places = [node for node in owner.graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in owner.graph.nodes if node.op == "output")
    return Traced(
        owner.graph,
        owner,
        dict(zip(places, roles, strict=True)),
        dict(zip((LOGITS, LOSS, LOSSES, *parameters), output.args[0], strict=True)),
    )


def _of_ones_own(
    function: Callable[[Tensor, Tensor], Tensor], output: Tensor, labels: Tensor, weight: Tensor, divisor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A developer's loss of each example, their weighted sum, and its gradient: 0 where an example has no weight."""
    output = output.requires_grad_()
    try:
        losses = function(output, labels)
    except (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotTraceable(f"the loss does not run on what the module returns and its labels: {reason}") from error
    if not isinstance(losses, Tensor) or losses.shape != weight.shape or not losses.requires_grad:
        seen = list(losses.shape[1:]) if isinstance(losses, Tensor) else type(losses).__name__
        raise NotTraceable(
            f"the loss returns {seen} for an example; it returns one number for each, [n], that follows from the "
            "module's output: write the mean over an example's own numbers, and leave weights and sums to tacit"
        )
    share = weight / divisor
    (gradient,) = torch.autograd.grad(losses, output, share)
    counts = share.reshape(-1, *(1,) * (output.dim() - 1)) > 0
    losses = losses.detach()
    return losses, torch.ops.tacit.total(losses, weight, divisor), torch.where(counts, gradient, 0.0)


def _traced(model: Model, paths: "_Paths", step: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    """The function's graph; what cannot be traced is refused in words."""
    try:
        # mkldnn would hide whole layers behind one operator; MATH spells attention out.
        with (
            warnings.catch_warnings(action="ignore"),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
            torch.fx.traceback.preserve_node_meta(),
        ):
            owner = make_fx(step, DECOMPOSED, tracing_mode="fake", pre_dispatch=False, record_stack_traces=True)(
                *arguments
            )
    except (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode) as error:
        raise NotLowered(
            _culprit(model),
            model.kind(paths.current),
            "Its control flow or a shape depends on the values of an example; a tape is the same for every "
            "example. Use operations on tensors instead of if, while, int() or item().",
            line_of_error(error),
        ) from error
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotTraceable(
            f"{model.kind(paths.current)} runs on 2 examples and cannot be traced with {EXAMPLES}: {reason}"
            f"{_at(line_of_error(error))}. Compute each example by itself, however many there are"
        ) from error
    except AssertionError as error:
        if "FakeTensor" not in str(error):
            raise
        raise NotTraceable(
            f"{model.kind(paths.current)} computes with a tensor that is neither a parameter nor a buffer of the "
            f"module{_at(line_of_error(error))}; make it one: self.register_buffer(name, tensor)"
        ) from error
    _mark_lines(owner.graph)
    _without_mutation(owner.graph, model)
    _gate_by_results(owner.graph)
    return owner


def _gate_by_results(graph: fx.Graph) -> None:
    """What a clamp lets through is told by its result as well as by its input, and the next layer needs the result."""
    clamp, backward = torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_backward.default
    for node in graph.find_nodes(op="call_function", target=backward):
        gradient, x, low, high = node.args
        for user in x.users:
            if user.target is clamp and (*user.args[1:], *(-1.0, 1.0)[len(user.args) - 1 :]) == (low, high):
                node.args = (gradient, user, low, high)
                break


def _mark_lines(graph: fx.Graph) -> None:
    """Every node gets the developer's line, backward nodes that of the forward operator they undo."""
    undone: dict[int, str] = {}
    for node in graph.nodes:
        line = line_of_text(node.stack_trace or "")
        if line:
            undone.setdefault(node.meta["seq_nr"], line)
        node.meta["line"] = line or undone.get(node.meta.get("custom", {}).get("undone"), "")


def _culprit(model: Model) -> str:
    """The first operator of a run on zeros whose result's shape or value is known only when it runs."""
    with torch.no_grad(), _FirstByValue() as first, contextlib.suppress(RuntimeError, IndexError, ValueError):
        model.module(*zeros(model, 2))
    return first.name


class _FirstByValue(TorchDispatchMode):
    name = "aten._local_scalar_dense.default"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_value = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags)
        if by_value and "name" not in vars(self):
            self.name = str(func)
        return func(*args, **(kwargs or {}))


def _at(line: str) -> str:
    return f" ({line})" if line else ""


def path_of(node: fx.Node) -> str:
    """The path of the module that made this node."""
    return str(node.meta.get("custom", {}).get("module", ""))


# --- Which module is at work ---------------------------------------------------------------------------


@dataclass(eq=False)
class _Paths:
    """The stack of modules at work during one trace, and which of them made each node of autograd's graph."""

    stack: list[str] = field(default_factory=list[str])
    made: dict[Any, str] = field(default_factory=dict[Any, str])
    note: AbstractContextManager[None] | None = None
    current: str = ""

    def say(self, path: str, undone: int | None = None) -> None:
        """From here on, nodes of the traced graph are `path`'s, and undo what autograd gave this number."""
        self.hush()
        self.current = path
        self.note = torch.fx.traceback.annotate({"module": path, "undone": undone})
        self.note.__enter__()

    def claim(self, tensor: Tensor, path: str) -> None:
        """What autograd remembers of this tensor, back to what others have claimed, is `path`'s."""
        for function in _unlabelled(tensor.grad_fn, self):
            self.made[function] = path

    def hush(self) -> None:
        if self.note is not None:
            self.note.__exit__(None, None, None)
            self.note = None


@contextmanager
def _watching(module: nn.Module, paths: _Paths) -> Generator[None]:
    """While this is open, the module at work is known: by hooks, because make_fx traces functions, not modules."""
    hooks: list[Any] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[object, ...]) -> None:
            # What a module is given and no child of its parent made, is the parent's.
            for given in inputs:
                if isinstance(given, Tensor):
                    paths.claim(given, paths.stack[-1] if paths.stack else "")
            paths.stack.append(path)
            paths.say(path)

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, outputs: object) -> None:
            while paths.stack.pop() != path:
                pass  # a projected head leaves its body early: modules inside it that never ended end here
            if isinstance(outputs, Tensor):
                # Innermost modules leave first, so what nobody claims yet is this module's own.
                paths.claim(outputs, path)
            paths.say(paths.stack[-1] if paths.stack else "")

        return hook

    for path, child in module.named_modules():
        hooks += [child.register_forward_pre_hook(enter(path)), child.register_forward_hook(leave(path))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        paths.hush()


def _unlabelled(function: Any, paths: _Paths) -> Iterator[Any]:
    """Nodes of autograd's graph that no module has claimed, from the outputs backwards."""
    waiting, seen = [function], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node in paths.made:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


@contextmanager
def _undoing(paths: _Paths) -> Generator[None]:
    """While this is open, backward nodes are credited to the module whose forward they undo."""
    hooks: list[Any] = []
    for function, path in list(paths.made.items()):
        if hasattr(function, "register_prehook"):
            number = function._sequence_nr()  # as tracing notes it in seq_nr
            hooks.append(function.register_prehook(lambda _gradients, at=(path, number): paths.say(*at)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        paths.hush()


# --- Operators that write into their input ---------------------------------------------------------------

# What PyTorch answers with another look at the same memory.
ALIASES = frozenset("detach alias t transpose permute view _unsafe_view unsqueeze squeeze expand select slice".split())


# In-place operators that change how a tensor is looked at, and not its memory.
RESHAPED = frozenset({"transpose_", "t_", "squeeze_", "unsqueeze_"})


def operator_name(node: fx.Node) -> str:
    """`convolution` for `aten.convolution.default`.

    >>> graph = fx.Graph(); print(operator_name(graph.call_function(torch.ops.aten.relu_.default)))
    relu_
    """
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[1] if schema is not None else str(node.target)


def is_random(node: fx.Node) -> bool:
    """Whether the operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_mask(node: fx.Node) -> bool:
    """Whether this draws a dropout's mask: zeros and ones into a tensor that nothing else uses."""
    if node.target is not torch.ops.aten.bernoulli_.float:
        return False
    (memory,) = node.all_input_nodes
    return operator_name(memory) in ("empty_like", "new_empty") and list(memory.users) == [node]


def _without_mutation(graph: fx.Graph, model: Model) -> None:
    """`relu_(x)` becomes `relu(x)`, and whoever used x afterwards uses the result."""
    order = {node: i for i, node in enumerate(graph.nodes)}

    def root(node: fx.Node) -> fx.Node:
        while node.op == "call_function" and operator_name(node) in ALIASES:
            node = node.args[0]  # pyright: ignore[reportAssignmentType]  # an alias's first argument is a node
        return node

    for node in list(graph.nodes):
        name = operator_name(node) if node.op == "call_function" else ""
        if not name.endswith("_") or name.startswith("_") or is_random(node):
            continue  # what draws random numbers is refused, or writes into memory of its own
        changed = node.args[0]
        plain = getattr(torch.ops.aten, name[:-1], None)
        overload = "int" if name == "transpose_" else node.target._overloadname
        # Few are used again later: what memory they look at is asked last.
        others = [
            m for m in order
            if order[m] < order[node] and any(order[user] > order[node] for user in m.users)
            and name not in RESHAPED and m is not changed and root(m) is root(changed)
        ]  # fmt: skip
        if plain is None or not hasattr(plain, overload) or others:
            raise NotLowered(
                str(node.target),
                model.kind(path_of(node)),
                "It changes a tensor that is also used under another name; write it without the underscore.",
                node.meta["line"],
            )
        node.target = getattr(plain, overload)
        changed.replace_all_uses_with(node, delete_user_cb=lambda user, at=node: order[user] > order[at])
