"""A night's writer may be a provider's batches: nothing is bought twice, and nothing that nobody wants any more."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightmarket import doctor, llm
from nightmarket.errors import ReplyInvalid
from nightmarket.llm import Failure, Message, Reply, Request, batch
from nightmarket.llm.batch import gather, keep, results_of, under_way
from nightmarket.settings import get_settings
from tests.batch_provider import serve
from tests.conftest import choose

DAY, NEXT, THIRD = date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 4)
KEY = "sk-nobody-may-see-this"


@pytest.fixture
def chosen(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A home whose writer is asked in batches."""
    choose(
        monkeypatch, GENERATOR="batch", ENDPOINT_URL="http://127.0.0.1:9/v1", ENDPOINT_MODEL="tiny", ENDPOINT_KEY=KEY
    )  # fmt: skip
    yield monkeypatch
    get_settings.cache_clear()


def about(*names: str) -> list[Request]:
    return [Request((Message("system", "Be brief."), Message("user", name)), max_tokens=40) for name in names]


def night(day: date, *names: str) -> list[Reply | Failure]:
    return llm.open_generator(day).attempt(about(*names))


def texts(day: date, *names: str) -> list[str]:
    return [o.text if isinstance(o, Reply) else o.kind for o in night(day, *names)]


def asked() -> list[str]:
    sent = under_way()
    return [request.messages[-1].content for _, request in sent.asked] if sent else []


def row(status: str = "success", text: str | None = None, finish: str | None = "stop", code: str | None = None) -> dict[str, Any]:  # fmt: skip
    """A result as the provider package writes it, without its index."""
    said = status in ("success", "invalid_output")
    return {
        "status": status, "output": text if status == "success" else None, "finish_reason": finish if said else None,
        "usage": {"input_tokens": 30, "output_tokens": 7} if said else None,
        "error": None if said else {"provider_code": code, "message": "about the prompt"},
    }  # fmt: skip


def answer(*rows: dict[str, Any]) -> None:
    """Land these results for the batch under way, in an order of the provider's own."""
    sent = under_way()
    assert sent is not None and len(sent.asked) == len(rows)
    folder = results_of(sent)
    folder.mkdir(parents=True)
    lines = [json.dumps({"index": index, **row}) for index, row in reversed(list(enumerate(rows)))]
    (folder / "0123456789abcdef.jsonl").write_text("\n".join(lines) + "\n")


# The writer of a night


def test_what_has_no_reply_yet_is_unavailable_and_is_there_in_the_night_after_the_batch(
    chosen: pytest.MonkeyPatch,
) -> None:
    assert texts(DAY, "a", "b", "a") == ["unavailable", "unavailable", "unavailable"]
    assert gather(DAY).rows_out == 2
    answer(row(text="About a."), row(text="About b.", finish="length"))
    kept = keep(DAY)
    assert (kept.rows_in, kept.rows_out, kept.tokens_in, kept.tokens_out) == (2, 2, 60, 14)
    a, b = night(NEXT, "a", "b")
    assert (a, b) == (
        Reply("About a.", 0, 0, "stop", cached=True, size=7),
        Reply("About b.", 0, 0, "length", cached=True, size=7),
    )
    assert gather(NEXT).note == "nothing waits"


def test_a_product_keeps_its_place_until_its_text_is_there_and_facts_left_out_cost_no_second_batch(
    chosen: pytest.MonkeyPatch,
) -> None:
    from nightmarket.products.product_copy import Text, read_sheet, write_many

    choose(chosen, COPY_FIELDS="description")
    cup = {
        "product_id": "p1", "title": "Aquaron Steel Cup", "brand": "Aquaron", "category": "Kitchen > Cups", "locale": "en",
        "attributes": json.dumps({"Material": "stainless steel", "Colour": "turquoise"}), "status": "active",
    }  # fmt: skip
    [failure] = write_many([read_sheet(cup)], llm.open_generator(DAY))
    assert isinstance(failure, Failure) and failure.kind == "unavailable"
    assert gather(DAY).rows_out == 1
    answer(row(text="The Aquaron Steel Cup is made of stainless steel. It cures colds."))
    keep(DAY)
    [text] = write_many([read_sheet(cup)], llm.open_generator(NEXT))
    assert isinstance(text, Text)
    assert text.description.startswith("The Aquaron Steel Cup is made of stainless steel.")
    assert "turquoise" in text.description and "colds" not in text.description
    assert (text.model_name, text.free, text.repaired) == ("tiny", 1, 1)
    assert gather(NEXT).note == "nothing waits"


def test_a_grammar_or_a_conversation_is_invalid_at_once_and_never_sent(chosen: pytest.MonkeyPatch) -> None:
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    requests = [Request((Message("user", "a"),), grammar='root ::= "x"'), Request(turns)]
    assert [o.kind for o in llm.open_generator(DAY).attempt(requests) if isinstance(o, Failure)] == [
        "invalid"
    ] * 2
    assert gather(DAY).note == "nothing waits"


def test_without_a_night_nothing_is_written_down(chosen: pytest.MonkeyPatch) -> None:
    assert isinstance(llm.open_generator().attempt(about("a"))[0], Failure)
    assert gather(DAY).note == "nothing waits"


def test_an_endpoint_and_a_batch_of_one_model_have_one_store(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "a")
    gather(DAY)
    answer(row(text="About a."))
    keep(DAY)
    chosen.setenv("NIGHTMARKET_GENERATOR", "endpoint")
    get_settings.cache_clear()
    assert isinstance(llm.open_generator(), llm.EndpointGenerator)
    assert texts(NEXT, "a") == ["About a."]


# Nothing is bought twice


def test_a_batch_under_way_is_the_only_one_whoever_asks_and_however_often(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "a", "b")
    gather(DAY)
    first = under_way()
    texts(NEXT, "b", "c")
    assert gather(NEXT).note == f"goes on with batch {first.name}" == gather(NEXT).note
    assert under_way() == first
    answer(row(text="About a."), row(text="About b."))
    keep(NEXT)
    assert (gather(NEXT).rows_out, asked()) == (1, ["c"])
    assert under_way().name != first.name


def test_of_two_that_gather_at_once_both_get_one_batch(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "a")
    writer = llm.open_generator(DAY)
    first = writer._outbox.take(version=writer.version, day=DAY)
    texts(DAY, "b")
    assert first is not None
    assert writer._outbox.take(version=writer.version, day=DAY) == first
    assert asked() == ["a"]


def test_a_kill_inside_keep_costs_nothing(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "a", "b")
    gather(DAY)
    answer(row(text="About a."), row(text="About b."))
    with chosen.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("nightmarket.llm.outbox.Outbox.settle", _interrupt)
        keep(DAY)
    assert texts(NEXT, "a", "b") == ["About a.", "About b."]
    assert (keep(DAY).rows_out, under_way()) == (2, None)
    assert keep(DAY).note == "nothing is under way"


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_got_its_reply_another_way_is_not_gathered(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "a", "b")
    writer = llm.open_generator()
    writer._store.keep(
        llm.digest(writer.version, about("a")[0]), "tiny", Reply("About a.", 1, 1, "stop", False, 1)
    )
    gather(DAY)
    assert asked() == ["b"]


def test_what_the_latest_night_does_not_want_any_more_is_not_bought(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "old facts", "b")
    texts(NEXT, "new facts", "b")
    texts(DAY, "b")  # an older day is run again
    gather(NEXT)
    assert asked() == ["b", "new facts"]


def test_another_model_takes_none_of_the_requests_of_the_one_before_but_waits_for_its_batch(
    chosen: pytest.MonkeyPatch,
) -> None:
    texts(DAY, "a")
    gather(DAY)
    texts(DAY, "b")
    chosen.setenv("NIGHTMARKET_ENDPOINT_MODEL", "big")
    get_settings.cache_clear()
    texts(DAY, "c")
    assert gather(DAY).rows_out == 1 and under_way().model == "tiny" and asked() == ["a"]
    answer(row(text="About a."))
    keep(DAY)
    gather(DAY)
    assert under_way().model == "big" and asked() == ["c"]


def test_a_writer_that_needs_no_batch_starts_none_and_still_gets_the_one_that_is_paid_for(
    chosen: pytest.MonkeyPatch,
) -> None:
    texts(DAY, "a")
    chosen.setenv("NIGHTMARKET_GENERATOR", "local")
    get_settings.cache_clear()
    assert gather(DAY).note == "the writer of today needs no batch"
    assert under_way() is None
    chosen.setenv("NIGHTMARKET_GENERATOR", "batch")
    get_settings.cache_clear()
    gather(DAY)
    chosen.setenv("NIGHTMARKET_GENERATOR", "local")
    get_settings.cache_clear()
    assert gather(DAY).rows_out == 1


# Money


def test_a_batch_takes_what_the_nights_money_certainly_bears_and_the_rest_waits(
    chosen: pytest.MonkeyPatch,
) -> None:
    # A request is 9 bytes of instructions and a letter, some 4 tokens, and may be answered with 40.
    choose(chosen, ENDPOINT_PRICE_IN="0", ENDPOINT_PRICE_OUT="1000", COPY_COST_PER_NIGHT="0.05")
    texts(DAY, "a", "b", "c")
    # Half the price in a batch: 0.02 a request.
    assert (gather(DAY).note.split("; ")[1:], asked()) == (["1 wait for another"], ["a", "b"])
    answer(row(text="About a."), row(text="About b."))
    kept = keep(DAY)
    assert (kept.cost, kept.note.split("; ")[1:]) == (0.007, ["0.0070 EUR"])
    # 0.043 of the night is left, which bears the third; another night would bear it too.
    assert (gather(DAY).rows_out, asked()) == (1, ["c"])


def test_a_night_without_money_sends_no_batch(chosen: pytest.MonkeyPatch) -> None:
    choose(chosen, ENDPOINT_PRICE_OUT="1000", COPY_COST_PER_NIGHT="0.01")
    texts(DAY, "a")
    assert (gather(DAY).note, under_way()) == ("1 wait for the money of another night", None)


# What comes back


def test_what_has_no_answer_is_counted_by_its_reason_and_asked_again(chosen: pytest.MonkeyPatch) -> None:
    names = ("good", "error", "expired", "missing", "silent", "blank", "cut", "half")
    texts(DAY, *names)
    gather(DAY)
    answer(
        row(text="About it."), row("error", code="rate_limit_exceeded"), row("expired", code="batch_expired"),
        row("missing"), row("invalid_output"), row(text=" "), row(text="About", finish=None), row(text="\ud83d"),
    )  # fmt: skip
    kept = keep(DAY)
    assert (kept.rows_in, kept.rows_out) == (8, 1)
    assert kept.note.split("; ")[1:] == [
        "1 errored (rate_limit_exceeded)", "1 expired (batch_expired)", "1 missing",
        "1 refused (its reply ended in the middle)", "1 refused (its reply has half a character in it)",
        "2 refused (its reply was empty)",
    ]  # fmt: skip
    assert texts(NEXT, *names) == ["About it."] + ["unavailable"] * 7
    assert gather(NEXT).rows_out == 7


def test_an_error_is_told_by_the_providers_word_and_never_by_its_message_or_a_key(
    chosen: pytest.MonkeyPatch,
) -> None:
    texts(DAY, "a", "b", "c")
    gather(DAY)
    answer(row("error", code="too long"), row("error", code=f"bad-{KEY}"), row("error", code="429"))
    assert keep(DAY).note.split("; ")[1:] == ["2 errored", "1 errored (429)"]


def spoil(day: date, other: dict[str, Any]) -> str:
    """A night and its batch in which the reply to `a` is no good."""
    texts(day, "a", f"other of {day}")
    gather(day)
    assert asked()[0] == "a"
    answer(row("error", code="server_error"), other)
    return keep(day).note


def test_a_request_that_spoils_three_batches_is_given_up_until_it_was_not_wanted_for_a_night(
    chosen: pytest.MonkeyPatch,
) -> None:
    notes = [spoil(date(2026, 3, n), row(text="Fine.")) for n in (2, 3, 4)]
    assert ["given up" in note for note in notes] == [False, False, True]
    assert texts(date(2026, 3, 5), "a", "b") == ["invalid", "unavailable"]
    gather(date(2026, 3, 5))
    assert asked() == ["b"]
    answer(row(text="About b."))
    keep(date(2026, 3, 5))
    texts(date(2026, 3, 6), "c")
    gather(date(2026, 3, 6))
    answer(row(text="About c."))
    keep(date(2026, 3, 6))
    assert texts(date(2026, 3, 7), "a") == ["unavailable"]


def test_a_provider_that_answers_nothing_makes_nobody_give_up(chosen: pytest.MonkeyPatch) -> None:
    for n in (2, 3, 4, 5):
        assert "given up" not in spoil(date(2026, 3, n), row("error", code="insufficient_quota"))
    assert texts(date(2026, 3, 6), "a") == ["unavailable"]


def test_a_provider_that_counts_no_tokens_is_believed_to_have_used_some(chosen: pytest.MonkeyPatch) -> None:
    texts(DAY, "a" * 60)
    gather(DAY)
    answer(row(text="b" * 30) | {"usage": {"input_tokens": 0, "output_tokens": 0}})
    kept = keep(DAY)
    assert (kept.tokens_in, kept.tokens_out) == (23, 10)


def test_answers_that_are_not_there_are_an_error_that_says_where_and_settles_nothing(
    chosen: pytest.MonkeyPatch,
) -> None:
    texts(DAY, "a")
    gather(DAY)
    with pytest.raises(ReplyInvalid, match=r"1 requests to tiny.*no answers in .*/llm/batches/2026-03-02-"):
        keep(DAY)
    assert asked() == ["a"]


# Settings, the doctor, Airflow's connection


def test_the_doctor_says_whether_a_batch_could_be_sent_and_what_waits(chosen: pytest.MonkeyPatch) -> None:
    def found() -> tuple[str, str]:
        get_settings.cache_clear()
        [finding] = doctor._writer()
        assert KEY not in str(finding)
        return finding.state, finding.found

    with chosen.context() as without:
        without.setattr(batch, "version", _not_found)
        assert found() == (
            "warn", "tiny by the provider's batch API, but apache-airflow-providers-common-ai is not installed",
        )  # fmt: skip
    chosen.setattr(batch, "version", lambda _: "1.0.0")
    texts(DAY, "a", "b")
    gather(DAY)
    texts(DAY, "c")
    with serve() as provider:
        chosen.setenv("NIGHTMARKET_ENDPOINT_URL", provider.url)
        assert found() == (
            "ok", f"tiny at {provider.url} answers; 1 requests wait, 2 are in a batch",
        )  # fmt: skip
        provider.has_batches = False
        state, said = found()
    assert (state, "has no batch API for this key (status 404)" in said) == ("warn", True)
    chosen.setenv("NIGHTMARKET_ENDPOINT_MODEL", "")
    state, said = found()
    assert (
        state == "bad"
        and "NIGHTMARKET_GENERATOR is `batch`, but NIGHTMARKET_ENDPOINT_MODEL is not set" in said
    )


def _not_found(name: str) -> str:
    raise batch.PackageNotFoundError(name)


def test_airflow_gets_the_provider_as_a_connection_unless_it_has_one(chosen: pytest.MonkeyPatch) -> None:
    from nightmarket.scheduler.processes import BATCH_CONNECTION, environment

    def given() -> str | None:
        get_settings.cache_clear()
        return environment(get_settings(), 1, schedule="", parse_every_s=1).get(BATCH_CONNECTION)

    assert json.loads(given() or "") == {
        "conn_type": "pydanticai", "host": "http://127.0.0.1:9/v1", "password": KEY,
    }  # fmt: skip
    chosen.setenv("NIGHTMARKET_ENDPOINT_KEY", "")
    chosen.setenv("OPENAI_API_KEY", "of something else")
    assert json.loads(given() or "")["password"] == "none"
    chosen.setenv(BATCH_CONNECTION, "mine")
    assert given() == "mine"
    chosen.delenv(BATCH_CONNECTION)
    chosen.setenv("NIGHTMARKET_GENERATOR", "endpoint")
    assert given() is None


def test_make_up_starts_a_triggerer_where_a_writer_is_asked_in_batches(chosen: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from nightmarket import transform
    from nightmarket.scheduler import serving

    begun: list[set[str]] = []

    def begin(*_: object, beside: dict[str, list[str]], **__: object) -> None:
        begun.append(set(beside))
        raise KeyboardInterrupt

    chosen.setattr(serving, "running", begin)
    chosen.setattr(transform, "ensure_manifest", lambda: None)
    for generator in ("batch", "endpoint"):
        chosen.setenv("NIGHTMARKET_GENERATOR", generator)
        get_settings.cache_clear()
        with pytest.raises(KeyboardInterrupt):
            serving.up(1, Console())
    assert begun == [{"mlflow", "data_docs", "triggerer"}, {"mlflow", "data_docs"}]


def test_what_waits_for_a_provider_goes_on_with_the_next_airflow(chosen: pytest.MonkeyPatch) -> None:
    from nightmarket.scheduler.processes import airflow_home, forget_killed_runs

    database = airflow_home(get_settings()) / "airflow.db"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        for table in ("dag_run", "task_instance"):
            connection.execute(f"create table {table} (dag_id text, state text, end_date text)")
        connection.executemany(
            "insert into dag_run values (?, 'running', null)", [["ask_in_batch"], ["other"]]
        )
        connection.executemany(
            "insert into task_instance values (?, 'deferred', null)", [["ask_in_batch"], ["other"]]
        )
        connection.execute("create table partitioned_asset_key_log (asset_partition_dag_run_id int)")
        connection.execute("create table asset_partition_dag_run (id int, created_dag_run_id int)")
        connection.execute("create table asset_dag_run_queue (id int)")
    assert forget_killed_runs(get_settings()) == 1
    with closing(sqlite3.connect(database)) as connection:
        left = connection.execute(
            "select dag_id, state from dag_run union all select dag_id, state from task_instance"
        ).fetchall()
    assert left == [
        ("ask_in_batch", "running"),
        ("other", "failed"),
        ("ask_in_batch", "deferred"),
        ("other", "failed"),
    ]
