"""How a run goes, beside its Plan, its devices and their examples. It is written into the run's folder as it is."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, lt=1)]
Seconds = Annotated[float, Meta(ge=0, lt=1e9)]
Some = Annotated[int, Meta(ge=1)]


class Spent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was spent before a run began: by the Plan that asked for the start of its head."""

    time: Seconds = 0.0
    visits: int = 0
    up: int = 0  # bytes
    down: int = 0
    joules: float = 0.0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that may be asked of a run.

    seed       what is random comes from it
    at_work    at most so many devices are at work, or have an Update that waits; None: all that are there and may
    days       virtual time ends after so many; None: when the Plan ends
    target     the run ends when the published model is this good (a share of right answers); None: it goes on
    deadline   seconds after which a batch closes with as many as the threshold asks for
    opening    seconds from a full batch to the next Snapshot
    poll       a device that may begin looks within so many seconds
    dropout    the share of visits that end half-way, for good
    loss       the share of transfers that break off and are made again
    masking    `real`: every Update is masked, sealed, signed, opened; `counted`: the masks, which cancel exactly, are
               left out, and their bytes are counted
    training   `engine`: the tapes are played; `none`: deltas are drawn at random
    counted    whose bytes: of tacit's messages, or of plain float32 values up and down, as strategies send them that
               mask nothing; or nobody's, where nothing is sent
    every      the published model is judged after every so many Snapshots
    judged     on so many test examples; all of them at the end
    keep       whether devices keep what the frozen prefix gives
    clip       `plan`, or `median`: deltas are clipped near the running median of their lengths; nobody accounts for
               what that tells, so it is for runs without a claim
    replay     the server trains on so many public minibatches after every batch (which no coordinator does)
    trigger    a device sends when its delta is that share of the clip long, and carries it on until then; None: always
    carried    visits after which it sends all the same
    before     what was spent before: virtual time begins there, and every sum of bytes, visits and joules
    """

    strategy: str
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    at_work: Some | None = None
    days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    target: Annotated[float, Meta(gt=0, le=1)] | None = None
    deadline: Seconds = 600.0
    opening: Seconds = 0.1
    poll: Seconds = 0.0
    dropout: Share = 0.0
    loss: Share = 0.0
    masking: Literal["real", "counted"] = "counted"
    training: Literal["engine", "none"] = "engine"
    counted: Literal["messages", "float32", "nothing"] = "messages"
    every: Some = 1
    judged: Some = 1_000
    keep: bool = True
    clip: Literal["plan", "median"] = "plan"
    replay: Annotated[int, Meta(ge=0)] = 0
    trigger: Annotated[float, Meta(ge=0)] | None = None
    carried: Some = 8
    before: Spent = Spent()
