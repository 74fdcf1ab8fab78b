"""`tacit judge`: the evaluator, a process of its own: every Snapshot on examples that no device has."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tacit.errors import InputError, TacitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tacit.cli.following import Following
    from tacit.device.examples import Examples
    from tacit.plan.bundle import Plan
    from tacit.wire.messages import Head

EXAMPLE = """\
example:
  tacit judge 'http://127.0.0.1:8750/join/…?author=…' --examples check.npz
  tacit judge 'https://clinic.example/join/…?author=…' --examples check.npz --report --token evaluator.token

It plays every Snapshot on your own check examples, appends a line of JSON for each to the history, keeps the best one
in a file, and ends with an error as soon as a Snapshot is so much worse than the best that somebody should look. Run it
again and it goes on behind the last line of its history. It is no part of the servers, and they know nothing of it.

With --report it tells the coordinator what it found, and goes on. A coordinator that serves with `--gate check` gives
people no Snapshot that has not passed, and goes back to the last one that has where a newer one is much worse.
"""
FALL = 5.0


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("link", help="the join link that `tacit serve` printed")
    parser.add_argument("--examples", type=Path, required=True, help="what to judge on: .npz, .csv or a folder of .npz")
    parser.add_argument("--history", type=Path, default=Path("judged.jsonl"), help="default: judged.jsonl")
    parser.add_argument(
        "--best", type=Path, default=Path("best.bin"), help="where the best Snapshot is kept (default: best.bin)"
    )
    parser.add_argument(
        "--fall",
        type=float,
        default=FALL,
        metavar="POINTS",
        help="the alarm: so many percentage points of accuracy below the best, or a loss so many percent above the "
        f"lowest where nothing is right or wrong (default: {FALL:g})",
    )
    parser.add_argument("--once", action="store_true", help="judge what is there now, and end")
    parser.add_argument("--report", action="store_true", help="tell the coordinator, which acts on it")
    parser.add_argument("--token", type=Path, metavar="FILE", help="with --report: a token of the role evaluator")
    parser.add_argument("--admin-url", metavar="URL", help="with --report: where its operators are let in, if apart")
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between two looks at the coordinator")


@dataclass(frozen=True)
class Verdict:
    """How good one Snapshot is. `loss` is the mean; None where it is no number."""

    version: int
    snapshot: str  # its hash
    examples: int
    loss: float | None
    accuracy: float | None  # None where nothing is right or wrong
    error: float | None = None  # the standard error of the accuracy, or else of the loss

    @property
    def goodness(self) -> float:
        """To be compared within one Plan: the accuracy, or else the loss turned round."""
        if self.accuracy is not None:
            return self.accuracy
        return -math.inf if self.loss is None else -self.loss


class SnapshotFell(TacitError):
    """The newest Snapshot is much worse than the best one."""

    def __init__(self, newest: Verdict, best: Verdict, points: float, kept: Path):
        self.newest, self.best = newest, best
        if newest.accuracy is not None and best.accuracy is not None:
            how = f"is right on {newest.accuracy:.1%} of {newest.examples} examples, Snapshot {best.version} was on "
            how += f"{best.accuracy:.1%}"
        else:
            how = f"has a loss of {_loss(newest)} on {newest.examples} examples, Snapshot {best.version} had "
            how += _loss(best)
        super().__init__(
            f"ALARM: Snapshot {newest.version} {how}: the alarm is set to {points:g}. Devices go on from it. To go "
            f"back, compile the Task with --continues PLAN --from-snapshot {kept} and serve that: it begins at "
            f"Snapshot {best.version}, and devices move over"
        )


def run(arguments: argparse.Namespace) -> None:
    from tacit.cli.following import following
    from tacit.cli.reporting import reporter
    from tacit.device.examples import read_examples

    if not arguments.fall > 0:
        raise InputError(f"--fall {arguments.fall:g}: give a number of points above 0")
    followed = following(arguments.link)
    plan = followed.plan
    program = plan.manifest.program
    if program.scouted or plan.manifest.evaluation is not None:
        raise InputError(f"Plan {plan.name} trains nothing, so there is nothing to judge")
    examiner = Examiner(plan, read_examples(arguments.examples, program.inputs, program.label, program.weight))
    verdicts = read_history(arguments.history, plan)
    told = None
    if arguments.report:
        told = reporter(followed.link.server, plan.plan_id, arguments.token, arguments.admin_url)
    over = False
    while not over:
        try:
            ended = followed.client.ended() is not None  # asked first: what it published until then is judged below
            judge_new(followed, examiner, verdicts, arguments.history, arguments.best)
            if told is not None:
                for line in told.tell(verdicts):
                    print(line, file=sys.stderr, flush=True)
            over = ended
        except TacitError as error:
            if arguments.once or not error.retryable:
                raise
            print(f"waiting: {error}", file=sys.stderr)
        best = fallen(verdicts, arguments.fall) if told is None else None  # else the coordinator goes back by itself
        if best is not None:
            raise SnapshotFell(verdicts[-1], best, arguments.fall, arguments.best)
        if arguments.once:
            break
        if not over:
            time.sleep(arguments.poll)
    within = "" if told is not None else f"; the newest is within {arguments.fall:g}"
    print(f"{len(verdicts)} Snapshots of {plan.name} judged{within}", file=sys.stderr)


def judge_new(followed: "Following", examiner: "Examiner", verdicts: list[Verdict], history: Path, best: Path) -> None:
    """Judges what was published since the last verdict; each is written down before the next is looked at."""
    newest = followed.newest()
    for version in range(verdicts[-1].version + 1 if verdicts else 0, newest.version + 1 if newest else 0):
        head = followed.head(version)
        data = followed.snapshot(head)
        verdict = examiner.verdict(head, data)
        if not verdicts or verdict.goodness > max(one.goodness for one in verdicts):
            keep_best(best, head, data)
        line = json.dumps({"plan_id": followed.plan.plan_id.hex(), **asdict(verdict)})
        with history.open("a") as file:
            file.write(line + "\n")
        verdicts.append(verdict)
        print(line, flush=True)


class Examiner:
    """Plays Snapshots of one Plan on the same examples."""

    def __init__(self, plan: "Plan", examples: "Examples"):
        from tacit.engine.player import Player

        self._examples, self._program = examples, plan.manifest.program
        self._player = Player(plan.playable())

    def verdict(self, head: "Head", data: bytes) -> Verdict:
        """How good the Snapshot with these bytes is."""
        import numpy as np

        from tacit.plan.bundle import decode_snapshot

        weights = self._examples.weights
        self._player.load(decode_snapshot(data, self._program.d))
        scores = self._player.scores(self._examples.inputs, self._examples.labels, weights)
        count = int(np.count_nonzero(weights))
        mean = float(scores[:, 0] @ weights) / float(weights.sum())
        right = float(scores[:, 1].sum()) / count
        by_accuracy = self._program.score == "accuracy"
        # Of counted examples alone. A share of 0 or 1 is not certain: as if one more had been right, and one wrong.
        if by_accuracy:
            smoothed = (right * count + 1) / (count + 2)
            error = math.sqrt(smoothed * (1 - smoothed) / count)
        else:
            with np.errstate(invalid="ignore"):  # a loss that is no number has no error either
                error = float(np.std(scores[weights > 0, 0])) / math.sqrt(count)
        return Verdict(
            head.version,
            head.snapshot_hash.hex(),
            count,
            mean if math.isfinite(mean) else None,
            right if by_accuracy else None,
            error if math.isfinite(error) else None,
        )

    def evaluate(self, values: "NDArray[np.float32]") -> tuple[float, float, int]:
        """The summed loss of these values, how many examples are right, and how many there are."""
        self._player.load(values)
        return self._player.evaluate(self._examples.inputs, self._examples.labels, self._examples.weights)


def fallen(verdicts: Sequence[Verdict], points: float) -> Verdict | None:
    """The best Snapshot where the newest is so much worse than it; None where all is well.

    >>> good, bad = Verdict(1, "", 100, 0.5, 0.9), Verdict(2, "", 100, 0.7, 0.8)
    >>> fallen([good, bad], 5.0) == good, fallen([good, bad], 15.0), fallen([bad, good], 5.0)
    (True, None, None)
    """
    if not verdicts:
        return None
    newest, best = verdicts[-1], max(verdicts, key=lambda one: one.goodness)
    if newest.accuracy is not None:
        fell = 100 * (best.goodness - newest.goodness) > points
    else:
        fell = newest.goodness < best.goodness - abs(best.goodness) * points / 100
    return best if fell else None


def read_history(path: Path, plan: "Plan") -> list[Verdict]:
    """What was judged before; another Plan's lines are another's history."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        found = [(line.pop("plan_id"), Verdict(**line)) for line in lines]
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise InputError(f"{path} is not a history that `tacit judge` wrote: {error}; name another") from error
    if any(plan_id != plan.plan_id.hex() for plan_id, _ in found):
        raise InputError(f"{path} is the history of another Plan than {plan.name}; name another file with --history")
    return [verdict for _, verdict in found]


def keep_best(path: Path, head: "Head", data: bytes) -> None:
    """As `tacit fetch` writes a Snapshot: what the keyholders signed stands beside it."""
    from tacit.cli.fetch import HEAD
    from tacit.wire.messages import encode

    path.write_bytes(data)
    path.with_name(path.name + HEAD).write_bytes(encode(head))


def _loss(verdict: Verdict) -> str:
    return "no number" if verdict.loss is None else f"{verdict.loss:.4g}"
