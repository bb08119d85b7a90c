"""A bottle, a writer that says what it is told to, and nights of a catalogue: what the tests of copy have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from nightmarket import grammar, guard, lake, llm, products
from nightmarket.products import product_copy
from nightmarket.products.product_copy import PRODUCT, write
from nightmarket.products.product_copy.facts import read_sheet

DAY, NEXT, THIRD = date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 4)
BOTTLE = {
    "product_id": "p1", "title": "Aquaron Steel Water Bottle, 750 ml", "brand": "Aquaron", "category": "Kitchen > Bottles",
    "attributes": json.dumps(
        {"Capacity": "750 ml", "Colour": "turquoise", "Keeps cold": "24 hours", "Material": "stainless steel"}
    ),
    "locale": "en", "status": "active", "description": None,
}  # fmt: skip
GOOD = (
    "The Aquaron Steel Water Bottle comes in turquoise. It is made of stainless steel and keeps drinks cold for 24 hours. "
    "The capacity is 750 ml."
)
Says = Callable[[llm.Request], llm.Reply | llm.Failure]


class Scripted:
    """A writer that may write freely and says what it is told to; under a grammar it takes the first of everything."""

    name, version, free, keeps_grammars = "scripted", "v1", True, True
    languages = frozenset({"en", "zh"})
    writes = frozenset({"description"})

    def __init__(self, says: str | Says, *, finish: str = "stop") -> None:
        self.says, self.finish = says, finish
        self.batches: list[int] = []
        self.spent = llm.Spent()

    def attempt(self, requests: Sequence[llm.Request]) -> list[llm.Reply | llm.Failure]:
        self.batches.append(len(requests))
        return [self.answer(request) for request in requests]

    def answer(self, request: llm.Request) -> llm.Reply | llm.Failure:
        if callable(self.says):
            return self.says(request)
        if request.grammar is not None:
            return by_grammar(request)
        return llm.Reply(self.says, 10, 20, self.finish, False, 20)  # type: ignore[arg-type]

    def generate(self, requests: Sequence[llm.Request]) -> list[llm.Reply]:
        raise AssertionError("products ask by `attempt`")

    def close(self) -> None: ...
    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None: ...


def by_grammar(request: llm.Request) -> llm.Reply:
    rules = grammar.parse(request.grammar or "")
    assert rules is not None
    return llm.Reply(grammar.walk(rules, lambda _, ways: ways[0]), 10, 20, "stop", False, 20)


def said(reply: str, finish: str = "stop", **changes: Any) -> product_copy.Text:
    return write(read_sheet(BOTTLE | changes), Scripted(reply, finish=finish))


def origins(text: product_copy.Text) -> list[tuple[str, str]]:
    return [(sentence.text, sentence.origin) for sentence in text.body]


def reasons(text: product_copy.Text) -> str:
    return "\n".join(f"{gone.value} {gone.reason}" for gone in text.removed if gone.attribute == "sentence")


def bottles(count: int) -> list[dict[str, Any]]:
    return [
        BOTTLE | {"product_id": f"b{n:02}", "title": f"Aquaron Steel Water Bottle {n + 1}, 750 ml"}
        for n in range(count)
    ]


def shelf(*rows: dict[str, Any], day: date = DAY) -> None:
    columns = ("product_id", "title", "brand", "category", "attributes", "locale", "status", "description")
    schema = pa.schema([(column, pa.string()) for column in columns])
    lake.write("products", day, pa.Table.from_pylist(list(rows), schema=schema), key=["product_id"])
    lake.write("purchases", day, pa.table({"product_id": pa.array([], pa.string())}), key=["product_id"])


def night(writer: Scripted, monkeypatch: pytest.MonkeyPatch, day: date = DAY) -> Any:
    """A night by a writer, published as if it had passed its gate."""
    monkeypatch.setattr(llm, "open_generator", lambda _: writer)
    outcome = products.generate(PRODUCT, day, f"r{day}")
    if outcome.note != "unchanged":
        path = products._plan_path(PRODUCT, day)
        passed = {"checked": products._scratch_hashes(PRODUCT, day)}
        path.write_text(json.dumps(json.loads(path.read_text()) | passed))
        products.publish(PRODUCT, day, f"r{day}")
    return outcome


def rows_of(day: date = DAY) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in lake.read("product_copy", day).to_pylist()}


def failing(kind: Any, *, of: str = "Bottle 2,") -> Says:
    def says(request: llm.Request) -> llm.Reply | llm.Failure:
        if of in request.messages[-1].content or of.rstrip(",") + "\n" in request.messages[-1].content:
            return llm.Failure("the endpoint said no", kind)
        return by_grammar(request) if request.grammar else llm.Reply(GOOD, 10, 20, "stop", False, 20)

    return says


def policy(text: str) -> None:
    path = guard.shop_policy()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pack(**keys: str) -> str:
    return "[[pack]]\nname = 'ours'\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


CHANNELS = """
[[pack]]
name = "our mail"
channel = "email"
limits = { subject = 40, body = 90 }
required = { "Ad" = "subject" }
[[pack]]
name = "our push"
channel = "push"
forbidden = ["turquoise"]
[[pack]]
name = "our ads"
channel = "search_ad"
"""
