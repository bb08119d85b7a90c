"""People decide in Airflow: the DAG asks about each text once, waits, and takes each answer down as soon as it is there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.dags.conftest import dag_bag
from tests.products.test_copy_reviews import SAGE, SPOON, Mute, night

TRICK = "Aquaron {{ 6 * 7 }} Spoon"


@dataclass
class Story:
    """Three texts wait; one is approved, one edited against the facts, and nobody answers about the third."""

    ids: dict[str, str] = field(default_factory=dict)
    questions: dict[int, Any] = field(default_factory=dict)
    meanwhile: dict[str, str] = field(default_factory=dict)  # a run of the next day, while the first waits
    halfway: list[tuple[str, str]] = field(default_factory=list)  # decisions while questions stood
    kept: str = ""  # state of the waiting run after what a restart of Airflow forgets
    states: dict[str, str] = field(default_factory=dict)
    again: dict[str, Any] = field(default_factory=dict)  # what a run after that asks
    decisions: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    tries: list[tuple[str, str, str | None]] = field(default_factory=list)


class People:
    """Who answers, a turn at a time, while `dag.test()` sleeps because every task that is left waits for a person."""

    def __init__(self, *turns: Callable[[], None]) -> None:
        self.turns, self.at_it, self.naps, self.asleep = list(turns), False, 0, time.sleep

    def sleep(self, seconds: float) -> None:
        from airflow.sdk import DAG

        if sys._getframe(1).f_code is not DAG.test.__code__:
            self.asleep(seconds)
        elif (
            self.at_it
        ):  # a run that they start meanwhile: for its empty groups it sleeps a moment, for people for ever
            self.naps += 1
            assert self.naps < 20, "a run waits for people who are busy with another"
        else:
            self.at_it = True
            self.turns.pop(0)()
            self.at_it = False


def run(day: str) -> Any:
    return dag_bag().dags["review_copy"].test(run_conf={"day": day})


def states(dag_run: Any) -> dict[str, str]:
    names = {ti.key: ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]" for ti in dag_run.get_task_instances()}  # fmt: skip
    return {names[ti.key]: str(ti.state) for ti in dag_run.get_task_instances()}


def waiting() -> dict[int, Any]:
    """The questions that stand, by map index, as Airflow's page gets them."""
    from airflow.models.hitl import HITLDetail
    from airflow.utils.session import create_session

    with create_session() as session:
        asked = session.query(HITLDetail).all()
        parked = [(question.task_instance, question) for question in asked]
        return {
            ti.map_index: SimpleNamespace(
                run_id=ti.run_id, wait=ti.trigger_timeout - question.created_at, subject=question.subject,
                body=question.body, options=question.options, defaults=question.defaults, params=question.params,
            )
            for ti, question in parked
            if ti.state == "awaiting_input"
        }  # fmt: skip


def answer(number: int, choice: str, **changed: str) -> None:
    """Answer with all fields of the form, as Airflow's page does; importing its routes would take seconds."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TriggerEvent
    from airflow.utils import timezone
    from airflow.utils.session import create_session

    with create_session() as session:
        asked = [q for q in session.query(HITLDetail) if q.task_instance.state == "awaiting_input"]
        (question,) = [q for q in asked if q.task_instance.map_index == number]
        question.responded_by, question.responded_at = {"id": "1", "name": "anna"}, timezone.utcnow()
        question.chosen_options = [choice]
        question.params_input = {name: param["value"] for name, param in question.params.items()} | changed
        event = TriggerEvent(question.as_resume_event_payload())
        handle_event_submit(event, task_instance=question.task_instance, session=session)


def nobody_answers(number: int) -> None:
    """Let the time of a question be over, and the scheduler look for such questions."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils import timezone
    from airflow.utils.session import create_session

    with create_session() as session:
        parked = session.query(TaskInstance).filter(
            TaskInstance.task_id == "ask",
            TaskInstance.state == "awaiting_input",
            TaskInstance.map_index == number,
        )
        parked.one().trigger_timeout = timezone.utcnow() - timedelta(seconds=1)
    SchedulerJobRunner(job=Job()).check_awaiting_input_timeouts()


@pytest.fixture(scope="module")
def story(dag_home: Any, airflow_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    from nightmarket import ledger, llm, transform
    from nightmarket.settings import get_settings

    drawn = list(transform.manifest_path().parents[1].glob("models-*.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTMARKET_HOME", str(tmp_path_factory.mktemp("people") / "var"))
        patch.setenv("NIGHTMARKET_SHOP", "demo")
        patch.setattr(llm, "open_generator", lambda day=None: Mute())
        get_settings.cache_clear()
        for path in drawn:  # dbt need not parse its project again to draw the other DAGs
            transform.manifest_path().parents[1].mkdir(parents=True, exist_ok=True)
            shutil.copy(path, transform.manifest_path().parents[1])
        told = Story()

        def decisions() -> list[tuple[str, str, str, str | None]]:
            rows = ledger.rows("copy_reviews").to_pylist()
            return [(row["product_id"], row["decision"], row["reviewer"], row["reason"]) for row in rows]

        def first() -> None:
            told.questions = waiting()
            told.meanwhile = states(run("2026-03-03"))
            told.kept = _after_a_restart()
            answer(0, "Approve", reason="checked the label")
            answer(1, "Edit", text="The spoon comes in gold.")

        def second() -> None:
            told.halfway = [decision[:2] for decision in decisions()]
            nobody_answers(2)

        def third() -> None:
            told.again = {number: question.subject for number, question in waiting().items()}
            answer(0, "Reject", reason="enough")

        people = People(first, second, third)
        patch.setattr("time.sleep", people.sleep)
        night(0, SPOON | {"title": TRICK}, SAGE | {"product_id": "p2"}, SPOON | {"product_id": "p3"})
        told.states = states(run("2026-03-02"))
        run("2026-03-04")
        told.decisions = decisions()
        rows = [row for row in ledger.rows("runs").to_pylist() if row["dag_id"] == "review_copy"]
        told.tries = [(row["task_id"], row["state"], row["error"] or row["note"]) for row in rows]
        yield told
    get_settings.cache_clear()


def _after_a_restart() -> str:
    """The state of the run in a copy of Airflow's database in which everything that was killed is failed."""
    from nightmarket.scheduler.processes import airflow_home, forget_killed_runs
    from nightmarket.settings import get_settings

    database = airflow_home(get_settings()) / "airflow.db"
    database.parent.mkdir(parents=True)
    ours = Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"
    with closing(sqlite3.connect(ours)) as source, closing(sqlite3.connect(database)) as copy:
        source.backup(copy)
    forget_killed_runs(get_settings())
    with closing(sqlite3.connect(database)) as copy:
        found = copy.execute("select state from dag_run where dag_id = 'review_copy' order by id limit 1")
        return str(found.fetchone()[0])


def test_each_text_is_a_question_of_its_own_with_evidence_and_the_review_days_as_its_time(
    story: Story,
) -> None:
    assert sorted(story.questions) == [0, 1, 2]
    asked = story.questions[1]
    assert asked.subject == "p2: Aquaron Weaning Spoon (shop_page, en, version 1)"
    assert timedelta(days=3) <= asked.wait < timedelta(days=3, minutes=10)
    assert (asked.options, asked.defaults) == (["Approve", "Reject", "Edit"], ["Reject"])
    assert "Colour\\: sage ← attributes\\.Colour" in asked.body
    assert {name: param["value"] for name, param in asked.params.items()} == {
        "text": "Meet the Aquaron Weaning Spoon. Made of silicone, in sage. Add it to your basket today.",
        "reason": None, "about": '["p2", "shop_page", "en", 1]',
    }  # fmt: skip


def test_words_of_the_shop_are_no_template(story: Story) -> None:
    assert story.questions[0].subject == f"p1: {TRICK} (shop_page, en, version 1)"
    assert "\\{\\{ 6 \\* 7 \\}\\}" in story.questions[0].body


def test_a_later_run_does_not_ask_again_what_is_being_asked_and_does_not_wait_for_it(story: Story) -> None:
    assert story.meanwhile == {"list_waiting": "success", "ask": "skipped", "take_down": "skipped"}
    assert ("list_waiting", "success", "0 to decide about; 3 asked about before") in story.tries


def test_an_answer_is_taken_down_while_others_are_waited_for(story: Story) -> None:
    assert story.halfway == [("p1", "approve")]
    assert story.decisions[0] == ("p1", "approve", "anna", "checked the label")


def test_a_refused_edit_is_a_failed_task_that_says_why_and_the_text_is_asked_about_again(
    story: Story,
) -> None:
    assert story.states["ask[1]"] == "success" and story.states["take_down[1]"] == "failed"
    (error,) = [error for name, state, error in story.tries if (name, state) == ("take_down[1]", "failed")]
    assert "do not bear this text" in error and "gold" in error
    assert story.again == {0: "p2: Aquaron Weaning Spoon (shop_page, en, version 1)"}
    assert story.decisions[2] == ("p2", "reject", "anna", "enough")


def test_what_nobody_answered_in_time_is_rejected_and_says_so(story: Story) -> None:
    assert story.states["take_down[2]"] == "success"
    assert story.decisions[1] == ("p3", "reject", "the deadline", "nobody decided within 3 days")
    assert len(story.decisions) == 3


def test_a_question_outlasts_the_end_of_its_airflow(story: Story) -> None:
    assert story.kept == "running"


def test_an_answer_is_about_what_the_form_said_and_not_about_what_stands_in_its_place_by_now() -> None:
    from nightmarket.orchestration.people import AskPerson

    now = {"about": '["p9", "shop_page", "en", 1]', "subject": "", "body": "", "text": "words", "days": 1}
    seen = '["p1", "shop_page", "en", 1]'
    ask = AskPerson(task_id="ask", question=now, options=["Approve", "Reject"], defaults="Reject")
    event = {
        "chosen_options": ["Approve"], "params_input": {"text": "words", "reason": None, "about": seen},
        "responded_at": datetime(2026, 3, 2, tzinfo=UTC), "responded_by_user": {"id": "1", "name": "anna"},
    }  # fmt: skip
    assert ask.execute_complete({}, event) == {
        "about": seen, "choice": "Approve", "text": "words", "reason": None, "by": "anna", "at": "2026-03-02T00:00:00+00:00",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dag", "instead"),
    [
        ("review_copy", "waits for people; here, `nightmarket copy list`"),
        ("ask_in_batch", "waits for a provider"),
        ("follow_events", "Here, `nightmarket follow`"),
    ],
)
def test_one_process_does_not_wait_and_says_what_does_the_same(dag: str, instead: str) -> None:
    from nightmarket import night as nights
    from nightmarket.errors import NightFailed

    assert set(nights.IN_AIRFLOW_ALONE) == {"review_copy", "ask_in_batch", "follow_events"}
    with pytest.raises(NightFailed, match=f"{dag} runs in Airflow alone .*{instead}"):
        nights.run(date(2026, 3, 2), [dag], lambda *told: None)
