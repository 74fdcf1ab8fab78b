"""Who has which examples: none twice, none lost, and as different as was asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.errors import InputError
from tacit.fleet.split import (
    Classes,
    Dirichlet,
    FromFile,
    Iid,
    Natural,
    Quantity,
    Shares,
    Split,
    SplitWrong,
    deal,
    drawn,
    parse_split,
)

generated = st.one_of(
    st.just(Iid()),
    st.builds(Dirichlet, st.floats(1e-3, 1e6)),
    st.builds(Quantity, st.floats(0, 5)),
    st.builds(Classes, st.integers(1, 6)),
)
labelled = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(lambda labels: np.array(labels, np.int32))
TEN = np.repeat(np.arange(10), 600)


def mixes(shares: Shares, labels: np.ndarray, classes: int = 10) -> np.ndarray:
    counts = np.array([np.bincount(labels[shares.of(device)], minlength=classes) for device in range(len(shares))])
    return counts / counts.sum(1, keepdims=True)


@given(labelled, st.integers(1, 60), generated, st.integers(0, 2**32), st.integers(1, 3))
def test_every_example_is_dealt_once_and_every_device_has_its_least(
    labels: np.ndarray, devices: int, split: Split, seed: int, least: int
):
    try:
        shares = deal(labels, devices, split, seed, least=least)
    except SplitWrong:
        # Nothing that can be dealt is refused: too few examples, or classes that cannot be given to so many.
        assert devices * least > len(labels) or isinstance(split, Classes)
        return

    assert len(shares) == devices
    assert sorted(shares.order) == list(range(len(labels)))
    assert shares.sizes.min() >= least and shares.sizes.sum() == len(labels)
    assert sorted(np.concatenate([shares.of(device) for device in range(devices)])) == sorted(shares.order)
    again = deal(labels, devices, split, seed, least=least)
    assert again.order.tobytes() == shares.order.tobytes() and again.offsets.tobytes() == shares.offsets.tobytes()
    if isinstance(split, Iid | Dirichlet):
        assert np.ptp(shares.sizes) <= 1
    if isinstance(split, Classes):
        assert {len(set(labels[shares.of(device)])) for device in range(devices)} == {split.each}


@settings(max_examples=30)
@given(st.integers(2, 10), st.integers(1, 10), st.integers(1, 80), st.integers(0, 99))
def test_classes_as_large_as_one_another_are_always_dealt_where_there_are_devices_for_them(
    classes: int, each: int, devices: int, seed: int
):
    assume(each <= classes <= devices * each)

    shares = deal(np.arange(classes * 800) % classes, devices, Classes(each), seed)

    assert {np.count_nonzero(mix) for mix in mixes(shares, np.arange(classes * 800) % classes, classes)} == {each}


def test_another_seed_deals_otherwise():
    for split in (Iid(), Dirichlet(0.5), Classes(2), Quantity(1.0)):
        assert deal(TEN, 20, split, 1).order.tolist() != deal(TEN, 20, split, 2).order.tolist()


def test_a_small_concentration_makes_few_classes_a_device_and_a_large_one_is_iid():
    most = {alpha: mixes(deal(TEN, 60, Dirichlet(alpha), 1), TEN).max(1).mean() for alpha in (0.01, 0.1, 0.5, 5, 1e6)}
    iid = mixes(deal(TEN, 60, Iid(), 1), TEN).max(1).mean()

    assert most[0.01] > 0.9 and list(most.values()) == sorted(most.values(), reverse=True)
    # The largest of ten shares at 100 examples is 0.148 ± 0.02 a device, ± 0.0026 for the mean of 60.
    assert abs(most[1e6] - iid) < 0.02


def test_the_mix_of_a_device_has_the_spread_of_a_dirichlet_distribution():
    # One example in 6 is dealt, as it were: no class runs out for the first ten of sixty devices' worth of draws.
    shares = mixes(deal(TEN, 60, Dirichlet(1.0), 3), TEN)
    # Of Dirichlet(1 each of 10) a share has the variance 0.1 * 0.9 / 11; 100 draws add 0.1 * 0.9 / 100 * 10 / 11.
    expected = 0.09 / 11 + 0.09 / 100 * 10 / 11

    assert abs(shares.var() - expected) < 0.25 * expected


def test_the_last_device_is_no_different_from_the_first():
    labels = np.repeat(np.arange(10), 40)
    most = np.array([mixes(deal(labels, 20, Dirichlet(1.0), seed), labels).max(1)[[0, -1]] for seed in range(100)])
    apart = most[:, 1] - most[:, 0]

    # Who takes what is left has 0.55 of its most frequent class, others 0.34; this is six standard errors.
    assert abs(apart.mean()) < 6 * apart.std() / np.sqrt(len(apart)) < 0.12


def test_quantities_are_log_normal():
    sizes = deal(np.zeros(200_000, int), 400, Quantity(1.0), 1).sizes

    assert abs(np.log(sizes).std() - 1) < 6 / np.sqrt(800)  # six standard errors
    assert np.ptp(deal(np.zeros(4000, int), 400, Quantity(0), 1).sizes) == 0


def test_a_natural_split_has_a_device_for_each_client_and_says_so():
    clients = np.array(["b", "a", "b", "c", "a"])

    shares = deal(np.zeros(5), 7, Natural("writer"), 1, clients)

    assert [shares.of(device).tolist() for device in range(3)] == [[1, 4], [0, 2], [3]] and len(shares) == 3
    assert shares.note == "there are 3 of writer, so there are 3 devices, not 7"
    assert deal(np.zeros(5), 3, Natural("writer"), 1, clients).note == ""


def test_a_file_deals_as_it_says_and_what_it_leaves_out_is_told(tmp_path: Path):
    (tmp_path / "who.csv").write_text("device,example\n1,4\n0,2\n1,0\n")

    shares = deal(np.zeros(6), 2, FromFile(tmp_path / "who.csv"), 1)

    assert [shares.of(device).tolist() for device in range(2)] == [[2], [0, 4]]
    assert shares.note == "3 of 6 examples are dealt to nobody"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "example,device\n0,0\n6,1\n",
            "who.csv, line 3: example is '6': one of 6 examples, a whole number from 0 to 5",
        ),
        ("example,device\n0,2\n", "who.csv, line 2: device is '2': one of 2 devices"),
        ("example,device\n0,0\n1,1\n0,1\n", "who.csv, line 4: example is 0, which line 2 gave to device 0"),
        ("example,device\n0,0\n", "as who.csv says: device 1 gets 0 examples, and 1 is the least"),
        ("example;device\n0;0\n", "who.csv, line 1: the header names 'example;device'; expected example,device"),
    ],
)
def test_a_malformed_split_file_is_told_with_line_and_field(tmp_path: Path, text: str, sentence: str):
    (tmp_path / "who.csv").write_text(text)

    with pytest.raises(InputError) as refused:
        deal(np.zeros(6), 2, FromFile(tmp_path / "who.csv"), 1)

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("labels", "devices", "split", "sentence"),
    [
        (np.zeros(5, int), 6, Iid(), "5 examples cannot be dealt to 6 devices, one each; 5 devices is the most"),
        (np.zeros(5, np.float32), 2, Dirichlet(1), "Dirichlet deals by class, and these labels are float32, not one"),
        (
            np.zeros((5, 4), int),
            2,
            Dirichlet(1),
            r"labels are int64 (4,), not one class an example: take iid, quantity",
        ),
        (np.arange(5), 2, Classes(6), "6 classes a device, and there are 5"),
        (np.arange(5), 2, Classes(2), "2 classes for each of 2 devices leave some of 5 classes to nobody"),
        (np.arange(5), 5, Classes(2), "2 classes for each of 5 devices are more than the 5 examples"),
        (np.array([0] * 9 + [1]), 5, Classes(2), "need 10 pairs, and the classes have examples for 6"),
        (np.arange(5), 2, Natural("user"), "natural:user needs whose each example is"),
        (np.arange(5), 0, Iid(), "at least 1 and 1"),
    ],
)
def test_a_split_that_cannot_be_is_refused(labels: np.ndarray, devices: int, split: Split, sentence: str):
    with pytest.raises(SplitWrong) as refused:
        deal(labels, devices, split, 1)

    assert sentence in str(refused.value)


def test_clients_of_another_number_or_kind_are_refused():
    with pytest.raises(SplitWrong, match="user has shape"):
        deal(np.arange(5), 2, Natural("user"), 1, np.arange(4))
    with pytest.raises(SplitWrong, match="user is float64"):
        deal(np.arange(5), 2, Natural("user"), 1, np.arange(5) / 2)


@pytest.mark.parametrize(
    "text", ["iid:1", "dirichlet", "dirichlet:0", "dirichlet:nan", "quantity:-1", "classes:0", "natural:", "file:", ""]
)
def test_a_split_that_is_miswritten_is_refused(text: str):
    with pytest.raises(SplitWrong, match=f"split '{text}': "):
        parse_split(text)


def test_a_split_is_read_as_it_is_written():
    assert parse_split("iid") == Iid() and parse_split("quantity:1.5") == Quantity(1.5)
    assert parse_split("file:who.csv") == FromFile(Path("who.csv"))


@pytest.mark.parametrize("labels", [TEN, TEN.astype(np.float32)], ids=["classes", "targets"])
def test_the_picture_of_a_split_is_drawn_twice_alike_and_says_what_it_leaves_out(tmp_path: Path, labels: np.ndarray):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'tacit[simulate]'")
    shares = deal(TEN, 130, Dirichlet(0.5), 1)

    for name in ("a.svg", "b.svg", "c.png"):
        drawn(shares, labels, 10, tmp_path / name)

    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "the first 100 of 130 are shown" in text
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
