"""What a device finds when its receipts are held against the log."""

from pathlib import Path

import pytest

from tacit.device.ledger import ReceiptLine
from tacit.device.receipts import against_log, read_seen, write_seen
from tacit.errors import InputError
from tacit.plan.history import Seen
from tacit.wire.ids import Digest, UpdateId, sha256
from tacit.wire.keys import SigningKey
from tacit.wire.messages import Outcome, Proof, Receipt, encode
from tacit.wire.preimage import receipt as receipt_preimage
from tacit.wire.signed import sign_proof
from tests.plan.written import Written, members, whole_log

UPDATE = UpdateId(b"\5" * 16)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return whole_log(tmp_path_factory.mktemp("world"))


def line_of(log: Written, version: int = 1, opened_in: int | None = None, name: Digest | None = None) -> ReceiptLine:
    """An Update from that Snapshot, which is the first of batch 1."""
    name = members(1)[0] if name is None else name
    signature = log.world.coordinator.sig.sign(receipt_preimage(name, 7))
    receipt = encode(Receipt(update_hash=name, received_hour=7, signature=signature))
    return ReceiptLine(
        3, log.world.plan_id, version, "Receipted", 0, 0, UPDATE, name, 100, 0.1, receipt, opened_in, None
    )


def proof_of(log: Written, outcome: Outcome, t: int, of: list[Digest] | None = None) -> Proof:
    of = members(t) if of is None and outcome in ("opened", "spoilt") else of or []
    return sign_proof(log.world.coordinator.sig, log.world.plan_id, UPDATE, outcome, t, of)


def found(log: Written, line: ReceiptLine, proof: Proof | None, bodies: int = 14) -> list[str]:
    history = log.read(log.bodies[:bodies])
    assert history.findings == ()
    return [one.what for one in against_log(line, proof, log.world.plan.manifest, history)]


def test_an_update_that_is_in_the_list_whose_root_is_logged_is_settled(log: Written):
    assert found(log, line_of(log), proof_of(log, "opened", 1)) == []
    assert found(log, line_of(log, version=0, opened_in=1), proof_of(log, "opened", 1)) == []


@pytest.mark.parametrize(
    ("of", "t"),
    [
        (members(1)[1:], 1),  # it is not among them
        ([*members(1), sha256(b"one more")], 1),  # another list
        (members(0), 0),  # the list of another batch
        (members(1), 2),  # a batch that the log lacks
    ],
)
def test_opened_is_believed_only_of_the_list_with_the_logged_root(log: Written, of, t):
    assert "is not so by the log" in found(log, line_of(log), proof_of(log, "opened", t, of))[0]


def test_a_count_that_is_logged_larger_than_the_list_is_told(log: Written):
    # Keyholders sign the root, and the coordinator alone the count.
    history = log.read([*log.bodies[:4], log.opened(1, count=5), *log.bodies[5:]])
    wrong = against_log(line_of(log), proof_of(log, "opened", 1), log.world.plan.manifest, history)

    assert "logged with another number" in wrong[0].what


def test_a_batch_that_was_too_late_for_it_is_told(log: Written):
    late = line_of(log, version=2)

    assert "too late" in found(log, late, proof_of(log, "opened", 1))[0]


def test_two_answers_that_differ_are_told(log: Written):
    assert "was said before" in found(log, line_of(log, opened_in=0), proof_of(log, "opened", 1))[0]


def test_a_proof_by_somebody_else_is_worth_nothing(log: Written):
    forged = sign_proof(SigningKey.from_seed(b"\7" * 32), log.world.plan_id, UPDATE, "expired", 1)
    other = sign_proof(log.world.coordinator.sig, log.world.plan_id, UpdateId(b"\6" * 16), "expired", 1)

    assert "not signed" in found(log, line_of(log), forged)[0]
    assert "another Update" in found(log, line_of(log), other)[0]


@pytest.mark.parametrize(
    ("outcome", "t", "version", "bodies", "says"),
    [
        ("unknown", 4, 1, 14, "does not know it"),
        ("queued", 4, 1, 14, "said to wait still"),
        ("queued", 4, 2, 14, None),  # max_age is 2: batch 4 could take it
        ("spoilt", 1, 1, 14, "came of it"),
        ("spoilt", 2, 1, 14, None),  # batch 2 was void
        ("expired", 2, 1, 6, "it has not"),
        ("expired", 4, 1, 14, None),
        ("refused", 1, 1, 14, None),  # the keyholder who refused says so to the coordinator alone
    ],
)
def test_what_else_is_said_is_held_against_the_log(log: Written, outcome, t, version, bodies, says):
    what = found(log, line_of(log, version), proof_of(log, outcome, t), bodies)

    assert [says in one for one in what] == ([] if says is None else [True])


def test_a_receipt_that_was_altered_is_told(log: Written):
    line = line_of(log)
    assert line.receipt is not None
    other = line_of(log, name=sha256(b"another"))
    altered = ReceiptLine(**{**vars(line), "receipt": other.receipt})

    assert "receipt is worth nothing" in found(log, altered, proof_of(log, "opened", 1))[0]


def test_a_coordinator_may_have_forgotten_what_was_settled(log: Written):
    settled = ReceiptLine(**{**vars(line_of(log, opened_in=1)), "state": "Settled"})

    assert found(log, settled, proof_of(log, "unknown", 4)) == []
    assert "does not know it" in found(log, line_of(log), proof_of(log, "unknown", 4))[0]


def test_without_a_coordinator_a_batch_that_the_log_lacks_is_told(log: Written):
    assert found(log, line_of(log, opened_in=1), None) == []
    assert "the log lacks" in found(log, line_of(log, opened_in=2), None)[0]


def test_how_far_a_log_was_read_is_kept(tmp_path: Path):
    path = tmp_path / "seen"
    assert read_seen(path) is None
    write_seen(path, Seen(7, sha256(b"last")))
    assert read_seen(path) == Seen(7, sha256(b"last"))
    for wrong in (b"", b"{}", b'{"entries":1,"last":"0a"}', b'{"entries":-1,"last":"' + b"0" * 64 + b'"}'):
        path.write_bytes(wrong)
        with pytest.raises(InputError):
            read_seen(path)
