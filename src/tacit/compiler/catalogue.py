"""docs/reference/operators.md, written from the tables that compile: `python -m tacit.compiler.catalogue`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tacit.compiler.elementwise import ELEMENTWISE
from tacit.compiler.lower import FILLED
from tacit.compiler.operators import REMEDIES, RULES, VIEWS
from tacit.compiler.trace import DECOMPOSED
from tacit.task import LOSSES

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "operators.md"
HEAD = """# What can be compiled

Written from the compiler's tables by `python -m tacit.compiler.catalogue`; a test fails where it is stale.

A module is traced to ATen operators, in evaluation form: dropout off, BatchNorm with its frozen statistics. Training
alone does otherwise where `tacit.Local(dropout=True)` or `tacit.Local(batch_statistics=True)` ask for it; dropout's
masks are then `bernoulli_.float` into fresh memory. Each operator below has a meaning for the engine, forward and
backward where it is listed; one in no list is refused by its name, the path of the module and the line that made it,
and a way out.
"""


def page() -> str:
    """The whole page."""
    views = set(VIEWS)
    kernels = [target for target in RULES if target not in views]
    sections = [
        ("Losses", ", ".join(f"`{name}`" for name in LOSSES)),
        ("Kernels", _named(kernels)),
        ("Element-wise, fused into passes over memory", _named(ELEMENTWISE)),
        ("Spelled out by PyTorch as others of these", _named(DECOMPOSED)),
        ("Looks at the same memory: no operation at all", _named(views)),
        ("Tensors of one number", _named(FILLED)),
    ]
    lines = [HEAD]
    for title, text in sections:
        lines += [f"## {title}", "", text, ""]
    lines += ["## Refused, with a remedy of their own", "", "| operator | what to do |", "|---|---|"]
    lines += [f"| `{name}` | {remedy} |" for name, remedy in sorted(REMEDIES.items())]
    return "\n".join(lines) + "\n"


def _named(targets: Iterable[Any]) -> str:
    names = sorted({str(target).removeprefix("aten.").removesuffix(".default") for target in targets})
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page())
