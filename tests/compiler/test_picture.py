"""The arena's picture: it fits a terminal however many steps there are, and the file holds every tensor."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.compiler.explain import Explanation, Rectangle
from tacit.compiler.picture import COLUMNS, NAMED, ROWS, at_peak, in_letters, svg

SVG = "{http://www.w3.org/2000/svg}"


def explained(found: list[Rectangle], peak_step: int, peak: str = "body.conv") -> Explanation:
    arena = max((r.offset + r.size for r in found), default=64)
    return Explanation((), tuple(found), arena, arena, arena, "none", peak_step, peak)


def staircase(steps: int) -> Explanation:
    """A value a step, alive for three, one above the other; the last ones are the largest."""
    found = [Rectangle(f"v{i}", f"m{i % 7}", i, i + 2, 64 * i, 64 * (1 + i)) for i in range(steps - 2)]
    return explained(found, steps - 3)


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    parts = draw(
        st.lists(
            st.tuples(st.integers(0, 400), st.integers(0, 300), st.integers(0, 50), st.integers(1, 9)),
            min_size=1,
            max_size=40,
        )
    )
    found = [Rectangle(f"v{i}", f"m{i}", f, f + n, 64 * at, 64 * size) for i, (f, n, at, size) in enumerate(parts)]
    return explained(found, draw(st.integers(0, max(r.last for r in found))))


@given(explanations())
def test_it_fits_a_terminal(e: Explanation):
    lines = in_letters(e)
    rows = [text for text in lines if text.endswith("|")]

    assert len(rows) == ROWS and len({len(row) for row in rows}) == 1
    assert len(rows[0]) <= 14 + COLUMNS
    assert sum(text.startswith("  ") and " bytes at " in text for text in lines) <= NAMED


@given(explanations())
def test_the_mark_points_at_the_column_of_the_peak(e: Explanation):
    lines = in_letters(e)
    mark = next(text for text in lines if "peak: step" in text)
    column = [row[mark.index("^")] for row in lines if row.endswith("|")]

    # What is alive there is in that column, so far as it is tall enough to be seen.
    tall = [r for r in at_peak(e) if r.size >= 2 * -(-e.arena // ROWS)]
    assert len(set(column) - {"."}) >= min(1, len(tall))
    assert e.peak in mark and str(e.peak_step) in mark


def test_few_steps_have_a_column_each_and_many_share_them():
    few, many = in_letters(staircase(30)), in_letters(staircase(950))

    assert not any("a column is" in text for text in few)
    assert "  a column is 10 steps: the fullest of them is shown" in many
    assert len(few[0]) == 14 + 30 and len(many[0]) == 14 + 95


def test_the_legend_names_what_is_largest_at_the_peak():
    e = explained(
        [
            Rectangle("small", "a", 0, 3, 0, 64),
            Rectangle("large", "b", 1, 2, 64, 640),
            Rectangle("gone", "c", 0, 0, 64, 64),
        ],
        peak_step=2,
    )
    legend = [text for text in in_letters(e) if " bytes at " in text]

    assert [text.split()[:3] for text in legend] == [["A", "large", "(b):"], ["B", "small", "(a):"]]


@pytest.mark.parametrize("steps", [3, 40, 700])
def test_the_file_is_xml_with_a_rectangle_and_a_title_for_every_tensor(steps: int):
    e = staircase(steps)

    root = ElementTree.fromstring(svg(e, "a < b & c"))

    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert len(titles) == steps - 2 and titles[0].startswith("v0 (m0): 64 bytes at 0")
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert any("a < b & c" in text for text in texts) and any("body.conv" in text for text in texts)
    _, _, wide, high = (float(number) for number in root.attrib["viewBox"].split())
    for drawn in root.iter(f"{SVG}rect"):
        if drawn.find(f"{SVG}title") is not None:
            x, y, w, h = (float(drawn.attrib[name]) for name in ("x", "y", "width", "height"))
            assert x >= 0 and y >= 0 and x + w <= wide and y + h <= high
