"""Lines of logs: one object each, and nobody in them, whoever wrote them."""

import io
import ipaddress
import json
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.logs import begin_log, said, without_names


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is written from here on, as JSON."""
    root = logging.getLogger()
    before, level, stream = root.handlers[:], root.level, io.StringIO()
    begin_log("json", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_a_line_is_one_object_with_its_event_and_its_fields(lines: io.StringIO):
    logging.getLogger("tacit.x").warning("batch %d\nis void", 7, extra=said("batch.void", plan="3f2a91c0", t=7))
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())

    assert (first["event"], first["level"], first["t"], first["plan"]) == ("batch.void", "warning", 7, "3f2a91c0")
    assert first["message"] == "batch 7\nis void"
    assert second["event"] == "uvicorn.error"


def test_a_trace_is_part_of_its_line_and_names_nobody(lines: io.StringIO):
    name = os.urandom(16).hex()
    try:
        raise ValueError(f"Update {name} from 192.0.2.7")
    except ValueError:
        logging.getLogger("tacit.x").exception("something unforeseen")
    (line,) = [json.loads(one) for one in lines.getvalue().splitlines()]

    assert "Traceback" in line["trace"] and "ValueError" in line["trace"]
    assert name not in line["trace"] and "192.0.2.7" not in line["trace"]


before = st.sampled_from(["", " ", "Update ", "(", "http://", "[", "'", "id=", "/v1/plans/"])
after = st.sampled_from(["", " ", ".", ")", ":8080/x", "]:9", "'", ", and", "\n"])


@given(before, st.binary(min_size=16, max_size=40), after)
def test_ids_and_keys_are_taken_out(left: str, name: bytes, right: str):
    cleaned = without_names(left + name.hex() + right)

    assert name.hex() not in cleaned and cleaned.startswith(left)


@given(before, st.ip_addresses(), after.filter(lambda text: text != "."))
def test_addresses_are_taken_out(left: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, right: str):
    if address.version == 6 and right.startswith(":"):
        right = ""  # there the port would be a part of it: an address with a port stands in brackets

    assert str(address) not in without_names(left + str(address) + right) or str(address) == "::"


@pytest.mark.parametrize("text", ["at 17:58:01", "tacit 0.1.0", "12:30", "Plan 3f2a91c0: Snapshot 7", "1.25 s"])
def test_what_is_no_name_stays(text: str):
    assert without_names(text) == text
