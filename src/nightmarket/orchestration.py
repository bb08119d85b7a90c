"""Where this package meets the scheduler: assets, defaults, pools, the day of a run, and how a step becomes a task.

Here: everything that knows Airflow (and Cosmos, which shows dbt's models as tasks). Not here: what a step does
(landing, transform, products, training), the order of steps within a DAG (dags/), and starting Airflow (scheduler).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import (
    Asset,
    CronPartitionTimetable,
    CronTriggerTimetable,
    Param,
    PartitionedAssetTimetable,
    PartitionedAtRuntime,
    get_current_context,
    task,
    task_group,
)
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from nightmarket import ledger
from nightmarket.errors import NightmarketError, SettingMissing
from nightmarket.ledger import Outcome
from nightmarket.night import call
from nightmarket.settings import get_settings

WAREHOUSE = "warehouse"
"""Pool of one slot: the tasks that write the warehouse take turns instead of failing on its lock."""
POOLS = {WAREHOUSE: 1}

DEFAULTS: dict[str, Any] = {
    "owner": "nightmarket",
    "retries": 1,
    "retry_delay": timedelta(seconds=5),
    "execution_timeout": timedelta(minutes=30),
}
DAY = {
    "day": Param(
        None,
        type=["null", "string"],
        format="date",
        description="Run for this day: it sees events before the day's midnight in the shop's time zone.",
    )
}
COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1),
    "catchup": False,
    "max_active_runs": 1,
    "default_args": DEFAULTS,
    "params": DAY,
}
"""What every DAG of the night has in common; the rest stands in its file."""
RUNS_OF_PEOPLE = {"max_active_runs": 100}
"""What is different where people are waited for: a run stands for days and holds nothing, so no later one waits for it."""


def _asset(group: str, name: str) -> Asset:
    return Asset(name=name, uri=f"nightmarket://{group}/{name}", group=group)


CUSTOMERS = _asset("marts", "customers")
PRODUCTS = _asset("marts", "products")
ORDER_ITEMS = _asset("marts", "order_items")
PURCHASES = _asset("marts", "purchases")
CUSTOMER_FEATURES = _asset("marts", "customer_features")
CUSTOMER_AFFINITIES = _asset("marts", "customer_affinities")
RECOMMENDATION_RULES = _asset("marts", "recommendation_rules")
EXPOSURES = _asset("marts", "exposures")
MARTS = (
    CUSTOMERS, PRODUCTS, ORDER_ITEMS, PURCHASES, CUSTOMER_FEATURES, CUSTOMER_AFFINITIES, RECOMMENDATION_RULES, EXPOSURES,
)  # fmt: skip

RANKER = _asset("models", "ranking")
ENCODER = _asset("models", "encoder")
WRITER = _asset("models", "writer")

CUSTOMER_PROFILES = _asset("outputs", "customer_profiles")
CUSTOMER_INTERESTS = _asset("outputs", "customer_interests")
RECOMMENDATIONS = _asset("outputs", "recommendations")
SIMILAR_PRODUCTS = _asset("outputs", "similar_products")
DEFAULT_RECOMMENDATIONS = _asset("outputs", "default_recommendations")
RECOMMENDATION_LIFT = _asset("outputs", "recommendation_lift")
LISTS = (RECOMMENDATIONS, SIMILAR_PRODUCTS, DEFAULT_RECOMMENDATIONS, RECOMMENDATION_LIFT)
PRODUCT_COPY = _asset("outputs", "product_copy")
COPY_CLAIMS = _asset("outputs", "copy_claims")

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def every_night() -> CronPartitionTimetable | PartitionedAtRuntime:
    """The night's own schedule: a run a day by cron, whose partition is that day; without a cron only when asked."""
    return _by_day(get_settings().schedule)


def once_a_week() -> CronPartitionTimetable | PartitionedAtRuntime:
    """The schedule of what is tuned rarely: a run by cron, for the day it begins on; without a cron only when asked."""
    return _by_day(get_settings().writer_schedule)


def when_asked() -> PartitionedAtRuntime:
    """The schedule of what runs when somebody asks, for a day."""
    return PartitionedAtRuntime()


def _by_day(cron: str) -> CronPartitionTimetable | PartitionedAtRuntime:
    return CronPartitionTimetable(cron, timezone="UTC", key_format="%Y-%m-%d") if cron else when_asked()


def between_nights() -> CronTriggerTimetable | None:
    """The schedule of what looks for new files between two nights; None (only when asked) without a cron."""
    cron = get_settings().follow_schedule
    return CronTriggerTimetable(cron, timezone="UTC") if cron else None


def after(*assets: Asset) -> PartitionedAssetTimetable:
    """Run for a day once all of `assets` have that day."""
    wanted = assets[0] if len(assets) == 1 else assets[0] & assets[1]
    for asset in assets[2:]:
        wanted = wanted & asset
    return PartitionedAssetTimetable(assets=wanted)


def run_day(context: Mapping[str, Any] | None = None) -> date:
    """The day that the current DAG run of a night is for; the only place that decides it.

    The day asked for (`params.day`), else the run's partition, else the day that the triggering asset carries, else
    the date of the run itself.
    """
    context = get_current_context() if context is None else context
    asked = (context.get("params") or {}).get("day")
    if asked:
        return date.fromisoformat(str(asked))
    run = context["dag_run"]
    if key := getattr(run, "partition_key", None):
        return date.fromisoformat(str(key)[:10])
    events = context.get("triggering_asset_events") or {}
    days = [
        event.extra["day"] for asset in events for event in events[asset] if (event.extra or {}).get("day")
    ]
    if days:
        return date.fromisoformat(str(max(days)))
    moment: datetime = getattr(run, "logical_date", None) or run.run_after
    return moment.date()


def coming_day(context: Mapping[str, Any]) -> date:
    """The day that a run between two nights is for: the day asked for (`params.day`), else that of the coming night."""
    from nightmarket import microbatch

    asked = (context.get("params") or {}).get("day")
    return microbatch.required_day(date.fromisoformat(str(asked)) if asked else None)


def new_files(task_id: str) -> Any:
    """A task that skips what follows while no landing file is new; it leaves no row in `ops.runs`, and takes a second."""

    def look() -> bool:
        from nightmarket import microbatch

        asked = (get_current_context().get("params") or {}).get("day")
        return microbatch.has_work(date.fromisoformat(str(asked)) if asked else None)

    return task.short_circuit(task_id=task_id)(look)()


def step(
    task_id: str, verb: Callable[..., Outcome], *, outlets: Sequence[Asset] = (),
    day_of: Callable[[Mapping[str, Any]], date] = run_day, **arguments: Any,
) -> Any:  # fmt: skip
    """A task that runs `verb(day, run_id)`, or `verb(day)`, for the day of its DAG run.

    `day_of` tells that day from the run's context. The try is recorded in `ops.runs`. What it returns are counts, never rows. An asset in `outlets` gets an event that
    carries the day, so that what waits for it runs for the same day. Errors that trying again cannot help (a failed
    gate, a broken file) fail the task at once.
    """

    def run() -> dict[str, Any]:
        context = get_current_context()
        day = day_of(context)
        with _a_try(context, day) as record:
            outcome = call(verb, day, str(context["run_id"]))
            record(outcome)
        for asset in outlets:
            event = context["outlet_events"][asset]
            event.extra.update({"day": day.isoformat(), "rows_out": outcome.rows_out})
            event.add_partitions(day.isoformat())
        return {"day": day.isoformat(), **outcome.as_dict()}

    return task(task_id=task_id, outlets=list(outlets), **arguments)(run)()


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


@contextmanager
def _a_try(context: Mapping[str, Any], day: date) -> Iterator[Callable[[Outcome], None]]:
    """Record a try of the current task in `ops.runs`; an error that trying again cannot help fails it at once."""
    instance = context["ti"]
    name = instance.task_id if instance.map_index < 0 else f"{instance.task_id}[{instance.map_index}]"
    _one_thread()
    try:
        with ledger.task(instance.dag_id, name, str(context["run_id"]), day) as record:
            yield record
    except NightmarketError as error:
        if error.retry_helps:
            raise
        raise AirflowFailException(str(error)) from error


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
        with _a_try(context, run_day(context)) as record:
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
        with _a_try(context, run_day(context)) as record:
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


def dbt_build(group_id: str = "dbt") -> tuple[Any, Any]:
    """dbt's build as a task group: one dbt process does the work, a task a model shows it and can be cleared alone.

    Returns the task that decides whether a build is needed (nothing landed: the group is skipped) and the group. A
    cleared model runs `dbt run` for itself. The models' tasks start when the build is over: watching it meanwhile
    needs a triggerer (250 MB) and two processes a model instead of one.
    """
    from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
    from cosmos.constants import ExecutionMode, InvocationMode, LoadMode, TestBehavior

    from nightmarket import transform

    project = get_settings().project / "dbt"
    group = DbtTaskGroup(
        group_id=group_id,
        project_config=ProjectConfig(
            dbt_project_path=project,
            manifest_path=_drawn_from(),
            project_name="nightmarket",
            env_vars=transform.environment(),
            install_dbt_deps=False,
        ),
        profile_config=ProfileConfig(
            profile_name="nightmarket", target_name="duckdb", profiles_yml_filepath=project / "profiles.yml"
        ),
        render_config=RenderConfig(load_method=LoadMode.DBT_MANIFEST, test_behavior=TestBehavior.NONE),
        execution_config=ExecutionConfig(
            execution_mode=ExecutionMode.WATCHER,
            invocation_mode=InvocationMode.DBT_RUNNER,
            setup_operator_args={
                "pool": WAREHOUSE,
                # TestBehavior.NONE draws no task a test; the build still runs them all, and one that fails stops it.
                "dbt_cmd_flags": ["--resource-type", "test"],
                "pre_execute": _open_dbt_record,
                "post_execute": _close_dbt_record,
                "on_failure_callback": _fail_dbt_record,
            },
        ),
        operator_args={
            "retries": 0, "emit_datasets": False, "deferrable": False, "poke_interval": 1.0,
        },
    )  # fmt: skip
    producer = group.children[f"{group_id}.{_PRODUCER}"]
    models = [child for child in group.get_roots() if child is not producer]
    needed = task.short_circuit(task_id="dbt_needed", ignore_downstream_trigger_rules=False)(_dbt_needed)()
    needed >> [producer, *models]
    producer._make_parse_callable = partial(_tell_models, producer._make_parse_callable)
    for model in models:
        # A build that failed still lets each model say whether it was built; one that was skipped skips them.
        model.trigger_rule = "none_skipped"
        producer >> model
    return needed, group


_PRODUCER = "dbt_producer_watcher"
_HOW_A_MODEL_ENDED = frozenset(
    {"NodeFinished", "SkippingDetails", "LogSkipBecauseError", "RunResultError", "RunResultFailure"}
)
_record = ExitStack()
_recorded: list[Callable[[Outcome], None]] = []


def _drawn_from() -> Path:
    """The part of dbt's manifest that Cosmos draws tasks from: the models, 30 kB instead of 1 MB.

    Every task's process reads it. It has a name of its own for each state of the dbt project and appears whole: dbt
    writes its own manifest anew in each build, and a process that reads it meanwhile would find no DAG.
    """
    from nightmarket import transform

    whole = transform.manifest_path()
    path = whole.parents[1] / f"models-{transform.project_digest()}.json"
    if not path.exists():
        manifest = json.loads(transform.ensure_manifest().read_text())
        kept = (
            "unique_id",
            "resource_type",
            "package_name",
            "original_file_path",
            "depends_on",
            "tags",
            "config",
            "fqn",
        )
        models = {
            key: {name: node[name] for name in kept if name in node}
            for key, node in manifest["nodes"].items()
            if node["resource_type"] in {"model", "seed", "snapshot"}
        }
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text(json.dumps({"metadata": manifest["metadata"], "nodes": models}))
        scratch.replace(path)
    return path


def _dbt_needed() -> bool:
    from nightmarket import transform

    return bool(transform.needs_build())


def _tell_models(make: Callable[[], Callable[..., None]]) -> Callable[..., None]:
    """The build's listener, told only how each model ended; of the rest it sees the text, for its log.

    Cosmos sends several messages a node and event to Airflow's API, tests included: 500 for 23 models and 61 tests,
    which doubles the time of a build that takes seconds.
    """
    from nightmarket import transform

    listen = make()
    # dbt writes what it compiled there, and not into the copy of the project that Cosmos runs it in.
    compiled_in = str(transform.manifest_path().parents[1])

    def told(line: str, extra: dict[str, Any]) -> None:
        with suppress(ValueError):
            event = json.loads(line)
            node = event.get("data", {}).get("node_info", {})
            if node and (
                node.get("resource_type") == "test" or event["info"]["name"] not in _HOW_A_MODEL_ENDED
            ):
                del event["data"]["node_info"]
                line = json.dumps(event)
        listen(line, extra | {"project_dir": compiled_in})

    return told


def _open_dbt_record(context: Mapping[str, Any]) -> None:
    instance = context["ti"]
    _one_thread()
    recording = ledger.task(instance.dag_id, "dbt", str(context["run_id"]), run_day(context))
    _recorded[:] = [_record.enter_context(recording)]


def _close_dbt_record(context: Mapping[str, Any], result: object = None) -> None:
    from nightmarket import transform

    ran = json.loads(transform.manifest_path().with_name("run_results.json").read_text())["results"]
    kinds = [node["unique_id"].split(".")[0] for node in ran]
    for record in _recorded:
        record(Outcome(note=f"{kinds.count('model')} models, {kinds.count('test')} data tests"))
    _record.close()


def _fail_dbt_record(context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, BaseException):
        # The ledger writes the failure and raises it again; here it has been raised already.
        with suppress(BaseException):
            _record.__exit__(type(error), error, error.__traceback__)


def _one_thread() -> None:
    """Tasks run side by side, so each keeps to the threads it was given."""
    threads = str(get_settings().threads)
    for name in _ONE_THREAD:
        os.environ[name] = threads
