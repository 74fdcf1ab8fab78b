"""`tacit device`: what this device has done, for its owner."""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tacit.privacy.trust import Trust

EXAMPLE = """\
example:
  tacit device status
  tacit device receipts --plan 3f2a
  tacit device receipts --check
  tacit device forget --plan 3f2a
  tacit device key 'http://127.0.0.1:8750/join/…?author=…'
  tacit device trust
  tacit device trust add 'a university' KEY
  tacit device trust remove 'a university'

`receipts --check` asks each coordinator what became of every Update, and holds that against its log and what every
keyholder signed. How far a log was read is kept, so that one that is written anew shows the next time.

`trust` is whom this device holds for independent of coordinators: operators of keyholders, by keys that you have from
themselves. Every other keyholder counts as the coordinator's own.

`key` is the name by which a coordinator would know this device in the Plan of a link and in those that continue it.
Where devices take part by a list, tell it to whoever keeps the list.
"""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("what", choices=["status", "receipts", "forget", "trust", "key"])
    parser.add_argument("words", nargs="*", metavar="add NAME KEY | remove NAME | LINK", help="with trust: what to do")
    parser.add_argument("--plan", help="the first digits of a Plan's id")
    parser.add_argument("--check", action="store_true", help="with receipts: hold them against the coordinator's log")
    parser.add_argument("--home", type=Path, help="where this device keeps its ledger (default: ~/.tacit/device)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> None:
    from tacit.device.ledger import Ledger
    from tacit.errors import InputError
    from tacit.privacy.trust import sentence

    home = arguments.home or Path.home() / ".tacit" / "device"
    if arguments.what == "trust":
        _directory(home, arguments.words, arguments.json)
        return
    if arguments.what == "key":
        _key(home, arguments.words)
        return
    if arguments.words:
        raise InputError(f"tacit device {arguments.what} takes no {arguments.words[0]!r}")
    with Ledger.read(home) as ledger:
        known = ledger.plans()
        plans = [plan for plan in known if plan.plan_id.hex().startswith(arguments.plan or "")]
        match arguments.what:
            case "status":
                for plan in plans:
                    print(_status(plan, _trust(home, plan.plan_id), arguments.json))
                if not arguments.json:
                    _spent(ledger)
            case "receipts":
                for plan in plans:
                    worth = _trust(home, plan.plan_id)
                    for receipt in ledger.receipts(plan.plan_id):
                        print(_receipt(receipt, worth, arguments.json))
                    if not arguments.json:
                        print(f"      {plan.title} {plan.plan_id.hex()[:8]}: {sentence(worth)}")
                if arguments.check:
                    _check(home, ledger, plans, arguments.json)
            case _:
                pass
    if arguments.what == "forget":
        _forget(home, plans, known, arguments.plan)


def _trust(home: Path, plan_id: bytes) -> "Trust":
    """What a Plan's keyholders are worth by the directory as it stands; the least, where the Plan is gone."""
    from tacit.device.directory import operators
    from tacit.device.home import plan_file
    from tacit.plan.bundle import PlanRefused, read_plan
    from tacit.privacy.trust import Trust, trust_of

    path = plan_file(home, plan_id)
    try:
        cards = read_plan(path).manifest.keyholders if path.exists() else ()
    except PlanRefused:
        return Trust.SINGLE_OPERATOR  # of a format that is not read any more
    return trust_of([card.sig_pk for card in cards], operators(home))


def _key(home: Path, words: list[str]) -> None:
    import os

    from tacit.device.client import Client
    from tacit.device.joining import fetched_plan
    from tacit.device.ledger import Ledger
    from tacit.device.link import parse_link
    from tacit.errors import InputError
    from tacit.wire.keys import SigningKey, device_seed

    match words:
        case [text]:
            link = parse_link(text)
        case _:
            raise InputError("say: tacit device key LINK")
    with Ledger.open(home, os.urandom) as ledger:
        plan = fetched_plan(home, link, Client(link))
        print(SigningKey.from_seed(device_seed(ledger.root_secret, plan.lineage)).public.hex())


def _directory(home: Path, words: list[str], as_json: bool) -> None:
    from tacit.device.directory import operators, pin, unpin
    from tacit.errors import InputError

    match words:
        case []:
            pass
        case ["add", name, key]:
            pin(home, name, key)
        case ["remove", named]:
            unpin(home, named)
        case _:
            raise InputError("say: tacit device trust, or trust add NAME KEY, or trust remove NAME")
    known = operators(home)
    if as_json:
        print(json.dumps({key.hex(): name for key, name in known.items()}))
        return
    for key, name in known.items():
        print(f"{name}  {key.hex()}")
    if not known:
        print("no operator is held for independent: every Plan counts as single-operator here")


def _status(plan: Any, worth: "Trust", as_json: bool) -> str:
    standing = plan.standing
    if as_json:
        return json.dumps(
            {
                "plan_id": plan.plan_id.hex(),
                "title": plan.title,
                "server": plan.server,
                "newest_snapshot": plan.newest_version,
                "landings_used": standing.landings_used,
                "landings": plan.landings,
                "mu2_spent": standing.mu2_spent,
                "unanswered": standing.unanswered,
                "settled": plan.settled,
                "expired": plan.expired,
                "forgotten": plan.forgotten,
                "updates": plan.updates,
                "device_class": plan.device_class,
                "continues": plan.continues and plan.continues.hex(),
                "succeeded_by": plan.succeeded_by and plan.succeeded_by.hex(),
                "trust": worth.value,
            }
        )
    from tacit.privacy.account import statement

    said = statement(standing.mu2_spent**0.5, plan.delta, trust=worth, unit=plan.unit)
    name = f"{plan.title} {plan.plan_id.hex()[:8]} at {plan.server}"
    if plan.device_class:
        name += f", for devices of the class {plan.device_class}"
    fates = f"{plan.settled} opened within sums, {plan.expired} expired"
    if plan.succeeded_by:
        # What a device lands and spends is counted along the chain, and said once: with the last Plan.
        return f"{name}: continued by {plan.succeeded_by.hex()[:8]}; {plan.updates} Updates, {fates}"
    state = "forgotten" if plan.forgotten else f"Snapshot {plan.newest_version}"
    if plan.continues:
        state = f"continues {plan.continues.hex()[:8]} from its Snapshot {plan.began}; {state}"
    chain = f" with the Plans before it, {plan.updates} here" if standing.landings_used != plan.updates else ""
    return (
        f"{name}: {state}; {standing.landings_used} of {plan.landings} Updates{chain}, {fates}, "
        f"{standing.unanswered} in the outbox\n"
        f"  spent so far: {said.sentence}"
    )


def _spent(ledger: Any) -> None:
    from tacit.device.ledger import MU2_DEVICE_MAX

    for unit in ledger.spent_by_unit() or ("device",):
        spent = f"{ledger.mu2_spent(unit):.4g}"
        print(f"spent over all Plans: μ² = {spent}; a {unit}'s lifetime budget is {MU2_DEVICE_MAX:g}")


def _receipt(receipt: Any, worth: "Trust", as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {
                "number": receipt.number,
                "plan_id": receipt.plan_id.hex(),
                "update_id": receipt.update_id.hex(),
                "version": receipt.version,
                "state": receipt.state.lower(),
                "at": receipt.changed_at,
                "bytes": receipt.size,
                "mu2": receipt.mu2,
                "receipted": receipt.receipt is not None,
                "opened_in": receipt.opened_in,
                "reason": receipt.reason,
                "trust": worth.value,
            }
        )
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(receipt.changed_at))
    opened = f" in batch {receipt.opened_in}" if receipt.opened_in is not None else ""
    why = f" ({receipt.reason})" if receipt.reason else ""
    signed = "signed receipt" if receipt.receipt is not None else "no receipt"
    return (
        f"{receipt.number:4d}  {when}  Update {receipt.update_id.hex()[:8]} from Snapshot {receipt.version}, "
        f"{receipt.size:,} masked bytes: {receipt.state.lower()}{opened}{why}; {signed}; {worth}"
    )


def _check(home: Path, ledger: Any, plans: list[Any], as_json: bool) -> None:
    """Prints what does not fit, and ends with an error if anything does not, or if a coordinator could not be asked."""
    from tacit.cli.audit import LogDoesNotHold
    from tacit.device.receipts import check_with_coordinator
    from tacit.errors import TacitError

    wrong = 0
    for plan in plans:
        name = f"{plan.title} {plan.plan_id.hex()[:8]}"
        try:
            checked, findings = check_with_coordinator(home, ledger, plan)
            said = [f"{name}: {len(checked)} Updates checked against its log"]
        except TacitError as error:
            findings, said = [], [f"{name}: not checked: {error}"]
            wrong += 1
        wrong += len(findings)
        if as_json:
            found = [{"entry": one.entry, "what": one.what, "follows": one.follows} for one in findings]
            print(json.dumps({"plan_id": plan.plan_id.hex(), "said": said[0], "findings": found}))
        else:
            print("\n".join([*said, *(f"WRONG {one}" for one in findings)]))
    if wrong:
        raise LogDoesNotHold(f"{wrong} things are not as they must be")


def _forget(home: Path, plans: list[Any], known: list[Any], wanted: str | None) -> None:
    from tacit.device.home import forget_plan
    from tacit.errors import InputError

    if wanted is None or len(plans) != 1:
        names = ", ".join(f"{plan.plan_id.hex()[:8]} ({plan.title})" for plan in known) or "none"
        raise InputError(f"name one Plan by the first digits of its id: --plan DIGITS; joined are {names}")
    erased = forget_plan(home, plans[0].plan_id)
    print(f"forgot {plans[0].title}: {erased} unsent Updates erased; what was spent stays spent")
