"""The dashboard of a Plan: its status for people, as one page that keeps itself up to date.

The server writes the page; a script of twenty lines asks for it anew when an event says that something has changed. So
there is one place that says how things look, the page is whole without the script, and nothing comes from elsewhere.
"""

import base64
import hashlib
import html
import time
from collections.abc import Iterable, Sequence

from tacit.coordinator.batch import Batch
from tacit.coordinator.gauges import age
from tacit.coordinator.orders import Going
from tacit.coordinator.status import Status, promise
from tacit.plan.bundle import Plan
from tacit.privacy.account import MEANINGLESS_ABOVE

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; --good: #1a6b3c; --bad: #a3200d; }
@media (prefers-color-scheme: dark) { :root { --good: #7fd6a0; --bad: #ff9d8a; } }
body { max-width: 56rem; margin: 0 auto; padding: 1rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
header, section.wide { grid-column: 1 / -1; }
section { border: 1px solid; border-radius: .4rem; padding: .5rem 1rem 1rem; min-width: 0; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0; overflow-wrap: anywhere; }
.number { font-size: 2rem; line-height: 1.2; }
svg { width: 100%; height: 1.5rem; display: block; }
svg rect.room { fill: none; stroke: currentColor; } svg rect.full { fill: currentColor; opacity: .6; }
svg line { stroke: currentColor; stroke-width: 2; stroke-dasharray: 3 2; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: normal; } td { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
"""
SCRIPT = """\
"use strict";
const events = new EventSource(document.body.dataset.events);
const said = document.getElementById("said");
let asking = false, again = false;
async function show() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    const now = page.getElementById("said").textContent;
    if (said.textContent !== now) said.textContent = now;
  } catch { said.textContent = "The coordinator does not answer; what stands here is older."; }
  asking = false;
  if (again) { again = false; setTimeout(show, 500); }
}
events.addEventListener("status", show);
events.onerror = () => { said.textContent = "The coordinator does not answer; what stands here is older."; };
"""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'self'; "
    "connect-src 'self'; style-src 'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'"
)


def page(plan: Plan, status: Status, batch: Batch, going: Going, now: float) -> str:
    """The page as HTML."""
    here = f"/v1/plans/{status.plan_id}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(status.title)}: how it is doing</title>
<style>{_STYLE}</style>
<script src="/dashboard.js" defer></script>
</head>
<body data-events="{here}/events">
<p id="said" role="status">{_text(_sentence(status, going))}</p>
<main>
<header>
<h1>{_text(status.title)}</h1>
<p>Plan <code>{status.plan_id[:8]}</code>{_chain(status)}</p>
</header>
{_snapshot(plan, status)}
{_batch(status, age(batch, now))}
{_privacy(plan, status)}
{_updates(status)}
{_keyholders(status)}
{_checks(status)}
</main>
</body>
</html>
"""


def _sentence(status: Status, going: Going) -> str:
    """What a screen reader says when it changes; so nothing in it counts seconds."""
    if status.ended:
        return f"Ended: {status.ended}."
    told = "" if going is Going.RUNNING else f" An operator has it {going}: no Updates are taken."
    down = [str(j) for j, one in enumerate(status.keyholders, 1) if one.trouble]
    waits = f" Keyholder {', '.join(down)} does not serve." if down else ""
    if status.version is None:
        return f"The keyholders have yet to sign Snapshot 0.{waits}"
    return f"Snapshot {status.version} is the newest; batch {status.batch.t} is {status.batch.state}.{told}{waits}"


def _chain(status: Status) -> str:
    parts = [
        f'{words} <a href="/dashboard/{plan_id}"><code>{plan_id[:8]}</code></a>'
        for words, plan_id in (("continues", status.continues), ("is continued by", status.succeeded_by))
        if plan_id is not None
    ]
    return "".join(f", {part}" for part in parts)


def _snapshot(plan: Plan, status: Status) -> str:
    limit = status.batch.most_batches
    version = "none yet" if status.version is None else str(status.version)
    bar = _bar((status.version or 0) / limit, f"{status.version or 0} of {limit} batches are done")
    return _section("Snapshot", f'<p class="number">{version}</p>{bar}<p>of {limit} batches in this Plan</p>')


def _batch(status: Status, age_s: float | None) -> str:
    one = status.batch
    words = f"{one.fill} of {one.target} Updates; from {one.threshold} on it may be opened"
    bar = _bar(one.fill / max(1, one.target), words, at=one.threshold / max(1, one.target))
    since = "" if age_s is None else f"<p>collecting for {_span(age_s)}{_closes(one.closes_at)}</p>"
    return _section(f"Batch {one.t}", f'<p class="number">{_text(one.state)}</p>{bar}<p>{words}</p>{since}')


def _closes(at: int | None) -> str:
    if at is None:
        return ""
    when = time.strftime("%H:%M:%S", time.gmtime(at))
    return f"; closes at {when} UTC if it is large enough by then"


def _privacy(plan: Plan, status: Status) -> str:
    said, whole = status.privacy, promise(plan)
    meant = said.epsilon is not None and said.epsilon <= MEANINGLESS_ABOVE
    number = f"ε {said.epsilon:.2f}" if meant else "no meaningful ε"
    share = said.most_landings / said.landings_allowed
    bar = _bar(share, f"{said.most_landings} of {said.landings_allowed} landings of the device that landed most often")
    body = (
        f'<p class="number">{number}</p>{bar}<p>{said.most_landings} of {said.landings_allowed} landings</p>'
        f"<p>{_text(said.sentence)}</p>"
        f"<p>Over the Plan's whole life, at most: {_text(whole.sentence)}</p><p>{_text(said.trust_sentence)}</p>"
    )
    return _section("Privacy spent", body)


def _updates(status: Status) -> str:
    one = status.updates
    rows = [
        ("accepted", one.accepted),
        ("waiting", one.queued),
        ("opened in sums", one.opened),
        ("expired", one.expired),
        ("spoilt with a batch", one.spoilt),
    ]
    refused = sorted(one.refused.items())
    body = _table(rows) + ("<h2>Refused, by code</h2>" + _table(refused) if refused else "<p>none refused</p>")
    return _section("Updates", body)


def _keyholders(status: Status) -> str:
    items = "".join(
        f'<p><code>{one.key_id[:8]}</code> <span class="{"bad" if one.trouble else "good"}">'
        f"{_text(one.trouble) if one.trouble else 'serves'}</span></p>"
        for one in status.keyholders
    )
    return _section("Keyholders", items)


def _checks(status: Status) -> str:
    """Alarms first, where there are any, and which Snapshot people get, where somebody checks."""
    checks = status.checks
    if checks is None:
        return ""
    alarms = "".join(
        f'<p><span class="bad">{_text(one.code)}</span>: {_text(one.sentence)}. '
        f"See <code>{_text(one.runbook)}</code></p>"
        for one in checks.alarms
    )
    body = alarms or '<p class="good">none</p>'
    if checks.by != "off":
        given = "none yet" if checks.published is None else f"Snapshot {checks.published}"
        body += f"<h2>Published</h2><p>{given}, as {_text(checks.by)} has it; {checks.ahead} are not judged yet; "
        body += f"training went back {checks.rollbacks} times</p>"
    return _section("Alarms", body, wide=True)


def _section(title: str, body: str, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"<section{kind}><h2>{_text(title)}</h2>{body}</section>"


def _table(rows: Iterable[Sequence[object]]) -> str:
    return (
        "<table>" + "".join(f'<tr><th scope="row">{_text(str(a))}</th><td>{b}</td></tr>' for a, b in rows) + "</table>"
    )


def _bar(share: float, words: str, at: float | None = None) -> str:
    """How full something is, from 0 to 1, with a mark where something begins to be possible."""
    width = 100 * min(1.0, max(0.0, share))
    mark = "" if at is None else f'<line x1="{100 * min(1.0, at):.1f}" y1="0" x2="{100 * min(1.0, at):.1f}" y2="10"/>'
    return (
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{_text(words)}">'
        f'<rect class="room" width="100" height="10"/><rect class="full" width="{width:.1f}" height="10"/>{mark}</svg>'
    )


def _span(seconds: float) -> str:
    """A length of time, as exact as one reads it.

    >>> _span(59), _span(90), _span(7200)
    ('59 s', '1 min', '2 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _text(words: str) -> str:
    return html.escape(words)
