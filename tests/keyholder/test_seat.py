"""One process serves a keyholder's home, and the next takes its place."""

import os
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from tacit.errors import InputError
from tacit.keyholder.seat import port_of, seated
from tests.factory import Process, keyholder_process, make_world


def test_two_processes_never_serve_one_home(tmp_path):
    with seated(tmp_path, 0) as seat:
        seat.listens(9100)
        with pytest.raises(InputError, match="another process"), seated(tmp_path, 0.05):
            pass
        assert port_of(tmp_path) == 9100
    with seated(tmp_path, 0) as seat:
        assert seat.port == 9100
        assert port_of(tmp_path) is None, "it has the seat and does not listen yet"


def test_nobody_serves_where_nobody_ever_did(tmp_path):
    assert port_of(tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_who_stands_by_takes_the_place_of_one_that_was_killed_at_the_same_address(tmp_path):
    world = make_world(tmp_path)
    words = [*keyholder_process(world).arguments, "--stand-by"]
    first = Process("tacit.keyholder", words, tmp_path / "first.log").start()
    second = Process("tacit.keyholder", words, tmp_path / "second.log")
    with ThreadPoolExecutor() as waiting:
        listens = waiting.submit(second.start)
        assert not wait([listens], timeout=0.3).done, "the home is served already"

        first.kill()

        listens.result()
    try:
        assert second.port == first.port == port_of(world.keyholder_home())
        assert second.request("GET", "/healthz")[0] == 200
    finally:
        second.stop()
