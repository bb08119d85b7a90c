"""dbt's build as a task group that Cosmos draws, and its record in `ops.runs`.

Not here: the build itself (transform).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import task

from nightmarket import ledger
from nightmarket.ledger import Outcome
from nightmarket.orchestration.steps import WAREHOUSE, one_thread, run_day
from nightmarket.settings import get_settings


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
    from nightmarket import transform

    instance = context["ti"]
    one_thread()
    recording = ledger.task(instance.dag_id, "dbt", str(context["run_id"]), run_day(context))
    _recorded[:] = [_record.enter_context(recording)]
    _record.enter_context(transform.held_open())


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
