"""A site's visit where its groups are protected, not the site: noise is added before anything leaves (PROTOCOL 9).

A step takes so many groups as the Plan says. The summed gradient of each is clipped by itself, their sum gets its
noise, and what a step divides by is the Plan's number and not how many there were. All that comes after, the optimizer,
the delta and its quantisation, is made of noised sums and costs nothing more. Which groups make up a step follows from
how many there are and a secret, never from what they hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.device.visit import Diverged, Rows, Stopped, Visit, mask_seed, minibatches
from tacit.engine.player import Player
from tacit.engine.visit import NotFinite
from tacit.plan.manifest import Manifest, OnDevice
from tacit.plan.program import rate_at
from tacit.privacy.groups import noised, share

NO_LOSS = float("nan")


def train_groups(
    player: Player,
    rows: Rows,
    labels: NDArray[Any],
    groups: Sequence[NDArray[np.int64]],
    manifest: Manifest,
    snapshot: NDArray[np.float32],
    version: int,
    order_secret: bytes,
    random: Callable[[int], bytes],
    should_stop: Callable[[], bool],
    after_minibatch: Callable[[], None] = lambda: None,
) -> Visit | Stopped | Diverged:
    """Trains from Snapshot `version`; `groups` are the examples of each. `random` is the operating system's.

    Its losses are of the examples as they are, and stay here.
    """
    local, mechanism = manifest.local, manifest.noise.mechanism
    assert isinstance(mechanism, OnDevice), "the Plan's checks leave units within a device to this mechanism"
    multiplier = manifest.noise.sigma * manifest.noise.sensitivity
    rate = rate_at(manifest.program.optimizer, version)
    player.load(snapshot)
    player.reseed(mask_seed(order_secret, version))
    losses: list[float] = []
    for part in minibatches(len(groups), local, version, order_secret):
        total, loss, counted = np.zeros(manifest.program.d, np.int64), 0.0, 0
        for number in part:
            group = groups[int(number)]
            if should_stop():
                return Stopped()
            try:
                loss += _play(player, rows, labels, group)
            except NotFinite:
                continue  # as a gradient that is not finite, it counts as nothing
            total += share(player.gradient(), mechanism.clip)
            counted += len(group)
        mean = noised(total, multiplier, mechanism.clip, random) / local.minibatch
        # What this cannot hold shows below, and follows from noised sums alone.
        with np.errstate(over="ignore"):
            player.give_gradient(mean.astype(np.float32))
        player.apply(rate)
        losses.append(loss / counted if counted else NO_LOSS)
        after_minibatch()
    delta = player.snapshot() - snapshot
    if not np.isfinite(delta).all():
        return Diverged("a trained value became infinite or NaN")
    return Visit(delta, losses[0], losses[-1])


def _play(player: Player, rows: Rows, labels: NDArray[Any], group: NDArray[np.int64]) -> float:
    """One group's summed loss; its summed gradient stands in the player then."""
    loss = 0.0
    for number, part in enumerate(_parts(group, player.microbatch)):
        if isinstance(rows, Mapping):
            examples: Any = {name: values[part] for name, values in rows.items()}
        else:
            examples = [row[part] for row in rows]
        loss = player.step(examples, labels[part], np.ones(len(part), np.float32), divisor=1.0, first=number == 0)
    return loss


def _parts(group: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(group), most):
        yield group[start : start + most]
