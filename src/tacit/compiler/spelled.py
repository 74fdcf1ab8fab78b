"""Functions of PyTorch that it traces to operators for the whole micro-batch, spelled as equals that keep examples
apart."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _instance_norm(
    input: Tensor,  # PyTorch's name, which callers may use
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """PyTorch repeats the weights for every example and takes the micro-batch for channels."""
    if use_input_stats:
        return F.group_norm(input, input.shape[1], weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


SPELLED: Mapping[Any, Callable[..., Any]] = {F.instance_norm: _instance_norm}


class Spelled(TorchFunctionMode):
    """While this is open, those functions are computed as their equals.

    >>> import torch
    >>> x = torch.arange(8.0).reshape(1, 2, 4)
    >>> with Spelled():
    ...     same = F.instance_norm(x)
    >>> torch.allclose(same, F.instance_norm(x))
    True
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return SPELLED.get(func, func)(*args, **(kwargs or {}))
