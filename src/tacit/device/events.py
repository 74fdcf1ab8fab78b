"""What an agent reports: small values. `line` says one to a person, `record` to a program.

They are for the owner of the device, and the command line prints them there. Losses and accuracies are
of this device's own data: they appear here and in nothing that is sent.
"""

from dataclasses import asdict, dataclass
from typing import Any, assert_never


@dataclass(frozen=True)
class Joined:
    """The Plan was fetched and verified, and the data fits it. What the owner agrees to by staying is in here."""

    plan_id: bytes
    title: str
    server: str
    purpose: str  # as is data_sources, in the words of the Plan's charter
    data_sources: tuple[str, ...]
    trust: str  # single-operator, two-party or three-party
    trust_sentence: str
    privacy_sentence: str  # over the Plan's whole life
    examples: int
    held_back: int  # of these, for validation
    training_bytes: int
    landings_used: int
    landings: int
    device_class: str = ""  # which everybody knows who sees what is sent


@dataclass(frozen=True)
class Moved:
    """This device goes on in the Plan that continues the one it was in; `Joined` says what that asks for."""

    plan_id: bytes
    title: str
    before: bytes
    version: int  # the Snapshot of the Plan before from which this one starts


@dataclass(frozen=True)
class Judging:
    """This device is in the evaluation cohort: it goes on in the Plan that judges the Snapshots of the other."""

    plan_id: bytes
    title: str
    judges: bytes
    evaluators: int  # of a hundred devices


@dataclass(frozen=True)
class Prepared:
    """The frozen part of the model was computed for every example; `reused` if it was there from before."""

    examples: int
    kept_bytes: int
    reused: bool


@dataclass(frozen=True)
class Training:
    """A visit begins."""

    version: int
    examples: int
    minibatches: int


@dataclass(frozen=True)
class HeldBack:
    """What a Snapshot makes of the examples that this device holds back from training."""

    examples: int
    loss: float  # the mean
    correct: float | None  # an example with many labels by the share that is right; None where none is right or wrong


@dataclass(frozen=True)
class Trained:
    """A visit ended. `held_back` is of the Snapshot that it began from."""

    version: int
    seconds: float
    first_loss: float
    last_loss: float
    held_back: HeldBack


@dataclass(frozen=True)
class Judged:
    """A Snapshot was judged on all examples of this device, and nothing was trained."""

    version: int
    seconds: float
    found: HeldBack


@dataclass(frozen=True)
class Dropped:
    """A visit came to nothing; nothing was sent or spent."""

    version: int
    reason: str


@dataclass(frozen=True)
class Sent:
    """An Update leaves; `again` if an earlier attempt had no answer."""

    update_id: bytes
    version: int
    size: int
    again: bool


@dataclass(frozen=True)
class Received:
    """The coordinator signed a receipt."""

    update_id: bytes
    version: int
    landings_used: int
    landings: int
    mu2_spent: float  # by this device, over all Plans


@dataclass(frozen=True)
class Settled:
    """An Update was opened, as part of a sum."""

    update_id: bytes
    opened_in: int


@dataclass(frozen=True)
class Expired:
    """An Update was refused or grew too old. It is not sent again, and what it cost stays spent."""

    update_id: bytes
    reason: str


@dataclass(frozen=True)
class Waiting:
    """Nothing to do for now. Reported when the reason changes, not at every look."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Ended:
    """The agent is done; `accepted` Updates were receipted while it ran."""

    reason: str
    accepted: int


Event = (
    Joined
    | Moved
    | Judging
    | Prepared
    | Training
    | Trained
    | Judged
    | Dropped
    | Sent
    | Received
    | Settled
    | Expired
    | Waiting
    | Ended
)


def line(event: Event) -> str:
    """One line for a person; `Joined` takes five, because what it asks for and promises is not to be cut short.

    >>> line(Sent(bytes(16), 3, 4096, again=False))
    'sent: Update 00000000 from Snapshot 3, 4,096 bytes'
    >>> line(Waiting("the coordinator does not answer", 4.2))
    'waiting: the coordinator does not answer; next look in 4.2 s'
    """
    match event:
        case Joined():
            sources = "; ".join(_plain(one) for one in event.data_sources)
            return (
                f"joined: {_plain(event.title)} at {event.server}, {event.examples} examples "
                f"({event.held_back} held back), {event.training_bytes / 1024:.0f} KiB to train, "
                f"{event.landings_used} of {event.landings} landings used\n"
                f"  purpose: {_plain(event.purpose) or 'its author states none'}\n"
                f"  data: {sources or 'its author states none'}\n"
                f"{_class(event.device_class)}"
                f"  {event.privacy_sentence}\n  {event.trust_sentence}"
            )
        case Moved():
            return (
                f"moved: to Plan {event.plan_id.hex()[:8]} ({_plain(event.title)}), which continues Plan "
                f"{event.before.hex()[:8]} from its Snapshot {event.version}"
            )
        case Judging():
            return (
                f"judging: this device is in the evaluation cohort, {event.evaluators} in a hundred by lot; it judges "
                f"what others train in Plan {event.judges.hex()[:8]}, by Plan {event.plan_id.hex()[:8]} "
                f"({_plain(event.title)}), and trains nothing"
            )
        case Prepared():
            how = "found" if event.reused else "computed once"
            return f"prepared: the frozen part of {event.examples} examples, {how}, {event.kept_bytes / 1024:.0f} KiB"
        case Training():
            return f"training: from Snapshot {event.version}, {event.examples} examples in {event.minibatches} steps"
        case Trained():
            loss = f"loss {event.first_loss:.3f} to {event.last_loss:.3f}"
            return f"trained: {event.seconds:.2f} s, {loss}{_held_back(event.version, event.held_back)}"
        case Judged(found=found):
            right = "" if found.correct is None else f", {found.correct / max(1, found.examples):.1%} of them right"
            return (
                f"judged: Snapshot {event.version} in {event.seconds:.2f} s, a loss of {found.loss:.3f} on "
                f"{found.examples} examples{right}; nothing was trained"
            )
        case Dropped():
            return f"dropped: the visit to Snapshot {event.version}, {event.reason}; nothing was sent"
        case Sent():
            again = " again, the same bytes" if event.again else ""
            return (
                f"sent: Update {event.update_id.hex()[:8]} from Snapshot {event.version}, {event.size:,} bytes{again}"
            )
        case Received():
            return (
                f"received: the coordinator signed for Update {event.update_id.hex()[:8]}; {event.landings_used} of "
                f"{event.landings} landings used, μ² = {event.mu2_spent:.4g} spent by this device"
            )
        case Settled():
            return f"settled: Update {event.update_id.hex()[:8]} was opened in batch {event.opened_in}, within a sum"
        case Expired():
            return f"expired: Update {event.update_id.hex()[:8]}, {event.reason}; it is not sent again"
        case Waiting():
            return f"waiting: {event.reason}; next look in {event.seconds:.2g} s"
        case Ended():
            updates = "Update" if event.accepted == 1 else "Updates"
            return f"ended: {event.reason}; {event.accepted} {updates} accepted"
        case _:
            assert_never(event)


def _class(name: str) -> str:
    """
    >>> _class(""), _class("phone")
    ('', '  class: phone; whoever sees what is sent knows that this device is one\\n')
    """
    return f"  class: {_plain(name)}; whoever sees what is sent knows that this device is one\n" if name else ""


def _held_back(version: int, held: HeldBack) -> str:
    """
    >>> _held_back(3, HeldBack(20, 0.5, 12)), _held_back(3, HeldBack(20, 0.5, None))
    ('; Snapshot 3 had 12 of 20 held-back examples right', '; Snapshot 3 has a loss of 0.500 on 20 held-back examples')
    """
    if held.examples == 0:
        return ""
    if held.correct is None:
        return f"; Snapshot {version} has a loss of {held.loss:.3f} on {held.examples} held-back examples"
    if held.correct == round(held.correct):
        return f"; Snapshot {version} had {held.correct:.0f} of {held.examples} held-back examples right"
    share = held.correct / held.examples
    return f"; Snapshot {version} had {share:.1%} of the labels of {held.examples} held-back examples right"


def _plain(text: str) -> str:
    """Words of the Plan's author, on one line and without the signs that steer a terminal.

    >>> _plain("to learn\\n  digits\\x1b[2J")
    'to learn digits[2J'
    """
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable())


def record(event: Event) -> dict[str, Any]:
    """The same as plain values, ids as hex, for one line of JSON.

    >>> record(Expired(bytes(2), "too old"))
    {'event': 'expired', 'update_id': '0000', 'reason': 'too old'}
    """
    values = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(event).items()}
    return {"event": type(event).__name__.lower(), **values}
