"""A provider with a batch API on loopback: files, batches and their results, as OpenAI documents them.

A batch is answered when it is first looked at; the script says how it ends and what becomes of each prompt. Not here: what
is expected of whoever sends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.faulty_endpoint import running

Line = dict[str, Any] | None


def says(text: str | None, finish: str = "stop") -> Line:
    """A result line with a reply: 30 tokens in, 7 out."""
    usage = {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    body = {"model": "tiny", "choices": [choice], "usage": usage}
    return {"response": {"status_code": 200, "body": body}, "error": None}


def errs(code: str, message: str = "") -> Line:
    """A result line without a reply."""
    return {"response": None, "error": {"code": code, "message": message}}


@dataclass
class Script:
    """How batches end from now on, and the result line of each prompt; None: the provider says nothing of it."""

    ends: str = "completed"
    line: Callable[[str], Line] = lambda prompt: says(f"About {prompt}.")
    breaks_after_submit: bool = False


@dataclass
class Sent:
    """A batch that the provider has."""

    id: str
    lines: list[dict[str, Any]]
    metadata: dict[str, str]
    status: str = "validating"
    cancels: int = 0
    results: dict[str, str] = field(default_factory=dict)

    @property
    def prompts(self) -> list[str]:
        return [line["body"]["messages"][-1]["content"] for line in self.lines]


class Provider(ThreadingHTTPServer):
    """The server, and all that was sent to it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = Script()
        self.files: dict[str, str] = {}
        self.batches: dict[str, Sent] = {}
        self.keys: set[str | None] = set()
        self.has_batches = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def bought(self) -> list[str]:
        """Every prompt of every batch, as often as it was sent."""
        return [prompt for batch in self.batches.values() for prompt in batch.prompts]

    def end(self, batch: Sent) -> None:
        """Answer a batch by the script."""
        batch.status = self.script.ends
        said: dict[str, list[str]] = {"output": [], "error": []}
        for sent in batch.lines:
            line = self.script.line(sent["body"]["messages"][-1]["content"])
            if line is not None and self.script.ends != "failed":
                kind = "error" if line["error"] else "output"
                said[kind].append(json.dumps({"custom_id": sent["custom_id"], **line}))
        for kind, lines in said.items():
            if lines:
                batch.results[kind] = f"file-{batch.id}-{kind}"
                self.files[batch.results[kind]] = "\n".join(lines)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.keys.add(self.headers["Authorization"])
        parts = self.path.split("?")[0].split("/")[2:]
        if parts == ["files"]:
            boundary = self.headers["Content-Type"].split("boundary=")[1].encode()
            [content] = [p for p in body.split(b"--" + boundary) if b"filename=" in p]
            name = f"file-{len(self.server.files)}"
            self.server.files[name] = content.split(b"\r\n\r\n", 1)[1].strip().decode()
            self._answer({"id": name, "object": "file", "purpose": "batch", "bytes": len(body),
                          "created_at": 1, "filename": "b.jsonl", "status": "processed"})  # fmt: skip
        elif parts == ["batches"]:
            asked = json.loads(body)
            lines = [json.loads(line) for line in self.server.files[asked["input_file_id"]].splitlines()]
            batch = Sent(f"batch-{len(self.server.batches)}", lines, asked["metadata"])
            self.server.batches[batch.id] = batch
            if self.server.script.breaks_after_submit:
                self._answer({"error": {"message": "the line went dead"}}, 400)
            else:
                self._answer(self._shown(batch))
        else:
            batch = self.server.batches[parts[1]]
            batch.cancels += 1
            batch.status = "cancelled"
            self._answer(self._shown(batch))

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].split("/")[2:]
        if parts == ["models"]:
            self._answer({"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        elif not self.server.has_batches:
            self._answer({"error": {"message": "no such page"}}, 404)
        elif parts == ["batches"]:
            shown = [self._shown(batch) for batch in self.server.batches.values()]
            self._answer({"object": "list", "data": shown, "has_more": False})
        elif parts[0] == "batches":
            batch = self.server.batches[parts[1]]
            if batch.status == "validating":
                self.server.end(batch)
            self._answer(self._shown(batch))
        else:
            self._answer(self.server.files[parts[1]])

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def _shown(self, batch: Sent) -> dict[str, Any]:
        total = len(batch.lines)
        counts = {kind: len(self.server.files[file].splitlines()) for kind, file in batch.results.items()}
        return {
            "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h",
            "input_file_id": "f", "created_at": 4_000_000_000, "status": batch.status, "metadata": batch.metadata,
            "output_file_id": batch.results.get("output"), "error_file_id": batch.results.get("error"),
            "request_counts": {"total": total, "completed": counts.get("output", 0), "failed": counts.get("error", 0)},
        }  # fmt: skip

    def _answer(self, body: object, status: int = 200) -> None:
        said = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


@contextmanager
def serve() -> Iterator[Provider]:
    """A provider until the block ends."""
    with running(Provider()) as provider:
        yield provider
