"""A kill inside one process: an exception that nobody catches, at a crash point."""


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


class Points:
    """Crash points, in the order in which they are passed: the one that is passed `left` from now kills."""

    left: int | None = None

    def __call__(self, name: str) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed(name)
