"""What an evaluator found, told to the coordinator: which of its Snapshots people get is decided there."""

import http.client
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from tacit.errors import InputError, TacitError

if TYPE_CHECKING:
    from tacit.cli.judge import Verdict


class NotHeard(TacitError):
    """The coordinator cannot be reached at the moment; what was judged is told later."""

    retryable = True


@dataclass(frozen=True)
class Reporter:
    """Speaks of one Plan to the coordinator at `server`, and to its operators' address, with a token."""

    server: str
    admin: str
    plan_id: str
    token: str

    def judged(self) -> int:
        """The newest version of which the coordinator knows anything; -1 for none."""
        status = self._asked("GET", self.server, f"/v1/plans/{self.plan_id}/status")
        return int(status["checks"]["judged"])

    def tell(self, verdicts: "Sequence[Verdict]") -> list[str]:
        """All that it does not know yet, in order; what followed from each, in a sentence."""
        judged = self.judged()
        return [self._told(verdict) for verdict in verdicts if verdict.version > judged]

    def _told(self, verdict: "Verdict") -> str:
        right = verdict.accuracy is not None
        value = verdict.accuracy if right else verdict.loss
        asked = {
            "version": verdict.version,
            "snapshot": verdict.snapshot,
            "metric": "right" if right else "loss",
            "error": verdict.error or 0.0,
            "count": verdict.examples,
            **({} if value is None else {"value": value}),
        }
        path = f"/v1/admin/plans/{self.plan_id}/verdicts?{urlencode(asked)}"
        answer = self._asked("POST", self.admin, path)
        return f"Snapshot {verdict.version}: {answer['decision']}; people get Snapshot {answer['published']}"

    def _asked(self, method: str, server: str, path: str) -> dict[str, Any]:
        parts = urlsplit(server)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Length": "0"} if method == "POST" else {}
        if parts.scheme == "https":
            context = ssl.create_default_context()
            line: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=30, context=context
            )
        else:
            line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            line.request(method, parts.path.rstrip("/") + path, headers=headers)
            answer = line.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotHeard(f"the coordinator at {server} does not answer: {error}") from error
        finally:
            line.close()
        try:
            said: dict[str, Any] = json.loads(data)
        except ValueError:
            said = {"error": "it does not answer as a coordinator does"}
        if answer.status == 200:
            return said
        why = f"the coordinator at {server} did not take a verdict ({answer.status}): {said.get('error')}"
        raise NotHeard(why) if answer.status in (429, 500, 502, 503) else InputError(why)


def reporter(link_server: str, plan_id: bytes, token: Path | None, admin: str | None) -> Reporter:
    """The one for a Plan behind a join link. InputError without a token."""
    if token is None:
        raise InputError("--report needs --token: a file with a token of the role evaluator (tacit admin token)")
    try:
        text = token.read_text().strip()
    except OSError as error:
        raise InputError(f"the token in {token} cannot be read: {error.strerror}") from error
    if admin is not None and urlsplit(admin).scheme not in ("http", "https"):
        raise InputError(f"{admin!r} is not an address; it has the form https://HOST:PORT")
    return Reporter(link_server, admin or link_server, plan_id.hex(), text)
