"""The packaged writer: pinned, deterministic, under a grammar, and paid once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightmarket import grammar
from nightmarket.errors import ModelRefused, ReplyInvalid
from nightmarket.llm import SMOLLM2, LocalGenerator, Message, Request, digest
from nightmarket.weights import Weights, verify

BOTTLE = (
    Message("system", "You write short product descriptions. Use only the facts."),
    Message("user", "title: Hydra bottle\ncapacity: 750 ml"),
)
CHOICE = """root ::= lead first end
lead ::= "Meet the Hydra bottle." | "Say hello to the Hydra bottle."
first ::= " It holds 750 ml." | " The capacity is 750 ml."
end ::= "" | " Order yours today."
"""
TEXTS = {
    f"{lead} {first}{end}"
    for lead in ("Meet the Hydra bottle.", "Say hello to the Hydra bottle.")
    for first in ("It holds 750 ml.", "The capacity is 750 ml.")
    for end in ("", " Order yours today.")
}


@pytest.fixture(scope="module")
def writer() -> Iterator[LocalGenerator]:
    with LocalGenerator() as generator:
        yield generator


def test_the_packaged_file_has_the_pinned_digest() -> None:
    assert SMOLLM2.verify().stat().st_size == 98_362_432


def test_a_reply_under_a_grammar_of_literals_is_one_of_its_texts(writer: LocalGenerator) -> None:
    reply = writer.generate([Request(BOTTLE, grammar=CHOICE)])[0]
    assert reply.text in TEXTS
    assert reply.finish_reason == "stop" and not reply.cached
    assert reply.tokens_in > 20 and reply.tokens_out == reply.size > 0


def test_a_reply_under_another_grammar_matches_it(writer: LocalGenerator) -> None:
    reply = writer.generate([Request(BOTTLE, grammar='root ::= "It holds " [0-9] [0-9] [0-9] " ml."')])[0]
    assert len(reply.text) == len("It holds 750 ml.") and reply.text[9:12].isdigit()


def test_the_same_request_gives_the_same_reply_whatever_was_asked_before(writer: LocalGenerator) -> None:
    request = Request(BOTTLE, max_tokens=16)
    first = writer.generate([request])[0]
    writer.generate([Request((Message("user", "Tell me about tea."),), max_tokens=8)])
    assert writer.generate([request])[0] == first


def test_a_long_reply_says_that_it_was_cut(writer: LocalGenerator) -> None:
    reply = writer.generate([Request(BOTTLE, max_tokens=3)])[0]
    assert reply.finish_reason == "length" and reply.tokens_out == 3


def test_a_stored_reply_costs_nothing_and_loads_nothing(tmp_path: Path, writer: LocalGenerator) -> None:
    request = Request(BOTTLE, grammar=CHOICE)
    store = tmp_path / "llm" / "replies.sqlite"
    with LocalGenerator(store=store) as first:
        bought = first.generate([request])[0]
    second = LocalGenerator(store=store, path=tmp_path / "no-such-file.gguf")
    again = second.generate([request])[0]
    assert (again.text, again.size) == (bought.text, bought.size)
    assert (again.tokens_in, again.tokens_out, again.cached) == (0, 0, True)


def test_every_parameter_makes_another_reply_in_the_store() -> None:
    request = Request(BOTTLE)
    others = [
        Request(BOTTLE[1:]), Request(BOTTLE, grammar=CHOICE), Request(BOTTLE, max_tokens=9),
        Request(BOTTLE, temperature=0.5), Request(BOTTLE, seed=8),
    ]  # fmt: skip
    digests = {digest("a", request), digest("b", request), *(digest("a", other) for other in others)}
    assert len(digests) == 7


def test_a_grammar_that_cannot_be_parsed_is_an_error_that_names_the_request(writer: LocalGenerator) -> None:
    with pytest.raises(ReplyInvalid, match=r"request 1 .*with grammar"):
        writer.generate([Request(BOTTLE, max_tokens=1), Request(BOTTLE, grammar="root ::= nope")])


def test_a_prompt_longer_than_the_context_is_an_error(writer: LocalGenerator) -> None:
    with pytest.raises(ReplyInvalid, match="context"):
        writer.generate([Request((Message("user", "tea " * 5000),))])


def test_weights_with_another_digest_are_not_loaded(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF something else")
    with pytest.raises(ModelRefused, match="b179c9523d0e"):
        LocalGenerator(path=other).generate([Request(BOTTLE)])
    assert verify(SMOLLM2.locate(), SMOLLM2.sha256, name="it") == SMOLLM2.locate()


def test_a_missing_package_is_named() -> None:
    with pytest.raises(ModelRefused, match="no_such_package"):
        Weights("x", "no_such_package", "x.gguf", "0").locate()


def test_a_walk_asks_only_where_ways_part() -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def choose(said: str, ways: object) -> str:
        asked.append((said, tuple(ways)))  # type: ignore[arg-type]
        return asked[-1][1][-1]

    rules = grammar.parse(CHOICE)
    assert rules is not None
    assert (
        grammar.walk(rules, choose)
        == "Say hello to the Hydra bottle. The capacity is 750 ml. Order yours today."
    )
    assert asked == [
        ("", ("Meet the Hydra bottle.", "Say hello to the Hydra bottle.")),
        ("Say hello to the Hydra bottle.", (" It holds 750 ml.", " The capacity is 750 ml.")),
        ("Say hello to the Hydra bottle. The capacity is 750 ml.", ("", " Order yours today.")),
    ]


def test_a_walk_survives_half_a_character() -> None:
    rules = grammar.parse('root ::= "茶" | "杯"')
    assert rules is not None and grammar.walk(rules, lambda said, ways: "\ufffd") == "茶"


@pytest.mark.parametrize(
    "text", ["root ::= [a-z]+", 'root ::= "a"*', 'root ::= "a" root', "root ::= other", 'a ::= "b"']
)
def test_other_grammars_are_left_to_the_runtime(text: str) -> None:
    assert grammar.parse(text) is None
