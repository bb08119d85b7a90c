"""A model behind an endpoint: asked again where that helps, and within its time."""

from __future__ import annotations

import email.utils
import logging
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from nightmarket import doctor, grammar, llm
from nightmarket.errors import ReplyInvalid, SettingMissing
from nightmarket.llm import EndpointGenerator, Failure, LocalGenerator, Message, Reply, Request
from nightmarket.settings import get_settings
from tests import faulty_endpoint
from tests.faulty_endpoint import (
    Server,
    Step,
    answers,
    chunk,
    fails,
    resets,
    says,
    serve,
    stalls,
    streams,
    usage,
)

KEY = "sk-very-secret"
BOTTLE = 'root ::= "Meet the bottle." end\nend ::= "" | " It holds 750 ml."'


def ask(text: str = "private words", **more: Any) -> Request:
    return Request((Message("system", "You are brief."), Message("user", text)), **more)


def writer(server: Server, **more: Any) -> EndpointGenerator:
    """A generator for tests: waits of milliseconds."""
    quick = {"timeout_s": 3.0, "stall_s": 1.0, "backoff_s": 0.002, "key": SecretStr(KEY)}
    return EndpointGenerator(**{"url": server.url, "model": "tiny", **quick, **more})


def only(generator: EndpointGenerator, request: Request | None = None) -> Reply | Failure:
    [outcome] = generator.attempt([request or ask()])
    return outcome


def failure(outcome: Reply | Failure) -> Failure:
    """The outcome, which has to be a failure that keeps what must be kept."""
    assert isinstance(outcome, Failure)
    assert "tiny at http://127.0.0.1:" in outcome.reason and "request " in outcome.reason
    assert KEY not in outcome.reason and "private" not in outcome.reason
    return outcome


def stored(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [text for (text,) in connection.execute("select text from replies order by text")]


# What is asked, and what comes of it


def test_a_streamed_reply_is_put_together_and_its_tokens_are_the_endpoints() -> None:
    with serve(says("Meet ", "the ", "bottle.")) as server:
        reply = only(writer(server), ask(max_tokens=9, temperature=0.5, seed=3))
    assert reply == Reply("Meet the bottle.", 10, 3, "stop", cached=False, size=3)
    assert server.bodies == [
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": "private words"},
            ],
            "max_tokens": 9,
            "temperature": 0.5,
            "seed": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_reply_that_was_cut_says_so() -> None:
    with serve(says("Meet ", "the", finish="length")) as server:
        assert only(writer(server)) == Reply("Meet the", 10, 2, "length", cached=False, size=2)


def test_tokens_are_estimated_where_the_endpoint_does_not_count_them() -> None:
    with serve(says("123456789", counts=False)) as server:
        generator = writer(server)
        # "You are brief." and "private words" are 27 bytes, at three a token.
        assert only(generator) == Reply("123456789", 9, 3, "stop", cached=False, size=3)
        assert generator.spent.tokens == 12


def test_replies_come_in_the_order_of_the_requests_and_no_more_calls_are_open_than_allowed() -> None:
    with serve(says(first_s=0.2), says(first_s=0.1), says(first_s=0.03)) as server:
        generator = writer(server, concurrency=3)
        replies = generator.generate([ask(str(n)) for n in range(9)])
        assert [reply.text for reply in replies] == [f"re: {n}" for n in range(9)]
        assert (server.most_open, server.calls) == (3, 9)
        assert str(generator.spent) == "9 calls (0 again), 0 failed, 90 + 18 tokens"


def test_one_call_at_a_time_is_one_call_at_a_time() -> None:
    with serve(says(first_s=0.02)) as server:
        writer(server, concurrency=1).generate([ask(str(n)) for n in range(4)])
        assert (server.most_open, server.calls) == (1, 4)


def test_no_variable_of_the_official_client_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-endpoint")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serve(says()) as server:
        assert isinstance(only(writer(server, key=None)), Reply)
        assert server.headers[0]["authorization"] == "Bearer none"
        assert "another-endpoint" not in str(server.headers)


# Trouble that passes


@pytest.mark.parametrize(
    "trouble",
    [
        fails(408), fails(409), fails(429), fails(500), fails(502), fails(503), fails(529), resets(), resets("Meet "),
        faulty_endpoint.breaks_off(500), fails(429, Retry_After="0"), fails(503, Retry_After="soon"),
        fails(503, body="<html>"),
    ],
    ids=range(13),
)  # fmt: skip
def test_trouble_that_passes_is_outlived(trouble: Step) -> None:
    with serve(trouble, trouble, says("Meet ", "the bottle.")) as server:
        generator = writer(server)
        reply = only(generator)
        assert isinstance(reply, Reply) and reply.text == "Meet the bottle."
        assert server.calls == 3
        assert (generator.spent.calls, generator.spent.retries, generator.spent.failures) == (3, 2, 0)


@pytest.mark.parametrize("silence", [stalls(), stalls("Meet "), stalls("Meet ", comments=True)], ids=range(3))
def test_silence_that_passes_is_outlived(silence: Step) -> None:
    with serve(silence, says("Meet ", "the bottle.")) as server:
        reply = only(writer(server, timeout_s=0.8, stall_s=0.3))
        assert isinstance(reply, Reply) and reply.text == "Meet the bottle."
        assert server.calls == 2


def test_an_endpoint_in_lasting_trouble_is_asked_as_often_as_the_setting_says() -> None:
    with serve(fails(500)) as server:
        generator = writer(server, tries=4)
        problem = failure(only(generator))
    assert problem.kind == "unavailable"
    assert problem.reason.endswith(
        "gave no reply to request 0: status 500 (server_says_no), and was asked 4 times"
    )
    assert server.calls == 4
    assert str(generator.spent) == "4 calls (3 again), 1 failed, 0 + 0 tokens"


def test_an_endpoint_that_is_not_there_is_a_failure_and_not_an_exception() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        generator = EndpointGenerator(
            url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", model="tiny", tries=2, backoff_s=0.001
        )
        problem = failure(only(generator))
    assert problem.kind == "unavailable"
    assert problem.reason.endswith("the connection failed (ConnectError), and was asked 2 times")


def test_each_wait_is_longer_than_the_one_before() -> None:
    with serve(fails(500)) as server:
        generator = writer(server, tries=4, backoff_s=0.1)
        only(generator)
    waits = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert waits[0] >= 0.05 and waits[1] >= 0.1 and waits[2] >= 0.2
    drawn = [generator._wait(3, None) for _ in range(200)]
    assert 0.2 <= min(drawn) < 0.21 and 0.39 < max(drawn) <= 0.4
    assert max(generator._wait(40, None) for _ in range(200)) <= 30
    assert all(7 <= generator._wait(3, 7.0) <= 7.1 for _ in range(200))


@pytest.mark.parametrize("status", [429, 503])
def test_the_endpoint_says_when_to_come_again(status: int) -> None:
    with serve(fails(status, Retry_After="0.4"), says()) as server:
        assert isinstance(only(writer(server)), Reply)
    assert 0.4 <= server.times[1] - server.times[0] <= 1.4


@pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
def test_the_time_to_come_again_may_be_a_date(zone: str) -> None:
    date = email.utils.formatdate(time.time() + 3600, usegmt=True).replace("GMT", zone)
    with serve(fails(429, Retry_After=date)) as server:
        problem = failure(only(writer(server, deadline_s=60)))
    assert problem.kind == "deadline" and re.search(r"next try in (3600|359\d) s", problem.reason)


def test_a_time_to_come_again_that_is_past_is_no_wait() -> None:
    with serve(
        fails(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), fails(503, Retry_After="-5"), says()
    ) as server:
        assert isinstance(only(writer(server)), Reply)
    assert server.times[-1] - server.times[0] < 1


# Trouble that stays


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, "unavailable"), (400, "invalid"), (401, "unavailable"), (403, "unavailable"), (404, "unavailable"),
        (413, "invalid"), (422, "invalid"),
    ],
)  # fmt: skip
def test_a_refusal_is_not_asked_again_and_names_endpoint_model_and_status(status: int, kind: str) -> None:
    with serve(fails(status, Location="http://127.0.0.1:9/v1/chat/completions")) as server:
        problem = failure(only(writer(server)))
    assert problem.kind == kind and f": status {status} (server_says_no)" in problem.reason
    assert server.calls == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_asked_once_and_not_once_a_request(status: int) -> None:
    with serve(fails(status)) as server:
        generator = writer(server, concurrency=1)
        problems = [*generator.attempt([ask(str(n)) for n in range(5)]), only(generator)]
    assert {failure(problem).kind for problem in problems} == {"unavailable"}
    assert server.calls == 1


def test_a_code_that_repeats_the_key_is_not_shown() -> None:
    with serve(fails(401, body=f'{{"error": {{"code": "{KEY}", "message": "private"}}}}')) as server:
        assert failure(only(writer(server))).reason.endswith("status 401")


def test_the_key_and_the_prompt_are_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serve(fails(500), fails(400)) as server:
        failure(only(writer(server)))
    assert "status 400" in caplog.text and KEY not in caplog.text and "private" not in caplog.text
    assert KEY not in repr(vars(writer(server)))


# Answers that are no reply

EMPTY = says("", " ")
GARBLED = [
    EMPTY, answers('{"error": {"message": "overloaded"}}'), answers('{"choices": [{"mess'), answers(""),
    streams({"error": {"message": "private", "code": 500}}), streams("{not json"), streams(chunk("Meet ")),
    streams(chunk("Meet "), done=False), streams(chunk("Meet "), '{"choices": [{"del', done=False),
    says("Meet", finish="content_filter"), says("Meet", finish="tool_calls"), streams(usage(1, 1)),
    streams({"id": "c"}), streams({"choices": None}), streams({"choices": {"a": 1}}), streams({"choices": [7]}),
    streams(42), streams(None), streams("[]"), streams("[" * 100_000), streams(chunk(["Meet"], "stop")),  # type: ignore[arg-type]
    streams({"choices": [{"delta": None, "finish_reason": "stop"}]}), streams(chunk("\ud800", "stop")),
    streams({**chunk("Meet"), "choices": [{"delta": {"content": "Meet"}, "finish_reason": {"private": 1}}]}),
]  # fmt: skip


@pytest.mark.parametrize("garbled", GARBLED, ids=range(len(GARBLED)))
def test_an_answer_that_is_no_reply_is_asked_again_once_and_then_fails(garbled: Step, tmp_path: Path) -> None:
    store = tmp_path / "replies.sqlite"
    with serve(garbled) as server:
        generator = writer(server, store=store)
        problem = failure(only(generator))
    assert problem.kind == "invalid" and problem.reason.endswith(", and was asked twice")
    assert server.calls == 2 and (generator.spent.retries, generator.spent.failures) == (1, 1)
    assert not store.exists() or stored(store) == []


@pytest.mark.parametrize("garbled", [EMPTY, streams(chunk("Me"), done=False), streams("{")])
def test_an_answer_that_is_no_reply_can_be_repaired_by_asking_again(garbled: Step, tmp_path: Path) -> None:
    with serve(garbled, says("Meet ", "it.")) as server:
        generator = writer(server, store=tmp_path / "replies.sqlite")
        reply = only(generator)
    assert isinstance(reply, Reply) and reply.text == "Meet it."
    assert server.calls == 2 and stored(tmp_path / "replies.sqlite") == ["Meet it."]


def test_a_request_that_fails_takes_nothing_from_the_others() -> None:
    with serve(fails(400), says()) as server:
        generator = writer(server, concurrency=1)
        outcomes = generator.attempt([ask(str(n)) for n in range(3)])
    assert failure(outcomes[0]).kind == "invalid"
    assert [outcome.text for outcome in outcomes[1:] if isinstance(outcome, Reply)] == ["re: 1", "re: 2"]


def test_generate_raises_for_the_first_request_without_a_reply(tmp_path: Path) -> None:
    with serve(says(), fails(400), says(), fails(422)) as server:
        generator = writer(server, concurrency=1, store=tmp_path / "replies.sqlite")
        with pytest.raises(
            ReplyInvalid, match=r"^tiny at http://127\S+ gave no reply to request 1: status 400"
        ):
            generator.generate([ask(str(n)) for n in range(4)])
    assert stored(tmp_path / "replies.sqlite") == ["re: 0", "re: 2"]


def test_the_local_writer_tells_failures_apart_too() -> None:
    with LocalGenerator() as local:
        broken, whole = local.attempt([ask(grammar="root ::= nope"), ask(max_tokens=2)])
    assert isinstance(broken, Failure) and broken.kind == "invalid" and "request 0" in broken.reason
    assert isinstance(whole, Reply) and whole.tokens_out == 2
    spent = local.spent
    assert (spent.calls, spent.retries, spent.failures, spent.tokens_out) == (2, 0, 1, 2)
    assert spent.tokens == whole.tokens_in + 2


# Grammars


def test_a_text_matches_a_grammar_from_its_first_character_to_its_last() -> None:
    rules = grammar.parse(BOTTLE)
    assert rules is not None
    assert [
        grammar.matches(rules, text)
        for text in (
            "Meet the bottle.", "Meet the bottle. It holds 750 ml.", "Meet the bottle. ", " Meet the bottle.", "",
            "Meet the bottle. It holds 750 ml. It holds 750 ml.", "Meet the bottle. It",
        )
    ] == [True, True, False, False, False, False, False]  # fmt: skip


def test_many_ways_to_one_text_are_matched_at_once() -> None:
    # 2^60 derivations of one text.
    rules = grammar.parse("root ::= " + "a " * 60 + '"b"\na ::= "x" | "x"')
    assert rules is not None
    assert grammar.matches(rules, "x" * 60 + "b") and not grammar.matches(rules, "x" * 59 + "b")


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("none", {}),
        ("llama.cpp", {"grammar": BOTTLE}),
        ("vllm", {"structured_outputs": {"grammar": BOTTLE}}),
    ],
)
def test_a_grammar_is_sent_as_the_endpoint_takes_it(field: str, sent: dict[str, Any]) -> None:
    with serve(says("Meet the bottle.")) as server:
        assert isinstance(only(writer(server, grammar_field=field), ask(grammar=BOTTLE)), Reply)
    known = {"model", "messages", "max_tokens", "temperature", "seed", "stream", "stream_options"}
    assert {name: value for name, value in server.bodies[0].items() if name not in known} == sent


def test_a_reply_beside_the_grammar_is_asked_again_once_and_then_fails() -> None:
    with serve(says("Sure! Meet the bottle.")) as server:
        problem = failure(only(writer(server, grammar_field="vllm"), ask(grammar=BOTTLE)))
    assert problem.kind == "invalid" and "does not match the grammar" in problem.reason
    assert server.calls == 2


def test_a_grammar_that_nobody_would_hold_to_is_not_paid_for() -> None:
    with serve(says("750")) as server:
        request = ask(grammar="root ::= [0-9]+")
        assert failure(only(writer(server), request)).kind == "invalid"
        assert server.calls == 0
        reply = only(writer(server, grammar_field="llama.cpp"), request)
    assert isinstance(reply, Reply) and reply.text == "750"


# Time and budget


def test_a_stall_inside_a_reply_is_seen_before_the_calls_time_is_over() -> None:
    with serve(stalls("Meet ", comments=True)) as server:
        began = time.monotonic()
        problem = failure(only(writer(server, stall_s=0.1, tries=2)))
    assert "said nothing for 0.1 s inside a reply" in problem.reason and problem.kind == "unavailable"
    assert time.monotonic() - began < 4 and server.calls == 2


def test_a_call_that_is_never_silent_ends_when_its_time_is_over() -> None:
    with serve(says(*"slowly" * 20, pause_s=0.03)) as server:
        problem = failure(only(writer(server, timeout_s=0.5, tries=2)))
        assert "no whole reply within 0.5 s" in problem.reason
        assert server.calls == 2


def test_a_server_may_think_longer_than_a_stall_before_it_begins() -> None:
    with serve(says("Meet it.", first_s=0.4)) as server:
        assert isinstance(only(writer(server, stall_s=0.1)), Reply)


def test_past_the_deadline_no_call_begins_and_no_wait_goes_on() -> None:
    with serve(says(), stalls("Meet ", seconds=9)) as server:
        generator = writer(server, deadline_s=1, timeout_s=9, stall_s=9, concurrency=2)
        began = time.monotonic()
        outcomes = generator.attempt([ask(str(n)) for n in range(6)])
        assert time.monotonic() - began < 4
        assert [type(outcome) for outcome in outcomes].count(Reply) == 1
        assert {failure(o).kind for o in outcomes if not isinstance(o, Reply)} == {"deadline"}
        calls = server.calls
        assert failure(only(generator)).kind == "deadline" and server.calls == calls


def test_who_is_told_to_come_after_the_deadline_does_not_wait_for_it() -> None:
    with serve(fails(429, Retry_After="3600")) as server:
        began = time.monotonic()
        problem = failure(only(writer(server, deadline_s=60)))
    assert problem.kind == "deadline" and "the next try in 3600 s is after the run's 60 s" in problem.reason
    assert server.calls == 1 and time.monotonic() - began < 4


# Addresses, settings and the doctor


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://models.example.com/v1", "plain http to models.example.com"),
        ("http://10.0.0.7:8000/v1", "plain http to 10.0.0.7"),
        ("http://127.0.0.1.example.com/v1", "plain http to 127.0.0.1.example.com"),
        ("ftp://127.0.0.1/v1", "not the address"),
        ("127.0.0.1:8000/v1", "not the address"),
        ("https://", "not the address"),
        ("https://host:port/v1", "not the address"),
        ("https://me:word@models.example.com/v1", "NIGHTMARKET_ENDPOINT_KEY"),
        ("https://models.example.com/v1?key=word", "NIGHTMARKET_ENDPOINT_KEY"),
    ],
)
def test_an_address_that_would_show_or_lose_the_key_is_refused(url: str, problem: str) -> None:
    with pytest.raises(SettingMissing, match=problem) as raised:
        EndpointGenerator(url=url, model="tiny")
    assert "NIGHTMARKET_ENDPOINT_URL" in str(raised.value) and "word" not in str(raised.value).replace(
        "password", ""
    )


@pytest.mark.parametrize(
    ("url", "insecure"),
    [
        ("http://127.0.0.1:8000/v1", False), ("http://127.9.9.9/v1", False), ("http://[::1]:8000/v1", False),
        ("http://localhost:8000/v1", False), ("https://models.example.com/v1", False), ("http://10.0.0.7/v1", True),
    ],
)  # fmt: skip
def test_an_address_is_taken_where_nobody_can_listen_or_the_shop_says_so(url: str, insecure: bool) -> None:
    assert EndpointGenerator(url=url, model="tiny", insecure=insecure).name == "tiny"


@pytest.mark.parametrize("key", ["two words", "umläut", "line\nbreak"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingMissing, match="NIGHTMARKET_ENDPOINT_KEY") as raised:
        EndpointGenerator(url="https://models.example.com/v1", model="tiny", key=SecretStr(key))
    assert key not in str(raised.value)


@pytest.fixture
def configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process whose settings want an endpoint at a closed port."""
    monkeypatch.setenv("NIGHTMARKET_GENERATOR", "endpoint")
    monkeypatch.setenv("NIGHTMARKET_ENDPOINT_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("NIGHTMARKET_ENDPOINT_MODEL", "tiny")
    monkeypatch.setenv("NIGHTMARKET_ENDPOINT_KEY", KEY)
    get_settings.cache_clear()
    yield monkeypatch
    get_settings.cache_clear()


def findings() -> list[doctor.Finding]:
    get_settings.cache_clear()
    return list(doctor._writer())


def test_the_packaged_weights_write_unless_an_endpoint_is_chosen(home: Path) -> None:
    get_settings.cache_clear()
    assert isinstance(llm.open_generator(), LocalGenerator)
    assert findings() == [doctor.Finding("Writer", "ok", "SmolLM2-135M-Instruct-Q4_1, in this process")]


def test_the_settings_choose_the_endpoint(configured: pytest.MonkeyPatch) -> None:
    configured.setenv("NIGHTMARKET_ENDPOINT_REVISION", "7")
    configured.setenv("NIGHTMARKET_ENDPOINT_LANGUAGES", "en, de")
    get_settings.cache_clear()
    generator = llm.open_generator()
    assert isinstance(generator, EndpointGenerator)
    assert (generator.name, generator.version, generator.languages) == ("tiny", "tiny@7", {"en", "de"})
    assert KEY not in repr(get_settings()) + str(get_settings().model_dump())


@pytest.mark.parametrize("name", ["NIGHTMARKET_ENDPOINT_URL", "NIGHTMARKET_ENDPOINT_MODEL"])
def test_a_missing_setting_is_named(configured: pytest.MonkeyPatch, name: str) -> None:
    configured.setenv(name, "")
    get_settings.cache_clear()
    with pytest.raises(SettingMissing, match=f"{name} is not set"):
        llm.open_generator()
    [finding] = findings()
    assert finding.state == "bad" and name in finding.found


def test_the_doctor_says_whether_the_endpoint_answers_and_never_the_key(
    configured: pytest.MonkeyPatch,
) -> None:
    seen = [*findings()]
    with serve(says()) as server:
        configured.setenv("NIGHTMARKET_ENDPOINT_URL", server.url)
        seen += findings()
        configured.setenv("NIGHTMARKET_ENDPOINT_MODEL", "big")
        seen += findings()
        assert server.calls == 0
    where = server.url
    assert [(finding.state, finding.found) for finding in seen] == [
        ("warn", "tiny at http://127.0.0.1:9/v1 does not answer (ConnectError)"),
        ("ok", f"tiny at {where} answers"),
        ("warn", f"big at {where} answers, but does not list that model"),
    ]
    assert KEY not in str(seen)
