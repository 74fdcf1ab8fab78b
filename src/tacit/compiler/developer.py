"""A Plan in the developer's hands again: Snapshots as PyTorch state dicts."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.compiler.parts import merged
from tacit.compiler.projected import restored as form_with
from tacit.errors import InputError
from tacit.plan.bundle import Plan, decode_snapshot, read_plan
from tacit.plan.layout import TensorPlace, permutation, restored, stored_bytes
from tacit.plan.tape import Number

FOLDED = " with "  # in the name of a place: two modules whose frozen tensors became one


@dataclass(frozen=True, eq=False)
class DeveloperPlan:
    """A Plan, opened with `open_plan`."""

    plan: Plan

    def state_dict(
        self,
        snapshot: str | Path | bytes | NDArray[np.float32] | None = None,
        *,
        like: nn.Module | None = None,
    ) -> dict[str, torch.Tensor]:
        """Every tensor of the model by its PyTorch name: the subset from a Snapshot, the rest as compiled,
        rounded where the Plan holds it in fewer bits.

        `snapshot` is a file, its bytes, or the values; without one the subset is as compiled too. `like` is
        the developer's own module: tensors that the Plan does not hold (a frozen norm that was folded into
        its convolution, a running count) are taken from it; what was rounded after folding is divided by its norm
        again. Of a Plan with a projected head the names are those
        of what `module` returns.
        """
        program = self.plan.manifest.program
        match snapshot:
            case None:
                values = decode_snapshot(self.plan.initial_snapshot, program.d)
            case bytes():
                values = decode_snapshot(snapshot, program.d)
            case str() | Path():
                values = decode_snapshot(Path(snapshot).read_bytes(), program.d)
            case _:
                values = decode_snapshot(np.asarray(snapshot, "<f4").tobytes(), program.d)
        own, frozen = trained(self.plan, values), self.plan.blobs["frozen"]
        tensors = {
            place.name: own[place.name] if place.place == "state" else _tensor(frozen, place)
            for place in program.places
        }
        if like is None:
            return _completed(merged(tensors), None)
        form = self._form(like)
        narrow = {place.name for place in program.places if place.number is not Number.FLOAT32}
        return _completed(merged({**tensors, **dict(_unfolded(form, tensors, narrow))}), form)

    def module(self, snapshot: str | Path | bytes | NDArray[np.float32] | None = None, *, like: nn.Module) -> nn.Module:
        """One module, in eval form, that predicts what the Plan predicts from this Snapshot.

        `like` is the developer's own module, as it was compiled; it is not touched. Of a Plan with a projected head
        the module runs it as far as the cut, and then the projection and the head.
        """
        made = self._form(like)
        made.load_state_dict(self.state_dict(snapshot, like=like))
        return made.eval()

    def _form(self, like: nn.Module) -> nn.Module:
        """The developer's module in the form that was compiled, where that is another one, and else a copy of it."""
        made = copy.deepcopy(like).to("cpu", torch.float32)
        program = self.plan.manifest.program
        if program.cut is None:
            return made
        return form_with(made, program.cut, {place.name: place.shape for place in program.places})


def trained(plan: Plan, values: NDArray[np.float32]) -> dict[str, torch.Tensor]:
    """The subset's tensors, by the names of their places."""
    places = [place for place in plan.manifest.program.places if place.place == "state"]
    where = permutation(plan.manifest.program.places)
    state = np.zeros(max(where, default=-1) + 1 + 16, np.float32)
    state[where] = values
    return {place.name: _tensor(state.view(np.uint8), place) for place in places}


def _tensor(region: NDArray[np.uint8], place: TensorPlace) -> torch.Tensor:
    """What stands there, also where the zeros at the end were not kept."""
    found = np.zeros(stored_bytes(place), np.uint8)
    there = region[place.offset : place.offset + len(found)]
    found[: len(there)] = there
    return torch.from_numpy(restored(found, place).copy())


def _unfolded(
    like: nn.Module, tensors: Mapping[str, torch.Tensor], narrow: Collection[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Convolutions that were rounded with the norm behind them, as they are before that norm."""
    modules = dict(like.named_modules())
    for name in narrow:
        convolution, _, norm = name.removesuffix(".weight").partition(FOLDED)
        before, behind = modules.get(convolution), modules.get(norm)
        if not isinstance(before, nn.Conv1d | nn.Conv2d) or not isinstance(behind, nn.BatchNorm1d | nn.BatchNorm2d):
            continue  # functions in a forward: the module's own tensors stay
        assert behind.running_var is not None
        scale = (behind.running_var.double() + behind.eps).rsqrt()
        if behind.affine:
            scale = scale * behind.weight.detach().double()
        scale = scale.reshape(-1, *(1,) * (before.weight.dim() - 1))
        weight = tensors[name].double().reshape(before.weight.shape) / torch.where(scale == 0, 1.0, scale)
        yield f"{convolution}.weight", torch.where(scale == 0, before.weight.detach().double(), weight).float()


def _completed(tensors: dict[str, torch.Tensor], like: nn.Module | None) -> dict[str, torch.Tensor]:
    """The Plan's tensors in the module's own shapes, with the module's where the Plan has none."""
    folded = [name for name in tensors if FOLDED in name]
    if like is None:
        if folded:
            raise InputError(
                f"{folded[0].split(FOLDED)[0]} was folded with the norm behind it when the Plan was compiled; give the "
                "module that was compiled, plan.state_dict(snapshot, like=net), and its own frozen tensors are used"
            )
        return tensors
    own = like.state_dict()
    return {name: tensors[name].reshape(value.shape) if name in tensors else value for name, value in own.items()}


def open_plan(path: str | Path) -> DeveloperPlan:
    """A Plan from its file, checked.

    >>> open_plan("nowhere.tacit")
    Traceback (most recent call last):
        ...
    tacit.plan.bundle.PlanRefused: there is no file nowhere.tacit; `tacit compile TASK.py -o PLAN.tacit` makes one
    """
    plan = read_plan(Path(path))
    if plan.manifest.program.scouted:
        raise InputError(f"Plan {plan.name} trains nothing: `tacit scout --read` says what its devices have answered")
    if plan.manifest.evaluation is not None:
        raise InputError(f"Plan {plan.name} trains nothing: `tacit evaluate --read` says what its devices have said")
    return DeveloperPlan(plan)
