"""The report of one run: one file that asks nothing of a network, and its charts as PNGs beside it."""

import base64
import inspect
import json
import re
from html import escape
from pathlib import Path

import msgspec

from tacit.durable import write_file
from tacit.fleet.folder import Folder
from tacit.fleet.report import png, sheet, words
from tacit.fleet.report.figures import Run, charts, read
from tacit.fleet.report.svg import figure
from tacit.fleet.report.words import BYTES, JOULES, SECONDS
from tacit.fleet.settings import Scenario
from tacit.plan.manifest import encode

# Pictures that others write into a run's folder.
PICTURES = {
    "split.svg": "Who has which examples",
    "population.svg": "The devices: what they are, how fast, and when they are there",
}


def write(folder: Folder, *, pictures: bool = True) -> Path:
    """Draws the run's `report.html`, and with `pictures` its charts as PNGs where matplotlib is there."""
    run = read(folder)
    file = folder.path / "report.html"
    write_file(file, page(run).encode(), 0o644)
    if pictures and png.can_draw():
        for some in charts(run).values():
            for chart in some:
                png.save(chart, folder.path / f"{chart.name}.png")
    return file


def page(run: Run) -> str:
    """The report as HTML."""
    summary, title = run.summary, f"{run.strategy}, seed {run.settings.scenario.seed}"
    drawn = {
        name: f'<div class="charts">\n{"".join(map(figure, some))}\n</div>'
        for name, some in charts(run).items()
        if some
    }
    what = f"{run.plan.manifest.title}: " if run.plan is not None else ""
    return sheet.document(
        f"{what}{title}",
        "\n".join(
            [
                f"<header><h1>{escape(what + title)}</h1>",
                sheet.paragraph(_opening(run)),
                sheet.numbers(_numbers(run)),
                "</header>\n<main>",
                sheet.section("Privacy", _privacy(run)),
                sheet.section("How good it became", drawn.get("How good it became", "")),
                sheet.section("Visits", drawn.get("Visits", "")),
                sheet.section("Devices", drawn.get("Devices", ""), _kinds(run), *_pictures(run.path)),
                sheet.section("Settings", *_settings(run)),
                "</main>",
                sheet.paragraph(
                    f"A simulation in virtual time; {summary.events:,} events. The same settings and seed give the "
                    "same numbers.",
                    quiet=True,
                ),
            ]
        ),
    )


def _opening(run: Run) -> str:
    summary = run.summary
    return (
        f"{run.settings.devices:,} virtual devices, {words.text(summary.time, SECONDS)} of virtual time. "
        f"It ended: {summary.ended}."
    )


def _numbers(run: Run) -> list[tuple[str, str, str]]:
    summary = run.summary
    each = max(1, run.settings.devices)
    saved = words.change(summary.training_bytes, summary.full_training_bytes)
    found = [("accuracy", "not judged", "")]
    if run.accuracy is not None:
        found = [("accuracy", words.share(run.accuracy), f"best {words.share(summary.best_accuracy)}")]
    if (target := run.settings.scenario.target) is not None:
        reached = summary.reached
        to = "never" if reached is None else words.text(reached.time, SECONDS)
        taken = "" if reached is None else f"{words.text(reached.up + reached.down, BYTES)} up and down"
        found.append((f"to {words.share(target)}", to, taken))
    return [
        *found,
        ("Snapshots", f"{summary.versions:,}", f"{summary.updates:,} Updates of {summary.visits:,} visits"),
        ("up", words.text(summary.up, BYTES), f"{words.text(summary.up / each, BYTES)} a device"),
        ("down", words.text(summary.down, BYTES), f"{words.text(summary.down / each, BYTES)} a device"),
        ("energy", words.text(summary.joules, JOULES), f"{words.text(summary.joules / each, JOULES)} a device"),
        (
            "memory of training",
            words.text(summary.training_bytes, BYTES),
            f"{saved} against all of it" if saved else "",
        ),
        ("Update", words.text(summary.update_bytes, BYTES), f"Snapshot {words.text(summary.snapshot_bytes, BYTES)}"),
        ("Plan", words.text(summary.plan_bytes, BYTES), f"fetched by {int(run.visits['first'].sum()):,} devices"),
    ]


def _privacy(run: Run) -> str:
    said = f"<blockquote>{escape(run.summary.statement)}</blockquote>"
    if run.summary.epsilon is None and run.is_judged:
        said += sheet.paragraph("This run claims no ε, so accuracy is drawn against none.")
    return said + sheet.paragraph(
        "Noise and masks of a simulation come from its seed and protect nobody: the statement is what the same Plan "
        "would be worth on real devices.",
        quiet=True,
    )


def _kinds(run: Run) -> str:
    if not run.kinds:
        return ""
    rows = [
        (
            kind.profile, sheet.Cell(f"{kind.count:,}", kind.count),
            sheet.Cell(words.text(kind.seconds, SECONDS), kind.seconds),
            sheet.Cell(words.text(kind.joules, JOULES), kind.joules),
            sheet.Cell(words.text(kind.training_bytes, BYTES), kind.training_bytes),
            sheet.Cell(words.text(kind.process_bytes, BYTES), kind.process_bytes),
            "yes" if kind.fits else "no",
        )
        for kind in run.kinds
    ]  # fmt: skip
    head = ("profile", "devices", "time of a visit", "energy of a visit", "training", "process", "fits")
    return sheet.table("What a visit costs on each kind of device, as the planner estimates it", head, rows, sorts=True)


def _pictures(path: Path) -> list[str]:
    found: list[str] = []
    for name, title in PICTURES.items():
        if (path / name).exists():
            # As an image of its own, what it calls its parts cannot meet what the page or the other calls its.
            data = base64.b64encode((path / name).read_bytes()).decode()
            found.append(
                f'<figure><figcaption>{escape(title)}</figcaption><img src="data:image/svg+xml;base64,{data}" '
                f'alt="{escape(title)}"></figure>'
            )
    return found


def _settings(run: Run) -> list[str]:
    settings = run.settings
    told = sheet.table("As the command was told", ("setting", "value"), settings.told.items(), words=True)
    meanings = meaning_of_settings()
    chosen = msgspec.to_builtins(settings.scenario)
    rows = [(name, words.setting(value), meanings.get(name, "")) for name, value in chosen.items()]
    rows += [
        ("devices", f"{settings.devices:,}", "virtual devices"),
        ("test_examples", f"{settings.test_examples:,}", "the model is judged on so many examples that no device has"),
        ("examples", settings.examples, "SHA-256 of what devices have and of who has what"),
        ("population", settings.population, "SHA-256 of the devices"),
        ("plan_id", settings.plan_id, "the Plan that was played"),
        ("format", str(settings.format), "of the run's folder"),
    ]
    parts = [told] if settings.told else []
    parts.append(sheet.table("As the run was played", ("setting", "value", "meaning"), rows, words=True))
    if run.plan is not None:
        manifest = json.loads(encode(run.plan.manifest))
        for long in ("blobs", "keyholders"):
            manifest.pop(long, None)
        parts.append(sheet.behind("Every number of its Plan", f"<pre>{escape(json.dumps(manifest, indent=1))}</pre>"))
    return parts


def meaning_of_settings() -> dict[str, str]:
    """What each setting of a run means, in the words that `Scenario` itself has for it.

    >>> meaning_of_settings()["dropout"]
    'the share of visits that end half-way, for good'
    """
    found: dict[str, str] = {"strategy": "whose settings these are"}
    name = ""
    for text in (inspect.getdoc(Scenario) or "").splitlines():
        begun = re.match(r"(\w+) {2,}(\S.*)", text)
        if begun and begun[1] in Scenario.__struct_fields__:
            name = begun[1]
            found[name] = begun[2]
        elif name and text.strip():
            found[name] += f" {text.strip()}"
    return found
