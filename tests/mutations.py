"""Breaks every check on which privacy rests, one after the other, and looks whether a test notices.

`python -m tests.mutations` breaks all of them and writes docs/reference/mutations.md; with `--check` it only compares.
A check is broken by another text in the source of its function, whose code is then exchanged in this process, so the
tests that stand nearest are run within a second. It ends with 1 if any broken check went unnoticed.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import sys
import textwrap
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

import pytest

REPORT = Path(__file__).parents[1] / "docs" / "reference" / "mutations.md"
KEYHOLDER = "tests/keyholder/test_keyholder.py"
CHECKS = "tests/keyholder/test_checks.py"
STATES = "tests/keyholder/test_states.py"
REKEYING = "tests/keyholder/test_rekeying.py"
SUCCESSION = "tests/keyholder/test_succession.py"
CODES = "tests/keyholder/test_error_codes.py"
GATE = "tests/keyholder/test_gate.py"
NOT = "(lambda *a, **b: None)("


@dataclass(frozen=True)
class Mutation:
    """`old` in the source of `place` becomes `new`; one of the tests of `file` that `words` select must fail."""

    says: str
    place: str  # module:function or module:Class.method
    old: str
    new: str
    file: str
    words: str


def _checks(says: str, function: str, old: str, new: str, words: str, file: str = CHECKS) -> Mutation:
    return Mutation(says, f"tacit.keyholder.checks:{function}", old, new, file, words)


def _signed(says: str, function: str, old: str, new: str, words: str, file: str = CHECKS) -> Mutation:
    return Mutation(says, f"tacit.wire.signed:{function}", old, new, file, words)


def _keyholder(says: str, method: str, old: str, new: str, words: str, file: str = KEYHOLDER) -> Mutation:
    return Mutation(says, f"tacit.keyholder.keyholder:Keyholder.{method}", old, new, file, words)


MUTATIONS = (
    # The list as a whole
    _checks("t is the current one", "check_list", "request.t != state.t", "False", "only_the_current_batch"),
    _checks(
        "t is below the number of batches", "check_list", "state.t >= plan", "False and state.t >= plan", "used_up"
    ),
    _checks(
        "the Snapshot is the one whose HEAD was signed",
        "check_list",
        "request.snapshot_hash != state.snapshot_hash",
        "False",
        "builds_on",
    ),
    _checks(
        "the list has at least T entries",
        "check_list",
        "count < batch.threshold",
        "count < batch.threshold - 1",
        "fewer",
    ),
    _checks("and at most n_max", "check_list", "count > batch.most", "count > batch.most + 1", "more_than"),
    _checks("the entries are in order", "check_list", "ids != sorted(ids)", "False", "in_order"),
    _checks("an id stands in the list once", "examine", "entry.update_id in ids", "False", "an_id_stands"),
    _checks("a device stands in the list once", "examine", "entry.dpk in devices", "False", "a_device_stands"),
    # Every entry
    _checks("it is for this Plan", "check_entry", "entry.plan_id != plan_id or", "", "for_another_plan"),
    _checks(
        "it is sealed to as many keyholders as there are",
        "check_entry",
        "len(entry.seal_hashes) != len(manifest.keyholders)",
        "False",
        "for_two_keyholders",
    ),
    _checks(
        "it is not from the future",
        "check_entry",
        "entry.base_version > known.t",
        "False",
        "from_the_future",
    ),
    _checks("it is not older than τ", "check_entry", "age > manifest.batch.max_age", "False", "too_old or age"),
    _checks("its HEAD was signed here", "check_entry", "entry.head_hash !=", "False and entry.head_hash !=", "head"),
    _checks("its id was not opened before", "check_entry", "entry.update_id in known.burnt", "False", "id_that_was"),
    _checks(
        "its device has a landing left",
        "check_entry",
        "landed.count >= manifest",
        "landed.count > manifest",
        "landed_enough",
    ),
    _checks(
        "its device landed long enough ago",
        "check_entry",
        "known.t < landed.last_t + manifest.participation.separation",
        "known.t < landed.last_t + manifest.participation.separation - 1",
        "too_short",
    ),
    _checks(
        "its device has budget left in the chain",
        "check_entry",
        "landed.mu2 + debit >",
        "False and landed.mu2 + debit >",
        "whatever_a_landing_costs",
        SUCCESSION,
    ),
    _checks("its seal is the one that the device signed", "check_entry", "check_seal(entry, known.j)", "", "exchanged"),
    _checks(
        "an authority vouched for its device",
        "check_entry",
        "check_credential(",
        "(lambda *a, **b: None)(",
        "credential",
    ),
    _checks(
        "it vouched for a device of this chain of Plans",
        "check_entry",
        "lineage=known.plan.lineage",
        "lineage=entry.credential.lineage",
        "another_lineage",
    ),
    _checks("its device signed it", "check_entry", "check_update(entry)", "", "signature_of or another_payload"),
    _checks(
        "the seal opens in its own place only",
        "_unsealed",
        "entry_seal_info(entry, known.j, known.key_id)",
        "entry_seal_info(entry, known.j, bytes(16))",
        "bound_elsewhere",
    ),
    _checks(
        "its weight is that of its age",
        "_unsealed",
        "batch.weights[known.t - entry.base_version]",
        "batch.weights[0]",
        "a_weight",
        "tests/privacy/test_invariants.py",
    ),
    # Signatures
    _signed(
        "the coordinator asked for this very list", "check_request", "not verify", "False and not verify", "only_the"
    ),
    _signed(
        "PREPARE and OPEN are told apart",
        "check_request",
        "preimage.prepare_request(",
        "preimage.open_request(",
        "prepare or opens_nothing",
    ),
    _signed(
        "the coordinator asked for this HEAD", "check_head_request", "not verify", "False and not verify", "only_the"
    ),
    _signed("a credential has not ended", "check_credential", "credential.expires_hour <= hour", "False", "that_ended"),
    _signed("a credential is signed", "check_credential", "not verify", "False and not verify", "of_nobody"),
    _signed("H_UPD is signed", "check_update", "not verify", "False and not verify", "signature_of"),
    _signed("h_j is the seal's", "check_seal", "sha256(entry.sealed) != signed", "False", "exchanged"),
    _signed(
        "OPENED of another keyholder is signed by it",
        "check_opened",
        "not verify",
        "False and not verify",
        "signed_by_it",
        KEYHOLDER,
    ),
    # One transaction, one answer
    _keyholder(
        "PREPARE says that another list was opened",
        "prepare",
        "own.root != root",
        "False",
        "another_list",
    ),
    _keyholder("one list for one t", "open", "own.root != root", "False", "another_list"),
    Mutation(
        "a list with a rejected entry is not opened",
        "tacit.keyholder.keyholder:_all_openable",
        "if rejected:",
        "if False:",
        CHECKS,
        "one_check",
    ),
    _keyholder(
        "the answer, the ids and the landings are kept",
        "open",
        "self._store.add_opening(",
        "(lambda *a, **b: None)(",
        "same_bytes or another_list",
    ),
    _keyholder(
        "the noise key goes on with the opening",
        "_draw",
        "next_key(noise_key, self._random)",
        "noise_key",
        "another_noise_key",
    ),
    _keyholder(
        "an answer is gone once its HEAD is signed", "sign_head", "self._store.drop_answers(plan_id)", "", "given_again"
    ),
    _keyholder("one HEAD for a version", "sign_head", "signed != head_hash", "False", "signed_once"),
    _keyholder(
        "a HEAD needs the answers of all", "sign_head", "self._check_marks(plan, request)", "", "answers_of_all"
    ),
    _keyholder("of all, not of some", "_check_marks", "len(request.opened) != len(cards)", "False", "answers_of_all"),
    _keyholder(
        "a void batch takes its step of the noise",
        "sign_head",
        "self._draw(plan, state.t, ROOT_OF_NOTHING)",
        "pass",
        "void_batch_uses_up",
        "tests/test_mutations.py",
    ),
    _keyholder(
        "correlated noise goes on from the batch before",
        "_draw",
        "drawn.buffers",
        "None",
        "takes_back",
        "tests/keyholder/test_noise.py",
    ),
    _keyholder(
        "a signature of its own that it does not know halts it",
        "_check_marks",
        "own is None or (own.root, own.masks_hash)",
        "False and (own.root, own.masks_hash)",
        "does_not_remember",
    ),
    _keyholder(
        "a HEAD of its own that it does not know halts it",
        "_was_forgotten",
        "!= shown.snapshot_hash",
        "is True",
        "lost_its",
    ),
    _keyholder("the last day ends a Plan", "_current", ">= record.expires_at", "< 0", "last_day"),
    _keyholder("the card goes with its Plan", "_erase_secrets", "erase_card(", "(lambda *a: None)(", "keys_are_gone"),
    # After a loss
    _keyholder(
        "a HEAD names the new card once it counts",
        "_key_ids",
        "version >= record.from_version and",
        "False and",
        "names_the_lost_card",
        REKEYING,
    ),
    _keyholder(
        "no new card where landings apart would cost more",
        "rekey",
        "if isinstance(mechanism, Blt) and re_keyable(",
        "if False and re_keyable(",
        "cost_more_apart",
        REKEYING,
    ),
    Mutation(
        "a new card is made of a lost one only",
        "tacit.keyholder.states:resume",
        "not isinstance(state, Halted) or state.code is not Code.E_STATE_LOST",
        "False",
        CODES,
        "lost_nothing",
    ),
    Mutation(
        "what it remembers is not undercut",
        "tacit.keyholder.states:resume",
        "remembered.t > head.version + 1",
        "False",
        REKEYING,
        "not_forgotten",
    ),
    _signed(
        "a new card is signed by its keyholder",
        "check_rekeyed",
        "rekeyed.plan_id != plan_id or not verify",
        "rekeyed.plan_id != plan_id or not True or False and not verify",
        "bound_to_its_plan or by_its_keyholders_signature",
        REKEYING,
    ),
    # Which Plans
    _keyholder("the author was approved", "_check_approval", "plan.author not in self._approved", "False", "approved"),
    _keyholder(
        "one card serves one Plan",
        "_check_approval",
        "self._store.plan_of_card(key_id) is not None",
        "False",
        "one_card",
    ),
    _keyholder(
        "the charter's number of Plans", "_check_approval", "len(same) >= charter.most_plans", "False", "how_many"
    ),
    _keyholder("the charter's budget", "_check_approval", "taken + manifest", "0 * taken + manifest", "all_its_plans"),
    _keyholder(
        "a Plan goes on from a Snapshot signed here",
        "_before",
        "!= continues.snapshot_hash",
        "is None",
        "not_signed_here",
        SUCCESSION,
    ),
    _keyholder("a Plan goes on once", "_before", "if any(", "if False and any(", "go_on_twice", SUCCESSION),
    _keyholder(
        "landings count along the chain",
        "_landings",
        "known.count + landed.count",
        "landed.count",
        "not_only_what_they_cost",
        SUCCESSION,
    ),
    # Calls
    Mutation(
        "a call is for this keyholder",
        "tacit.wire.calls:check_call",
        "call.to != to",
        "False",
        "tests/wire/test_calls.py",
        "another_keyholder",
    ),
    Mutation(
        "a call is of this time",
        "tacit.wire.calls:check_call",
        "abs(now_ms - call.time_ms) > WINDOW_MS",
        "False",
        "tests/wire/test_calls.py",
        "another_time",
    ),
    Mutation(
        "a call is signed",
        "tacit.wire.calls:check_call",
        "not verify",
        "False and not verify",
        "tests/wire/test_calls.py",
        "anything_changed",
    ),
    Mutation(
        "with this body",
        "tacit.wire.calls:check_body",
        "sha256(body) != call.body_hash",
        "False",
        "tests/wire/test_calls.py",
        "another_body",
    ),
    Mutation(
        "an answer is to this call",
        "tacit.wire.calls:check_answer",
        "not verify",
        "False and not verify",
        "tests/wire/test_calls.py",
        "answer_fits",
    ),
    Mutation(
        "a Plan is shown by its own coordinator",
        "tacit.keyholder.keyholder:Keyholder.load",
        "caller is not None and caller != plan.manifest.coordinator",
        "False",
        CODES,
        "own_coordinator",
    ),
    Mutation(
        "a device refuses what claims more trust than it finds",
        "tacit.device.directory:trusted",
        "not manifest.trust.at_most(found) and",
        "False and",
        "tests/device/test_directory.py",
        "claim or more or trust",
    ),
    Mutation(
        "and weights that somebody could see through",
        "tacit.device.directory:trusted",
        "reason := unequal_weights(manifest, found)) is not None",
        "reason := unequal_weights(manifest, found)) is not None and False",
        "tests/device/test_directory.py",
        "weights",
    ),
    # The steps of a Plan
    Mutation(
        "HEAD 0 is the Plan's own",
        "tacit.keyholder.states:start",
        "request.snapshot_hash != initial or",
        "",
        STATES,
        "head_zero",
    ),
    Mutation(
        "versions come one by one",
        "tacit.keyholder.states:advance",
        "request.version != state.t + 1",
        "False",
        STATES,
        "one_after",
    ),
    Mutation(
        "a void batch leaves the Snapshot",
        "tacit.keyholder.states:advance",
        "request.snapshot_hash != stays or",
        "",
        STATES,
        "void",
    ),
    Mutation(
        "what comes back is of a HEAD before this one",
        "tacit.keyholder.states:advance",
        "(earlier and earlier.version > state.t)",
        "False",
        STATES,
        "earlier_snapshot",
    ),
    Mutation(
        "only a void batch goes back",
        "tacit.keyholder.states:advance",
        "request.back_to is not None",
        "False",
        STATES,
        "earlier_snapshot",
    ),
    _keyholder(
        "what comes back was signed by every keyholder",
        "sign_head",
        "check_signed(request.back_to",
        NOT + "request.back_to",
        "goes_back_only",
    ),
    Mutation(
        "a HEAD follows a list opened here",
        "tacit.keyholder.states:advance",
        "own.root != request.root",
        "False",
        STATES,
        "follows",
    ),
    Mutation(
        "the last HEAD ends the Plan",
        "tacit.keyholder.states:advance",
        "request.version >= manifest",
        "0 > manifest",
        STATES,
        "done",
    ),
    # After a loss
    _keyholder("a HEAD names the newest card", "_key_ids", "!= record.key_id", "is None", "names_the_lost", REKEYING),
    _keyholder(
        "a re-keyed Plan stands where all keyholders signed",
        "_remember_shown",
        "check_signed(",
        "(",
        "all_signed",
        REKEYING,
    ),
    _keyholder(
        "landings before and after a loss cost no more", "rekey", "re_keyable(", "not (", "more_apart", REKEYING
    ),
    Mutation(
        "a new card is made of a lost one only",
        "tacit.keyholder.states:resume",
        "not isinstance(state, Halted) or state.code is not Code.E_STATE_LOST",
        "False",
        STATES,
        "what_was_lost",
    ),
    Mutation(
        "an old HEAD is not gone back to",
        "tacit.keyholder.states:resume",
        "remembered.t > head.version + 1",
        "False",
        REKEYING,
        "not_forgotten",
    ),
    Mutation(
        "a new card is signed by its keyholder",
        "tacit.wire.signed:check_rekeyed",
        "not verify",
        "False and not verify",
        REKEYING,
        "new_card_is_bound or signature_alone",
    ),
    # The store, the sum, the noise
    Mutation(
        "an opened id is burnt",
        "tacit.keyholder.store:KeyholderStore._burn",
        "INSERT INTO burnt VALUES",
        "INSERT OR IGNORE INTO burnt SELECT ?, ?, ? WHERE 0 AND NOT",
        CHECKS,
        "id_that_was",
    ),
    Mutation(
        "a landing is counted",
        "tacit.keyholder.store:KeyholderStore._burn",
        "count = count + 1",
        "count = count",
        CHECKS,
        "landed_enough",
    ),
    Mutation(
        "an ended Plan has no noise key",
        "tacit.keyholder.store:KeyholderStore.set_state",
        "noise_key = NULL",
        "noise_key = noise_key",
        KEYHOLDER,
        "keys_are_gone",
    ),
    Mutation(
        "noise is added",
        "tacit.keyholder.sums:answer",
        "masks - wrap(noise, bits)",
        "masks",
        KEYHOLDER,
        "sum_less_the_answer or own_full_noise",
    ),
    Mutation(
        "noise is bound to the list",
        "tacit.privacy.noise:gaussians",
        "+ root",
        "",
        "tests/privacy/test_noise.py",
        "list or root or bound",
    ),
    Mutation(
        "noise is bound to t",
        "tacit.privacy.noise:gaussians",
        't.to_bytes(8, "big")',
        "bytes(8)",
        "tests/privacy/test_noise.py",
        "list or root or bound or batch",
    ),
    # The device
    Mutation(
        "a device waits τ + sep under correlated noise",
        "tacit.device.decision:next_ok_version",
        "away + manifest.batch.max_age if",
        "away if",
        "tests/privacy/test_invariants.py",
        "windows_alone",
    ),
    Mutation(
        "every keyholder signed the HEAD",
        "tacit.wire.signed:check_head",
        "not verify",
        "False and not verify",
        "tests/device/test_trust.py",
        "one_keyholder or one_version",
    ),
    Mutation(
        "no older Snapshot",
        "tacit.device.trust:verified_head",
        "head.version < seen.newest",
        "False",
        "tests/device/test_trust.py",
        "older",
    ),
    Mutation(
        "no second Snapshot for a version",
        "tacit.device.trust:verified_head",
        "head.snapshot_hash != seen.snapshot_hash",
        "False",
        "tests/device/test_trust.py",
        "another",
    ),
    Mutation(
        "the device's cap",
        "tacit.device.ledger:Ledger._check_caps",
        "standing.mu2_device + mu2 <=",
        "True or standing.mu2_device + mu2 <=",
        "tests/device/test_ledger.py",
        "cap",
    ),
    Mutation(
        "no version twice",
        "tacit.device.ledger:Ledger._check_caps",
        "offer.version < standing.next_ok_version",
        "False",
        "tests/device/test_ledger.py",
        "no_version",
    ),
    Mutation(
        "a Plan's landings",
        "tacit.device.ledger:Ledger._check_caps",
        "standing.landings_used >= row[0]",
        "False",
        "tests/device/test_ledger.py",
        "no_version or landings",
    ),
    Mutation(
        "the integers are bounded",
        "tacit.codec.quantise:quantise",
        "square_norm(rounded) <= big_q * big_q",
        "True",
        "tests/codec/test_quantise.py",
        "bound or longer or redraw",
    ),
    Mutation(
        "S_C is recomputed",
        "tacit.plan.checks:_privacy",
        "noise.sensitivity < sensitivity",
        "False and noise.sensitivity < sensitivity",
        "tests/plan/test_bundle.py",
        "do_not_hold",
    ),
    Mutation(
        "the budget is recomputed",
        "tacit.plan.checks:_privacy",
        "noise.mu2_total < manifest.spent",
        "False and noise.mu2_total < manifest.spent",
        "tests/plan/test_bundle.py",
        "do_not_hold",
    ),
    Mutation(
        "and within the charter's",
        "tacit.plan.checks:_privacy",
        "noise.mu2_total > charter.mu2_total",
        "False and noise.mu2_total > charter.mu2_total",
        "tests/plan/test_bundle.py",
        "do_not_hold",
    ),
    Mutation(
        "the gate's share of δ is small",
        "tacit.plan.checks:_gate",
        "gate.delta > MOST_GATE_DELTA",
        "False",
        "tests/plan/test_bundle.py",
        "do_not_hold",
    ),
    Mutation(
        "every landing pays for its sketch",
        "tacit.plan.manifest:gate_cost",
        "landings / noise.gate.z**2",
        "0.0",
        "tests/plan/test_bundle.py",
        "pays_for_its_sketch",
    ),
    # The gate
    _keyholder("a list is burnt before its secret is said", "freeze", "self._store.freeze(", NOT, "paid_for", GATE),
    Mutation(
        "one list is frozen for a batch",
        "tacit.keyholder.keyholder:_same",
        "frozen.root != root",
        "False",
        GATE,
        "one_list_is_frozen",
    ),
    _keyholder(
        "a secret is said for signed commitments",
        "_check_committed",
        " check_committed(",
        f" {NOT}",
        "everybodys",
        GATE,
    ),
    _keyholder(
        "its own commitment is among them",
        "_check_committed",
        ".commitment != own",
        ".commitment is None",
        "everybodys",
        GATE,
    ),
    _keyholder(
        "a frozen list keeps its commitments",
        "freeze",
        "frozen.commitments != commitments",
        "False",
        "one_list_is_frozen",
        GATE,
    ),
    _keyholder("R is of what all had committed themselves to", "sketch", "check_secrets(", NOT, "other_than", GATE),
    _checks("only part of a frozen list is opened", "unseal_frozen", "not set(names) <= frozen", "False", "part", GATE),
    _checks("and each entry once", "unseal_frozen", "len(set(names)) != len(names)", "False", "any_part", GATE),
    Mutation(
        "a sketch is noised",
        "tacit.keyholder.sums:sketched",
        "gate.deviation(quant.q)",
        "0.0",
        GATE,
        "what_remains",
    ),
    Mutation(
        "the noise of a sketch is bound to its Update",
        "tacit.privacy.sketch:_seed",
        "+ r_seed + update_id",
        "+ r_seed",
        "tests/privacy/test_sketch.py",
        "noise_and_secrets",
    ),
    Mutation(
        "and to the list",
        "tacit.privacy.sketch:_seed",
        "+ root + r_seed",
        "+ r_seed",
        "tests/privacy/test_sketch.py",
        "noise_and_secrets",
    ),
    Mutation(
        "columns of C never grow",
        "tacit.privacy.blt:broken",
        "sum(blt.omega) <= 1",
        "sum(blt.omega) <= 9",
        "tests/privacy/test_blt.py",
        "columns_that_grow or no_strategy",
    ),
    Mutation(
        "trust is not claimed beyond the operators that are named",
        "tacit.plan.checks:_trust",
        "not manifest.trust.at_most(most)",
        "False",
        "tests/privacy/test_invariants.py",
        "no_more_trust",
    ),
    # A site's own noise
    Mutation(
        "a group's share is bounded",
        "tacit.privacy.groups:share",
        "max(norm, bound)",
        "bound",
        "tests/privacy/test_groups.py",
        "no_group_adds",
    ),
    Mutation(
        "a site adds noise to every sum",
        "tacit.privacy.groups:noised",
        "total + noise",
        "total",
        "tests/privacy/test_groups.py",
        "stated_deviation",
    ),
    Mutation(
        "and divides by the Plan's number",
        "tacit.device.silo:train_groups",
        "/ local.minibatch",
        "/ len(part)",
        "tests/device/test_silo.py",
        "same_number",
    ),
)


def function_at(place: str) -> FunctionType:
    module, _, name = place.partition(":")
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    assert isinstance(found, FunctionType), f"{place} is not a plain function"
    return found


def broken_code(mutation: Mutation) -> CodeType:
    """The code of the function with the other text; AssertionError where the text is not there once."""
    function = function_at(mutation.place)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mutation.old) == 1, f"{mutation.place} has {mutation.old!r} {source.count(mutation.old)} times"
    made: dict[str, FunctionType] = {}
    exec(compile(source.replace(mutation.old, mutation.new), mutation.place, "exec"), dict(function.__globals__), made)
    return made[function.__name__].__code__


@contextlib.contextmanager
def applied(mutation: Mutation) -> Generator[None, None, None]:
    function = function_at(mutation.place)
    whole, function.__code__ = function.__code__, broken_code(mutation)
    try:
        yield
    finally:
        function.__code__ = whole


def outcome(file: str, words: str) -> pytest.ExitCode:
    with contextlib.redirect_stdout(io.StringIO()):
        arguments = [file, "-k", words, "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
        return pytest.ExitCode(pytest.main(arguments))


def noticed(mutation: Mutation) -> bool:
    """Whether a test fails with it. Which passes without it: else nothing would be shown."""
    with applied(mutation):
        found = outcome(mutation.file, mutation.words)
    assert found in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), f"{mutation.says}: {found!r}"
    return found is pytest.ExitCode.TESTS_FAILED


def report(results: list[tuple[Mutation, bool]]) -> str:
    lines = [
        "# Mutations",
        "",
        "Each check on which privacy rests was broken, one at a time, and the tests nearest to it were run: does one",
        "notice? Written by `python -m tests.mutations`; `tests/test_mutations.py` does it again.",
        "",
        "| what is checked | where | noticed by tests of |",
        "|---|---|---|",
    ]
    for mutation, killed in results:
        where = mutation.place.removeprefix("tacit.").replace(":", " ")
        lines.append(f"| {mutation.says} | `{where}` | {f'`{mutation.file}`' if killed else '**nobody**'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the report instead of writing it")
    parser.add_argument("--only", default="", help="those whose description has these words")
    given = parser.parse_args()
    results = [(one, noticed(one)) for one in MUTATIONS if given.only in one.says]
    survived = [one.says for one, killed in results if not killed]
    for says in survived:
        print(f"nobody noticed: {says}", file=sys.stderr)
    if not given.only:
        if not given.check:
            REPORT.write_text(report(results), encoding="utf-8")
        elif REPORT.read_text(encoding="utf-8") != report(results):
            print(f"{REPORT} is not what was found; run python -m tests.mutations", file=sys.stderr)
            return 1
    print(f"{len(results)} checks were broken, {len(results) - len(survived)} were noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
