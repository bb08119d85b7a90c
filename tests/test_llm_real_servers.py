"""Real servers that speak OpenAI's protocol, beside the faulty one: what they send is understood, and what they cannot do is
a failure that says so."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from nightmarket.llm import SMOLLM2, EndpointGenerator, Failure, Prices
from tests.test_llm_endpoint import BOTTLE, KEY, ask, only
from tests.training.tiny_llama import write_tiny_llama

# llama.cpp


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The address of llama.cpp's own server with the packaged weights, two calls at once."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(SMOLLM2.verify())
    params.n_ctx = 2048
    params.n_parallel = 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.verbosity = -1
    params.hostnames = ["127.0.0.1"]
    params.n_threads_http = 4
    params.api_keys = [KEY]
    params.ui = False
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


def test_llama_cpp_streams_replies_side_by_side(llama: str, tmp_path: Path) -> None:
    with EndpointGenerator(
        url=llama, model="smollm2", key=SecretStr(KEY), concurrency=2, store=tmp_path / "replies.sqlite"
    ) as generator:
        replies = generator.generate(
            [ask(f"Say a word about {what}.", max_tokens=6) for what in ("tea", "cups")]
        )
        again = generator.generate([ask("Say a word about tea.", max_tokens=6)])
    assert [(reply.finish_reason, reply.tokens_out) for reply in replies] == [("length", 6), ("length", 6)]
    assert all(reply.text.strip() and reply.tokens_in > 20 for reply in replies)
    assert again[0].text == replies[0].text and again[0].cached


def test_llama_cpp_keeps_to_a_grammar(llama: str) -> None:
    generator = EndpointGenerator(url=llama, model="smollm2", key=SecretStr(KEY), grammar_field="llama.cpp")
    literal, digits = generator.generate(
        [ask("Describe the bottle.", grammar=BOTTLE), ask("A number?", grammar='root ::= "No. " [0-9] [0-9]')]
    )
    assert literal.text in {"Meet the bottle.", "Meet the bottle. It holds 750 ml."}
    assert digits.text[:4] == "No. " and digits.text[4:].isdigit() and len(digits.text) == 6


def test_llama_cpp_refuses_a_wrong_key_and_a_wrong_grammar(llama: str) -> None:
    stranger = EndpointGenerator(
        url=llama, model="smollm2", key=SecretStr("sk-other"), grammar_field="llama.cpp"
    )
    friend = EndpointGenerator(url=llama, model="smollm2", key=SecretStr(KEY), grammar_field="llama.cpp")
    refused = only(stranger)
    broken = only(friend, ask(grammar="root ::= nope"))
    assert isinstance(refused, Failure) and refused.kind == "unavailable" and "status 401" in refused.reason
    assert isinstance(broken, Failure) and broken.kind == "invalid" and "status 400" in broken.reason
    assert "sk-other" not in refused.reason and friend.spent.calls == 1


# transformers serve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of `transformers serve` with a network that nobody trained, and the model's name there: its folder."""
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}, which are not installed")
    from transformers.cli.serve import Serve

    folder = write_tiny_llama(tmp_path_factory.mktemp("served") / "tiny")
    server = Serve(force_model=str(folder), host="127.0.0.1", port=0, device="cpu", non_blocking=True)
    try:
        until = time.monotonic() + 20
        while not server.server.started and time.monotonic() < until:
            time.sleep(0.02)
        assert server.server.started
        port = server.server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        server.kill_server()


def served_writer(served: tuple[str, str], **more: Any) -> EndpointGenerator:
    return EndpointGenerator(**{"url": served[0], "model": served[1], "tries": 1, **more})


def test_transformers_serve_streams_whole_replies_with_its_own_counts(
    served: tuple[str, str], tmp_path: Path
) -> None:
    prices = Prices(Decimal(100), Decimal(1000))
    with served_writer(served, prices=prices, store=tmp_path / "replies.sqlite", concurrency=2) as generator:
        tea, cups = generator.generate(
            [ask(f"Say a word about {what}.", max_tokens=8) for what in ("tea", "cups")]
        )
        again = generator.generate([ask("Say a word about tea.", max_tokens=8)])
    # Every byte of a turn is a token, and so is each mark of the template; "cups" has one byte more than "tea".
    assert cups.tokens_in == tea.tokens_in + 1 and tea.tokens_in > 38
    assert [(reply.finish_reason, reply.tokens_out, bool(reply.text)) for reply in (tea, cups)] == [
        ("length", 8, True), ("length", 8, True),
    ]  # fmt: skip
    assert again[0].text == tea.text and again[0].cached
    assert generator.spent.cost == prices.cost(2 * tea.tokens_in + 1, 16)


def test_transformers_serve_says_the_same_when_it_is_asked_again(served: tuple[str, str]) -> None:
    first, second = (served_writer(served).generate([ask("tea", max_tokens=8)])[0].text for _ in range(2))
    assert first == second


def test_transformers_serve_keeps_no_grammar_and_says_so_in_one_call(served: tuple[str, str]) -> None:
    generator = served_writer(served, grammar_field="llama.cpp")
    refused = only(generator, ask("Describe the bottle.", grammar=BOTTLE))
    assert isinstance(refused, Failure) and refused.kind == "invalid" and "status 422" in refused.reason
    assert generator.spent.calls == 1
    # Asked without it, what it says is held against the grammar here.
    unbound = only(served_writer(served), ask("Describe the bottle.", grammar=BOTTLE, max_tokens=4))
    assert isinstance(unbound, Failure) and "does not match the grammar" in unbound.reason


def test_transformers_serve_knows_no_other_model(served: tuple[str, str]) -> None:
    refused = only(served_writer(served, model="owner/another"))
    assert isinstance(refused, Failure) and refused.kind == "invalid" and "status 400" in refused.reason


def test_the_doctor_says_that_transformers_serve_answers_though_it_lists_no_folder(
    served: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It lists the models of the hub's cache, and fails where there is no cache.
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "none"))
    assert served_writer(served).look() == (
        True, f"{served[1]} at {served[0]} is well, but does not list its models",
    )  # fmt: skip
