"""Who may take part, by the command line: invitations, lists and revocation, and devices that come with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tacit.cli import main
from tacit.coordinator.records import Records
from tacit.coordinator.roll import Door, token_name
from tacit.device.agent import run
from tacit.device.client import Refused
from tacit.device.events import Received
from tacit.device.link import parse_link
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import DeviceKey
from tests.device.small import learning_world, link_to, save_examples, settings_for
from tests.factory import World, make_world, running

NOBODY = "0b" * 32


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    """What a command answers as JSON, or the sentence it fails with."""
    capsys.readouterr()
    assert main(["admin", *words, *(["--json"] if code == 0 else [])]) == code
    out, err = capsys.readouterr()
    return json.loads(out) if code == 0 else err


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    Records(made.coordinator_home).keep_plan(made.plan)
    (tmp_path / "author.key").write_bytes(bytes(32))
    (tmp_path / "author.key").chmod(0o600)
    return made


def link_of(world: World) -> str:
    return str(link_to(world, 8750))


def test_invitations_are_links_that_are_printed_once_and_drawn_on_a_sheet(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sheet, home = tmp_path / "sheet.html", str(world.folder)
    made = said(capsys, "invite", link_of(world), "--count", "3", "--days", "2", "--sheet", str(sheet), "--home", home)

    links = [parse_link(link) for link in made["links"]]
    listed = said(capsys, "invitations", "--home", home)
    assert len({link.invitation for link in links}) == 3
    assert {str(replace(link, invitation="")) for link in links} == {link_of(world)}
    assert {one["name"] for one in listed} == {token_name(link.invitation).hex()[:16] for link in links}
    assert {one["state"] for one in listed} == {"unused"}
    assert all(link.invitation not in json.dumps(listed) for link in links)
    page = sheet.read_text()
    assert page.count("<svg") == 3 == page.count("<section>")
    assert all(link in page for link in made["links"])
    assert sheet.stat().st_mode & 0o077 == 0


def test_a_link_that_is_none_makes_no_invitation(world: World, capsys: pytest.CaptureFixture[str]):
    home = str(world.folder)

    assert "is not a join link" in said(capsys, "invite", "http://x", "--home", home, code=2)
    assert "1 to 10000" in said(capsys, "invite", link_of(world), "--count", "0", "--home", home, code=2)
    assert "1 to 366 days" in said(capsys, "invite", link_of(world), "--days", "999", "--home", home, code=2)
    assert said(capsys, "invitations", "--home", home) == []


def test_withdrawing_and_revoking_are_said_to_the_roll(world: World, capsys: pytest.CaptureFixture[str]):
    home, device = str(world.folder), DeviceKey(bytes(32))
    made = said(capsys, "invite", link_of(world), "--home", home)
    roll = Records(world.coordinator_home).roll(Door.INVITED)
    roll.enrol(device, world.plan.lineage, parse_link(made["links"][0]).invitation, now=0)
    name = said(capsys, "invitations", "--home", home)[0]

    withdrawn = said(capsys, "withdraw", name["name"], "--home", home)

    assert (name["state"], name["device"]) == ("used", device.hex())
    assert (withdrawn["state"], withdrawn["device"]) == ("withdrawn", device.hex())
    assert said(capsys, "revoke", NOBODY, device.hex(), "--home", home) == {"devices": 1}
    assert set(roll.barred(world.plan.lineage, {device, DeviceKey(bytes.fromhex(NOBODY))})) == {
        device,
        DeviceKey(bytes.fromhex(NOBODY)),
    }
    assert "not a device key" in said(capsys, "revoke", "me", "--home", home, code=2)
    roll.close()


def test_a_list_is_signed_by_its_author_and_loaded_once(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
):
    keys, out, home = tmp_path / "keys.txt", tmp_path / "a.list", str(world.folder)
    keys.write_text(f"# ours\n{NOBODY}   # a phone\n\n{'00' * 32}\n")
    signing = ["sign-list", str(world.plan_file), str(keys), "--number", "1", "-o", str(out), "--home", home]

    assert "neither" in said(capsys, *signing, code=2)  # another author's key
    world.folder.joinpath("author.key").unlink()
    world.folder.joinpath("author.key").write_bytes(_seed(world))
    world.folder.joinpath("author.key").chmod(0o600)
    assert said(capsys, *signing)["devices"] == 2
    assert said(capsys, "load-list", str(out), "--home", home)["number"] == 1
    assert "list 1 was loaded before" in said(capsys, "load-list", str(out), "--home", home, code=2)

    roll = Records(world.coordinator_home).roll(Door.LISTED)
    roll.check(DeviceKey(bytes.fromhex(NOBODY)), world.plan.lineage)
    with pytest.raises(Refusal):
        roll.check(DeviceKey(bytes([7] * 32)), world.plan.lineage)
    roll.close()


def _seed(world: World) -> bytes:
    return world.author._private.private_bytes_raw()


def test_devices_join_by_invitation_each_with_its_own_and_one_that_is_revoked_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The agent itself, with signed calls, against the coordinator itself."""
    world = learning_world(tmp_path, target=40, most=40, threshold=2, landings=5)
    with running(world, more=["--enrol", "invited"]) as site:
        site.wait_version(0)
        invite = ["invite", str(link_to(world, site.coordinator.port)), "--count", "2", "--home", str(tmp_path)]
        links = said(capsys, *invite)["links"]
        data = save_examples(tmp_path / "examples.npz")
        events: list[object] = []

        def join(home: str, link: str):
            settings = settings_for(world, site.coordinator.port, tmp_path / home, data, link=link, once=True)
            return run(settings, events.append)

        assert join("first", links[0]).accepted == 1
        with pytest.raises(Refused) as late:
            join("second", links[0])
        assert (late.value.code, "another device" in late.value.reason) == (Code.E_CRED, True)
        assert join("second", links[1]).accepted == 1
        assert len([one for one in events if isinstance(one, Received)]) == 2

        listed = said(capsys, "invitations", "--home", str(tmp_path))
        first = next(one for one in listed if one["name"] == token_name(parse_link(links[0]).invitation).hex()[:16])
        assert main(["device", "key", links[0], "--home", str(tmp_path / "first")]) == 0
        assert capsys.readouterr().out.strip() == first["device"]
        assert main(["device", "key", links[0], "--home", str(tmp_path / "third")]) == 0
        said(capsys, "revoke", capsys.readouterr().out.strip(), "--home", str(tmp_path))
        with pytest.raises(Refused) as revoked:
            join("third", links[0])
        assert revoked.value.code is Code.E_REVOKED
