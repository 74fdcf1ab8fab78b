"""The model's tensors: which form each has in memory, where it stands, and the bytes that never change.

A tensor's form follows from its first use (a convolution's weight, a dense layer's, a vector), and every tape
of a program uses the same. The subset stands in STATE in its own order; everything else a tape reads stands in
FROZEN, in the order it is asked for, among it what folding made of frozen tensors.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tacit.compiler.errors import NotLowered, WrongSubset
from tacit.compiler.ir import Form, Value
from tacit.plan.layout import TensorPlace, is_depthwise, pack, stored
from tacit.plan.narrow import MOST_STEPS, narrow, widen
from tacit.plan.tape import ALIGNMENT, Number, Region, up

LEFT_ALONE = 1024  # bytes of float32 that are not worth fewer bits


@dataclass(frozen=True)
class Held:
    """How frozen weights are held: in which numbers, and of int8 in how many steps to either side of zero."""

    number: Number = Number.FLOAT32
    steps: int = MOST_STEPS


IN_FULL = Held()


def held(name: str) -> Held:
    """What a Task calls so.

    >>> held("float16"), held("int5").steps
    (Held(number=<Number.FLOAT16: 2>, steps=127), 15)
    """
    if name.startswith("int"):
        return Held(Number.INT8, (1 << int(name[3:]) - 1) - 1)
    return Held(Number[name.upper()])


class Weights:
    """Gathers tensors while graphs are lowered; `state_places` and `frozen_places` are final when all are.

    `held` is how frozen weights are held, those of layers that mix channels and too large to be left alone. What
    int8 holds exactly is held in it whatever `held` says. Gradients of the `asked` are looked at, so these are folded
    into nothing, and stay frozen.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        subset: Sequence[str],
        held: Held = IN_FULL,
        asked: Collection[str] = (),
    ):
        self.tensors = dict(tensors)
        self.held = held
        self.subset = tuple(subset)
        self.asked = frozenset(asked)
        self._values: dict[str, Value] = {}
        self._gradients: dict[str, Value] = {}
        self._frozen_end = 0

    def undecided(self, name: str, module: str) -> Value:
        """A tensor of the model before an operator has used it."""
        region = Region.STATE if name in self.subset else Region.FROZEN
        shape = tuple(self.tensors[name].shape)
        return Value(name, shape, region, batched=False, form="undecided", module=module, tensor=name)

    def constant(self, name: str, tensor: Tensor, module: str) -> Value:
        """A tensor the compiler made of frozen ones; the same name is the same tensor."""
        while not torch.equal(self.tensors.setdefault(name, tensor), tensor):
            name += "'"  # the same place in another tape may have made another constant
        shape = tuple(tensor.shape)
        return Value(name, shape, Region.FROZEN, batched=False, form="undecided", module=module, tensor=name)

    def decided(
        self, value: Value, form: Form, image: tuple[int, int, int] | None, module: str, groups: int = 1
    ) -> Value:
        """The tensor in the form an operator needs; refused where another operator needed another form."""
        if value.form != "undecided":
            return value
        shape = (max(1, int(np.prod(value.shape))),) if form == "vector" else value.shape
        known = self._values.get(value.name)
        if known is None:
            offset = None
            wanted = replace(value, form=form, shape=shape, image=image, groups=groups)
            if value.region is Region.FROZEN:
                wanted = replace(wanted, number=self._number_of(wanted))
                offset, self._frozen_end = self._frozen_end, self._frozen_end + up(wanted.bytes, ALIGNMENT)
            known = self._values[value.name] = replace(wanted, offset=offset)
        elif (known.form, known.shape, known.image, known.groups) != (form, shape, image, groups):
            raise NotLowered(
                f"{value.name} as {form} where it was {known.form} before",
                module,
                "A tensor is used in one way only; use two tensors.",
            )
        return known

    def _number_of(self, value: Value) -> Number:
        """In how many bits this frozen tensor is held."""
        if value.form not in ("dense", "conv") or value.bytes <= LEFT_ALONE or is_depthwise(value.place_at(0)):
            return Number.FLOAT32
        panels = pack(_array(self.tensors[value.tensor]), value.place_at(0))
        if _is_int8(panels):
            return Number.INT8
        # Beyond float16's range a weight stays what it is.
        number = self.held.number
        return number if np.isfinite(_rounded(panels, number)).all() else Number.FLOAT32

    def form_of(self, name: str) -> Form:
        """How a tensor stands in memory, where that is settled."""
        return self._values[name].form if name in self._values else "undecided"

    def image_of(self, name: str, otherwise: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        """The image a dense weight reads, where that is settled."""
        return self._values[name].image if name in self._values else otherwise

    def gradient(self, name: str) -> Value:
        """The gradient of a tensor of the subset; it stands as the tensor itself does."""
        if name not in self._gradients:
            if name not in self._values:
                raise WrongSubset(f"{name} does not influence the loss, so it cannot be trained; leave it out")
            value = self._values[name]
            self._gradients[name] = replace(value, name=f"gradient of {name}", region=Region.GRADIENT)
        return self._gradients[name]

    def passing_gradient(self, name: str) -> Value:
        """The gradient of a frozen tensor, in the arena; it stands as the tensor would if it were trained."""
        if name not in self._values:
            raise WrongSubset(f"{name} does not influence the loss, so its gradient says nothing; leave it out")
        value = self._values[name]
        return replace(
            value, name=f"gradient of {name}", region=Region.ARENA, offset=None, number=Number.FLOAT32, tensor=name
        )

    def state_offsets(self) -> dict[str, int]:
        """Where each tensor of the subset begins in STATE, GRADIENT and MOMENT."""
        offsets: dict[str, int] = {}
        end = 0
        for name in self.subset:
            offsets[name] = end
            end += up(self._values[name].bytes, ALIGNMENT)
        return offsets

    def places(self) -> tuple[TensorPlace, ...]:
        """The subset in its order, then the frozen tensors by offset."""
        offsets = self.state_offsets()
        state = [value.place_at(offsets[name], "state") for name in self.subset for value in [self._values[name]]]
        frozen = [
            value.place_at(cast(int, value.offset)) for value in self._values.values() if value.region is Region.FROZEN
        ]
        return (*state, *sorted(frozen, key=lambda place: place.offset))

    @property
    def state_bytes(self) -> int:
        """The size of STATE; GRADIENT and MOMENT are as large."""
        return sum(up(self._values[name].bytes, ALIGNMENT) for name in self.subset)

    @property
    def frozen_size(self) -> int:
        """The size of FROZEN, once every graph is lowered."""
        return self._frozen_end

    def frozen_bytes(self) -> NDArray[np.uint8]:
        """The FROZEN region: every frozen tensor in its panels."""
        block = np.zeros(self._frozen_end, np.uint8)
        for place in self.places():
            if place.place == "frozen":
                values = _array(self.tensors[place.name])
                exact = place.number is Number.INT8 and _is_int8(pack(values, place))
                found = stored(values, place, MOST_STEPS if exact else self.held.steps)
                block[place.offset : place.offset + len(found)] = found
        return block

    def initial(self) -> NDArray[np.float32]:
        """Snapshot 0: the subset's values as the module has them, flat, in the subset's order."""
        parts = [_array(self.tensors[name]).reshape(-1) for name in self.subset]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _is_int8(panels: NDArray[np.float32]) -> bool:
    """Whether int8 holds these exactly."""
    return np.array_equal(_rounded(panels, Number.INT8), panels)


def _rounded(panels: NDArray[np.float32], number: Number) -> NDArray[np.float32]:
    return widen(narrow(panels, number), number, panels.size)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.array(tensor.detach().numpy(), np.float32)
