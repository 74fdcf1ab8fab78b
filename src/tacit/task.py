"""What the model developer writes: a Task and its parts.

These are values. They know nothing of PyTorch, keys or networks; `tacit compile` turns a Task into a
Plan. Everything is checked when it is made, and every error names the field, the value and a way out.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from tacit.errors import InputError
from tacit.privacy.trust import Trust

if TYPE_CHECKING:
    from tacit.plan.manifest import Robust
    from tacit.plan.numbers import Numbers

OF_CLASSES = ("cross_entropy", "next_token")  # losses whose labels are classes
CUSTOM = "custom"  # a loss the developer wrote
LOSSES = (*OF_CLASSES, "mse", "huber", "binary_cross_entropy", CUSTOM)
OF_RIGHT_OR_WRONG = (*OF_CLASSES, "binary_cross_entropy")  # losses beside which an accuracy can be counted
METRICS = ("accuracy", "loss")
ROBUST = ("mean", "median", "trimmed", "geometric", "bounded")
NUMBERS = ("float32", "bfloat16", "int8")
FROZEN_NUMBERS = ("float32", "float16", "int8", "int6", "int5", "int4")


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
    """A class to predict, or one at each position. See `label`."""

    classes: int
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Target:
    """Numbers to predict. See `target`."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """How much an example counts. See `weight`."""


@dataclass(frozen=True)
class Group:
    """Whose an example is. See `group`."""


def array(shape: Sequence[int], dtype: str = "float32") -> Array:
    """An input array of this shape, without the batch.

    >>> array((1, 28, 28))
    Array(shape=(1, 28, 28), dtype='float32')
    """
    shape = _shape("array shape", shape)
    if dtype not in ("float32", "int32"):
        raise TaskInvalid(
            "array dtype",
            dtype,
            "inputs are float32 or int32",
            '"float32" for numbers, "int32" for categories and tokens',
        )
    return Array(shape, dtype)


def label(classes: int, shape: Sequence[int] = ()) -> Label:
    """A label 0..classes-1, or one at each of so many positions.

    >>> label(10), label(65, shape=(64,))
    (Label(classes=10, shape=()), Label(classes=65, shape=(64,)))
    """
    if not isinstance(classes, int) or classes < 2:
        raise TaskInvalid("label classes", classes, "there are at least two classes", "e.g. label(10)")
    return Label(classes, _shape("label shape", shape) if shape != () else ())


def target(shape: Sequence[int]) -> Target:
    """Numbers to predict, in the shape of what the model returns for an example.

    >>> target((1,))
    Target(shape=(1,))
    """
    return Target(_shape("target shape", shape))


def weight() -> Weight:
    """A number of at least 0 beside every example: twice the weight counts as the example given twice.

    >>> weight()
    Weight()
    """
    return Weight()


def group() -> Group:
    """A whole number beside every example that says whose it is, a patient's for example: see `Silo`.

    >>> group()
    Group()
    """
    return Group()


@dataclass(frozen=True)
class Loss:
    """What training lowers: the mean over a minibatch of each example's own mean, over all its positions or numbers.

    | example | meaning |
    |---|---|
    | `Loss("cross_entropy", label_smoothing=0.1)` | logits of classes against a class |
    | `Loss("next_token", ignore_index=0)` | logits at every position against a class each; class 0 adds nothing |
    | `Loss("mse")` | the mean over an example's numbers |
    | `Loss("huber", delta=0.5)` | squares up to 0.5, straight lines beyond |
    | `Loss("binary_cross_entropy")` | logits against probabilities |
    | `Loss("custom", function=f)` | `f(output, labels)`, tensors of a micro-batch, returns a loss for each example |
    | `Loss("custom", function=f, label=(3,))` | the same where an example's label has this shape |
    """

    name: str
    ignore_index: int = -100
    label_smoothing: float = 0.0
    delta: float = 1.0
    function: Callable[[Any, Any], Any] | None = None
    label: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.name == CUSTOM) != (self.function is not None):
            raise TaskInvalid("loss function", self.name, "a loss of your own has one, and no other", "loss=f")
        if self.name not in LOSSES:
            raise TaskInvalid("loss", self.name, f"it is one of {', '.join(LOSSES)}", f'write loss="{LOSSES[0]}"')
        if not 0 <= self.label_smoothing < 1:
            raise TaskInvalid("loss label_smoothing", self.label_smoothing, "it is at least 0 and below 1", "e.g. 0.1")
        if not 0 < self.delta < math.inf:
            raise TaskInvalid("loss delta", self.delta, "it is above 0", "e.g. 1.0")


def named_loss(loss: str | Loss | Callable[[Any, Any], Any]) -> Loss:
    """A loss with its settings; a function is one of the developer's own.

    >>> named_loss("mse").name, named_loss(lambda output, target: (output - target).abs().mean(1)).name
    ('mse', 'custom')
    """
    if isinstance(loss, str):
        return Loss(loss)
    return loss if isinstance(loss, Loss) else Loss(CUSTOM, function=loss)


@dataclass(frozen=True)
class Schedule:
    """How the learning rate falls from Snapshot to Snapshot. See `cosine` and `inverse`."""

    name: Literal["cosine", "inverse"]
    over: int
    floor: float = 0.0


def cosine(over: int, floor: float = 0.0) -> Schedule:
    """From the rate down to `floor` along half a cosine, over this many Snapshots; `floor` from then on.

    >>> sgd(0.1, schedule=cosine(over=500, floor=0.01)).schedule
    Schedule(name='cosine', over=500, floor=0.01)
    """
    if not 0 <= floor < math.inf:
        raise TaskInvalid("cosine floor", floor, "a learning rate is not negative", "e.g. floor=0.01")
    return Schedule("cosine", _whole("cosine over", over, 1), floor)


def inverse(over: int) -> Schedule:
    """A visit from Snapshot v uses `rate / (1 + v / over)`.

    >>> sgd(0.1, schedule=inverse(over=50)).schedule
    Schedule(name='inverse', over=50, floor=0.0)
    """
    return Schedule("inverse", _whole("inverse over", over, 1))


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent. See `sgd`."""

    rate: float
    momentum: float
    decay: float
    nesterov: bool = False
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Sign:
    """Steps of one size in every value. See `sign`."""

    rate: float
    momentum: float
    decay: float
    schedule: Schedule | None = None


def sgd(
    rate: float, momentum: float = 0.0, decay: float = 1.0, nesterov: bool = False, schedule: Schedule | None = None
) -> Sgd:
    """SGD; a visit from Snapshot v uses `rate * decay ** v`, or what a `schedule` says instead.

    >>> sgd(0.1, momentum=0.9)
    Sgd(rate=0.1, momentum=0.9, decay=1.0, nesterov=False, schedule=None)
    """
    _check_rates("sgd", rate, momentum, decay, schedule)
    if nesterov and not momentum:
        raise TaskInvalid("sgd nesterov", nesterov, "it looks ahead along the momentum", "e.g. momentum=0.9")
    return Sgd(rate, momentum, decay, nesterov, schedule)


def sign(rate: float, momentum: float = 0.0, decay: float = 1.0, schedule: Schedule | None = None) -> Sign:
    """Every value moves by the rate, against the sign of its gradient, or of its gradients averaged by momentum.

    >>> sign(0.001, momentum=0.9)
    Sign(rate=0.001, momentum=0.9, decay=1.0, schedule=None)
    """
    _check_rates("sign", rate, momentum, decay, schedule)
    return Sign(rate, momentum, decay, schedule)


def _check_rates(name: str, rate: float, momentum: float, decay: float, schedule: Schedule | None) -> None:
    if not 0 < rate < math.inf:
        raise TaskInvalid(f"{name} rate", rate, "a learning rate is above 0", f"e.g. {name}(0.1)")
    if not 0 <= momentum < 1:
        raise TaskInvalid(f"{name} momentum", momentum, "momentum is at least 0 and below 1", "e.g. momentum=0.9")
    if not 0 < decay <= 1:
        raise TaskInvalid(f"{name} decay", decay, "decay is above 0 and at most 1", "e.g. decay=0.99")
    if schedule is not None and decay != 1:
        raise TaskInvalid(f"{name} decay", decay, "a schedule says by itself how the rate falls", "leave decay out")
    if schedule is not None and schedule.floor > rate:
        raise TaskInvalid(f"{name} schedule", schedule, f"it falls, and begins at {rate}", "choose a smaller floor")


@dataclass(frozen=True)
class Momentum:
    """See `momentum`."""

    beta: float


@dataclass(frozen=True)
class Adaptive:
    """Each value by its own size. See `adam` and `yogi`."""

    name: Literal["adam", "yogi"]
    beta1: float
    beta2: float
    eps: float


def momentum(beta: float = 0.9) -> Momentum:
    """The server goes on in the direction of earlier batches, of which `beta` stays with each: m = beta * m + mean.

    >>> Server(rate=0.3, optimizer=momentum(0.9), average=0.8)
    Server(rate=0.3, optimizer=Momentum(beta=0.9), average=0.8)
    """
    return Momentum(_share("momentum beta", beta))


def adam(beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-3) -> Adaptive:
    """The server divides each value's mean direction by the root of its mean square, plus `eps`. Take a small rate.

    >>> Server(rate=0.01, optimizer=adam()).optimizer
    Adaptive(name='adam', beta1=0.9, beta2=0.99, eps=0.001)
    """
    return Adaptive("adam", _share("adam beta1", beta1), _share("adam beta2", beta2), _above("adam eps", eps))


def yogi(beta1: float = 0.9, beta2: float = 0.99, eps: float = 1e-3) -> Adaptive:
    """As `adam`, but the mean square grows and falls by small steps only.

    >>> yogi(eps=0.01)
    Adaptive(name='yogi', beta1=0.9, beta2=0.99, eps=0.01)
    """
    return Adaptive("yogi", _share("yogi beta1", beta1), _share("yogi beta2", beta2), _above("yogi eps", eps))


@dataclass(frozen=True)
class Server:
    """How one Snapshot follows from another and a batch's mean.

    | example | meaning |
    |---|---|
    | `Server(average=0.8)` | the mean is added; 0.8 of the published average stays with every batch |
    | `Server(rate=0.3, optimizer=momentum(0.9))` | it goes on in the direction of earlier batches |
    | `Server(rate=0.01, optimizer=adam())` | each value by its own size |
    """

    rate: float = 1.0
    optimizer: Momentum | Adaptive | None = None  # None: the mean as it is
    average: float = 0.0

    def __post_init__(self) -> None:
        _above("server rate", self.rate)
        _share("server average", self.average)


@dataclass(frozen=True)
class Slices:
    """A range of a layer's input features, or of its outputs. See `slices`."""

    layer: str
    start: int
    stop: int
    of: Literal["inputs", "outputs"] = "inputs"


def slices(layer: str, inputs: range | None = None, outputs: range | None = None) -> Slices:
    """Train only what a Linear or Conv layer makes of these input features, or these of its output features.

    Ranges of inputs train better and keep less of an example; ranges of outputs are the second choice.

    >>> slices("fc1", inputs=range(0, 64))
    Slices(layer='fc1', start=0, stop=64, of='inputs')
    """
    if (inputs is None) == (outputs is None):
        raise TaskInvalid("slices", layer, "it is a range of inputs or one of outputs", "e.g. inputs=range(0, 64)")
    of, chosen = ("inputs", inputs) if inputs is not None else ("outputs", outputs)
    if not isinstance(chosen, range) or chosen.step != 1 or chosen.start < 0 or len(chosen) < 1:
        raise TaskInvalid(f"slices {of}", chosen, "it is a range of neighbouring features", "e.g. range(0, 64)")
    return Slices(layer, chosen.start, chosen.stop, of)


@dataclass(frozen=True)
class LowRank:
    """A low-rank addition to a layer. See `lowrank`."""

    layer: str
    rank: int


def lowrank(layer: str, rank: int = 4) -> LowRank:
    """Train a product of two thin matrices, added to the weight of a Linear or Conv layer.

    For nn.MultiheadAttention: two such products, added to its projections in and out.

    >>> lowrank("fc1", rank=2)
    LowRank(layer='fc1', rank=2)
    """
    return LowRank(layer, _whole("lowrank rank", rank, 1))


MODEL = "model"  # where a projected head starts: what the model answers stays, and the head is added to it


@dataclass(frozen=True)
class Projected:
    """A linear head on features of a middle layer. See `projected`."""

    layer: str
    features: int = 256
    start: str = "zero"


def projected(layer: str, features: int = 256, start: str = "zero") -> Projected:
    """Cut the model behind a layer and train a linear head on principal directions of the layer's output.

    The Task's public examples show the directions, so it needs some. The head starts from zero, with
    `start="public"` from the discriminant of their labels, and with `start="model"` from what the model answers by
    itself, which stays: what the head says is added to it. That is for a model that knows the task.

    >>> projected("features.3", features=128)
    Projected(layer='features.3', features=128, start='zero')
    """
    if start not in ("zero", "public", MODEL):
        raise TaskInvalid("projected start", start, "it is zero, public or model", 'e.g. start="zero"')
    return Projected(layer, _whole("projected features", features, 1), start)


@dataclass(frozen=True)
class Local:
    """What one visit does on a device.

    | example | meaning |
    |---|---|
    | `Local(epochs=2)` | two passes over the device's examples |
    | `Local(minibatch=16)` | one optimizer step for every 16 examples |
    | `Local(microbatch=4)` | those 16 are computed 4 at a time: less memory, the same result |
    | `Local(balance=True)` | a device that has seen few sevens does not unlearn them |
    | `Local(dropout=True)` | the module's dropout is on while it trains locally; without this it is off |
    | `Local(batch_statistics=True)` | BatchNorm normalises by each minibatch; else by its frozen statistics |
    | `Local(proximal=0.01)` | each step is also pulled back, by 0.01 of the way, to where the visit began (FedProx) |
    | `Local(variance_weight=True)` | a device whose minibatches contradict each other counts less |
    """

    epochs: int = 1
    minibatch: int = 16
    microbatch: int | None = None
    balance: bool = False
    optimizer: Sgd | Sign = field(default_factory=lambda: sgd(0.1))
    proximal: float = 0.0
    dropout: bool = False
    batch_statistics: bool = False
    variance_weight: bool = False

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
        if self.batch_statistics and (self.minibatch < 2 or self.microbatch not in (None, self.minibatch)):
            raise TaskInvalid(
                "local batch_statistics",
                self.batch_statistics,
                f"micro-batches of {self.microbatch or 1} do not have the statistics of a minibatch of "
                f"{self.minibatch}, and padding would count in them",
                "leave microbatch out and use a minibatch of at least 2, or leave batch_statistics out",
            )
        if not 0 <= self.proximal < math.inf:
            raise TaskInvalid("local proximal", self.proximal, "it is not negative", "e.g. 0.01, or 0 for none")


@dataclass(frozen=True)
class Precision:
    """In how many bits numbers that only wait are held. Compiling reports what it costs.

    | example | meaning |
    |---|---|
    | `Precision(kept="int8")` | what the frozen prefix leaves of each example takes a quarter of the storage |
    | `Precision(saved="bfloat16")` | activations wait for the backward pass in half the memory |
    | `Precision(frozen="int8")` | frozen weights take a quarter of the Plan and of memory, and predict as rounded |
    | `Precision(frozen="int5")` | the same memory, in fewer steps (int6, int5, int4): the Plan packs into fewer bytes |
    """

    kept: str = "float32"
    saved: str = "float32"
    frozen: str = "float32"

    def __post_init__(self) -> None:
        for name, numbers in (("kept", NUMBERS), ("saved", NUMBERS), ("frozen", FROZEN_NUMBERS)):
            value = getattr(self, name)
            if value not in numbers:
                raise TaskInvalid(f"precision {name}", value, f"it is one of {', '.join(numbers)}", 'e.g. "int8"')


_UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 1000, "mb": 10**6, "gb": 10**9}


# What people own: the second-level cache of a small or a recent core, a background process on a phone, a laptop.
SIZES = {"cache-2MiB": "2 MiB", "cache-8MiB": "8 MiB", "phone-32MiB": "32 MiB", "laptop": "512 MiB"}


def parse_share(text: str | float, name: str = "share") -> float:
    """A share as people write it.

    >>> parse_share("0.1 %"), parse_share(0.02)
    (0.001, 0.02)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text) if isinstance(text, str) else None
    value = text if not isinstance(text, str) else float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < value <= 1:
        raise TaskInvalid(name, text, "it is above 0 and at most 100 %", 'write e.g. "0.1 %"')
    return value


def parse_bytes(text: str | int, name: str = "size") -> int:
    """A size as people write it, or one of the named ones.

    >>> parse_bytes("32 KiB"), parse_bytes("cache-2MiB")
    (32768, 2097152)
    """
    if isinstance(text, int):
        return _whole(name, text, 1)
    text = SIZES.get(text.strip(), text)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found.group(2).lower() or "b") if found else None
    if not found or unit is None or float(found.group(1)) <= 0:
        fix = f'write e.g. "4 MiB" or "32 KiB", or {", ".join(SIZES)}'
        raise TaskInvalid(name, text, "this is not a size", fix)
    return int(float(found.group(1)) * unit)


@dataclass(frozen=True)
class Budget:
    """What a device gives at most, for one visit.

    Where the compiler chooses the subset, a memory of 512 KiB or more holds for all that a step touches, which is a
    little more than training_bytes: tapes, the ends of pages, the examples at hand.

    | example | meaning |
    |---|---|
    | `Budget(memory="2 MiB")` | training_bytes: arena, state, input, touched frozen weights |
    | `Budget(upload="8 KiB")` | one Update, with its keys and signatures |
    | `Budget(storage="20 MiB")` | what the device may keep of the prefix |
    | `Budget(seconds=20)` | wall time of one visit |
    | `Budget(memory="cache-2MiB")` | a size by what people own: cache-2MiB, cache-8MiB, phone-32MiB, laptop |
    | `Budget(battery="0.1 %")` | what a visit's computing takes of a full battery |
    | `Budget(devices=["pi-4b", "phone-mid"])` | seconds and battery hold on these; on every shipped profile if none |
    | `Budget(examples=60)` | about so many examples are on a device |
    """

    memory: str | int = "8 MiB"
    upload: str | int = "32 KiB"
    storage: str | int = "20 MiB"
    seconds: int = 60
    battery: str | float | None = None
    devices: Sequence[str] = ()
    examples: int = 100

    def __post_init__(self) -> None:
        for name in ("memory", "upload", "storage"):
            parse_bytes(getattr(self, name), f"budget {name}")
        _whole("budget seconds", self.seconds, 1)
        _whole("budget examples", self.examples, 1)
        if self.battery is not None:
            parse_share(self.battery, "budget battery")

    @property
    def memory_bytes(self) -> int:
        return parse_bytes(self.memory)

    @property
    def battery_share(self) -> float | None:
        return None if self.battery is None else parse_share(self.battery)

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
    | `Privacy(epsilon=8, separation=100)` | a device's Updates land at least 100 batches apart: see below |
    | `Privacy(epsilon=8, correlated=False)` | every sum gets noise of its own |
    | `Privacy(epsilon=8, trust="three-party", weights="age")` | two other operators hold keys; old Updates count less |
    | `Privacy(epsilon=8, gate=True)` | keeps out Updates that are far too long, for μ² = 1/64 a landing |
    | `Privacy(epsilon=8, batch=50, groups=8, robust="median")` | 8 batches a step, each opened by itself: see below |

    Noise is correlated where an epsilon is asked for, for more than ten Snapshots, of a fleet that is large enough:
    devices ≥ batch · (max_age + separation). Snapshots then hold a fraction of the noise at the same epsilon.
    Which Updates make up a batch are four words together: see `fedavg`, `fedbuff` and `semi_async`. With `selected`, so
    many devices at most are at work on a Snapshot, each for `place_seconds`; others are told when to come again.
    `separation` is Snapshots / (participations + 1) if nothing is said, and less where only half of the fleet could
    not keep it up; noise that is not correlated needs none. Weights by age are 8 / √(1 + age), rounded, at least 1.

    With `groups` so many batches are one round, and their robust mean moves the Snapshot once: "median", "trimmed" (a
    quarter of the groups off at both ends), "geometric", or "bounded" (each counts up to `bound` clips). √groups times
    the noise is its price, at least, and it wants noise of its own for every sum. See docs/explanation/resistance.md.
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
    separation: int | None = None
    correlated: bool | None = None
    trust: str = Trust.SINGLE_OPERATOR
    weights: Literal["equal", "age"] = "equal"
    gate: bool = False
    selected: int | None = None
    place_seconds: int = 900
    groups: int = 1
    robust: Literal["mean", "median", "trimmed", "geometric", "bounded"] = "mean"
    bound: float = 0.5

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.noise is not None:
            raise TaskInvalid(
                "privacy noise", self.noise, "epsilon is given too", "give one, the other follows from it"
            )
        for name in ("epsilon", "noise", "clip", "bound"):
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
        _whole("privacy place_seconds", self.place_seconds, 1)
        if self.selected is not None:
            _whole("privacy selected", self.selected, 1)
            if self.selected < (needed := self.batch * self.groups):
                step = "a batch waits" if self.groups == 1 else f"{self.groups} batches wait"
                raise TaskInvalid("privacy selected", self.selected, f"{step} for {needed}", "select at least so many")
        if self.batch > self.devices:
            raise TaskInvalid("privacy batch", self.batch, f"there are {self.devices} devices", "choose at most that")
        if self.separation is not None:
            _whole("privacy separation", self.separation, 1)
        if self.trust not in list(Trust):
            raise TaskInvalid("privacy trust", self.trust, f"it is one of {', '.join(Trust)}", "who holds the keys?")
        if self.weights not in ("equal", "age"):
            raise TaskInvalid("privacy weights", self.weights, "they are equal or by age", 'write "equal" or "age"')
        if self.weights == "age" and self.trust == Trust.TWO_PARTY:
            raise TaskInvalid(
                "privacy weights",
                self.weights,
                "in two-party mode the keyholder knows the noise, and unequal weights would tell Updates apart",
                'write "equal"',
            )
        self._check_rounds()
        needed = self.batch * (self.max_age + self.separation_or_default)
        if self.correlated and self.devices < needed:
            raise TaskInvalid(
                "privacy correlated",
                True,
                f"it needs devices ≥ batch · (max_age + separation) = {self.batch} · ({self.max_age} + "
                f"{self.separation_or_default}) = {needed:,}, and there are {self.devices:,}",
                "choose smaller batches, a smaller max_age or separation, or leave correlated out",
            )

    def _check_rounds(self) -> None:
        _whole("privacy groups", self.groups, 1)
        if self.robust not in ROBUST:
            raise TaskInvalid("privacy robust", self.robust, f"it is one of {', '.join(ROBUST)}", 'e.g. "median"')
        if self.groups < 3 and self.robust in ("median", "trimmed", "geometric"):
            raise TaskInvalid(
                "privacy groups", self.groups, f"a {self.robust} mean of fewer than three is the mean", "e.g. 9"
            )
        if self.one_sum_a_step:
            return
        if self.correlated:
            raise TaskInvalid(
                "privacy correlated",
                True,
                "a robust mean is no sum, and what later noise takes back of earlier would not be taken back",
                "leave correlated out, or groups and robust",
            )
        if self.max_age < self.groups - 1:
            raise TaskInvalid(
                "privacy max_age",
                self.max_age,
                f"a round of {self.groups} groups is as many versions, and Updates would be too old for its last group",
                f"at least {self.groups - 1}; twice that lets an Update wait for the next round",
            )
        if self.snapshots % self.groups:
            raise TaskInvalid(
                "privacy snapshots",
                self.snapshots,
                f"they count batches, and are no whole number of rounds of {self.groups}",
                f"e.g. {self.snapshots + self.groups - self.snapshots % self.groups}",
            )

    @property
    def one_sum_a_step(self) -> bool:
        """Whether a Snapshot moves by what one sum says, and by all of it."""
        return self.groups == 1 and self.robust == "mean"

    @property
    def claimed(self) -> Trust:
        """What the Plan says of its keyholders; each device works out its own, and takes no more."""
        return Trust(self.trust)

    @property
    def noise_is_correlated(self) -> bool:
        """Whether noises of later sums take back what earlier ones added, where nothing else is said.

        >>> Privacy(epsilon=8).noise_is_correlated, Privacy(epsilon=8, devices=5000).noise_is_correlated
        (True, False)
        """
        if self.correlated is not None:
            return self.correlated
        room = self._within_half if self.separation is None else self.devices // self.batch - self.max_age
        return self.one_sum_a_step and self.noise is None and self.snapshots > 10 and room >= (self.separation or 1)

    @property
    def separation_or_default(self) -> int:
        """Batches from one landing of a device to its next.

        >>> Privacy(epsilon=8).separation_or_default, Privacy(epsilon=8, devices=100_000).separation_or_default
        (400, 34)
        """
        if self.separation is not None or not self.noise_is_correlated:
            return self.separation or 1
        return max(1, min(self.snapshots // (self.participations + 1), self._within_half))

    @property
    def _within_half(self) -> int:
        """The separation that half of the devices can keep up, if the others never come."""
        return self.devices // (2 * self.batch) - self.max_age

    @property
    def age_weights(self) -> tuple[int, ...]:
        """How much an Update counts, by its age.

        >>> Privacy(epsilon=8, weights="age", max_age=4).age_weights
        (8, 6, 5, 4, 4)
        """
        if self.weights == "equal":
            return (1,) * (self.max_age + 1)
        return tuple(max(1, round(8 / math.sqrt(1 + age))) for age in range(self.max_age + 1))

    def numbers(self, d: int, keyholders: int) -> "Numbers":
        """What this comes to for so many values: noise, integer bound and ring.

        >>> round(Privacy(epsilon=4).numbers(1000, 2).noise.sigma, 2)
        1.3
        """
        from tacit.plan.manifest import Gate, Places
        from tacit.plan.numbers import GATE_ETA, GATE_ROWS, GATE_Z, choose_numbers

        return choose_numbers(
            d=d,
            keyholders=keyholders,
            epsilon=self.epsilon,
            noise=self.noise,
            batch=self.batch,
            threshold=self.threshold_or_default,
            snapshots=self.snapshots,
            participations=self.participations,
            max_age=self.max_age,
            clip=self.clip,
            delta=self.delta,
            separation=self.separation_or_default,
            devices=self.devices,
            correlated=self.noise_is_correlated,
            weights=self.age_weights,
            gate=Gate(GATE_ROWS, GATE_Z, GATE_ETA) if self.gate else None,
            places=None if self.selected is None else Places(self.selected, self.place_seconds),
            groups=self.groups,
            robust=self.robust_mean,
        )

    @property
    def robust_mean(self) -> "Robust":
        """As a Plan says it.

        >>> Privacy(noise=0.1, groups=8, robust="trimmed").robust_mean
        Trimmed(cut=2)
        """
        from tacit.plan.manifest import Alike, Bounded, Geometric, Median, Trimmed

        match self.robust:
            case "mean":
                return Alike()
            case "median":
                return Median()
            case "trimmed":
                return Trimmed(max(1, self.groups // 4))
            case "geometric":
                return Geometric()
            case "bounded":
                return Bounded(self.bound * self.clip)

    @property
    def threshold_or_default(self) -> int:
        """Half a batch, and never fewer than ten where the batch allows it."""
        return self.threshold if self.threshold is not None else min(self.batch, max(10, self.batch // 2))


class Batching(TypedDict):
    """Words of `Privacy` that say together which Updates make up a batch."""

    batch: int
    threshold: int
    max_age: int
    weights: Literal["equal", "age"]
    selected: NotRequired[int]


def fedavg(devices: int, selected: int | None = None) -> Batching:
    """So many devices train from one Snapshot, and a batch is all of them: whoever waits for it, waits for the last.

    With more `selected` a batch is the first that answer, and what the others send is too late.

    >>> Privacy(epsilon=8, **fedavg(50, selected=65)).max_age
    0
    """
    return Batching(
        batch=devices, threshold=devices, max_age=0, weights="equal", selected=devices if selected is None else selected
    )


def fedbuff(batch: int, max_age: int = 16) -> Batching:
    """The next so many Updates, from whatever Snapshot they started and each like the others.

    >>> fedbuff(10)
    {'batch': 10, 'threshold': 10, 'max_age': 16, 'weights': 'equal'}
    """
    return Batching(batch=batch, threshold=batch, max_age=max_age, weights="equal")


def semi_async(batch: int, threshold: int | None = None, max_age: int = 16) -> Batching:
    """The next so many Updates, or at the deadline those that are there if they are `threshold`; older ones count less.

    A threshold that is not named is half a batch, and ten at least. `Local(variance_weight=True)` goes with it.

    >>> Privacy(epsilon=8, **semi_async(100, max_age=4)).age_weights
    (8, 6, 5, 4, 4)
    """
    least = min(batch, max(10, batch // 2)) if threshold is None else threshold
    return Batching(batch=batch, threshold=least, max_age=max_age, weights="age")


@dataclass(frozen=True)
class Silo:
    """A few sites, each with many people's examples, and what is revealed of one of those people in all rounds.

    Each site adds the noise itself, step by step, before anything leaves. Who is protected is whose examples a
    `group()` tells apart, else each record by itself; `Local.epochs` are the passes over them in a round, and
    `Local.minibatch` is how many of them make up a step.

    | example | meaning |
    |---|---|
    | `Silo(epsilon=4, sites=4, rounds=20)` | four hospitals, all of them in each of twenty rounds |
    | `Silo(epsilon=4, sites=50, absent=5, rounds=20)` | a round goes on without five of fifty clinics |
    | `Silo(epsilon=4, sites=4, rounds=20, clip=0.5)` | a person's summed gradient counts up to a length of 0.5 |
    | `Silo(epsilon=4, sites=4, rounds=20, people=300)` | about so many at a site: an Update's bound follows from it |
    | `Silo(epsilon=4, sites=4, rounds=20, trust="two-party")` | another operator holds the key of every sum |
    """

    epsilon: float
    sites: int
    rounds: int
    absent: int = 0
    clip: float = 1.0
    people: int = 200
    delta: float = 1e-5
    trust: str = Trust.SINGLE_OPERATOR

    def __post_init__(self) -> None:
        if self.trust not in list(Trust):
            raise TaskInvalid("silo trust", self.trust, f"it is one of {', '.join(Trust)}", "who holds the keys?")
        for name in ("epsilon", "clip"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise TaskInvalid(f"silo {name}", value, "it is a number above 0; noise is never off", "e.g. 1.0")
        if not 0 < self.delta < 1e-3:
            raise TaskInvalid("silo delta", self.delta, "it lies between 0 and 0.001", "at most 1/(10 · people)")
        for name in ("sites", "rounds", "people"):
            _whole(f"silo {name}", getattr(self, name), 1)
        _whole("silo absent", self.absent, 0)
        if self.sites - self.absent < 3:
            raise TaskInvalid(
                "silo sites",
                self.sites,
                f"without the {self.absent} that may be absent a sum holds {self.sites - self.absent} Updates, and "
                "fewer than 3 hide none of them",
                "at least three sites in every round",
            )

    @property
    def claimed(self) -> Trust:
        """What the Plan says of its keyholders; each device works out its own, and takes no more."""
        return Trust(self.trust)


@dataclass(frozen=True)
class Task:
    """A model, what it learns from, and under which limits.

    >>> Task(name="digits", model=dict, example={"x": array((1, 8, 8)), "y": label(10)}).loss
    'cross_entropy'
    """

    name: str
    model: Callable[[], Any]  # makes the torch.nn.Module, weights included
    example: Mapping[str, Array | Label | Target | Weight | Group]
    loss: str | Loss | Callable[[Any, Any], Any] = "cross_entropy"
    metrics: Sequence[str] = ()  # "accuracy", "loss"; none named: accuracy where the loss has one
    local: Local = field(default_factory=Local)
    budget: Budget = field(default_factory=Budget)
    privacy: Privacy | Silo = field(default_factory=Privacy)
    # Parameters or modules to train, or parts of layers by `slices` and `lowrank`, or
    # one `projected` head; None: the compiler chooses.
    subset: Sequence[str | Slices | LowRank | Projected] | None = None
    # None: float32; where the compiler chooses the subset it may also choose fewer bits for what only waits.
    precision: Precision | None = None
    # Compute again in the backward pass what is cheap to compute, instead of saving it: less memory, the same result.
    recompute: bool = False
    # What the coordinator makes of a batch's mean, and how much of the published average stays with every batch.
    server: Server = field(default_factory=lambda: Server(average=0.8))
    # Makes examples that anybody may see, arrays [n, ...] by field, the label's optional. Directions and errors are
    # measured on them; nobody trains on them.
    public: Callable[[], Mapping[str, Any]] | None = None
    purpose: str = ""
    data_sources: Sequence[str] = ()

    @property
    def loss_named(self) -> Loss:
        """The loss with its settings."""
        loss = named_loss(self.loss)
        return loss if loss.function is None else replace(loss, label=self.label[1].shape)

    @property
    def label(self) -> tuple[str, Label | Target]:
        """The label's name, and what it is."""
        return next((name, part) for name, part in self.example.items() if isinstance(part, Label | Target))

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The arrays by name: shape and dtype."""
        return {name: (part.shape, part.dtype) for name, part in self.example.items() if isinstance(part, Array)}

    @property
    def group(self) -> str:
        """The name of what says whose an example is; empty where nothing does."""
        return next((name for name, part in self.example.items() if isinstance(part, Group)), "")

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
        labels = [part for part in self.example.values() if isinstance(part, Label | Target)]
        inputs = [part for part in self.example.values() if isinstance(part, Array)]
        weights = [part for part in self.example.values() if isinstance(part, Weight)]
        groups = [part for part in self.example.values() if isinstance(part, Group)]
        beside = len(weights) + len(groups)
        if len(labels) != 1 or not inputs or beside > 1 or len(inputs) + 1 + beside != len(self.example):
            raise TaskInvalid(
                "example",
                dict(self.example),
                "it has one label or target, at least one array, and at most one weight or one group",
                'write {"x": tacit.array((1, 28, 28)), "y": tacit.label(10)}',
            )
        _check_loss(self.loss_named, labels[0])
        _check_silo(self)
        if self.public is not None and not callable(self.public):
            raise TaskInvalid(
                "public", type(self.public).__name__, "it is called to make examples", "write public=lambda: {...}"
            )
        for metric in self.metrics:
            if metric not in METRICS:
                raise TaskInvalid("metrics", metric, f"each is one of {', '.join(METRICS)}", "leave it out")
            if metric == "accuracy" and self.loss_named.name not in OF_RIGHT_OR_WRONG:
                raise TaskInvalid("metrics", metric, f"nothing is right or wrong under {self.loss}", 'write "loss"')
        if self.subset is not None and (isinstance(self.subset, str) or not self.subset):
            raise TaskInvalid(
                "subset",
                self.subset,
                "it is a list of parameter or module names",
                'e.g. ["head"], or leave it out',
            )
        heads = [part for part in self.subset or () if isinstance(part, Projected)]
        if heads and len(self.subset or ()) > 1:
            raise TaskInvalid(
                "subset",
                self.subset,
                "behind the cut of a projected head nothing is left to train, and before it nothing changes",
                "write the projected head alone",
            )
        if heads and self.public is None:
            raise TaskInvalid(
                "subset",
                self.subset,
                "public examples show the directions of a projected head, and the Task has none",
                "write public=lambda: {...}, with the arrays of some hundred examples that anybody may see",
            )


def _check_silo(task: Task) -> None:
    """What protects people within a site bounds each of them by themselves."""
    if not isinstance(task.privacy, Silo):
        if task.group:
            raise TaskInvalid(
                f"example {task.group}", Group(), "nobody asks whose an example is", "write privacy=tacit.Silo(...)"
            )
        return
    for name, told, why in (
        ("local balance", task.local.balance, "the labels of all people at a site would set where training starts"),
        ("local batch_statistics", task.local.batch_statistics, "people would meet in the statistics of a minibatch"),
        ("local variance_weight", task.local.variance_weight, "it would be worked out from gradients without noise"),
        (
            "example weight",
            any(isinstance(part, Weight) for part in task.example.values()),
            "each person counts up to the clip, and no more by weight",
        ),
    ):
        if told:
            raise TaskInvalid(name, told, why, "leave it out")


def _check_loss(loss: Loss, label: Label | Target) -> None:
    """A loss goes with one kind of label."""
    of_positions = isinstance(label, Label) and label.shape != ()
    match loss.name:
        case "cross_entropy":
            fits, fix = isinstance(label, Label) and not of_positions, "a class an example: tacit.label(10)"
        case "next_token":
            fits, fix = of_positions, "a class at each position: tacit.label(65, shape=(64,))"
        case "custom":
            fits, fix = True, "a label or a target"
        case _:
            fits, fix = isinstance(label, Target), "numbers as the model returns them: tacit.target((1,))"
    if not fits:
        raise TaskInvalid("loss", loss.name, f"it does not go with {label}", f"it needs {fix}")


def _shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    if not shape or any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in shape):
        raise TaskInvalid(name, tuple(shape), "every size is a positive whole number", "e.g. (1, 28, 28)")
    return tuple(shape)


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise TaskInvalid(name, value, "it is a share of what was that stays: at least 0 and below 1", "e.g. 0.9")
    return float(value)


def _above(name: str, value: float) -> float:
    if not 1e-12 < value < 1e18:
        raise TaskInvalid(name, value, "it is a number above 0", "e.g. 1.0")
    return float(value)


def _whole(name: str, value: object, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TaskInvalid(name, value, f"it is a whole number of at least {least}", f"e.g. {max(least, 1)}")
    return value
