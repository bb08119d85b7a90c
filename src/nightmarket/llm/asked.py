"""What is asked of a language model, what it says, and what a reply is known by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from nightmarket import grammar
from nightmarket.errors import ReplyInvalid
from nightmarket.llm.prices import Prices

TEXTS = ("description", "title", "bullets", "meta_description", "summary")
"""What a writer may be asked for in its own words: the fields of a product's page, and a customer's summary."""
CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
"""A server's own word for something. Longer texts are never repeated: many have the prompt or the key in them."""


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
        earlier: of a stored reply, tokens in and out that an earlier try of this very night paid for it.
    """

    text: str
    tokens_in: int
    tokens_out: int
    finish_reason: Literal["stop", "length"]
    cached: bool
    size: int
    earlier: tuple[int, int] = (0, 0)

    @property
    def tonight(self) -> tuple[int, int]:
        """Tokens in and out that this night pays for it, in whichever try: a try after a crash counts as the first did."""
        return self.tokens_in + self.earlier[0], self.tokens_out + self.earlier[1]


Kind = Literal["invalid", "unavailable", "deadline", "budget", "cost"]


@dataclass(frozen=True)
class Failure:
    """Why a request has no reply.

    Attributes:
        reason: one sentence with the model, the request's number and what happened; never the prompt or a key.
        kind: `invalid` (this request or what was said to it), `unavailable` (the model), `deadline` (the run's time is
            over), `budget` (the run's tokens are spent) or `cost` (the night's money is spent). What is not `invalid` is
            worth asking for another night.
    """

    reason: str
    kind: Kind


@dataclass
class Spent:
    """What a generator has done since it was made, for a log line or an outcome's note.

    Attributes:
        calls: times the model was asked; what came from the store is not counted.
        retries: those of the calls that asked again what had failed before.
        failures: requests that have no reply in the end.
        tokens_in, tokens_out: tokens of all calls, also of those whose reply was no good.
        prices: what these tokens cost.
    """

    calls: int = 0
    retries: int = 0
    failures: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    prices: Prices = field(default_factory=Prices)

    @property
    def tokens(self) -> int:
        """Tokens of both directions: what a budget is compared with."""
        return self.tokens_in + self.tokens_out

    @property
    def cost(self) -> Decimal:
        """Money for these tokens."""
        return self.prices.cost(self.tokens_in, self.tokens_out)

    def __str__(self) -> str:
        money = "" if self.prices.are_none else f", {self.prices.told(self.cost)}"
        return (
            f"{self.calls} calls ({self.retries} again), {self.failures} failed, "
            f"{self.tokens_in} + {self.tokens_out} tokens{money}"
        )


class Generator(Protocol):
    """Anything that turns requests into replies; a context manager that closes itself.

    Attributes:
        name, version: go into published rows.
        languages: that it writes.
        free: whether it may write in its own words, of which what the facts bear is published; any other is only asked to
            choose among given ones.
        writes: which of `TEXTS` it may then be asked for; one that was tuned here only those that it was tuned on.
        keeps_grammars: whether a request's grammar binds what it says; one that does not is better not asked under one.
        spent: what it has done so far.
    """

    name: str
    version: str
    languages: frozenset[str]
    free: bool
    writes: frozenset[str]
    keeps_grammars: bool
    spent: Spent

    def attempt(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """A reply for each request, or why it has none, in order; one request's failure takes nothing from another.

        Each reply is stored as soon as it is whole.
        """
        ...

    def close(self) -> None:
        """Give back what is held; the next `attempt` takes it again."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply for each request, in order.

        Raises:
            ReplyInvalid: a request has no reply; names the first such. What was answered beside it is stored.
        """
        replies = []
        for outcome in self.attempt(requests):
            if isinstance(outcome, Failure):
                raise ReplyInvalid(outcome.reason)
            replies.append(outcome)
        return replies

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def digest(model_version: str, request: Request) -> str:
    """What a reply is stored by: model, prompt and every parameter that decides it."""
    fields = [
        model_version, [list(message) for message in request.messages], request.grammar, request.max_tokens,
        request.temperature, request.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()


def flaw(text: str, finish: object, rules: grammar.Rules | None = None) -> str | None:
    """Why what a server sent is no reply, without its words; None where it is whole, and matches `rules` if there are any."""
    if finish not in ("stop", "length"):
        return f"its reply ended {_how(finish)}"
    if not text.strip():
        return "its reply was empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "its reply has half a character in it"
    if rules is not None and not grammar.matches(rules, text):
        return "its reply does not match the grammar"
    return None


def _how(finish: object) -> str:
    if finish is None:
        return "in the middle"
    known = isinstance(finish, str) and CODE.fullmatch(finish)
    return f"with finish_reason `{finish}`" if known else "with a finish_reason of no known form"
