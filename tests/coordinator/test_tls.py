"""The coordinator ends TLS itself: who believes it, and what it says to browsers."""

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tacit.cli.serve import fetch, only
from tacit.coordinator.records import Records
from tacit.coordinator.roll import token_name
from tacit.device.client import Client, Refused, Unreachable
from tacit.device.link import JoinLink
from tacit.errors import InputError
from tacit.wire.codes import Code
from tacit.wire.messages import Credential
from tacit.wire.signed import check_credential, sign_enrol
from tests.coordinator.certificates import make_certificates
from tests.factory import Device, Process, World, coordinator_process, keyholder_process, make_world


@dataclass(frozen=True)
class Secured:
    world: World
    coordinator: Process
    authority: Path
    certificate: Path

    @property
    def link(self) -> JoinLink:
        return JoinLink(True, "127.0.0.1", self.coordinator.port, self.world.plan_id, self.world.author.public)

    def client(self, **changes) -> Client:
        return Client(self.link, **{"authority": self.authority, **changes})


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    world = make_world(tmp_path_factory.mktemp("secured"))
    authority, certificate, key = make_certificates(world.folder)
    more = ["--tls", str(certificate), str(key), "--enrol", "invited", "--public-url", "https://clinic.example"]
    keyholder = keyholder_process(world).start()
    coordinator = coordinator_process(world, [keyholder], more=more).start()
    try:
        yield Secured(world, coordinator, authority, certificate)
    finally:
        coordinator.stop()
        keyholder.stop()


def test_a_device_that_knows_the_authority_is_served(secured: Secured, tmp_path: Path):
    secured.client().fetch_plan(tmp_path / "plan")

    assert (tmp_path / "plan").read_bytes() == bytes(secured.world.plan.raw)


def test_a_device_that_does_not_know_the_authority_hears_nothing(secured: Secured, tmp_path: Path):
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        secured.client(authority=None).fetch_plan(tmp_path / "plan")


def test_a_certificate_for_another_address_is_not_believed(secured: Secured, tmp_path: Path):
    link = JoinLink(True, "localhost", secured.coordinator.port, secured.world.plan_id, secured.world.author.public)

    with pytest.raises(Unreachable, match="localhost"):
        Client(link, authority=secured.authority).fetch_plan(tmp_path / "plan")


def test_a_file_that_holds_no_certificates_is_named(secured: Secured, tmp_path: Path):
    (tmp_path / "empty.pem").write_text("")

    for path in (tmp_path / "none.pem", tmp_path / "empty.pem"):
        with pytest.raises(InputError, match="PEM"):
            secured.client(authority=path)


def test_older_versions_of_tls_are_not_spoken(secured: Secured):
    context = ssl.create_default_context(cafile=secured.authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def spoken() -> str | None:
        with (
            socket.create_connection(("127.0.0.1", secured.coordinator.port), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
        ):
            return wrapped.version()

    with pytest.raises(ssl.SSLError):
        spoken()
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    assert spoken() == "TLSv1.3"


def test_the_command_line_believes_the_certificate_it_started_the_server_with_and_no_other(
    secured: Secured, tmp_path: Path
):
    url = f"https://127.0.0.1:{secured.coordinator.port}/v1/plans/{secured.world.plan_id.hex()}/status"
    _, other, _ = make_certificates(tmp_path)

    assert fetch(url, only(secured.certificate))["plan_id"] == secured.world.plan_id.hex()
    assert fetch(url, only(other)) is None
    assert fetch(url) is None


def test_browsers_are_told_to_stay_with_tls_and_the_page_shows_the_address_of_the_operator(secured: Secured):
    context = ssl.create_default_context(cafile=secured.authority)
    page = f"/join/{secured.world.plan_id.hex()}?author={secured.world.author.public.hex()}"
    with urllib.request.urlopen(f"https://127.0.0.1:{secured.coordinator.port}{page}", context=context) as answer:
        text = answer.read().decode()
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert answer.headers["Permissions-Policy"].startswith("camera=()")

    assert f"https://clinic.example/join/{secured.world.plan_id.hex()}" in text
    assert "Enrolment is by invitation" in text
    assert "#invite=" in text


def test_a_device_whose_clock_is_wrong_is_heard_all_the_same(secured: Secured):
    """It takes the time from the server's refusal: the call is only shown to be no old one."""
    roll = Records(secured.world.coordinator_home).roll()
    roll.invite([token_name("in time")], expires_at=2**40, now=0)
    roll.close()
    manifest, device = secured.world.plan.manifest, Device(secured.world)
    enrol = sign_enrol(device.key, secured.world.plan.lineage, "in time")
    lost = secured.client(clock=lambda: 86400.0)

    credential = lost.signing(device.key, manifest.coordinator).enrol(enrol)

    assert isinstance(credential, Credential)
    check_credential(credential, device.upload_key, manifest.enrolment, lineage=secured.world.plan.lineage, hour=0)
    with pytest.raises(Unreachable, match="does not take this device's calls"):
        lost.enrol(enrol)  # unsigned
    stranger = Device(secured.world)
    asking = sign_enrol(stranger.key, secured.world.plan.lineage)
    with pytest.raises(Refused) as refused:
        lost.signing(stranger.key, manifest.coordinator).enrol(asking)
    assert refused.value.code is Code.E_CRED
