"""The OpenAPI description is valid and says what the routes do; no request, allowed or forbidden, breaks them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from tacit.coordinator.__main__ import coordinators_of, parse
from tacit.coordinator.description import openapi, said_of, says
from tacit.coordinator.desk import Desk
from tacit.coordinator.server import make_app
from tacit.wire.codes import Code
from tacit.wire.messages import ErrorReply, Message, Upload, decode, encode
from tests.factory import Device, Site, make_world, running
from tests.wire.strategies import messages

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    world = make_world(tmp_path_factory.mktemp("described"), target=40, most=40, threshold=2, snapshots=50)
    with running(world) as up:
        up.wait_version(0)
        yield up


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[Route]:
    """Those of an application that is not running."""
    world = make_world(tmp_path_factory.mktemp("routes"))
    words = ["--home", str(world.coordinator_home), "--plan", str(world.plan_file)]
    settings = parse(words)
    coordinators = coordinators_of(settings)
    found = make_app(*coordinators, desk=Desk(settings.records, coordinators[0].keys)).routes
    for coordinator in coordinators:
        coordinator.store.close()
    assert all(isinstance(route, Route) for route in found), "what is mounted has no description"
    return [route for route in found if isinstance(route, Route)]


def described(site: Site) -> dict:
    return json.loads(site.coordinator.get("/v1/openapi.json"))


def test_the_description_is_a_valid_openapi_document(site: Site):
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="a tool of development: pip install openapi-spec-validator"
    )

    validator.validate(described(site))


def test_every_route_says_what_it_takes_and_gives_and_is_in_the_description(site: Site, routes: list[Route]):
    assert any(route.path.startswith("/v1/admin/") for route in routes)
    silent = [route.path for route in routes if said_of(route) is None]
    assert silent == [], "say what these take and give: @says(...) of tacit.coordinator.description"

    served = {(route.path, method) for route in routes for method in (route.methods or set()) - {"HEAD"}}
    told = {(path, method.upper()) for path, one in described(site)["paths"].items() for method in one}
    assert told == {(re.sub(r":\w+}", "}", path), method) for path, method in served}


def test_what_a_route_answers_is_what_its_description_says(site: Site):
    device, paths = Device(site.world), described(site)["paths"]
    upload = encode(device.update(0, site.world.hash_of(site.wait_version(0))))
    asked = {
        ("/v1/plans/{plan_id}/updates", "POST"): upload,
        ("/v1/plans/{plan_id}/proof", "POST"): bytes(16),
        ("/v1/plans/{plan_id}/head", "GET"): b"",
        ("/v1/plans/{plan_id}/status", "GET"): b"",
        ("/v1/plans/{plan_id}", "GET"): b"",
        ("/v1/plans/{plan_id}/log", "GET"): b"",
        ("/join/{plan_id}", "GET"): b"",
        ("/healthz", "GET"): b"",
    }
    for (path, method), body in asked.items():
        real = path.replace("{plan_id}", site.world.plan_id.hex())
        status, headers, _ = site.coordinator.request(method, real, body)
        told = paths[path][method.lower()]["responses"]["200"]["content"]
        assert (status, headers["content-type"].partition(";")[0]) == (200, next(iter(told)))


def test_a_route_that_says_nothing_is_shown_by_its_name():
    async def silent(request): ...

    @says("something", takes=Upload, gives=ErrorReply, codes=(Code.E_STALE,), query={"q": "why"}, tagged=True)
    async def told(request): ...

    made = openapi([Route("/a/{x}", silent), Route("/b", told, methods=["POST"])])

    assert made["paths"]["/a/{x}"]["get"]["summary"] == "silent"
    assert made["paths"]["/a/{x}"]["get"]["parameters"][0]["name"] == "x"
    responses = made["paths"]["/b"]["post"]["responses"]
    assert {"200", "304", "409", "default"} <= set(responses)
    assert {"Upload", "Credential", "ErrorReply"} <= set(made["components"]["schemas"])


def test_the_reference_names_every_route_and_every_code(routes: list[Route]):
    text = PAGE.read_text()
    told = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", text, re.MULTILINE))
    served = {
        f"{method} {re.sub(r':[a-z]+}', '}', route.path)}": said.purpose
        for route in routes
        if (said := said_of(route)) is not None and not said.needs
        for method in sorted((route.methods or set()) - {"HEAD"})
    }

    missing = "\n".join(f"| `{one}` | {purpose} |" for one, purpose in served.items() if one not in told)
    assert not missing, f"{PAGE.name} has no lines for these:\n{missing}"
    assert told <= set(served), f"{PAGE.name} has routes that nothing serves: {told - set(served)}"
    codes = set(re.findall(r"^\| `(E_[A-Z_]+)` \|", text, re.MULTILINE))
    assert codes == {code.value for code in Code}


garbage = st.one_of(
    st.binary(max_size=200),
    messages.map(encode),
    st.tuples(messages.map(encode), st.integers(0, 400), st.integers(0, 255)).map(
        lambda one: one[0][: one[1]] + bytes([one[2]]) + one[0][one[1] + 1 :]
    ),
)
words = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",)), max_size=12),
    st.sampled_from(["..", "0", "-1", "9" * 15, "9" * 16, "00" * 32, "%00", "null"]),
)
header_values = st.one_of(
    st.from_regex(r"[ -~]{0,40}", fullmatch=True), st.sampled_from(["bytes=0-0", "bytes=9-1", "*", '"', "00" * 32])
)
HEADERS = [
    "Range",
    "If-None-Match",
    "If-Range",
    "Content-Type",
    "Content-Encoding",
    "Accept",
    "Tacit-From",
    "Tacit-Time",
]


@settings(max_examples=120)
@given(data=st.data())
def test_whatever_is_asked_the_answer_is_a_typed_one_and_the_server_does_not_fail(site: Site, data: st.DataObject):
    paths = _PATHS.setdefault(site.coordinator.port, described(site)["paths"])
    path = data.draw(st.sampled_from([path for path in sorted(paths) if not path.endswith("/events")]))
    method = data.draw(st.sampled_from([*map(str.upper, paths[path]), "GET", "POST", "DELETE"]))
    plan_id = data.draw(st.sampled_from([site.world.plan_id.hex()] * 4 + ["00" * 32, "x"]))
    filled = path.replace("{plan_id}", plan_id)
    filled = re.sub(r"\{\w+\}", lambda _: quote(data.draw(words), safe=""), filled)
    query = "&".join(f"{quote(name)}={quote(data.draw(words))}" for name in data.draw(st.sets(words, max_size=2)))
    headers = data.draw(st.dictionaries(st.sampled_from(HEADERS), header_values, max_size=3))
    body = data.draw(garbage) if method == "POST" else b""

    status, got, answer = site.coordinator.request(method, f"{filled}?{query}" if query else filled, body, headers)

    assert status != 500
    if status >= 400 and "Range" not in headers and not path.startswith(("/v1/admin/", "/readyz")):
        assert got["content-type"] == "application/msgpack"
        assert decode(ErrorReply, answer).code.retryable == ("retry-after" in got)


_PATHS: dict[int, dict] = {}


def test_every_struct_that_travels_has_a_schema(site: Site):
    schemas = described(site)["components"]["schemas"]

    for kind in (Upload, ErrorReply):
        assert issubclass(kind, Message)
        fields = {one.encode_name for one in msgspec.structs.fields(kind)}
        assert fields | {"type"} == set(schemas[kind.__name__]["properties"])
