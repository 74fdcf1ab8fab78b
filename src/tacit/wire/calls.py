"""Calls: what a coordinator asks of a keyholder over HTTP, and what it is answered, both signed.

What a device posts to a coordinator is such a call too, answered by messages that are signed themselves. The same bytes
again change nothing there, so a coordinator keeps no nonces (docs/decisions/0041).

The signature travels in headers, as in RFC 9421; what it covers is a preimage of fixed layout like every other one.

    Tacit-From         who asks: an Ed25519 key, hex
    Tacit-To           whom it is meant for, hex
    Tacit-Time         milliseconds of Unix time
    Tacit-Nonce        16 random bytes, hex: no call is taken twice
    Tacit-Digest       SHA-256 of the body, hex: so a caller is known before a byte of the body is read
    Tacit-Signature    over all of these, the method, the path and `Tacit-Head`, where that is sent
    Tacit-Answer       in the answer: over the SHA-256 of the call, the status and the body

An answer fits one call alone, so no older answer can be put in its place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tacit.wire import preimage
from tacit.wire.codes import Code, Refusal
from tacit.wire.ids import Digest, sha256
from tacit.wire.keys import SigningKey, verify

WINDOW_MS = 300_000  # how far two clocks may be apart
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_TIME = re.compile(r"0|[1-9][0-9]{0,14}")


@dataclass(frozen=True)
class Call:
    """One request, without its body."""

    caller: bytes
    to: bytes
    target: str  # "POST /v1/open"
    time_ms: int
    nonce: bytes
    body_hash: Digest
    shown: str = ""  # the header Tacit-Head

    @property
    def preimage(self) -> bytes:
        return preimage.call(
            self.caller,
            self.to,
            sha256(self.target.encode()),
            self.time_ms,
            self.nonce,
            sha256(self.shown.encode()),
            self.body_hash,
        )


def sign_call(key: SigningKey, call: Call) -> dict[str, str]:
    """The headers of a call.

    >>> key = SigningKey.from_seed(bytes(32))
    >>> call = Call(key.public, bytes(32), "POST /v1/open", 7, bytes(16), sha256(b""))
    >>> read_call("POST /v1/open", sign_call(key, call)) == (call, key.sign(call.preimage))
    True
    """
    headers = {
        "Tacit-From": call.caller.hex(),
        "Tacit-To": call.to.hex(),
        "Tacit-Time": str(call.time_ms),
        "Tacit-Nonce": call.nonce.hex(),
        "Tacit-Digest": call.body_hash.hex(),
        "Tacit-Signature": key.sign(call.preimage).hex(),
    }
    return headers | ({"Tacit-Head": call.shown} if call.shown else {})


def read_call(target: str, headers: Mapping[str, str]) -> tuple[Call, bytes]:
    """The call in these headers and its signature, which has not been checked. E_SIG where one is missing."""
    given = {name.lower(): value for name, value in headers.items()}

    def field(name: str, size: int) -> bytes:
        text = given.get(name, "")
        if len(text) != 2 * size or not _HEX.fullmatch(text):
            raise Refusal(Code.E_SIG, f"calls are signed, and the header {name} is not {size} bytes in hex")
        return bytes.fromhex(text)

    time = given.get("tacit-time", "")
    if not _TIME.fullmatch(time):
        raise Refusal(Code.E_SIG, "calls are signed, and the header tacit-time is no number of milliseconds")
    call = Call(
        field("tacit-from", 32),
        field("tacit-to", 32),
        target,
        int(time),
        field("tacit-nonce", 16),
        Digest(field("tacit-digest", 32)),
        given.get("tacit-head", ""),
    )
    return call, field("tacit-signature", 64)


def check_call(call: Call, signature: bytes, to: bytes, now_ms: int) -> None:
    """The caller said this, to the holder of this key, at about this time. Replays are not seen here. E_SIG."""
    if call.to != to:
        raise Refusal(Code.E_SIG, f"this call is for {call.to.hex()}, not for the one that got it")
    if abs(now_ms - call.time_ms) > WINDOW_MS:
        off = (now_ms - call.time_ms) / 1000
        raise Refusal(Code.E_SIG, f"by this clock the call was signed {off:.0f} s ago; set the clocks right")
    if not verify(call.caller, signature, call.preimage):
        raise Refusal(Code.E_SIG, "the call is not signed by the key that it names")


def check_body(call: Call, body: bytes) -> None:
    """This is the body that was signed. E_SIG."""
    if sha256(body) != call.body_hash:
        raise Refusal(Code.E_SIG, "the body is not the one whose digest was signed")


def sign_answer(key: SigningKey, call: Call, status: int, body: bytes | memoryview) -> dict[str, str]:
    """The header of the answer to a call."""
    return {"Tacit-Answer": key.sign(_answer(call, status, body)).hex()}


def check_answer(headers: Mapping[str, str], call: Call, status: int, body: bytes) -> None:
    """The keyholder that was asked answered this very call so. E_SIG."""
    text = {name.lower(): value for name, value in headers.items()}.get("tacit-answer", "")
    signature = bytes.fromhex(text) if _HEX.fullmatch(text) else b""
    if not verify(call.to, signature, _answer(call, status, body)):
        raise Refusal(Code.E_SIG, f"the answer is not signed by the keyholder {call.to.hex()}")


def _answer(call: Call, status: int, body: bytes | memoryview) -> bytes:
    return preimage.answer(sha256(call.preimage), status, sha256(bytes(body)))
