"""A provider's batch API as a writer: about half the price, and an answer within a day.

A night asks as it asks any writer. What has no reply in the store is written into an outbox, and is unavailable for now;
`gather` makes a batch of it, a provider answers that, and `keep` stores the answers, from which the next night writes.
Not here: sending a batch and waiting for it (Airflow's provider package, see orchestration), the outbox itself (`outbox`).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nightmarket.errors import ReplyInvalid
from nightmarket.ledger import Outcome
from nightmarket.llm.asked import CODE, TEXTS, Failure, Generator, Reply, Request, Spent, digest, flaw
from nightmarket.llm.endpoint import EndpointGenerator, estimate
from nightmarket.llm.outbox import MOST_TRIES, Batch, Outbox
from nightmarket.llm.prices import prices_of
from nightmarket.llm.replies import ReplyStore
from nightmarket.settings import get_settings

PACKAGE = "apache-airflow-providers-common-ai"
"""What sends a batch and waits for it; the extra `batch` of pyproject.toml."""
_SAID = {"success", "invalid_output"}
"""Statuses of a row in which the model said something, which is paid for."""
_HOW = {"error": "errored"}


class BatchGenerator(Generator):
    """A model that answers from the store, and writes down for the next batch what is not there.

    Replies are stored as those of an endpoint with the same model and revision, so that going from one to the other asks
    nothing again. A grammar cannot be sent: its request is `invalid` at once, and costs nothing.
    """

    free = True
    writes = frozenset(TEXTS)
    keeps_grammars = False

    def __init__(self, door: EndpointGenerator, *, store: Path, outbox: Path, day: date | None) -> None:
        """`door`: the model behind its endpoint, which is only looked at. Without a `day` nothing is written down: only a
        night buys."""
        self.name, self.version, self.languages = door.name, door.version, door.languages
        self.spent = Spent(prices=door.spent.prices)
        self._door = door
        self._store, self._outbox = ReplyStore(store, day), Outbox(outbox)
        self._day = day

    def attempt(self, requests: Sequence[Request]) -> list[Reply | Failure]:
        """The stored reply for each request, or why there is none yet, in order; nothing is asked here."""
        keys = [digest(self.version, request) for request in requests]
        stored = {key: self._store.find(key) for key in dict.fromkeys(keys)}
        wanted = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if stored[key] is None and _can_be_sent(request)
        }
        given_up: frozenset[str] = frozenset()
        if self._day:
            given_up = self._outbox.put(wanted, model=self.name, version=self.version, day=self._day)
        outcomes: list[Reply | Failure] = []
        for number, key in enumerate(keys):
            reply = stored[key]
            outcomes.append(reply or self._failure(number, key in wanted, key in given_up))
        self.spent.failures += sum(isinstance(outcome, Failure) for outcome in outcomes)
        return outcomes

    def look(self, within_s: float = 3.0) -> tuple[bool, str]:
        """Whether a batch could be sent and answered from here, and a sentence that says so, as `EndpointGenerator.look`."""
        if not is_installed():
            return False, f"{self.name} by the provider's batch API, but {PACKAGE} is not installed"
        able, said = self._door.look(within_s, batches=True)
        under_way = self._outbox.batch()
        counts = f"{len(self._outbox.waiting())} requests wait, {len(under_way.asked) if under_way else 0} are in a batch"
        return able, f"{said}; {counts}"

    def close(self) -> None:
        """Nothing is held between calls."""

    def _failure(self, number: int, wanted: bool, given_up: bool) -> Failure:
        told = f"{self.name} gave no reply to request {number}: "
        if not wanted:
            return Failure(told + "a batch carries no grammar and no conversation", "invalid")
        if given_up:
            return Failure(told + f"it was given up after {MOST_TRIES} batches", "invalid")
        return Failure(told + "it waits for a batch, or for the answers of one", "unavailable")


def gather(day: date) -> Outcome:
    """Make a batch of what waits; while one is not settled there is no other, whichever run began it.

    Where a night has a budget of money, a batch takes as many requests as that certainly bears; the rest waits.
    """
    from nightmarket.llm import open_generator

    outbox, store = Outbox(_outbox()), ReplyStore(_store(), day)
    waiting = outbox.waiting()
    # A kill inside `keep`, or an endpoint with the same model, may have brought some meanwhile.
    outbox.forget([key for key in waiting if store.find(key)])
    if before := outbox.batch():
        return Outcome(len(waiting), len(before.asked), note=f"goes on with batch {before.name}")
    if get_settings().generator != "batch":
        return Outcome(len(waiting), note="the writer of today needs no batch")
    writer = open_generator()
    batch = outbox.take(version=writer.version, day=day, most=_borne(*store.paid(writer.name)))
    left = len(outbox.waiting())
    if batch is None:
        return Outcome(
            len(waiting), note=f"{left} wait for the money of another night" if left else "nothing waits"
        )
    wait = f"; {left} wait for another" if left else ""
    return Outcome(len(waiting), len(batch.asked), note=f"batch {batch.name}{wait}")


def _borne(tokens_in: int, tokens_out: int) -> Callable[[Sequence[Request]], int]:
    """How many requests from the first on the night's money certainly bears, when so many tokens of it are spent."""
    settings = get_settings()
    prices, most = prices_of(settings), settings.copy_cost_per_night
    if most is None or prices.are_none:
        return len
    left = most - prices.cost(tokens_in, tokens_out)

    def borne(requests: Sequence[Request]) -> int:
        spent = Decimal(0)
        for number, request in enumerate(requests):
            spent += prices.cost(estimate(request, "")[0], request.max_tokens)
            if spent > left:
                return number
        return len(requests)

    return borne


def under_way() -> Batch | None:
    """The batch that was gathered and is not kept yet, or None."""
    return Outbox(_outbox()).batch()


def as_provider_takes(request: Request) -> dict[str, Any]:
    """A request in the form of the provider package, with everything that decides its reply."""
    instructions = request.messages[0].content if request.messages[0].role == "system" else None
    return {
        "prompt": request.messages[-1].content,
        "system_prompt": instructions,
        "max_tokens": request.max_tokens,
        "params": {"temperature": request.temperature, "seed": request.seed},
    }


def results_of(batch: Batch) -> Path:
    """The folder of a batch's answers, and of what its sender remembers of it."""
    return get_settings().state / "llm" / "batches" / batch.name


def keep(day: date) -> Outcome:
    """Store the answers of the batch that is under way and settle it; what has none waits again.

    A reply that would be refused from an endpoint is refused here, which is a try of its request. An error is one too,
    unless nothing but errors came back: that says something of the provider and nothing of the requests.

    Raises:
        ReplyInvalid: there are no answers yet.
    """
    batch = under_way()
    if batch is None:
        return Outcome(note="nothing is under way")
    store = ReplyStore(_store(), day)
    answered, spoilt, errors = [], [], []
    troubles, tokens = Counter[str](), Counter[str]()
    for row in _rows(batch):
        key, request = batch.asked[row["index"]]
        outcome, paid = _read(row, request)
        tokens.update(tokens_in=paid[0], tokens_out=paid[1])
        if isinstance(outcome, Reply):
            store.keep(key, batch.model, outcome)
            answered.append(key)
            continue
        troubles[outcome] += 1
        if row["status"] == "error":
            errors.append(key)
        elif row["status"] in _SAID:
            spoilt.append(key)
    if answered or spoilt:
        spoilt += errors
    given_up = Outbox(_outbox()).settle(batch.name, answered=answered, spoilt=spoilt)
    shutil.rmtree(results_of(batch), ignore_errors=True)
    told = [f"{n} {what}" for what, n in sorted((troubles | Counter({"given up": given_up})).items()) if n]
    prices = prices_of(get_settings())
    cost = prices.cost(tokens["tokens_in"], tokens["tokens_out"])
    money = [] if prices.are_none else [prices.told(cost)]
    note = "; ".join([f"batch {batch.name}", *money, *told])
    return Outcome(
        len(batch.asked), len(answered), tokens["tokens_in"], tokens["tokens_out"], float(cost), note=note
    )


def is_installed() -> bool:
    """Whether the package that sends batches is there."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return False
    return True


def _rows(batch: Batch) -> Iterator[dict[str, Any]]:
    """A row for each request of a batch, as the provider package writes them."""
    files = sorted(results_of(batch).glob("*.jsonl"))
    if not files:
        raise ReplyInvalid(
            f"Batch {batch.name} ({len(batch.asked)} requests to {batch.model}) has no answers in {results_of(batch)}. "
            f"Clear the task that asks it; a batch that was sent is not sent again."
        )
    with files[0].open() as lines:
        yield from map(json.loads, lines)


def _read(row: Mapping[str, Any], request: Request) -> tuple[Reply | str, tuple[int, int]]:
    """A row's reply, or why it has none; and the tokens that are paid for."""
    if row["status"] not in _SAID:
        return f"{_HOW.get(row['status'], row['status'])}{_code(row)}", (0, 0)
    text = row["output"] if isinstance(row["output"], str) else ""
    usage = row["usage"] or {}
    paid = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    if not all(paid):
        paid = estimate(request, text)
    finish: Any = row["finish_reason"]
    if why := flaw(text, finish):
        return f"refused ({why})", paid
    return Reply(text, *paid, finish_reason=finish, cached=False, size=paid[1]), paid


def _code(row: Mapping[str, Any]) -> str:
    """The provider's word for an error; its message is left out, as an endpoint's."""
    word, key = (row["error"] or {}).get("provider_code"), get_settings().endpoint_key
    secret = key.get_secret_value() if key else None
    plain = isinstance(word, str) and CODE.fullmatch(word) and not (secret and secret in word)
    return f" ({word})" if plain else ""


def _can_be_sent(request: Request) -> bool:
    """Whether the provider package can carry it: a prompt, perhaps with instructions before it."""
    roles = [message.role for message in request.messages]
    return request.grammar is None and roles in (["user"], ["system", "user"])


def _store() -> Path:
    return get_settings().state / "llm" / "replies.sqlite"


def _outbox() -> Path:
    return get_settings().state / "llm" / "outbox.sqlite"
