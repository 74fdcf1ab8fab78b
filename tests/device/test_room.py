"""The room as a whole: its documentation runs, it is light to import, and it says what it did in words."""

import doctest
import importlib
import json
import pkgutil
import subprocess
import sys
from dataclasses import replace

import pytest

from tacit import device
from tacit.device import events, line, record

MODULES = sorted(module.name for module in pkgutil.iter_modules(device.__path__, "tacit.device."))
EVENTS = [
    events.Joined(
        plan_id=b"p" * 32,
        title="digits",
        server="http://here",
        purpose="to learn\n  digits",
        data_sources=("handwriting", "its\x1b[2J labels"),
        trust="single-operator",
        trust_sentence="Trust.",
        privacy_sentence="Privacy.",
        examples=20,
        held_back=2,
        training_bytes=4096,
        landings_used=0,
        landings=3,
    ),
    events.Prepared(18, 2048, True),
    events.Prepared(18, 2048, False),
    events.Training(3, 18, 4),
    events.Trained(3, 0.25, 1.5, 0.5, events.HeldBack(2, 0.7, 1.0)),
    events.Trained(3, 0.25, 1.5, 0.5, events.HeldBack(0, 0.0, 0.0)),
    events.Dropped(3, "its loss is not a finite number"),
    events.Sent(b"u" * 16, 3, 4096, True),
    events.Received(b"u" * 16, 3, 1, 3, 0.5),
    events.Settled(b"u" * 16, 4),
    events.Expired(b"u" * 16, "too old"),
    events.Waiting("because", 3.0),
    events.Ended("it is over", 1),
]


@pytest.mark.parametrize("name", MODULES)
def test_the_documentation_runs(name: str):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_importing_the_room_loads_nothing_heavy():
    heavy = ("numpy", "cryptography", "msgspec", "sqlite3", "http.client", "ssl", "torch", "psutil")
    code = f"import sys, tacit.device; print([name for name in {heavy!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_device_never_loads_torch_or_the_server_stack():
    heavy = ("torch", "starlette", "uvicorn", "tacit.coordinator", "tacit.keyholder", "tacit.compiler")
    modules = ", ".join(MODULES)
    code = f"import sys, {modules}; print([name for name in {heavy!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_a_line_and_a_record(event: events.Event):
    kind = type(event).__name__.lower()

    assert line(event).split(":")[0] in (kind, "trained")
    assert json.loads(json.dumps(record(event)))["event"] == kind


def test_joined_says_what_the_owner_agrees_to_and_its_words_do_not_steer_the_terminal():
    said = line(EVENTS[0]).splitlines()

    assert said[0].endswith("20 examples (2 held back), 4 KiB to train, 0 of 3 landings used")
    assert [one.strip() for one in said[1:]] == [
        "purpose: to learn digits",
        "data: handwriting; its[2J labels",
        "Privacy.",
        "Trust.",
    ]
    assert json.loads(json.dumps(record(EVENTS[0])))["data_sources"] == ["handwriting", "its\x1b[2J labels"]


def test_joined_without_a_purpose_says_so():
    assert isinstance(EVENTS[0], events.Joined)

    said = line(replace(EVENTS[0], purpose="", data_sources=()))

    assert said.count("its author states none") == 2
