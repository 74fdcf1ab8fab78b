"""One device as a process of its own, so that a test can kill it: `python -m tests.device.one_device ...`."""

import json
import sys
from pathlib import Path

from tacit.device import Event, JoinSettings, record, run


def main(link: str, data: str, home: str, allow_mu2: str) -> None:
    def report(event: Event) -> None:
        print(json.dumps(record(event)), flush=True)

    run(JoinSettings(link, Path(data), Path(home), poll=0.02, allow_mu2=float(allow_mu2)), report)


if __name__ == "__main__":
    main(*sys.argv[1:])
