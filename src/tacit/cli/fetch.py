"""`tacit fetch`: the newest Snapshot as a file, its signatures checked."""

import argparse
import tempfile
from pathlib import Path

HEAD = ".head"  # the signed HEAD of a Snapshot is written beside it, under its name and this

EXAMPLE = """\
example:
  tacit fetch 'http://127.0.0.1:8750/join/…?author=…' -o snapshot.bin

then, in Python:
  from tacit.compiler import open_plan
  net.load_state_dict(open_plan("mine.tacit").state_dict("snapshot.bin"))
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("link", help="the join link that `tacit serve` printed")
    parser.add_argument("-o", "--output", type=Path, default=Path("snapshot.bin"), help="default: snapshot.bin")


def run(arguments: argparse.Namespace) -> None:
    from tacit.device.client import Client
    from tacit.device.link import parse_link
    from tacit.device.trust import Seen, verified_head
    from tacit.errors import TacitError
    from tacit.plan.bundle import read_plan
    from tacit.wire.ids import PlanId
    from tacit.wire.messages import encode

    link = parse_link(arguments.link)
    client = Client(link)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan"
        client.fetch_plan(path)
        plan = read_plan(path)
        if plan.plan_id != link.plan_id or plan.author != link.author:
            raise TacitError("the coordinator sent another Plan than the link names")
        offered = client.head()
        if offered is None:
            raise TacitError("the coordinator has published no Snapshot yet")
        head = offered.head
        verified_head(head, PlanId(plan.plan_id), plan.manifest, Seen(None, None))
        data = client.snapshot(head.snapshot_hash, 4 * plan.manifest.program.d)
    arguments.output.write_bytes(data)
    # Beside it what the keyholders signed, so that a Plan can be compiled that starts from here.
    arguments.output.with_name(arguments.output.name + HEAD).write_bytes(encode(head))
    print(f"wrote {arguments.output}: Snapshot {head.version} of {plan.name}, {len(data):,} bytes")
