"""The provider's batches by the real provider package: what ends how, and that nothing is bought twice."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import aclosing
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightmarket import llm
from nightmarket.errors import SettingMissing
from nightmarket.llm import Message, Reply, Request, batch
from nightmarket.settings import get_settings
from tests.batch_provider import Provider, Script, errs, says, serve

ROOT = Path(__file__).parents[2]
DAY, NEXT = date(2026, 3, 2), date(2026, 3, 3)
with_extra = pytest.mark.skipif(
    not batch.is_installed(), reason="needs the extra `batch` (apache-airflow-providers-common-ai)"
)


@pytest.fixture(scope="module")
def dag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags" / "ask_in_batch.py")
    assert bag.import_errors == {}
    return bag.dags["ask_in_batch"]


def choose(server: Provider, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("NIGHTMARKET_GENERATOR", "batch")
    patch.setenv("NIGHTMARKET_ENDPOINT_URL", server.url)
    patch.setenv("NIGHTMARKET_ENDPOINT_MODEL", "tiny")
    connection = {"conn_type": "pydanticai", "host": server.url, "password": "the-key"}
    patch.setenv("AIRFLOW_CONN_NIGHTMARKET_BATCH", json.dumps(connection))
    get_settings.cache_clear()


@pytest.fixture
def provider(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider that a fresh home asks in batches."""
    with serve() as server:
        choose(server, monkeypatch)
        yield server
    get_settings.cache_clear()


def night(day: date, *names: str) -> list[str]:
    """What a night that wants these gets."""
    requests = [Request((Message("system", "Be brief."), Message("user", n)), max_tokens=40) for n in names]
    outcomes = llm.open_generator(day).attempt(requests)
    return [o.text if isinstance(o, Reply) else o.kind for o in outcomes]


def send(dag: Any, run_id: str) -> Any:
    """Gather and send as the run `run_id`, up to where its task leaves the worker; returns how to go on."""
    from airflow.sdk.exceptions import TaskDeferred

    batch.gather(DAY)
    pushed = SimpleNamespace(xcom_push=lambda **_: None)
    context = {"task_instance": SimpleNamespace(run_id=run_id, map_index=-1), "ti": pushed}
    task = dag.get_task("ask")
    try:
        manifest = task.execute(context)
    except TaskDeferred as left:
        trigger = left.trigger
        return lambda: task.execute_complete(context, asyncio.run(_event(trigger)))
    return lambda: manifest


async def _event(trigger: Any) -> dict[str, Any]:
    async with aclosing(trigger.run()) as events:
        return (await anext(events)).payload


def run(dag: Any, run_id: str) -> list[str]:
    """A whole run; what `keep` tells of requests without a reply."""
    send(dag, run_id)()
    return batch.keep(DAY).note.split("; ")[1:]


@with_extra
def test_a_run_of_the_dag_sends_all_of_a_request_and_the_next_night_writes_from_the_answers(
    dag: Any, dag_home: Path, airflow_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as server:
        choose(server, monkeypatch)
        night(DAY, "a very particular cup", "b")
        ended = dag.test(run_conf={"day": DAY.isoformat()}).get_task_instances()
        assert night(NEXT, "a very particular cup", "b") == ["About a very particular cup.", "About b."]
    get_settings.cache_clear()
    assert {ti.task_id: str(ti.state) for ti in ended} == {
        "gather": "success", "ask": "success", "keep": "success",
    }  # fmt: skip
    [sent] = server.batches.values()
    assert sent.lines[1]["body"] == {
        "model": "tiny", "temperature": 0.0, "seed": 7, "max_completion_tokens": 40,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "b"}],
    }  # fmt: skip
    assert server.keys == {"Bearer the-key"}
    airflow_knows = b"".join(
        path.read_bytes() for path in Path(os.environ["AIRFLOW_HOME"]).glob("airflow.db*")
    )
    assert sent.id.encode() in airflow_knows
    assert b"particular cup" not in airflow_knows and b"the-key" not in airflow_knows


@with_extra
def test_where_nothing_waits_nothing_is_sent_and_the_task_is_skipped(dag: Any, provider: Provider) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match="Nothing waits"):
        send(dag, "one")
    assert provider.files == {}


@with_extra
def test_of_a_batch_with_errors_what_was_answered_is_kept_and_the_rest_is_sent_again(
    dag: Any, provider: Provider
) -> None:
    provider.script = Script(line=lambda p: errs("rate_limit_exceeded") if p == "b" else says(f"About {p}."))
    night(DAY, "a", "b", "c")
    assert run(dag, "one") == ["1 errored (rate_limit_exceeded)"]
    provider.script = Script()
    assert night(NEXT, "a", "b", "c") == ["About a.", "unavailable", "About c."]
    assert run(dag, "two") == []
    assert provider.bought() == ["a", "b", "c", "b"]
    assert list((get_settings().state / "llm" / "batches").iterdir()) == []


@with_extra
@pytest.mark.parametrize("ends", ["expired", "cancelled"])
def test_a_batch_that_ends_early_leaves_what_it_had_answered_and_only_the_rest_is_bought_again(
    dag: Any, provider: Provider, ends: str
) -> None:
    provider.script = Script(ends, lambda p: says("About a.") if p == "a" else errs(f"batch_{ends}"))
    night(DAY, "a", "b")
    assert run(dag, "one") == [f"1 {ends} (batch_{ends})"]
    provider.script = Script()
    assert night(NEXT, "a", "b") == ["About a.", "unavailable"]
    run(dag, "two")
    assert provider.bought() == ["a", "b", "b"]


@with_extra
def test_a_reply_that_is_no_good_is_not_kept(dag: Any, provider: Provider) -> None:
    said = {"a": says(None), "b": says("No.", "content_filter"), "c": None, "d": says("About d.", "length")}
    provider.script = Script(line=lambda prompt: said[prompt])
    night(DAY, *said)
    assert run(dag, "one") == [
        "1 missing",
        "1 refused (its reply ended with finish_reason `content_filter`)",
        "1 refused (its reply was empty)",
    ]
    assert night(NEXT, *said) == ["unavailable", "unavailable", "unavailable", "About d."]


@with_extra
def test_after_a_kill_between_sending_and_keeping_the_run_of_another_night_takes_the_same_answers(
    dag: Any, provider: Provider
) -> None:
    night(DAY, "a")
    send(dag, "killed while it waits")
    night(NEXT, "a", "b")
    send(dag, "killed before it keeps")()
    assert run(dag, "two") == []
    assert night(NEXT, "a", "b") == ["About a.", "unavailable"]
    assert provider.bought() == ["a"]


@with_extra
def test_a_batch_whose_receipt_was_lost_is_found_at_the_provider_and_not_sent_again(
    dag: Any, provider: Provider
) -> None:
    night(DAY, "a")
    provider.script = Script(breaks_after_submit=True)
    with pytest.raises(Exception, match="the line went dead"):
        send(dag, "one")
    provider.script = Script()
    run(dag, "two")
    assert night(NEXT, "a") == ["About a."]
    assert provider.bought() == ["a"]


@with_extra
def test_a_batch_under_way_is_sent_as_it_was_whatever_the_settings_say_now_and_no_other_form_replaces_it(
    dag: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(DAY, "a")
    send(dag, "killed")
    with monkeypatch.context() as upgraded, pytest.raises(Exception, match="no longer matches its input"):
        upgraded.setattr(batch, "as_provider_takes", lambda request: {"prompt": "another form"})
        send(dag, "two")
    monkeypatch.setenv("NIGHTMARKET_ENDPOINT_MODEL", "big")
    monkeypatch.setenv("NIGHTMARKET_GENERATOR", "endpoint")
    get_settings.cache_clear()
    assert run(dag, "three") == []
    assert [(sent.prompts, sent.cancels) for sent in provider.batches.values()] == [(["a"], 0)]


@with_extra
def test_a_batch_that_the_provider_refuses_whole_is_an_error_and_is_sent_again(
    dag: Any, provider: Provider
) -> None:
    night(DAY, "a")
    provider.script = Script("failed")
    with pytest.raises(Exception, match="failed before processing"):
        run(dag, "one")
    provider.script = Script()
    run(dag, "two")
    assert night(NEXT, "a") == ["About a."]


@with_extra
def test_a_task_that_is_killed_or_late_leaves_its_batch_to_the_provider(dag: Any, provider: Provider) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    night(DAY, "a")
    batch.gather(DAY)
    task = dag.get_task("ask")
    context = {"task_instance": None, "ti": SimpleNamespace(xcom_push=lambda **_: None)}
    with pytest.raises(TaskDeferred) as left:
        task.execute(context)
    asyncio.run(left.value.trigger.on_kill())
    task.on_kill()
    assert (left.value.trigger.cancel_on_timeout, left.value.timeout) == (False, task.execution_timeout)
    assert [sent.cancels for sent in provider.batches.values()] == [0]


@pytest.mark.skipif(batch.is_installed(), reason="the extra `batch` is there")
def test_without_the_extra_the_dag_has_the_same_tasks_and_the_one_that_asks_says_what_to_install(
    dag: Any,
) -> None:
    from nightmarket.orchestration.provider import _nobody_asks

    assert [task.task_id for task in dag.topological_sort()] == ["gather", "ask", "keep"]
    with pytest.raises(SettingMissing, match="apache-airflow-providers-common-ai is not installed"):
        _nobody_asks(DAY)


def test_the_airflow_of_make_up_gives_this_task_its_connection() -> None:
    from nightmarket.orchestration.provider import BATCH_CONNECTION
    from nightmarket.scheduler import processes

    assert f"AIRFLOW_CONN_{BATCH_CONNECTION.upper()}" == processes.BATCH_CONNECTION
