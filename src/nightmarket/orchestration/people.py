"""Questions to people in Airflow's *Required Actions*, and their answers handed on as soon as they are there.

Not here: what is asked, and what an answer does (products.product_copy.questions).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, get_current_context, task, task_group
from airflow.sdk.definitions.param import ParamsDict

from nightmarket.ledger import Outcome
from nightmarket.orchestration.steps import a_try, run_day

RUNS_OF_PEOPLE = {"max_active_runs": 100}
"""What is different where people are waited for: a run stands for days and holds nothing, so no later one waits for it."""


class AskPerson(HITLOperator):
    """Asks a person about one text, in Airflow's *Required Actions*, and holds no worker while it waits.

    Its result is the answer: `about`, `choice`, `text`, `reason`, `by` (None: nobody answered in time) and `at` (ISO).
    `about` comes back from the form that the person saw: an instance that is cleared shows the question that it asked first,
    even where the list it is mapped over is another one by now.
    """

    # Not subject and body, as in the operator above: words of the shop must never be rendered as a template.
    template_fields = ("question",)

    def __init__(self, *, question: Any, **arguments: Any) -> None:
        # The real time is the question's; without any here the execution time-out would be taken for it.
        super().__init__(subject="", response_timeout=timedelta(days=1), **arguments)
        self.question = question

    def execute(self, context: Any) -> Any:
        self._take_up()
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        self._take_up()
        answer = super().execute_complete(context, event)
        person, form = answer["responded_by_user"], answer["params_input"]
        return {
            "choice": answer["chosen_options"][0],
            "by": (person["name"] or person["id"]) if person else None,
            "at": answer["responded_at"].isoformat(),
            **{name: form.get(name) for name in ("about", "text", "reason")},
        }

    def _take_up(self) -> None:
        """Become the operator of this instance's question; a task that goes on after its wait is made anew."""
        self.subject, self.body = self.question["subject"], self.question["body"]
        self.response_timeout = timedelta(days=self.question["days"])
        # A page sends null for a field that was emptied.
        optional = partial(Param, type=["null", "string"])
        self.params = ParamsDict({
            "text": optional(
                self.question["text"], title="Text", format="multiline",
                description="For Edit: write it as it should be. Title and bullets are made of the facts.",
            ),
            "reason": optional(None, title="Reason", description="Stands beside the decision."),
            "about": optional(
                self.question["about"], title="About", description="Leave it: it says which version is decided about.",
            ),
        })  # fmt: skip


def to_decide(task_id: str, find: Callable[[Collection[str]], tuple[Sequence[Any], Outcome]]) -> Any:
    """A task that lists questions for `decided`: what `find` makes, told which ones other runs of its DAG still ask.

    One such task at a time: two runs that begin together do not ask the same.
    """

    def run() -> list[dict[str, Any]]:
        context = get_current_context()
        with a_try(context, run_day(context)) as record:
            questions, outcome = find(_asked_elsewhere(context, task_id))
            record(outcome)
        return [question.as_dict() for question in questions]

    return task(task_id=task_id, max_active_tis_per_dag=1)(run)()


def decided(
    questions: Any, take_down: Callable[..., Outcome], *, options: Sequence[str], default: str
) -> None:
    """For each question of `to_decide`: ask a person, and hand the answer to `take_down` as soon as it is there.

    A question and its answer are a group of their own: who answers first does not wait for the others.
    """

    def run(answer: Any) -> dict[str, Any]:
        context = get_current_context()
        with a_try(context, run_day(context)) as record:
            outcome = take_down(**answer | {"at": datetime.fromisoformat(answer["at"])})
            record(outcome)
        return outcome.as_dict()

    @task_group(group_id="decide", prefix_group_id=False)
    def decide(question: Any) -> None:
        asked = AskPerson(task_id="ask", question=question, options=[*options], defaults=default)
        task(task_id=_LAST)(run)(asked.output)

    decide.expand(question=questions)


_LAST = "take_down"
_OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def _asked_elsewhere(context: Mapping[str, Any], task_id: str) -> set[str]:
    """The `about` of every question that another run of this DAG asks and whose answer is not taken down yet."""
    instance, asked = context["ti"], set[str]()
    for run_id, states in instance.get_task_states(dag_id=instance.dag_id, task_ids=[_LAST]).items():
        going_on = {name for name, state in states.items() if str(state) not in _OVER}
        if run_id == context["run_id"] or not going_on:
            continue
        questions = instance.xcom_pull(task_ids=task_id, run_id=run_id) or []
        # Before the list is there, and until it is spread out, the last task is one without a number.
        asked |= {
            question["about"]
            for number, question in enumerate(questions)
            if going_on & {_LAST, f"{_LAST}_{number}"}
        }
    return asked
