"""The task that sends a batch of requests to a provider and waits for its answers.

Not here: what is in a batch, and what becomes of its answers (llm.batch).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from nightmarket.errors import SettingMissing
from nightmarket.ledger import Outcome
from nightmarket.orchestration.steps import step

BATCH_CONNECTION = "nightmarket_batch"
"""Airflow's name for the provider whose batch API answers: type `pydanticai`, address as host, key as password."""
BATCH_WAIT = timedelta(hours=25)
"""A provider ends a batch after 24 h itself, with what it has answered by then."""


def ask_provider(task_id: str) -> Any:
    """A task that sends the batch under way to the provider and waits for its answers, without a worker meanwhile.

    Skipped where no batch is under way. What was sent is known by the batch and not by the run that sent it: a retry, a
    cleared task and the run of another night all wait for the same answers and pay nothing. Without the extra `batch` it
    is a task that says so.
    """
    from nightmarket.llm import batch

    if not batch.is_installed():
        return step(task_id, _nobody_asks)
    from airflow.providers.common.ai.exceptions import LLMBatchCancelledError
    from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator

    class AskProvider(LLMBatchOperator):
        def execute(self, context: Any) -> Any:
            return self._about(context, super().execute)

        def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
            return self._about(context, partial(super().execute_complete, event=event))

        def _about(self, context: Any, go_on: Callable[[Any], Any]) -> Any:
            asked = batch.under_way()
            if asked is None:
                raise AirflowSkipException("Nothing waits for a provider.")
            # Here and not before, so that no prompt stands in Airflow's database.
            self.requests = [batch.as_provider_takes(request) for _, request in asked.asked]
            self.model_id = f"openai:{asked.model}"
            self.result_path = str(batch.results_of(asked))
            # The operator knows what it sent by the task instance it sees; ours outlives DAG runs.
            instance = SimpleNamespace(
                dag_id=self.dag_id, task_id=self.task_id, run_id=asked.name, map_index=-1
            )
            try:
                return go_on({**context, "task_instance": instance})
            except LLMBatchCancelledError as error:
                # Somebody cancelled it at the provider. What was answered before has landed and is paid for; to send
                # all of it again, as a retry would, pays twice.
                self.log.warning("%s", error)
                return {"batch": asked.name, "terminal_reason": "cancelled"}

    return AskProvider(
        task_id=task_id,
        requests=[],
        result_path="",
        llm_conn_id=BATCH_CONNECTION,
        deferrable=True,
        poll_interval=300,
        timeout=int(BATCH_WAIT.total_seconds()),
        execution_timeout=BATCH_WAIT + timedelta(hours=1),
        # A task that is cleared, marked or late waits for the same batch later.
        cancel_on_kill=False,
        cancel_on_timeout=False,
        on_stale_state="fail",
    )


def _nobody_asks(day: date) -> Outcome:
    from nightmarket.llm import batch

    raise SettingMissing(
        f"A batch cannot be sent: {batch.PACKAGE} is not installed. Install the extra `batch` (docs/operations.md, In "
        f"batches at half the price) where Airflow's workers and its triggerer run, then clear this task."
    )
