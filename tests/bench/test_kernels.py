"""The comparison of two builds: the same tape on each, and the bytes are compared after the same work."""

from bench.kernels import rows
from tacit.engine.library import LIBRARY


def test_a_library_beside_itself_leaves_the_same_bytes():
    found = list(rows(LIBRARY, ["LeNet"], quick=True))

    assert [row.measure for row in found] == [
        "LeNet, full, 8 at once: of the other's time",
        "LeNet, full, 8 at once: the same gradients",
        "median of the other's time",
    ]
    assert found[1].holds
    assert found[0].value > 0
