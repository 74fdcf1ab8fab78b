"""What is refused before a request is read, and in whose words: a server of ours in this process, and bare sockets."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tacit import connections
from tacit.connections import MOST_HEAD, MOST_URL, REFUSED
from tacit.rates import Rates, Share, neighbourhood
from tacit.serving import ON_ERROR, AddressRate, SecurityHeaders, listening_as, read_body
from tacit.wire.codes import Code, Refusal
from tacit.wire.messages import ErrorReply, decode


async def echo(request: Request) -> Response:
    return Response(await read_body(request, 64), media_type="application/msgpack")


async def broken(request: Request) -> Response:
    raise RuntimeError("nobody foresaw this")


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


@asynccontextmanager
async def serving(*middleware: Middleware) -> AsyncGenerator[int]:
    """A small application behind the protocol that our servers have; its port."""
    app = Starlette(
        routes=[Route("/", echo, methods=["POST"]), Route("/broken", broken)],
        middleware=[Middleware(SecurityHeaders), *middleware],
        exception_handlers=ON_ERROR,
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(listening_as(app))
    running = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await running


async def answer(port: int, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await read_answer(reader)
    finally:
        writer.close()


def asked(*pieces: bytes, middleware: tuple[Middleware, ...] = ()) -> tuple[int, dict[str, str], bytes]:
    async def ask() -> tuple[int, dict[str, str], bytes]:
        async with serving(*middleware) as port:
            return await asyncio.wait_for(answer(port, *pieces), 20)

    return asyncio.run(ask())


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST / HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers, b"", body]
    return b"\r\n".join(lines)


def test_a_plain_request_is_answered():
    status, headers, body = asked(post(b"\x01"))

    assert (status, body) == (200, b"\x01")
    assert headers["permissions-policy"].startswith("camera=()")
    assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ([b"what is this?\r\n\r\n"], 400, Code.E_MALFORMED),
        ([b"GET /" + b"x" * MOST_URL + b" HTTP/1.1\r\nHost: x\r\n\r\n"], 414, Code.E_TOO_LARGE),
        ([b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MOST_HEAD + b"\r\n\r\n"], 431, Code.E_TOO_LARGE),
        ([b"GET / HTTP/1.1\r\nHost: x\r\nA: ", *[b"x" * 1000] * 40], 431, Code.E_TOO_LARGE),
        ([b"GET / HTTP/1.1\r\nHost: x\r\n", *[b"A: x\r\n" * 300] * 20], 431, Code.E_TOO_LARGE),
        ([b"GET /", *[b"x" * 1000] * 40], 431, Code.E_TOO_LARGE),
        ([b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"], 404, Code.E_ROUTE),
        ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], 405, Code.E_ROUTE),
        ([b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n"], 500, Code.E_INTERNAL),
        ([post(bytes(65))], 413, Code.E_TOO_LARGE),
        ([post(b"", b"Content-Type: text/html")], 415, Code.E_MALFORMED),
        ([post(b"", b"Content-Encoding: gzip")], 415, Code.E_MALFORMED),
        ([post(b"", b"Content-Encoding: identity, br")], 415, Code.E_MALFORMED),
    ],
)
def test_whoever_refuses_says_so_in_the_words_of_the_protocol(pieces: list[bytes], status: int, code: Code):
    got, headers, body = asked(*pieces)

    reply = decode(ErrorReply, body)
    assert (got, reply.code) == (status, code)
    assert headers["content-type"] == "application/msgpack"
    assert headers["x-content-type-options"] == "nosniff"
    assert ("retry-after" in headers) == code.retryable == (reply.retry_after is not None)


def test_a_head_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "SLOWEST_HEAD_S", 0.05)

    for begun in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        status, headers, body = asked(begun)
        assert (status, decode(ErrorReply, body).code, headers["connection"]) == (408, Code.E_RATE, "close")


def test_a_second_head_on_a_connection_has_no_more_time_than_the_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "SLOWEST_HEAD_S", 0.05)

    async def twice() -> tuple[int, int]:
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(b"\x01"))
            first = await read_answer(reader)
            writer.write(b"GET / HTTP/1.1\r\nHo")
            second = await read_answer(reader)
            writer.close()
            return first[0], second[0]

    assert asyncio.run(asyncio.wait_for(twice(), 20)) == (200, 408)


def test_of_too_many_connections_the_last_are_turned_away_and_those_before_are_served(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    before = REFUSED[Code.E_RATE]

    async def crowd() -> tuple[int, int, int]:
        async with serving() as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            await asyncio.sleep(0.05)
            turned_away = await answer(port)
            held[0][1].write(post(b"\x01"))
            served = await read_answer(held[0][0])
            held[0][1].close()
            await asyncio.sleep(0.05)
            room_again = await answer(port, post(b"\x01"))
            for _, writer in held:
                writer.close()
            return turned_away[0], served[0], room_again[0]

    assert asyncio.run(asyncio.wait_for(crowd(), 20)) == (429, 200, 200)
    assert REFUSED[Code.E_RATE] == before + 1


def test_one_address_has_a_share_and_a_header_gives_nobody_another():
    limit = Middleware(AddressRate, share=Share(2, 0.001))

    async def flood() -> list[int]:
        async with serving(limit) as port:
            sent = [post(b"\x01", b"X-Forwarded-For: 192.0.2.%d" % n, b"Forwarded: for=192.0.2.9") for n in range(4)]
            return [(await answer(port, one))[0] for one in sent]

    assert asyncio.run(asyncio.wait_for(flood(), 20)) == [200, 200, 429, 429]


def test_a_share_fills_again_and_nobody_uses_up_anothers():
    now = [0.0]
    rates = Rates(Share(2, 1.0), lambda: now[0])

    def may(name: bytes) -> bool:
        try:
            rates.draw(name)
        except Refusal:
            return False
        return True

    assert [may(b"a"), may(b"a"), may(b"a"), may(b"b")] == [True, True, False, True]
    now[0] = 1.0
    assert [may(b"a"), may(b"a")] == [True, False]


def test_only_so_many_senders_are_remembered():
    rates = Rates(Share(1, 0.0), lambda: 0.0, most=3)
    for name in (b"a", b"b", b"c", b"d"):
        rates.draw(name)

    rates.draw(b"a")  # forgotten, so it begins anew
    with pytest.raises(Refusal):
        rates.draw(b"d")


def test_addresses_that_one_subscriber_can_choose_from_are_one():
    assert neighbourhood("2001:db8:0:1::7") == neighbourhood("2001:db8:0:1:ffff::")
    assert neighbourhood("2001:db8:0:2::7") != neighbourhood("2001:db8:0:1::7")
    assert neighbourhood("::ffff:192.0.2.1") == neighbourhood("192.0.2.1") != neighbourhood("192.0.2.2")


def test_who_is_silent_makes_room_for_who_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(connections, "SILENCE_S", 0.0)

    async def story() -> None:
        async with serving() as port:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await asyncio.sleep(0.02)

            assert (await answer(port, post(b"\x01")))[0] == 200

            status, _, body = await asyncio.wait_for(read_answer(silent[0][0]), 20)
            assert (status, decode(ErrorReply, body).code) == (408, Code.E_RATE)
            silent[1][1].write(post(b"\x02"))
            assert (await asyncio.wait_for(read_answer(silent[1][0]), 20))[0] == 200
            for _, writer in silent:
                writer.close()

    asyncio.run(story())
