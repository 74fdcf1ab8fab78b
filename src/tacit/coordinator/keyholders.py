"""How a keyholder is reached: the interface the opener needs, and HTTP."""

import base64
import hashlib
import http.client
import os
import time
from collections.abc import Callable
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from tacit.errors import InputError, TacitError
from tacit.plan.bundle import Plan
from tacit.wire.calls import Call, check_answer, sign_call
from tacit.wire.codes import Refusal
from tacit.wire.ids import Digest
from tacit.wire.keys import SigningKey
from tacit.wire.messages import (
    CommitRequest,
    Committed,
    ErrorReply,
    FreezeRequest,
    Head,
    HeadSignature,
    Message,
    Opened,
    OpenRequest,
    PrepareReply,
    PrepareRequest,
    Rekeyed,
    Revealed,
    SignHeadRequest,
    Sketched,
    SketchRequest,
    decode,
    encode,
)

LONGEST_ANSWER_S = 300  # opening a thousand Updates takes a second or three; a slow machine may take minutes

_Reply = TypeVar("_Reply", bound=Message)


class Unreachable(TacitError):
    """A keyholder gave no answer. Nothing is lost: it is asked again."""

    retryable = True


class Keyholder(Protocol):
    """One keyholder. Every method may raise `Unreachable`, or `Refusal` with what it said."""

    def load(self, plan: Plan, newest: Head | None) -> Rekeyed | None:
        """Shows it the Plan and the newest HEAD. Its new card, if it has lost the one that the Plan names."""
        ...

    def prepare(self, request: PrepareRequest) -> PrepareReply: ...

    def commit(self, request: CommitRequest) -> Committed: ...

    def freeze(self, request: FreezeRequest) -> Revealed: ...

    def sketch(self, request: SketchRequest) -> Sketched: ...

    def open(self, request: OpenRequest) -> Opened: ...

    def sign_head(self, request: SignHeadRequest) -> HeadSignature: ...


class _Loaded(msgspec.Struct):
    """What `load` says of a Plan, as far as a coordinator needs it."""

    rekeyed: bytes | None = None


class HttpKeyholder:
    """A keyholder at an address, known by its signing key: whatever else answers there is not listened to.

    `caller` signs what is asked. A call that gets no answer, or one that this keyholder did not sign, is `Unreachable`.
    """

    def __init__(
        self,
        url: str,
        public: bytes,
        caller: SigningKey,
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.time,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not a keyholder's address; it has the form http(s)://HOST:PORT")
        self.url = url
        self._public, self._caller, self._random, self._clock = public, caller, random, clock
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = parts.path.rstrip("/")

    def load(self, plan: Plan, newest: Head | None) -> Rekeyed | None:
        shown = "" if newest is None else base64.b64encode(encode(newest)).decode()
        data = self._post("/v1/load", plan.raw, shown)
        try:
            said = msgspec.json.decode(data, type=_Loaded).rekeyed
            return None if said is None else decode(Rekeyed, said)
        except (msgspec.DecodeError, Refusal) as error:
            raise Unreachable(f"{self.url} answers, and not as a keyholder does: {error}") from error

    def prepare(self, request: PrepareRequest) -> PrepareReply:
        return self._ask("/v1/prepare", request, PrepareReply)

    def commit(self, request: CommitRequest) -> Committed:
        return self._ask("/v1/commit", request, Committed)

    def freeze(self, request: FreezeRequest) -> Revealed:
        return self._ask("/v1/freeze", request, Revealed)

    def sketch(self, request: SketchRequest) -> Sketched:
        return self._ask("/v1/sketch", request, Sketched)

    def open(self, request: OpenRequest) -> Opened:
        return self._ask("/v1/open", request, Opened)

    def sign_head(self, request: SignHeadRequest) -> HeadSignature:
        return self._ask("/v1/sign_head", request, HeadSignature)

    def card(self) -> bytes:
        """A fresh card for a Plan whose author is the caller, as `tacit.keyholder.cards.read_card` reads it."""
        return self._post("/v1/cards", b"")

    def _ask(self, path: str, request: Message, reply: type[_Reply]) -> _Reply:
        data = self._post(path, encode(request))
        try:
            return decode(reply, data)
        except Refusal as error:
            raise Unreachable(f"{self.url} answers, and not as a keyholder does: {error.reason}") from error

    def _post(self, path: str, body: bytes | memoryview, shown: str = "") -> bytes:
        call = Call(
            self._caller.public,
            self._public,
            f"POST {path}",
            int(self._clock() * 1000),
            self._random(16),
            Digest(hashlib.sha256(body).digest()),
            shown,
        )
        make = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = make(self._host, self._port, timeout=LONGEST_ANSWER_S)
        try:
            connection.request("POST", self._path + path, body, sign_call(self._caller, call))
            response = connection.getresponse()
            data = response.read(Opened.max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"the keyholder at {self.url} does not answer ({error}); nothing is lost, it is asked again"
            ) from error
        finally:
            connection.close()
        if len(data) > Opened.max_bytes:
            raise Unreachable(f"{self.url} answers with more than a keyholder ever says")
        try:
            check_answer(dict(response.getheaders()), call, response.status, data)
        except Refusal as refusal:
            raise Unreachable(
                f"{self.url} answers with HTTP status {response.status}, and {refusal.reason}; nothing of it was used"
            ) from refusal
        if response.status == 200:
            return data
        try:
            said = decode(ErrorReply, data).refusal()
        except Refusal:
            raise Unreachable(f"{self.url} answers with HTTP status {response.status}") from None
        if response.status == 401:
            raise Unreachable(f"the keyholder at {self.url} does not take our call: {said.reason}")
        raise said
