"""The page behind a join link: what this is, what stays at home, the command to run. No scripts."""

import base64
import hashlib
import html
import re
import shlex

from tacit.coordinator.roll import Door
from tacit.coordinator.status import promise
from tacit.plan.bundle import Plan
from tacit.plan.scouted import asks
from tacit.privacy.trust import WEB_TRUST, Fact, label, sentence

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 40rem; margin: 0 auto; padding: 1.5rem; }
pre { padding: .75rem; border: 1px solid; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.warning { border-left: .3rem solid; padding-left: .75rem; }
dt { font-weight: 600; }
"""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
_HERE = re.compile(r"https?://[A-Za-z0-9.:\-\[\]]{1,253}")
_KEY = re.compile(r"[0-9a-fA-F]{64}")


def join_page(plan: Plan, here: str, author: str | None, newest: Plan, door: Door = Door.OPEN) -> str:
    """The page as HTML. `here`, which is where it was asked for, and `author` are believed for nothing.

    `newest` is the last Plan of the chain: it is the one to join.
    """
    manifest, text = plan.manifest, html.escape
    sources = "".join(f"<li>{text(source)}</li>" for source in plan.charter.data_sources) or "<li>none named</li>"
    said, asking = promise(plan), asks(plan)
    invited = "to help train this model" if asking is None else f"to answer a question: this Plan {text(asking)};"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Join {text(manifest.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{text(manifest.title)}</h1>
<p>Its purpose: {text(plan.charter.purpose)}</p>
<p>You are invited {invited} with data on your own device. The data stay there. What leaves is
one Update at a time: clipped, rounded and masked, {manifest.limits.max_upload_bytes} bytes at most.</p>
{_command(plan, here, author, newest, door)}
<h2>What it asks of your device</h2>
<dl>
<dt>Data it may read</dt><dd><ul>{sources}</ul></dd>
<dt>Memory</dt><dd>{manifest.limits.max_memory // 1024} KiB at most</dd>
<dt>Time</dt><dd>{manifest.limits.max_seconds} seconds a visit at most</dd>
<dt>Updates</dt><dd>{manifest.participation.landings} at most, opened only together with those of others, at least
{manifest.batch.threshold} at a time</dd>
</dl>
<h2>Whom you have to trust</h2>
<p class="warning">{text(sentence(said.trust))}</p>
{_claim(plan)}<p>This page comes from the coordinator and holds no code. The command above runs the tacit that you
installed yourself. Were a page from here to train in your browser, the trust would be {label(said.trust, {Fact.WEB})}:
{WEB_TRUST}</p>
{_enrolment(plan, door)}<h2>What the noise promises</h2>
<p>Over the Plan's whole life, at most: {text(said.sentence)}</p>
{_class(plan)}<p>Plan <code>{plan.plan_id.hex()}</code></p>
</main>
</body>
</html>
"""


def _claim(plan: Plan) -> str:
    """What the author says of the keyholders, which nobody has to believe."""
    named = ", ".join(card.operator for card in plan.manifest.keyholders if card.operator)
    if not named:
        return ""
    return (
        f"<p>That is so for a device that knows none of its keyholders. Its author says it is {plan.manifest.trust}, "
        f"with keyholders of {html.escape(named)}. To count on that, ask those operators for their keys and pin "
        "them with <code>tacit device trust add NAME KEY</code>; your device then works the trust out by itself.</p>\n"
    )


def _enrolment(plan: Plan, door: Door) -> str:
    """How much T Updates have to do with T people."""
    threshold = plan.manifest.batch.threshold
    match door:
        case Door.OPEN:
            said = (
                "Enrolment is open: anybody may enrol as many devices as they like, at no cost. So "
                f"{threshold} Updates are {threshold} enrolments, perhaps not as many people."
            )
        case Door.INVITED:
            said = (
                f"Enrolment is by invitation, one for each device. So {threshold} Updates are {threshold} invitations, "
                "and who holds them is known to whoever gave them out alone."
            )
        case Door.LISTED:
            said = (
                f"Enrolment is for devices on a signed list. So {threshold} Updates are {threshold} names on it, and "
                "whose they are is known to whoever wrote it alone."
            )
    return (
        f'<p class="warning">{said} An outsider who fills a batch with Updates of their own knows all of its sum but '
        "yours, and against that only the noise protects you.</p>\n"
    )


def _class(plan: Plan) -> str:
    if not plan.manifest.device_class:
        return ""
    return (
        f"<p>This Plan is for devices of the class {html.escape(plan.manifest.device_class)}. Everybody who sees what "
        "you send knows that yours is one.</p>\n"
    )


def _command(plan: Plan, here: str, author: str | None, newest: Plan, door: Door) -> str:
    if author is None or not _KEY.fullmatch(author):
        return (
            '<p class="warning">This address lacks the key of the Plan\'s author, so it is not a whole join link. '
            "Ask whoever sent it for the whole link.</p>"
        )
    if bytes.fromhex(author) != plan.author:
        return (
            '<p class="warning">The link names another author than the Plan on this server has. Do not join; ask '
            "whoever sent you the link.</p>"
        )
    if not _HERE.fullmatch(here):
        return '<p class="warning">This server was asked for under a name that cannot be part of a link.</p>'
    link = f"{here}/join/{newest.plan_id.hex()}?author={plan.author.hex()}"
    command = f"tacit join {shlex.quote(link)} --data FOLDER"
    ended = (
        ""
        if newest is plan
        else (
            "<p>This Plan has ended, and another by the same author continues it. A device that is in it moves over by "
            "itself.</p>\n"
        )
    )
    # What comes after # in an address is not sent to a server, so this page cannot show it.
    whole = (
        "<p>The link you were given ends in <code>#invite=…</code>, and that is your invitation. Use the whole link in "
        "place of the one above. It lets one device in, so show it to nobody.</p>\n"
        if door is Door.INVITED
        else ""
    )
    return f"{ended}<h2>How to join</h2>\n<pre><code>{html.escape(command)}</code></pre>\n{whole}"
