"""pfl-research's simulated backend with PyTorch: FederatedAveraging in two processes of one thread each, or in one."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peers.work import given, net, put, serve
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel

ADDRESSES, RANK = "PFL_WORKER_ADDRESSES", "PFL_WORKER_RANK"
NEVER = 1 << 30


class WithLoss(torch.nn.Module):
    """What pfl calls."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def loss(self, x: Any, y: Any) -> Any:
        return F.cross_entropy(self.model(x), y)

    def metrics(self, x: Any, y: Any) -> dict[str, Any]:
        """Asked once, before the first round, which is not timed."""
        return {"loss": Weighted(float(self.loss(x, y)) * len(x), len(x))}


def main() -> None:
    work = given(sys.argv[1], Path(sys.argv[2]))
    other = None if RANK in os.environ else second()
    torch.set_num_threads(1)
    case, inner = work.case, net(work.name)
    put(inner, work.start)
    module = WithLoss(inner)
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    users = iter(user for number in range(NEVER) for user in case.chosen(number))

    def dataset(user: int) -> Any:
        return PyTorchTensorDataset((torch.from_numpy(work.x[user]), torch.from_numpy(work.y[user])))

    devices = FederatedDataset(dataset, lambda: next(users))
    backend, algorithm = SimulatedBackend(training_data=devices, val_data=devices), FederatedAveraging()
    local = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=case.rate, local_batch_size=case.minibatch, local_num_steps=None
    )

    def play(rounds: range) -> Any:
        if other is not None:
            print(json.dumps({"rounds": len(rounds)}), file=other.stdin, flush=True)
        asked = NNAlgorithmParams(
            central_num_iterations=rounds.stop,
            evaluation_frequency=NEVER,
            train_cohort_size=case.cohort,
            val_cohort_size=None,
        )
        algorithm.run(asked, backend, model, local, send_metrics_to_platform=False)
        return np.concatenate([parameter.detach().numpy().ravel() for parameter in inner.parameters()])

    serve(work, "pfl_research" if other else "second", play, {name: version(name) for name in ("pfl", "torch")})


def second() -> Any:
    """Starts the other process, which this one is to be joined by."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        addresses = f"127.0.0.1:{found.getsockname()[1]},127.0.0.1:0"
    os.environ.update({ADDRESSES: addresses, "OMP_NUM_THREADS": "1"})
    process = subprocess.Popen(
        [sys.executable, *sys.argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, RANK: "1"},
        text=True,
    )
    os.environ[RANK] = "0"
    return process


if __name__ == "__main__":
    main()
