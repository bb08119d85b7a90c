"""What is asked of a language model, what it says, and what a reply is known by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol


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


def digest(model_version: str, request: Request) -> str:
    """What a reply is stored by: model, prompt and every parameter that decides it."""
    fields = [
        model_version, [list(message) for message in request.messages], request.grammar, request.max_tokens,
        request.temperature, request.seed,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()
