"""Numbers for Prometheus, in its text format 0.0.4: what a process measures, and how samples are written.

`Histogram` and `Counter` are what this process has seen since it began; like loggers there is one of each name in a
process, made at the top of the module that knows what is measured. What the store remembers is read from it when
somebody asks (`tacit.coordinator.gauges`), so it is the same from every process.

No label names a device, an Update or an address: labels are Plans, codes, states and the routes of this program, so
there are no more series than those.
"""

import math
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One number. `suffix` follows the name of its family."""

    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """Everything of one name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[Sample]


class Counter:
    """Something that happened so often, by labels.

    >>> seen = Counter("seen_total", "What was seen.", "what")
    >>> seen.add("rain"); seen.add("rain", count=2)
    >>> print(text([seen.family()]), end="")
    # HELP seen_total What was seen.
    # TYPE seen_total counter
    seen_total{what="rain"} 3
    """

    def __init__(self, name: str, help: str, *labels: str):
        self.name, self.help, self.labels = name, help, labels
        self._lock, self._counts = threading.Lock(), defaultdict[Labels, float](float)

    def add(self, *labels: str, count: float = 1.0) -> None:
        with self._lock:
            self._counts[labels] += count

    def family(self) -> Family:
        with self._lock:
            counts = sorted(self._counts.items())
        return Family(
            self.name, "counter", self.help, [Sample(n, dict(zip(self.labels, at, strict=True))) for at, n in counts]
        )


class Histogram:
    """How long something took, by labels: so many observations at most so long each, and their sum.

    >>> took = Histogram("took_seconds", "How long it took.", "what", bounds=(0.5,))
    >>> took.observe(0.25, "rain"); took.observe(4.0, "rain")
    >>> print(text([took.family()]), end="")
    # HELP took_seconds How long it took.
    # TYPE took_seconds histogram
    took_seconds_bucket{what="rain",le="0.5"} 1
    took_seconds_bucket{what="rain",le="+Inf"} 2
    took_seconds_sum{what="rain"} 4.25
    took_seconds_count{what="rain"} 2
    """

    def __init__(self, name: str, help: str, *labels: str, bounds: Sequence[float] = SECONDS):
        self.name, self.help, self.labels, self.bounds = name, help, labels, tuple(bounds)
        self._lock = threading.Lock()
        self._seen: dict[Labels, list[float]] = {}  # for each bound, and above all of them, a count; then the sum

    def observe(self, seconds: float, *labels: str) -> None:
        with self._lock:
            seen = self._seen.setdefault(labels, [0.0] * (len(self.bounds) + 2))
            seen[bisect_left(self.bounds, seconds)] += 1
            seen[-1] += seconds

    @contextmanager
    def time(self, *labels: str) -> Generator[None]:
        """Observes how long the block takes, however it ends."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begun, *labels)

    def family(self) -> Family:
        with self._lock:
            seen = sorted((labels, list(counts)) for labels, counts in self._seen.items())
        return Family(
            self.name, "histogram", self.help, [one for at, counts in seen for one in self._samples(at, counts)]
        )

    def _samples(self, at: Labels, counts: list[float]) -> Iterator[Sample]:
        labels, total = dict(zip(self.labels, at, strict=True)), 0.0
        for bound, count in zip((*self.bounds, math.inf), counts, strict=False):
            total += count
            yield Sample(total, {**labels, "le": number(bound)}, "_bucket")
        yield Sample(counts[-1], labels, "_sum")
        yield Sample(total, labels, "_count")


def number(value: float) -> str:
    """A number as Prometheus reads it.

    >>> number(3.0), number(0.1), number(math.inf), number(float("nan"))
    ('3', '0.1', '+Inf', 'NaN')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)


def text(families: Iterable[Family]) -> str:
    """What is served.

    >>> print(text([Family("up", "gauge", "Is it?", [Sample(1, {"who": 'a "b"'})])]), end="")
    # HELP up Is it?
    # TYPE up gauge
    up{who="a \\"b\\""} 1
    """
    lines: list[str] = []
    for family in families:
        lines += [f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}"]
        for sample in family.samples:
            labels = ",".join(f'{name}="{_quoted(value)}"' for name, value in sample.labels.items())
            lines.append(f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {number(sample.value)}")
    return "\n".join(lines) + "\n"


def _escaped(words: str) -> str:
    return words.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(words: str) -> str:
    return _escaped(words).replace('"', '\\"')
