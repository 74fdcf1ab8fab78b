"""The documents: every relative link leads somewhere, and the Python in the README is Python."""

import pathlib
import re

import pytest

import tacit

ROOT = pathlib.Path(__file__).parents[1]
SKIPPED = {".venv", ".git", "build", "dist", "node_modules"}
DOCUMENTS = sorted(
    file for file in ROOT.rglob("*.md") if not SKIPPED & set(file.relative_to(ROOT).parts) and file.is_file()
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def prose(text: str) -> str:
    """The text without its code, where brackets and parentheses are not links."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The names by which the headings of a document can be linked to."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(FENCE.sub("", text)))
    return {name.strip().replace(" ", "-") for name in words}


def broken_links(document: pathlib.Path) -> list[str]:
    broken: list[str] = []
    for link in LINK.findall(prose(document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue  # elsewhere: not looked up, so that the tests need no network
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(document: pathlib.Path):
    assert broken_links(document) == []


def test_a_link_to_nowhere_is_found(tmp_path: pathlib.Path):
    document = tmp_path / "page.md"
    document.write_text("# One page\n[there](#one-page) [gone](gone.md) [wrong](#two) `[code](no.md)`\n")

    assert broken_links(document) == ["gone.md", "#two"]


def test_every_python_block_of_the_readme_compiles():
    blocks = [code for language, code in FENCE.findall((ROOT / "README.md").read_text()) if language == "python"]

    assert blocks
    for code in blocks:
        compile(code, "README.md", "exec")


def test_the_reference_of_a_task_names_everything_a_task_is_made_of_and_its_python_runs():
    text = (ROOT / "docs" / "reference" / "task.md").read_text()
    made_by_others = {
        *("Array", "Group", "Label", "Target", "Weight"),
        *("LowRank", "Projected", "Slices", "Schedule", "Sgd", "Sign"),
    }

    assert [name for name in tacit.__all__ if name not in made_by_others and f"{name}(" not in text] == []
    for language, code in FENCE.findall(text):
        if language == "python":
            exec(code, {})


def test_the_worked_example_of_the_codec_comes_out_as_it_is_told():
    blocks = FENCE.findall((ROOT / "docs" / "reference" / "codec.md").read_text())

    assert [language for language, _ in blocks] == ["python"]
    exec(blocks[0][1], {})


def test_every_decision_is_numbered_once_and_says_what_it_costs():
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))

    assert [file.name[:4] for file in decisions] == [f"{n:04}" for n in range(1, len(decisions) + 1)]
    for file in decisions:
        text = file.read_text()
        assert text.startswith(f"# {int(file.name[:4])}. "), file.name
        for part in (
            "Why now:",
            "Decision:",
            "Also considered:",
            "Costs:",
            "Would change our mind:",
            "Holds because:",
        ):
            assert f"\n{part} " in text, f"{file.name} has no line that begins with {part!r}"
