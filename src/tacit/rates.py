"""How often somebody may ask: token buckets, in the memory of one process.

N processes behind one address give N times as much, and a restart fills every bucket again. That is enough for what
they are for: that one sender cannot take all of a server's time. What must hold is counted in a store.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from tacit.wire.codes import Code, Refusal

MOST_NAMES = 65_536  # whoever has not asked for longest is forgotten, and begins with a full bucket


@dataclass(frozen=True)
class Share:
    """So many requests at once, and so many a second after that."""

    burst: float
    a_second: float


@dataclass(frozen=True)
class Bucket:
    """What is left of a share, at a time.

    >>> share, now = Share(2, 1), 0.0
    >>> bucket = Bucket(2, 0.0).drawn(share, 0.0).drawn(share, 0.0)
    >>> bucket.left, bucket.drawn(share, 1.5).left
    (0.0, 0.5)
    >>> bucket.drawn(share, 0.25)
    Traceback (most recent call last):
    tacit.wire.codes.Refusal: E_RATE: too many calls; come again in a second
    """

    left: float
    at: float

    def drawn(self, share: Share, now: float) -> "Bucket":
        left = min(share.burst, self.left + max(0.0, now - self.at) * share.a_second)
        if left < 1:
            raise Refusal(Code.E_RATE, "too many calls; come again in a second", 1)
        return Bucket(left - 1.0, now)


class Rates:
    """A bucket for each name, all of one share. Used by one thread.

    >>> rates = Rates(Share(1, 1), clock=lambda: 0.0)
    >>> rates.draw(b"a"), rates.draw(b"b")
    (None, None)
    >>> rates.draw(b"a")
    Traceback (most recent call last):
    tacit.wire.codes.Refusal: E_RATE: too many calls; come again in a second
    """

    def __init__(self, share: Share, clock: Callable[[], float], most: int = MOST_NAMES):
        self._share, self._clock, self._most = share, clock, most
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()

    def draw(self, name: bytes) -> None:
        """One more request. E_RATE where the bucket is empty."""
        now = self._clock()
        bucket = self._buckets.get(name) or Bucket(self._share.burst, now)
        self._buckets[name] = bucket.drawn(self._share, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)


def neighbourhood(address: str) -> bytes:
    """Whoever shares a bucket: one IPv4 address, or the /64 that an IPv6 subscriber can choose addresses from.

    >>> neighbourhood("2001:db8::1") == neighbourhood("2001:db8::2"), neighbourhood("192.0.2.1")
    (True, b'192.0.2.1')
    """
    try:
        found = ip_address(address)
    except ValueError:
        return address.encode()
    if not isinstance(found, IPv6Address):
        return str(found).encode()
    mapped = found.ipv4_mapped
    return str(mapped).encode() if mapped is not None else found.packed[:8]
