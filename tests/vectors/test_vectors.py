"""The golden vectors: the code still makes them, byte for byte."""

import pytest

from tests.vectors.make import HERE, VECTORS, text


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_the_code_writes_the_recorded_vectors_again(name: str):
    assert text(name) == (HERE / f"{name}.json").read_text(encoding="utf-8")


def test_every_recorded_file_has_its_maker():
    assert {path.stem for path in HERE.glob("*.json")} >= set(VECTORS)
