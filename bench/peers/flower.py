"""Flower's simulator with its Ray backend: an actor a core, PyTorch clients of one thread, its FedAvg.

Its FedAvg draws nodes; which device a node is in a round is told with the message, so that all contestants train the
same. Examples are read once an actor.
"""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false
from __future__ import annotations

import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peers.loop import trained
from peers.work import Work, given, net, serve, split

CASE, FOLDER = "PEERS_CASE", "PEERS_FOLDER"  # how actors are told
client = ClientApp()


@cache
def held() -> tuple[Work, Any]:
    """What an actor keeps between clients."""
    torch.set_num_threads(1)
    work = given(os.environ[CASE], Path(os.environ[FOLDER]))
    return work, net(work.name)


@client.train()
def train(message: Message, _context: Context) -> Message:
    work, model = held()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    trained(model, list(model.parameters()), work, message.content["config"]["device"])
    arrays, metrics = ArrayRecord(model.state_dict()), MetricRecord({"num-examples": work.case.examples})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


class Told(FedAvg):
    """FedAvg whose nodes are told which device they are."""

    def __init__(self, work: Work):
        case = work.case
        super().__init__(
            fraction_train=case.cohort / case.devices,
            fraction_evaluate=0.0,
            min_train_nodes=case.cohort,
            min_available_nodes=case.devices,
        )
        self.case, self.first = case, 0

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Any:
        devices = self.case.chosen(self.first + server_round - 1)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message, device in zip(messages, devices, strict=True):
            told = ConfigRecord({**config, "device": device})
            message.content = RecordDict({"arrays": arrays, "config": told})
        return messages


def main() -> None:
    os.environ.update({CASE: sys.argv[1], FOLDER: sys.argv[2], "OMP_NUM_THREADS": "1"})
    work = given(sys.argv[1], Path(sys.argv[2]))
    server = ServerApp()

    @server.main()
    def run(grid: Grid, _context: Context) -> None:
        model, strategy = net(work.name), Told(work)
        names = list(model.state_dict())
        start = split(work.start, [tuple(values.shape) for values in model.state_dict().values()])
        arrays = ArrayRecord({name: torch.from_numpy(v.copy()) for name, v in zip(names, start, strict=True)})

        def play(rounds: range) -> Any:
            nonlocal arrays
            strategy.first = rounds.start
            arrays = strategy.start(grid, arrays, num_rounds=len(rounds)).arrays
            return np.concatenate([values.numpy().ravel() for values in arrays.to_torch_state_dict().values()])

        serve(work, "flower", play, {name: version(name) for name in ("flwr", "ray", "torch")})

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    settings = {"client_resources": resources, "init_args": {"num_cpus": 2, "log_to_driver": False}}
    run_simulation(server, client, work.case.devices, backend_config=settings)


if __name__ == "__main__":
    from peers import flower  # by its name, so that what is sent to actors is named and not copied

    flower.main()
