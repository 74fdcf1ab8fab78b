"""A real HTTP server that answers what a test tells it to, and remembers what it was asked."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None  # a Content-Length that is not that of the body
    silent: bool = False  # the connection is closed without an answer


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = Answer | Callable[[Asked], Answer]


@dataclass
class Script:
    """The answers to give, by route; a list is used up from its front, its last entry stays."""

    port: int
    answers: dict[str, list[Reply]]
    asked: list[Asked]

    def bodies(self, route: str) -> list[bytes]:
        """What was sent to a route, in order."""
        return [one.body for one in self.asked if route == f"{one.method} {one.path.rsplit('/', 1)[-1]}"]

    def on(self, route: str, *answers: Reply) -> None:
        """`route` is a method and the last part of a path, for example `GET head`."""
        self.answers[route] = list(answers)


@contextlib.contextmanager
def scripted() -> Generator[Script]:
    """A server on a free port of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.give()

        def do_POST(self) -> None:
            self.give()

        def give(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, dict(self.headers), body)
            script.asked.append(asked)
            listed = script.answers.get(f"{self.command} {self.path.rsplit('/', 1)[-1]}", [Answer(404)])
            reply = listed.pop(0) if len(listed) > 1 else listed[0]
            answer = reply if isinstance(reply, Answer) else reply(asked)
            self.close_connection = True
            if answer.silent:
                return
            self.send_response(answer.status)
            length = len(answer.body) if answer.promised is None else answer.promised
            for name, value in {**answer.headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer.body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = Script(server.server_address[1], {}, [])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
