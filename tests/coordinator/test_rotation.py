"""The enrolment authority's key is exchanged by a Plan that follows: whoever is on the roll is enrolled again."""

import os
from dataclasses import replace
from pathlib import Path

from tacit.coordinator.keys import load_or_make
from tacit.coordinator.records import Records
from tacit.coordinator.roll import token_name
from tacit.wire.codes import Code
from tacit.wire.messages import Credential, ErrorReply, decode, encode
from tacit.wire.signed import check_credential, sign_enrol
from tests.coordinator.test_bad_input import post
from tests.factory import Device, Site, coordinator_process, following, make_world, running


def test_a_new_authority_enrols_those_on_the_roll_without_a_new_invitation_and_nobody_else(tmp_path: Path):
    world = make_world(tmp_path)
    device, stranger, lineage = Device(world), Device(world), world.plan.lineage
    with running(world, more=["--enrol", "invited"]) as site:
        roll = Records(world.coordinator_home).roll()
        roll.invite([token_name("a")], expires_at=2**40, now=0)
        roll.close()
        site.wait_version(0)
        assert post(site, device, "enrol", encode(sign_enrol(device.key, lineage, "a")))[0] == 200
        site.coordinator.stop()

        (world.coordinator_home / "enrolment.key").write_bytes(os.urandom(32))
        after = following(replace(world, coordinator=load_or_make(world.coordinator_home, os.urandom)), 0)
        coordinator = coordinator_process(after, site.keyholders, more=["--enrol", "invited"]).start()
        later = Site(after, coordinator, site.keyholders)
        try:
            status, _, data = post(later, device, "enrol", encode(sign_enrol(device.key, lineage)))
            refused = post(later, stranger, "enrol", encode(sign_enrol(stranger.key, lineage, "a")))
        finally:
            coordinator.stop()

    assert status == 200
    authority = after.plan.manifest.enrolment
    assert authority != world.plan.manifest.enrolment
    check_credential(decode(Credential, data), device.upload_key, authority, lineage=lineage, hour=0)
    assert (refused[0], decode(ErrorReply, refused[2]).code) == (403, Code.E_CRED)
