"""What is in `deploy/`, linted and not run: it fits strict types, its commands are ours, its parts fit together."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import yaml

from tacit import __version__
from tacit.cli import _parser
from tacit.coordinator import __main__ as coordinator
from tacit.keyholder import __main__ as keyholder

DEPLOY = Path(__file__).parents[1] / "deploy"
PINNED = re.compile(r"[a-z0-9./-]+:(\d+\.\d+(\.\d+)?(-[a-z0-9]+)*|RELEASE\.[0-9TZ-]+)")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


# -- compose


class Build(Strict):
    context: str
    dockerfile: str


class Health(Strict):
    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str = ""


class After(Strict):
    condition: Literal["service_healthy", "service_completed_successfully"]


class Container(Strict):
    image: str
    build: Build | None = None
    user: str = ""
    read_only: bool = False
    cap_drop: list[str] = []
    security_opt: list[str] = []
    restart: Literal["unless-stopped", "on-failure"] = "on-failure"
    stop_grace_period: str = ""
    mem_limit: str = ""
    shm_size: str = ""
    tmpfs: list[str] = []
    volumes: list[str] = []
    environment: dict[str, str] = {}
    secrets: list[str] = []
    networks: list[str] = []
    ports: list[str] = []
    healthcheck: Health | None = None
    depends_on: dict[str, After] | list[str] = {}
    entrypoint: list[str] = []
    command: str | list[str] = ""


class Network(Strict):
    internal: bool = False


class File(Strict):
    file: str


class Compose(Strict):
    name: str
    services: dict[str, Container]
    networks: dict[str, Network]
    volumes: dict[str, dict[str, Any]]
    secrets: dict[str, File]


# -- Kubernetes


class Meta(Strict):
    name: str
    labels: dict[str, str] = {}


class Labels(Strict, rename="camel"):
    match_labels: dict[str, str]


class PodSecurity(Strict, rename="camel"):
    run_as_non_root: Literal[True]
    run_as_user: int
    run_as_group: int
    fs_group: int
    seccomp_profile: dict[str, str]
    fs_group_change_policy: str = ""


class Security(Strict, rename="camel"):
    allow_privilege_escalation: Literal[False]
    read_only_root_filesystem: Literal[True]
    capabilities: dict[str, list[str]]


class Get(Strict):
    path: str
    port: str


class Probe(Strict, rename="camel"):
    http_get: Get
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int = 3


class Port(Strict, rename="camel"):
    name: str
    container_port: int


class Resources(Strict):
    requests: dict[Literal["cpu", "memory"], str]
    limits: dict[Literal["cpu", "memory"], str]


class Mount(Strict, rename="camel"):
    name: str
    mount_path: str
    read_only: bool = False


class Running(Strict, rename="camel"):
    name: str
    image: str
    args: list[str]
    resources: Resources
    security_context: Security
    volume_mounts: list[Mount]
    env: list[dict[str, str]] = []
    ports: list[Port] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None


class Volume(Strict, rename="camel"):
    name: str
    secret: dict[str, Any] | None = None
    config_map: dict[str, str] | None = None
    empty_dir: dict[str, str] | None = None


class Pod(Strict, rename="camel"):
    automount_service_account_token: Literal[False]
    termination_grace_period_seconds: int
    security_context: PodSecurity
    containers: list[Running]
    volumes: list[Volume]
    init_containers: list[Running] = []
    topology_spread_constraints: list[dict[str, Any]] = []


class Template(Strict):
    metadata: dict[Literal["labels"], dict[str, str]]
    spec: Pod


class DeploymentSpec(Strict, rename="camel"):
    replicas: int
    selector: Labels
    template: Template
    strategy: dict[str, Any] = {}


class Deployment(Strict, rename="camel", tag_field="kind", tag="Deployment"):
    api_version: Literal["apps/v1"]
    metadata: Meta
    spec: DeploymentSpec


class Claim(Strict):
    metadata: Meta
    spec: dict[str, Any]


class StatefulSpec(DeploymentSpec, rename="camel", kw_only=True):
    service_name: str
    volume_claim_templates: list[Claim]


class StatefulSet(Strict, rename="camel", tag_field="kind", tag="StatefulSet"):
    api_version: Literal["apps/v1"]
    metadata: Meta
    spec: StatefulSpec


class ServicePort(Strict, rename="camel"):
    name: str
    port: int
    target_port: str


class ServiceSpec(Strict, rename="camel"):
    selector: dict[str, str]
    ports: list[ServicePort]
    cluster_ip: str = msgspec.field(default="", name="clusterIP")


class Service(Strict, rename="camel", tag_field="kind", tag="Service"):
    api_version: Literal["v1"]
    metadata: Meta
    spec: ServiceSpec


class BudgetSpec(Strict, rename="camel"):
    min_available: int
    selector: Labels


class Budget(Strict, rename="camel", tag_field="kind", tag="PodDisruptionBudget"):
    api_version: Literal["policy/v1"]
    metadata: Meta
    spec: BudgetSpec


class Policy(Strict, rename="camel", tag_field="kind", tag="NetworkPolicy"):
    api_version: Literal["networking.k8s.io/v1"]
    metadata: Meta
    spec: dict[str, Any]


Manifest = Deployment | StatefulSet | Service | Budget | Policy


@pytest.fixture(scope="module")
def compose() -> Compose:
    said = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return msgspec.convert({name: part for name, part in said.items() if not name.startswith("x-")}, Compose)


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    said = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return [msgspec.convert(one, Manifest) for one in said]


def workloads(manifests: list[Manifest]) -> list[Deployment | StatefulSet]:
    return [one for one in manifests if isinstance(one, Deployment | StatefulSet)]


def understood(words: list[str]) -> tuple[str, Any]:
    """What a container runs, and its settings as our own parsers read them."""
    match words:
        case ["python", "-m", "tacit.coordinator", *rest]:
            settings = coordinator.parse(rest)
            return settings.role, settings
        case ["python", "-m", "tacit.keyholder", *rest]:
            return "keyholder", keyholder.parse(rest)
        case ["tacit", *rest]:
            return " ".join(rest[:2]), _parser(only=rest[0]).parse_args(rest)
    raise AssertionError(f"not a command of ours: {words}")


def ours(compose: Compose) -> Iterator[tuple[str, Container, list[str]]]:
    for name, one in compose.services.items():
        if one.image.startswith("tacit:"):
            command = re.sub(r"\$\{TACIT_AUTHOR[^}]*\}", "ab" * 32, str(one.command))
            yield name, one, shlex.split(command)


def test_compose_runs_three_that_take_updates_two_that_open_and_one_keyholder(compose: Compose):
    roles = sorted(understood(words)[0] for _, _, words in ours(compose))

    assert roles == ["api"] * 3 + ["keyholder"] + ["opener"] * 2


def test_every_command_of_compose_finds_what_it_names(compose: Compose):
    running = {name: (one, *understood(words)) for name, one, words in ours(compose)}
    keyholders = tuple(f"http://{name}:{said.port}" for name, (_, role, said) in running.items() if role == "keyholder")

    for name, (one, role, settings) in running.items():
        mounted = [place.split(":")[1] for place in one.volumes]
        assert settings.host == "0.0.0.0"
        assert one.healthcheck is not None and f":{settings.port}/healthz" in one.healthcheck.test[-1], name
        if role == "keyholder":
            assert str(settings.home) in mounted
            continue
        assert str(settings.plan) in mounted, name
        assert str(settings.home) == "/run/tacit/coordinator", "where deploy/entrypoint.sh puts the keys"
        assert {"coordinator.key", "enrolment.key", "TACIT_STORE"} <= set(one.secrets)
        assert settings.blobs.startswith("s3://") and one.environment["AWS_ENDPOINT_URL"] == "http://s3:9000"
        assert settings.keyholders == (keyholders if role == "opener" else ())
        assert role != "api" or settings.rate == 0, "all requests have the address of the proxy"


def test_what_compose_names_is_there_and_pinned(compose: Compose):
    named = {secret for one in compose.services.values() for secret in one.secrets}
    assert named == set(compose.secrets)
    for name, one in compose.services.items():
        assert PINNED.fullmatch(one.image), f"{name}: {one.image} is not pinned"
        assert set(one.depends_on) <= set(compose.services), name
        assert set(one.networks) <= set(compose.networks) and one.networks, name
        for volume in one.volumes:
            assert volume.startswith("./") or volume.split(":")[0] in compose.volumes, volume
        assert not any(word.lower() in str(one.environment).lower() for word in ("password:", "secret_key")), name
    for name, one, _ in ours(compose):
        assert one.read_only and one.user and one.cap_drop == ["ALL"], name


def test_nobody_outside_reaches_more_than_the_proxy(compose: Compose):
    assert [name for name, one in compose.services.items() if one.ports] == ["proxy"]
    assert [name for name, one in compose.services.items() if "outside" in one.networks] == ["proxy"]
    assert compose.networks["inside"].internal


def test_the_proxy_knows_every_process_that_takes_updates(compose: Compose):
    said = (DEPLOY / "nginx.conf").read_text()
    apis = {(name, understood(words)[1].port) for name, _, words in ours(compose) if understood(words)[0] == "api"}

    assert {(name, int(port)) for name, port in re.findall(r"server (\w+):(\d+)", said)} == apis
    assert re.search(r"listen 8443 ssl", said) and compose.services["proxy"].ports == ["443:8443"]
    for file in re.findall(r"/run/secrets/([\w.]+);", said):
        assert file in compose.services["proxy"].secrets
    assert said.count("{") == said.count("}")


def test_the_cluster_runs_the_same_roles(manifests: list[Manifest]):
    found = {}
    for one in workloads(manifests):
        for running in one.spec.template.spec.containers:
            role, settings = understood(running.args)
            found[role] = (one.spec.replicas, settings)
            assert [port.container_port for port in running.ports] == [settings.port]
            assert running.liveness_probe is not None and running.liveness_probe.http_get == Get("/healthz", "http")
            if (ready := running.readiness_probe) is not None:
                assert ready.http_get == Get("/readyz", "http")
        for running in one.spec.template.spec.init_containers:
            understood(running.args)

    assert {role: replicas for role, (replicas, _) in found.items()} == {"api": 3, "opener": 2, "keyholder run": 1}
    assert found["opener"][1].keyholders == (f"http://tacit-keyholder:{found['keyholder run'][1].port}",)


def test_what_the_cluster_names_is_there(manifests: list[Manifest]):
    labels = [one.spec.template.metadata["labels"] for one in workloads(manifests)]
    names = {one.metadata.name for one in manifests if isinstance(one, Service)}
    for one in manifests:
        match one:
            case Service(spec=spec):
                assert spec.selector in labels
                assert all(port.target_port == "http" for port in spec.ports)
            case Budget(spec=spec):
                (pods,) = [w.spec for w in workloads(manifests) if w.spec.selector == spec.selector]
                assert 0 < spec.min_available < pods.replicas, "one may go, and the rest goes on"
            case Deployment(spec=spec) | StatefulSet(spec=spec):
                pod = spec.template.spec
                volumes = {volume.name for volume in pod.volumes}
                if isinstance(spec, StatefulSpec):
                    assert spec.service_name in names and spec.replicas == 1
                    volumes |= {claim.metadata.name for claim in spec.volume_claim_templates}
                assert spec.selector.match_labels == spec.template.metadata["labels"]
                for running in [*pod.containers, *pod.init_containers]:
                    assert {mount.name for mount in running.volume_mounts} <= volumes
                    assert PINNED.fullmatch(running.image), running.image
                    _, settings = understood(running.args)
                    places = [mount.mount_path for mount in running.volume_mounts]
                    for path in [settings.home, getattr(settings, "plan", settings.home)]:
                        assert any(path.is_relative_to(place) for place in places), path
            case Policy(spec=spec):
                assert spec["podSelector"]["matchLabels"] in labels


def test_an_unknown_field_is_found():
    said = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    said = {name: part for name, part in said.items() if not name.startswith("x-")}
    said["services"]["api1"] = {**said["services"]["api1"], "helthcheck": {}}

    with pytest.raises(msgspec.ValidationError, match="helthcheck"):
        msgspec.convert(said, Compose)


def test_the_image_is_of_this_version_and_runs_as_nobody_special():
    said = (DEPLOY / "Dockerfile").read_text()

    assert f"-t tacit:{__version__} ." in said
    assert (DEPLOY / "kubernetes.yaml").read_text().count(f"image: tacit:{__version__}\n") == 4
    assert re.search(r"^USER 10001", said, re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(\S+)", said, re.MULTILINE):
        assert (DEPLOY.parent / source).exists(), source
