"""What the codec refuses."""

from tacit.errors import TacitError


class CodecError(TacitError):
    """The numbers or bytes given cannot be encoded or decoded; nothing was sent or counted."""


class NotFinite(TacitError):
    """A delta holds an infinity or a NaN. The device drops it: nothing leaves."""

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        super().__init__(
            f"{count} of the {size} values of this delta are not finite, so it was dropped and nothing was "
            "sent. A smaller learning rate usually cures it."
        )
