"""What the model developer writes: a Task and its parts.

These are values. They know nothing of PyTorch, keys or networks; `tacit compile` turns a Task into a
Plan. Everything is checked when it is made, and every error names the field, the value and a way out.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tacit.errors import InputError

OF_CLASSES = ("cross_entropy", "next_token")  # losses whose labels are classes
LOSSES = (*OF_CLASSES, "mse", "huber", "binary_cross_entropy")
OF_ONE_LABEL = ("cross_entropy",)  # what a Task can ask for: its label is one class an example
METRICS = ("accuracy",)
NUMBERS = ("float32", "bfloat16", "int8")


class TaskInvalid(InputError):
    """A field of the Task cannot be used as it is."""

    def __init__(self, name: str, value: object, why: str, fix: str):
        self.field = name
        super().__init__(f"{name} = {value!r}: {why}; {fix}")


@dataclass(frozen=True)
class Array:
    """An input of an example. See `array`."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Label:
    """A class to predict. See `label`."""

    classes: int


def array(shape: Sequence[int], dtype: str = "float32") -> Array:
    """An input array of this shape, without the batch.

    >>> array((1, 28, 28))
    Array(shape=(1, 28, 28), dtype='float32')
    """
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise TaskInvalid("array shape", tuple(shape), "every size is a positive whole number", "e.g. (1, 28, 28)")
    if dtype not in ("float32", "int32"):
        raise TaskInvalid(
            "array dtype",
            dtype,
            "inputs are float32 or int32",
            '"float32" for numbers, "int32" for categories and tokens',
        )
    return Array(tuple(shape), dtype)


def label(classes: int) -> Label:
    """A label 0..classes-1.

    >>> label(10)
    Label(classes=10)
    """
    if not isinstance(classes, int) or classes < 2:
        raise TaskInvalid("label classes", classes, "there are at least two classes", "e.g. label(10)")
    return Label(classes)


@dataclass(frozen=True)
class Loss:
    """What training lowers.

    | example | meaning |
    |---|---|
    | `Loss("cross_entropy", label_smoothing=0.1)` | logits of classes against a class |
    | `Loss("next_token", ignore_index=0)` | logits at every position against a class each; 0 does not count |
    | `Loss("mse")` | the mean over an example's numbers |
    | `Loss("huber", delta=0.5)` | squares up to 0.5, straight lines beyond |
    | `Loss("binary_cross_entropy")` | logits against probabilities |
    """

    name: str
    ignore_index: int = -100
    label_smoothing: float = 0.0
    delta: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise TaskInvalid("loss", self.name, f"it is one of {', '.join(LOSSES)}", f'write loss="{LOSSES[0]}"')
        if not 0 <= self.label_smoothing < 1:
            raise TaskInvalid("loss label_smoothing", self.label_smoothing, "it is at least 0 and below 1", "e.g. 0.1")
        if not 0 < self.delta < math.inf:
            raise TaskInvalid("loss delta", self.delta, "it is above 0", "e.g. 1.0")


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent. See `sgd`."""

    rate: float
    momentum: float
    decay: float


def sgd(rate: float, momentum: float = 0.0, decay: float = 1.0) -> Sgd:
    """SGD; a visit from Snapshot v uses `rate * decay ** v`.

    >>> sgd(0.1, momentum=0.9)
    Sgd(rate=0.1, momentum=0.9, decay=1.0)
    """
    if not 0 < rate < math.inf:
        raise TaskInvalid("sgd rate", rate, "a learning rate is above 0", "e.g. sgd(0.1)")
    if not 0 <= momentum < 1:
        raise TaskInvalid("sgd momentum", momentum, "momentum is at least 0 and below 1", "e.g. momentum=0.9")
    if not 0 < decay <= 1:
        raise TaskInvalid("sgd decay", decay, "decay is above 0 and at most 1", "e.g. decay=0.99")
    return Sgd(rate, momentum, decay)


@dataclass(frozen=True)
class Slices:
    """A range of a layer's input features. See `slices`."""

    layer: str
    start: int
    stop: int


def slices(layer: str, inputs: range) -> Slices:
    """Train only what a Linear or Conv layer makes of these input features.

    >>> slices("fc1", inputs=range(0, 64))
    Slices(layer='fc1', start=0, stop=64)
    """
    if not isinstance(inputs, range) or inputs.step != 1 or inputs.start < 0 or len(inputs) < 1:
        raise TaskInvalid("slices inputs", inputs, "it is a range of neighbouring features", "e.g. range(0, 64)")
    return Slices(layer, inputs.start, inputs.stop)


@dataclass(frozen=True)
class LowRank:
    """A low-rank addition to a layer. See `lowrank`."""

    layer: str
    rank: int


def lowrank(layer: str, rank: int = 4) -> LowRank:
    """Train a product of two thin matrices, added to a Linear layer's weight.

    >>> lowrank("fc1", rank=2)
    LowRank(layer='fc1', rank=2)
    """
    return LowRank(layer, _whole("lowrank rank", rank, 1))


@dataclass(frozen=True)
class Local:
    """What one visit does on a device.

    | example | meaning |
    |---|---|
    | `Local(epochs=2)` | two passes over the device's examples |
    | `Local(minibatch=16)` | one optimizer step for every 16 examples |
    | `Local(microbatch=4)` | those 16 are computed 4 at a time: less memory, the same result |
    | `Local(balance=True)` | a device that has seen few sevens does not unlearn them |
    """

    epochs: int = 1
    minibatch: int = 16
    microbatch: int | None = None
    balance: bool = False
    optimizer: Sgd = field(default_factory=lambda: sgd(0.1))

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatch"):
            _whole(f"local {name}", getattr(self, name), 1)
        if self.microbatch is not None:
            _whole("local microbatch", self.microbatch, 1)
            if self.microbatch > self.minibatch:
                raise TaskInvalid(
                    "local microbatch",
                    self.microbatch,
                    f"a minibatch holds {self.minibatch}",
                    "choose at most that",
                )


@dataclass(frozen=True)
class Precision:
    """In how many bits numbers that only wait are held. Compiling reports what it costs.

    | example | meaning |
    |---|---|
    | `Precision(kept="int8")` | what the frozen prefix leaves of each example takes a quarter of the storage |
    | `Precision(saved="bfloat16")` | activations wait for the backward pass in half the memory |
    """

    kept: str = "float32"
    saved: str = "float32"

    def __post_init__(self) -> None:
        for name in ("kept", "saved"):
            value = getattr(self, name)
            if value not in NUMBERS:
                raise TaskInvalid(f"precision {name}", value, f"it is one of {', '.join(NUMBERS)}", 'e.g. "bfloat16"')


_UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 1000, "mb": 10**6, "gb": 10**9}


def parse_bytes(text: str | int, name: str = "size") -> int:
    """A size as people write it.

    >>> parse_bytes("32 KiB")
    32768
    """
    if isinstance(text, int):
        return _whole(name, text, 1)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found.group(2).lower() or "b") if found else None
    if not found or unit is None or float(found.group(1)) <= 0:
        raise TaskInvalid(name, text, "this is not a size", 'write e.g. "4 MiB" or "32 KiB"')
    return int(float(found.group(1)) * unit)


@dataclass(frozen=True)
class Budget:
    """What a device gives at most, for one visit.

    | example | meaning |
    |---|---|
    | `Budget(memory="2 MiB")` | training_bytes: arena, state, input, touched frozen weights |
    | `Budget(upload="8 KiB")` | one Update, with its keys and signatures |
    | `Budget(storage="20 MiB")` | what the device may keep of the prefix |
    | `Budget(seconds=20)` | wall time of one visit |
    """

    memory: str | int = "8 MiB"
    upload: str | int = "32 KiB"
    storage: str | int = "20 MiB"
    seconds: int = 60

    def __post_init__(self) -> None:
        for name in ("memory", "upload", "storage"):
            parse_bytes(getattr(self, name), f"budget {name}")
        _whole("budget seconds", self.seconds, 1)

    @property
    def memory_bytes(self) -> int:
        return parse_bytes(self.memory)

    @property
    def upload_bytes(self) -> int:
        return parse_bytes(self.upload)

    @property
    def storage_bytes(self) -> int:
        return parse_bytes(self.storage)


@dataclass(frozen=True)
class Privacy:
    """How much a device reveals over the whole life of the Plan, and to whom sums are opened.

    Give `epsilon` (the noise follows) or `noise` (epsilon follows, and is printed, however large): the
    standard deviation of the noise in one opened sum, in units of the most one device can add to it.

    | example | meaning |
    |---|---|
    | `Privacy(epsilon=8, devices=1_000_000)` | batches of 1,000, at most 4 Updates a device, 2,000 Snapshots |
    | `Privacy(noise=0.02, batch=4, threshold=4)` | a dozen devices: exercises the protocol, protects little |
    """

    epsilon: float | None = None
    noise: float | None = None
    devices: int = 1_000_000
    batch: int = 1000
    threshold: int | None = None
    snapshots: int = 2000
    participations: int = 4
    max_age: int = 16
    clip: float = 1.0
    delta: float = 1e-7

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.noise is not None:
            raise TaskInvalid(
                "privacy noise", self.noise, "epsilon is given too", "give one, the other follows from it"
            )
        for name in ("epsilon", "noise", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise TaskInvalid(f"privacy {name}", value, "it is a number above 0; noise is never off", "e.g. 8")
        if not 0 < self.delta < 1e-3:
            raise TaskInvalid("privacy delta", self.delta, "it lies between 0 and 0.001", "at most 1/(10 · devices)")
        for name in ("devices", "batch", "snapshots", "participations"):
            _whole(f"privacy {name}", getattr(self, name), 1)
        _whole("privacy max_age", self.max_age, 0)
        if self.threshold is not None:
            _whole("privacy threshold", self.threshold, 1)
            if self.threshold > self.batch:
                raise TaskInvalid(
                    "privacy threshold", self.threshold, f"a batch holds {self.batch}", "choose at most that"
                )
        if self.batch > self.devices:
            raise TaskInvalid("privacy batch", self.batch, f"there are {self.devices} devices", "choose at most that")

    @property
    def threshold_or_default(self) -> int:
        """Half a batch, and never fewer than ten where the batch allows it."""
        return self.threshold if self.threshold is not None else min(self.batch, max(10, self.batch // 2))


@dataclass(frozen=True)
class Task:
    """A model, what it learns from, and under which limits.

    >>> Task(name="digits", model=dict, example={"x": array((1, 8, 8)), "y": label(10)}).loss
    'cross_entropy'
    """

    name: str
    model: Callable[[], Any]  # makes the torch.nn.Module, weights included
    example: Mapping[str, Array | Label]
    loss: str | Loss = "cross_entropy"
    metrics: Sequence[str] = ("accuracy",)
    local: Local = field(default_factory=Local)
    budget: Budget = field(default_factory=Budget)
    privacy: Privacy = field(default_factory=Privacy)
    # Parameters or modules to train, or parts of layers by `slices` and `lowrank`; None: the compiler chooses.
    subset: Sequence[str | Slices | LowRank] | None = None
    precision: Precision = field(default_factory=Precision)
    # Compute again in the backward pass what is cheap to compute, instead of saving it: less memory, the same result.
    recompute: bool = False
    server_rate: float = 1.0
    # Makes examples that anybody may see, arrays [n, ...] by field, the label's optional. Directions and errors are
    # measured on them; nobody trains on them.
    public: Callable[[], Mapping[str, Any]] | None = None
    purpose: str = ""
    data_sources: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", self.name):
            raise TaskInvalid("name", self.name, "a name has 1 to 64 letters, digits, . _ - or spaces", "e.g. digits")
        if not callable(self.model):
            raise TaskInvalid(
                "model",
                type(self.model).__name__,
                "it is called to make the module",
                "write model=lambda: Net()",
            )
        labels = [name for name, part in self.example.items() if isinstance(part, Label)]
        inputs = [name for name, part in self.example.items() if isinstance(part, Array)]
        if len(labels) != 1 or not inputs or len(labels) + len(inputs) != len(self.example):
            raise TaskInvalid(
                "example",
                dict(self.example),
                "it has one label and at least one array",
                'write {"x": tacit.array((1, 28, 28)), "y": tacit.label(10)}',
            )
        loss = Loss(self.loss) if isinstance(self.loss, str) else self.loss
        if loss.name not in OF_ONE_LABEL:
            raise TaskInvalid(
                "loss",
                loss.name,
                "it is compiled and played, and an example of a Task has one class as its label so far",
                'write loss="cross_entropy"',
            )
        if self.public is not None and not callable(self.public):
            raise TaskInvalid(
                "public", type(self.public).__name__, "it is called to make examples", "write public=lambda: {...}"
            )
        for metric in self.metrics:
            if metric not in METRICS:
                raise TaskInvalid("metrics", metric, f"each is one of {', '.join(METRICS)}", "leave it out")
        if not 0 < self.server_rate < math.inf:
            raise TaskInvalid("server_rate", self.server_rate, "it is above 0", "1.0 applies the mean delta as it is")
        if self.subset is not None and (isinstance(self.subset, str) or not self.subset):
            raise TaskInvalid(
                "subset",
                self.subset,
                "it is a list of parameter or module names",
                'e.g. ["head"], or leave it out',
            )


def _whole(name: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TaskInvalid(name, value, f"it is a whole number of at least {least}", f"e.g. {max(least, 1)}")
    return value
