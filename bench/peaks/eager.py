"""The same training in PyTorch eager. Reads jobs, a line of JSON each, and answers each with what it took in bytes.

Every job runs in a copy of a process that has imported PyTorch and made one small training step, so that the base is
PyTorch at work and not PyTorch being loaded. The module is made by another copy and read from a file, because some
are measured out on examples first. One thread; parameters outside the subset need no gradient; micro-batches add up to
the minibatch; momentum by plain arithmetic, because importing torch.optim's machinery costs memory too.
"""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import MODELS, SGD, subset_of
from peaks.play import peak


def make(file: Path, model: str, subset: str) -> None:
    torch.save(subset_of(MODELS[model], subset), file)


def train(file: Path, model: str, microbatch: int, minibatch: int) -> dict[str, int]:
    inputs, labels = MODELS[model].examples(minibatch)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels).long()
    base = peak()
    module, names = torch.load(file, weights_only=False)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    moments = [torch.zeros_like(parameter) for parameter in trained]
    for _ in range(2):
        for at in range(0, minibatch, microbatch):
            logits = module(x[at : at + microbatch])
            target = y[at : at + microbatch]
            loss = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="sum") / y.numel()
            loss.backward()
        with torch.no_grad():
            for parameter, moment in zip(trained, moments, strict=True):
                if parameter.grad is not None:
                    moment.mul_(SGD.momentum).add_(parameter.grad)
                    parameter.sub_(0.01 * moment)
                    parameter.grad.zero_()
    return {"base": base, "peak": peak()}


def in_a_copy(work: Callable[[], None]) -> bool:
    """Whether the work went well, in a process of its own."""
    copy = os.fork()
    if copy == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(copy, 0)[1] == 0


def main() -> None:
    torch.set_num_threads(1)
    warm = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    F.cross_entropy(warm(torch.randn(4, 3, 8, 8)), torch.zeros(4).long()).backward()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "module"
        for line in sys.stdin:
            job = json.loads(line)
            subset = job.pop("subset")
            if not (
                in_a_copy(lambda job=job, subset=subset: make(file, job["model"], subset))
                and in_a_copy(lambda job=job: print(json.dumps(train(file, **job)), flush=True))
            ):
                print("{}", flush=True)  # its traceback is on stderr


if __name__ == "__main__":
    main()
