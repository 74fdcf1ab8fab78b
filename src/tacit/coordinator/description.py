"""What every route takes and gives, said beside the route, and all of it as an OpenAPI 3.1 description.

The description is made of the routes that are served, so it cannot say anything else than they do. A message travels as
canonical MessagePack (`tacit.wire.messages`); its schema is shown as JSON Schema has it, where bytes are base64.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from starlette.routing import BaseRoute, Route

from tacit.serving import MESSAGE_TYPE, status_of
from tacit.wire.codes import Code
from tacit.wire.messages import ErrorReply, Message

F = TypeVar("F", bound=Callable[..., Any])

# Whoever asks for anything may hear these.
ALWAYS = (Code.E_MALFORMED, Code.E_TOO_LARGE, Code.E_RATE, Code.E_INTERNAL)
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_KNOWN_PARAMETERS: dict[str, dict[str, Any]] = {
    "plan_id": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "name": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "version": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}


@dataclass(frozen=True)
class Says:
    """One route. `takes` is a message, or how many bytes; `gives` a message, a JSON struct, or a media type."""

    purpose: str
    takes: type[Message] | int | None = None
    gives: type[msgspec.Struct] | str = "text/plain"
    codes: tuple[Code, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    signed: bool = False  # by the headers of `tacit.wire.calls`
    tagged: bool = False  # with an ETag, so 304 is an answer too
    needs: str = ""  # the role of an operator, who is answered in JSON


def says(purpose: str, **more: Any) -> Callable[[F], F]:
    """Says it of an endpoint: the decorator beside a route.

    >>> @says("what time it is", gives="text/plain")
    ... async def clock(request): ...
    >>> said_of(Route("/clock", clock)).purpose
    'what time it is'
    """

    def said(endpoint: F) -> F:
        endpoint.__dict__["tacit_says"] = Says(purpose, **more)
        return endpoint

    return said


def said_of(route: Route) -> Says | None:
    """What was said of a route's endpoint."""
    found = getattr(route.endpoint, "tacit_says", None)
    return found if isinstance(found, Says) else None


def openapi(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The description of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    structs: list[type[msgspec.Struct]] = [ErrorReply]
    described = [route for route in routes if isinstance(route, Route)]
    for route in described:
        said = said_of(route) or Says(route.name)
        structs += [one for one in (said.takes, said.gives) if isinstance(one, type)]
    names, schemas = _schemas(structs)
    for route in described:
        path = _PARAMETER.sub(r"{\1}", route.path)
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(route, method, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tacit coordinator",
            "version": "1",  # that of the routes, not of the program
            "description": "Messages are canonical MessagePack: one map, `type` first, fields in the order shown, "
            "integers in their shortest form. Schemas show them as JSON Schema does, with bytes as base64. Every error "
            "is an ErrorReply, whose `retry_after` is there where the same request may do better later.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": _SIGNATURE,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, method: str, names: Mapping[type, dict[str, str]]) -> dict[str, Any]:
    said = said_of(route) or Says(route.name)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _KNOWN_PARAMETERS.get(name, {"type": "string"})}
        for name in _PARAMETER.findall(route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in said.query.items()
    ]
    if said.signed:
        parameters += [{"$ref": f"#/components/parameters/{name}"} for name in _SIGNATURE]
    responses: dict[str, Any] = {"200": {"description": "done", "content": _content(said.gives, names)}}
    if said.tagged:
        responses["304"] = {"description": "as it was"}
    for status, codes in sorted(_by_status(said).items()):
        content = {MESSAGE_TYPE: {"schema": names[ErrorReply]}}
        responses[str(status)] = {"description": ", ".join(codes), "content": content}
    responses["default"] = {
        "description": "an ErrorReply of any other code",
        "content": {MESSAGE_TYPE: {"schema": names[ErrorReply]}},
    }
    name = re.sub(r"\W+", "_", route.path).strip("_")
    operation: dict[str, Any] = {"operationId": f"{method.lower()}_{name}", "summary": said.purpose}
    if said.needs:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Needs the role {said.needs}. Errors are JSON, with a sentence in `error`."
        answer: dict[str, Any] = {"description": "refused", "content": {"application/json": {}}}
        responses = {"200": responses["200"], "default": answer}
    if parameters:
        operation["parameters"] = parameters
    if said.takes is not None:
        content = _content(said.takes, names) if isinstance(said.takes, type) else _bytes(said.takes)
        operation["requestBody"] = {"required": True, "content": content}
    return operation | {"responses": responses}


def _by_status(said: Says) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys((*said.codes, *ALWAYS)):
        found.setdefault(status_of(code), []).append(code.value)
    return found


def _content(what: type[msgspec.Struct] | str, names: Mapping[type, dict[str, str]]) -> dict[str, Any]:
    if isinstance(what, str):
        return {what: {}}
    kind = MESSAGE_TYPE if issubclass(what, Message) else "application/json"
    return {kind: {"schema": names[what]}}


def _bytes(count: int) -> dict[str, Any]:
    return {MESSAGE_TYPE: {"schema": {"type": "string", "contentEncoding": "base64", "description": f"{count} bytes"}}}


def _schemas(structs: Iterable[type[msgspec.Struct]]) -> tuple[dict[type, dict[str, str]], dict[str, Any]]:
    unique = list(dict.fromkeys(structs))
    found, schemas = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    return dict(zip(unique, found, strict=True)), schemas


def _signed(name: str, meaning: str, pattern: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "description": meaning,
        "schema": {"type": "string", "pattern": pattern},
    }


_SIGNATURE: dict[str, Any] = {
    "from": _signed("Tacit-From", "the device key that calls", "^[0-9a-f]{64}$"),
    "to": _signed("Tacit-To", "the coordinator's signing key, as the Plan has it", "^[0-9a-f]{64}$"),
    "time": _signed("Tacit-Time", "milliseconds of Unix time, within five minutes", "^(0|[1-9][0-9]{0,14})$"),
    "nonce": _signed("Tacit-Nonce", "16 random bytes", "^[0-9a-f]{32}$"),
    "digest": _signed("Tacit-Digest", "SHA-256 of the body", "^[0-9a-f]{64}$"),
    "signature": _signed("Tacit-Signature", "Ed25519 over `tacit.wire.preimage.call`", "^[0-9a-f]{128}$"),
}
