"""A longer run of the schedules: `python -m tests.privacy.campaign --seconds 600 [--seed N]`."""

import argparse
import logging
import time

from tests.privacy.schedules import several


class Enough(Exception):
    """The time is over."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.privacy.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    logging.disable()  # keyholders that lose their state say so, as they should
    end, played, opened = time.monotonic() + given.seconds, 0, 0

    def tell(opens: int) -> None:
        nonlocal played, opened
        played, opened = played + 1, opens
        if time.monotonic() > end:
            raise Enough

    try:
        several(given.seed, 10**9, tell)
    except Enough:
        print(f"seed {given.seed}: {played} schedules, {opened} lists opened, every invariant held")


if __name__ == "__main__":
    main()
