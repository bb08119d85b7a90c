"""An OpenAI-compatible server on loopback that does what it is told: the good, the slow and the broken.

Each call takes the next step of the script, or the last one again. A step is a function that gets the handler, which
has the request's body, and writes the answer. Not here: what is expected of a client.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Step = Callable[["Handler"], None]
Running = TypeVar("Running", bound=ThreadingHTTPServer)


class Server(ThreadingHTTPServer):
    """The server, and all that it saw."""

    daemon_threads = True
    # Waiting for the threads of stalled answers would take as long as they stall.
    block_on_close = False

    def __init__(self, script: Sequence[Step]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = list(script)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.open = self.most_open = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def prompts(self) -> list[str]:
        """The last turn of every call, in the order in which they came."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


class Handler(BaseHTTPRequestHandler):
    """One connection; `body` is the call's."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes; without this the second waits 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True
    server: Server
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            step = self.server.script[min(self.server.calls, len(self.server.script) - 1)]
            self.server.bodies.append(self.body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.server.times.append(time.monotonic())
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        try:
            step(self)
        finally:
            with self.server.lock:
                self.server.open -= 1

    def do_GET(self) -> None:
        self.answer(200, json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"}]}))

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def answer(
        self, status: int, body: str, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer that is not a stream."""
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body.encode())),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def begin(self) -> None:
        """The head of a stream that ends with its connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def send(self, event: object) -> None:
        text = event if isinstance(event, str) else json.dumps(event)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]


def chunk(content: str | None, finish: str | None = None) -> dict[str, Any]:
    """One chunk of a reply, as servers send it."""
    return {
        "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
    }  # fmt: skip


def usage(tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """The last chunk of a stream, which has no choices."""
    counts = {
        "prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out,
    }  # fmt: skip
    return {**chunk(None), "choices": [], "usage": counts}


def says(
    *words: str, finish: str = "stop", pause_s: float = 0.0, first_s: float = 0.0, counts: bool = True
) -> Step:
    """A good reply, word by word: 10 tokens in, one a word out. Without words it says "re: " and the prompt."""

    def step(handler: Handler) -> None:
        handler.begin()
        time.sleep(first_s)
        spoken = words or ("re: ", handler.prompt)
        for word in spoken:
            handler.send(chunk(word))
            time.sleep(pause_s)
        handler.send(chunk(None, finish))
        if counts:
            handler.send(usage(10, len(spoken)))
        handler.send("[DONE]")

    return step


def streams(*events: object, done: bool = True) -> Step:
    """A stream of exactly these events; without `done` the connection just ends."""

    def step(handler: Handler) -> None:
        handler.begin()
        for event in events:
            handler.send(event)
        if done:
            handler.send("[DONE]")

    return step


def fails(status: int, body: str = "", **headers: str) -> Step:
    """An HTTP status; `body` is by default an error that repeats prompt and key, as some servers do."""

    def step(handler: Handler) -> None:
        said = f"{handler.headers['Authorization']} asked {handler.prompt}"
        error = json.dumps({"error": {"message": said, "code": None, "type": "server_says_no"}})
        handler.answer(status, body or error, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return step


def answers(body: str) -> Step:
    """A 200 that is not a stream."""
    return lambda handler: handler.answer(200, body)


def stalls(*words: str, seconds: float = 5.0, comments: bool = False) -> Step:
    """Some words, and then silence, or comments only, which keep a connection alive and say nothing."""

    def step(handler: Handler) -> None:
        handler.begin()
        for word in words:
            handler.send(chunk(word))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.02)
            if comments:
                handler.wfile.write(b": ping\n\n")
                handler.wfile.flush()

    return step


def resets(*words: str) -> Step:
    """A connection that is torn down, before or inside a reply."""

    def step(handler: Handler) -> None:
        if words:
            handler.begin()
            for word in words:
                handler.send(chunk(word))
        # Lingering for no time makes the kernel send a reset instead of an end.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True

    return step


def breaks_off(status: int) -> Step:
    """An answer that promises more bytes than it sends."""

    def step(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"error": ')
        handler.close_connection = True

    return step


@contextmanager
def serve(*script: Step) -> Iterator[Server]:
    """A server with this script, until the block ends."""
    with running(Server(script)) as server:
        yield server


@contextmanager
def running(server: Running) -> Iterator[Running]:
    """A server at work in a thread of its own, until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
