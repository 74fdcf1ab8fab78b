"""The audit of a run notices every way in which an Update can go astray."""

import pytest

from tacit.cli.demo.audit import Made, Opening, audit


def made(number: int, device: str = "ada", version: int = 0, receipted: bool = True) -> Made:
    return Made(bytes([number]), device, version, receipted)


def opening(t: int, *numbers: int, void: bool = False) -> Opening:
    return Opening(t, void, tuple(bytes([n]).hex() for n in numbers))


def of(updates, openings, claims=None, ended=False):
    return audit(updates, openings, {bytes([n]): said for n, said in (claims or {}).items()}, max_age=2, ended=ended)


def test_what_was_opened_once_is_accounted_for():
    found = of([made(1), made(2, "bob")], [opening(0, 1, 2)])

    assert (found.accepted, found.opened, found.lost, found.doubled, found.unknown) == (2, 2, 0, 0, 0)
    assert found.landings == {"ada": 1, "bob": 1}


@pytest.mark.parametrize("said", ["refused", "unknown", "spoilt", "opened"])
def test_an_update_that_is_nowhere_is_lost_whatever_the_coordinator_says(said):
    assert of([made(1)], [opening(5)], {1: said}, ended=True).lost == 1


def test_expired_is_believed_only_of_one_that_was_too_old_before_the_last_batch():
    assert of([made(1)], [opening(1)], {1: "expired"}).lost == 1
    assert of([made(1)], [opening(2)], {1: "expired"}).too_old == 1


def test_queued_is_believed_only_of_one_that_is_still_young():
    assert of([made(1)], [opening(1)], {1: "queued"}).waiting == 1
    assert of([made(1)], [opening(2)], {1: "queued"}).lost == 1


def test_a_list_of_which_no_snapshot_came_is_a_loss_and_still_a_landing():
    found = of([made(1)], [opening(0, 1, void=True)], {1: "spoilt"})

    assert (found.lost, found.opened, found.landings) == (1, 0, {"ada": 1})


def test_an_id_opened_twice_is_doubled():
    assert of([made(1)], [opening(0, 1), opening(1, 1)]).doubled == 1


def test_two_updates_of_one_device_from_one_snapshot_are_doubled():
    assert of([made(1), made(2)], [opening(0, 1), opening(1, 2)]).doubled == 1


def test_an_opened_id_that_no_ledger_knows_is_unknown():
    assert of([made(1)], [opening(0, 1, 9)]).unknown == 1


def test_one_that_landed_without_a_receipt_counts_in_every_figure():
    found = of([made(1, receipted=False)], [opening(0, 1)])

    assert (found.accepted, found.opened, found.landings) == (1, 1, {"ada": 1})


def test_one_that_was_never_accepted_is_nobodys_loss():
    found = of([made(1, receipted=False)], [opening(5)], {1: "unknown"})

    assert (found.accepted, found.lost) == (0, 0)


def test_batches_are_numbered_by_what_they_say_not_by_where_they_stand():
    assert of([made(1)], [opening(7)], {1: "expired"}).too_old == 1
