"""The Snapshots of a Plan as whoever looks on sees them: each by its version, every signature checked."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tacit.device.client import Client
from tacit.device.link import JoinLink, parse_link
from tacit.device.trust import Seen, verified_head
from tacit.errors import TacitError
from tacit.plan.bundle import Plan, parse_plan
from tacit.wire.ids import PlanId
from tacit.wire.messages import Head


@dataclass(frozen=True, eq=False)
class Following:
    """A Plan behind a join link."""

    link: JoinLink
    plan: Plan
    client: Client

    def newest(self) -> Head | None:
        """The newest HEAD; None before the keyholders have signed one."""
        offered = self.client.head()
        return None if offered is None else self._verified(offered.head)

    def published(self) -> Head:
        """The HEAD of the Snapshot that people get, by the coordinator's word; signed by all keyholders, as each is."""
        return self._verified(self.client.published())

    def head(self, version: int) -> Head:
        """The HEAD of a version that is published."""
        head = self._verified(self.client.head_of(version))
        if head.version != version:
            raise TacitError(f"the coordinator was asked for HEAD {version} and sent HEAD {head.version}")
        return head

    def snapshot(self, head: Head) -> bytes:
        """What that HEAD names."""
        return self.client.snapshot(head.snapshot_hash, self.plan.manifest.snapshot_bytes)

    def _verified(self, head: Head) -> Head:
        verified_head(head, PlanId(self.plan.plan_id), self.plan.manifest, Seen(None, None))
        return head


def following(text: str) -> Following:
    """The Plan of a join link, fetched and verified."""
    link = parse_link(text)
    client = Client(link)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan"
        client.fetch_plan(path)
        plan = parse_plan(path.read_bytes())
    if plan.plan_id != link.plan_id or plan.author != link.author:
        raise TacitError("the coordinator sent another Plan than the link names")
    return Following(link, plan, client)
