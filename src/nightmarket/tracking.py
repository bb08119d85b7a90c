"""The one door to MLflow: what was trained, which version is champion, and who changed that when.

Here: runs, the registry `nightmarket.<task>` with its aliases `champion`, `challenger` and `previous`, and the
promotion ledger beside them. MLflow is the truth: an alias moved by hand in its UI holds, and `reconcile` writes it down.
Not here: whether a version may become champion (training/scorecard.py), and what a model is (ranking and others).

MLflow takes 2 s to import. With the embedded store, what the registry said is kept beside the store's own change
counter, so asking again costs a file's first 100 bytes for as long as nobody wrote to the store. With a server
(`NIGHTMARKET_TRACKING_URI`) every question is asked.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import os
import subprocess
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from nightmarket import ledger
from nightmarket.errors import ModelNotFound
from nightmarket.settings import get_settings

# Where the files of a model stand below the artefacts of its version.
_FILES = "data/model"
_BY_HAND = "mlflow"
_METRICS_A_CALL = 1000  # MLflow refuses more


@dataclass(frozen=True)
class Version:
    """A registered version of a task's model.

    Attributes:
        version: MLflow's number, as text.
        aliases: `champion`, `challenger`, `previous`, or none.
        path: the folder of its files on this machine.
        tags: what was said about it when it was registered and judged.
    """

    task: str
    version: str
    aliases: tuple[str, ...]
    path: Path
    run_id: str
    created_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters it was trained with."""
        return dict(json.loads(self.tags.get("params", "{}")))

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured when it was trained, the shelf's numbers beside its own."""
        return dict(json.loads(self.tags.get("metrics", "{}")))


Champion = Version


@dataclass(frozen=True)
class DataSet:
    """A data set that went into a run: which rows, of which day, from which table."""

    name: str
    digest: str
    source: str
    day: date
    rows: int
    context: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that is logged of a run in which something was measured.

    Attributes:
        inputs_digest: tells what went in (data and recipe); the same digest is never logged twice.
        documents: file name -> text, logged as artefacts.
        curves: measure -> (step, value), logged as the steps of a metric.
    """

    day: date
    run_id: str
    dag_id: str
    inputs_digest: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    datasets: Sequence[DataSet]
    documents: Mapping[str, str]
    tags: Mapping[str, str]
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training(Study):
    """Everything a finished training hands over to be logged and registered.

    Attributes:
        model: a folder named `model`, of safetensors and JSON files, that is copied whole.
        loader: module whose `_load_pyfunc(folder)` gives an object with `predict`.
        example: (input, output) frames as columns of values; the signature is theirs.
        requirements: exact pip requirements to serve it.
        documents: as of a study; `model_card.md` also becomes the version's description.
    """

    model: Path
    loader: str
    example: tuple[Mapping[str, Sequence[Any]], Mapping[str, Sequence[Any]]]
    requirements: Sequence[str]


def pinned(*names: str) -> list[str]:
    """Exact pip requirements of packages as they are installed here; a local build's suffix does not install elsewhere."""
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def uri() -> str:
    """Where MLflow keeps its records: the server that settings name, or a SQLite file in the shop's state."""
    return get_settings().tracking_uri or f"sqlite:///{_store()}"


def versions(task: str) -> list[Version]:
    """All registered versions of a task, oldest first."""
    return [_version(entry) for entry in _registry().get(task, [])]


def champion(task: str) -> Champion | None:
    """The version that serves a task, or None when none was ever promoted. Resolve once a run, then hold on to it."""
    return _with_alias(task, "champion")


def serving(task: str, day: date | None) -> Version | None:
    """The version that served a task when `day` began; None as day: the one that serves now; None: nobody did.

    What was trained for a day serves from the next one on, so whatever runs beside that training, and a second run of the
    day, uses what the first run used.
    """
    if day is None:
        return champion(task)
    held = [v for v in versions(task) if {"champion", "previous"} & set(v.aliases)]
    held.sort(key=lambda v: "champion" not in v.aliases)
    return next((v for v in held if v.tags.get("day", "") < day.isoformat()), None)


def challenger(task: str) -> Version | None:
    """The version that waits for the gate's verdict or was refused by it, or None."""
    return _with_alias(task, "challenger")


def find(task: str, inputs_digest: str) -> Version | None:
    """The version that was trained from these inputs, or None."""
    return next((v for v in versions(task) if v.tags.get("inputs_digest") == inputs_digest), None)


def register(task: str, training: Training) -> Version:
    """Log a run with everything that belongs to it, register its model, and make it challenger.

    Inputs that were registered before give the version they gave then: no second run, no second version. What a killed
    process left of the same inputs is deleted first.
    """
    with _locked(task):
        found = find(task, training.inputs_digest)
        if found is None:
            mlflow, client = _mlflow()
            experiment_id = _experiment(client, task)
            for left in _runs_of(client, experiment_id, training.inputs_digest):
                client.delete_run(left.info.run_id)
            with _logged(mlflow, client, experiment_id, task, training) as run_id:
                model = _log_model(mlflow, training)
            _ensure_model(client, task)
            tags = {
                "inputs_digest": training.inputs_digest, "day": training.day.isoformat(), "run_id": training.run_id,
                "params": json.dumps(training.params, sort_keys=True),
                "metrics": json.dumps(training.metrics, sort_keys=True), "experiment_id": experiment_id, **training.tags,
            }  # fmt: skip
            made = client.create_model_version(
                _name(task), model.model_uri, run_id, tags=tags, model_id=model.model_id,
                description=training.documents.get("model_card.md"),
            )  # fmt: skip
            found = _required(task, str(made.version))
        if (
            "decision" not in found.tags
            and "champion" not in found.aliases
            and "challenger" not in found.aliases
        ):
            _set_alias(task, "challenger", found.version)
        return _required(task, found.version)


def record(name: str, study: Study) -> str:
    """Log a study in the experiment `name`, and return its run's id; of the same inputs the run that they had before.

    What a killed process left of the same inputs is deleted first.
    """
    with _locked(name):
        mlflow, client = _mlflow()
        experiment_id = _experiment(client, name)
        for left in _runs_of(client, experiment_id, study.inputs_digest):
            if left.info.status == "FINISHED":
                return str(left.info.run_id)
            client.delete_run(left.info.run_id)
        with _logged(mlflow, client, experiment_id, name, study) as run_id:
            pass
        return run_id


def recorded(name: str, inputs_digest: str) -> Mapping[str, str] | None:
    """The tags of the study that was made of these inputs, or None."""
    _, client = _mlflow()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    found = _runs_of(client, experiment.experiment_id, inputs_digest)
    return next((dict(run.data.tags) for run in found if run.info.status == "FINISHED"), None)


def promote(
    task: str,
    version: str,
    *,
    reason: str,
    actor: str = "gate",
    gate_report: Mapping[str, object] | None = None,
) -> str:
    """Make `version` the champion, the champion before it `previous`, and write that into `ops.promotions`.

    Done again, it changes nothing and writes nothing. Returns the version.

    Raises:
        ModelNotFound: the task has no such version.
    """
    reconcile(task)
    with _locked(task):
        chosen = _required(task, version)
        before = champion(task)
        if before is not None and before.version == version:
            return version
        # The decision stands on the version first: if we are killed below, the next call knows who moved the alias.
        _tag(
            task, version, decision="promoted", actor=actor, reason=reason, replaces=before.version if before else "",
            recorded="no",
        )  # fmt: skip
        _move(task, chosen, before)
    reconcile(task, gate_report=gate_report)
    return version


def refuse(task: str, version: str, *, reason: str, gate_report: Mapping[str, object]) -> None:
    """Write down that the gate did not let `version` become champion. Done again, it writes nothing."""
    if _required(task, version).tags.get("decision") == "refused":
        return
    held = champion(task)
    ledger.promotion(
        task, from_version=held.version if held else None, to_version=version, actor="gate", reason=reason,
        gate_report=gate_report, decision="refused",
    )  # fmt: skip
    _tag(task, version, decision="refused", actor="gate", reason=reason)


def rollback(task: str, *, reason: str, actor: str = "gate") -> str:
    """Make the previous champion champion again and write that down; returns its version.

    Raises:
        ModelNotFound: there is no previous champion.
    """
    previous = _with_alias(task, "previous")
    if previous is None:
        raise ModelNotFound(
            f"Task `{task}` has no previous champion to go back to. See `nightmarket models`, and name a version: "
            f"nightmarket promote {task} VERSION --reason ..."
        )
    return promote(task, previous.version, reason=reason, actor=actor)


def reconcile(task: str, *, gate_report: Mapping[str, object] | None = None) -> Champion | None:
    """Write into `ops.promotions` a change of champion that is not there yet, and return the champion.

    A change that nothing of ours made was made in MLflow by hand: its actor is `mlflow`.
    """
    held = champion(task)
    moves = [
        row
        for row in ledger.rows("promotions").to_pylist()
        if row["task"] == task and row["decision"] == "promoted"
    ]
    known = moves[-1]["to_version"] if moves else None
    now = held.version if held else None
    if now == known:
        return held
    tags = held.tags if held else {}
    ours = tags.get("recorded") == "no" and (tags.get("replaces") or None) == known
    ledger.promotion(
        task, from_version=known, to_version=now, actor=tags.get("actor", "gate") if ours else _BY_HAND,
        reason=tags.get("reason", "") if ours else "The alias `champion` was moved in MLflow.",
        gate_report=gate_report if ours else None, decision="promoted",
    )  # fmt: skip
    if held is not None and ours:
        _tag(task, held.version, recorded="yes")
    return held


def models() -> pa.Table:
    """All registered versions, a row each: task, version, aliases, created_at, day, measures, decision and reason."""
    kinds = pa.schema(
        [(name, pa.string()) for name in ("task", "version", "aliases")] + [("created_at", pa.timestamp("us"))]
        + [(name, pa.string()) for name in ("day", "metrics", "gate", "reason")]
    )  # fmt: skip
    rows = [
        {
            "task": v.task, "version": v.version, "aliases": ", ".join(v.aliases), "created_at": v.created_at,
            "day": v.tags.get("day"), "gate": v.tags.get("decision", "not judged"), "reason": v.tags.get("reason"),
            "metrics": ", ".join(f"{name} {value:.4f}" for name, value in sorted(v.metrics.items()) if "ndcg" in name),
        }
        for task in sorted(_registry())
        for v in versions(task)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=kinds)


def run_url(run_id: str, task: str) -> str:
    """The page of an MLflow run of a registered version, as a path below the MLflow UI's address."""
    experiment = next((v.tags.get("experiment_id") for v in versions(task) if v.run_id == run_id), None)
    return f"/#/experiments/{experiment or 0}/runs/{run_id}"


def _runs_of(client: Any, experiment_id: str, inputs_digest: str) -> list[Any]:
    return list(client.search_runs([experiment_id], f"tags.inputs_digest = '{inputs_digest}'"))


@contextmanager
def _logged(mlflow: Any, client: Any, experiment_id: str, name: str, study: Study) -> Iterator[str]:
    """A run in which everything of a study is logged; it is finished when the block ends."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = {
        "day": study.day.isoformat(), "dag_id": study.dag_id, "run_id": study.run_id,
        "git_commit": _git_commit(), "inputs_digest": study.inputs_digest, **study.tags,
    }  # fmt: skip
    with mlflow.start_run(experiment_id=experiment_id, run_name=f"{name} {study.day}", tags=tags) as run:
        run_id: str = run.info.run_id
        mlflow.log_params(_flat(study.params))
        mlflow.log_metrics(dict(study.metrics))
        _log_curves(client, run_id, study.curves)
        client.log_inputs(run_id, [
            DatasetInput(
                Dataset(
                    name=d.name, digest=d.digest[:36], source_type="lake", source=json.dumps({"table": d.source, "day": str(d.day)}),
                    profile=json.dumps({"rows": d.rows, "content_hash": d.digest}),
                ),
                tags=[InputTag("mlflow.data.context", d.context)],
            )
            for d in study.datasets
        ])  # fmt: skip
        for file, text in study.documents.items():
            mlflow.log_text(text, file)
        yield run_id


def _log_model(mlflow: Any, training: Training) -> Any:
    """Log a training's model into the run that is open."""
    import pandas as pd
    from mlflow.models import infer_signature

    given, wanted = (pd.DataFrame(dict(columns)) for columns in training.example)
    return mlflow.pyfunc.log_model(
        name="model", loader_module=training.loader, data_path=str(training.model), input_example=given,
        signature=infer_signature(given, wanted), pip_requirements=list(training.requirements),
    )  # fmt: skip


def _log_curves(client: Any, run_id: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    from mlflow.entities import Metric

    now = int(datetime.now(UTC).timestamp() * 1000)
    points = [Metric(name, value, now, step) for name, curve in curves.items() for step, value in curve]
    for begin in range(0, len(points), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=points[begin : begin + _METRICS_A_CALL])


def _registry() -> dict[str, list[dict[str, Any]]]:
    """Every version of every task, as plain values; from the kept answer while the store did not change."""
    if get_settings().tracking_uri:
        return _ask()
    stamp = _stamp()
    if stamp is None:
        return {}
    kept = get_settings().state / "mlflow" / "registry.json"
    try:
        found = json.loads(kept.read_text())
        if found["stamp"] == stamp:
            return found["tasks"]  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError, KeyError):
        pass
    tasks = _ask()
    # The stamp was taken before the question: a write in between makes the next call ask again.
    scratch = kept.with_name(f".registry.{uuid.uuid4().hex[:8]}.json")
    scratch.write_text(json.dumps({"stamp": stamp, "tasks": tasks}))
    scratch.replace(kept)
    return tasks


def _ask() -> dict[str, list[dict[str, Any]]]:
    _, client = _mlflow()
    tasks: dict[str, list[dict[str, Any]]] = {}
    for model in client.search_registered_models(filter_string="name LIKE 'nightmarket.%'"):
        # A search gives the model's aliases as of now; a version's own list is empty in some stores.
        aliases: dict[str, list[str]] = {}
        for alias, version in client.get_registered_model(model.name).aliases.items():
            aliases.setdefault(str(version), []).append(alias)
        entries, token = [], None
        while True:
            page = client.search_model_versions(f"name = '{model.name}'", page_token=token)
            entries += page
            token = page.token
            if not token:
                break
        task = model.name.removeprefix("nightmarket.")
        tasks[task] = [
            {
                "task": task, "version": str(v.version), "aliases": sorted(aliases.get(str(v.version), [])),
                "location": client.get_model_version_download_uri(model.name, v.version), "run_id": v.run_id or "",
                "created_ms": v.creation_timestamp, "tags": dict(v.tags),
            }
            for v in sorted(entries, key=lambda v: int(v.version))
        ]  # fmt: skip
    return tasks


def _version(entry: Mapping[str, Any]) -> Version:
    return Version(
        entry["task"], entry["version"], tuple(entry["aliases"]), _local(entry), entry["run_id"],
        datetime.fromtimestamp(entry["created_ms"] / 1000, UTC).replace(tzinfo=None), entry["tags"],
    )  # fmt: skip


def _local(entry: Mapping[str, Any]) -> Path:
    """The folder of a version's files on this machine; a remote store's are fetched once."""
    parsed = urllib.parse.urlparse(entry["location"])
    state = get_settings().state
    if parsed.scheme in {"", "file"}:
        path = Path(urllib.parse.unquote(parsed.path)) / _FILES
        if path.exists():
            return path
        # A home that was moved: MLflow keeps absolute paths, the tree below `artifacts` is the same.
        below = str(path).partition("/mlflow/artifacts/")[2]
        return state / "mlflow" / "artifacts" / below if below else path
    target = state / "models" / entry["task"] / entry["version"]
    if not target.exists():
        mlflow, _ = _mlflow()
        scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        scratch.mkdir(parents=True)
        mlflow.artifacts.download_artifacts(artifact_uri=entry["location"], dst_path=str(scratch))
        scratch.replace(target)
    return next(iter(sorted(target.rglob("data/model"))), target / _FILES)


def _with_alias(task: str, alias: str) -> Version | None:
    return next((v for v in versions(task) if alias in v.aliases), None)


def _required(task: str, version: str) -> Version:
    for found in versions(task):
        if found.version == str(version):
            return found
    raise ModelNotFound(
        f"Task `{task}` has no version {version}. See `nightmarket models` for those there are."
    )


def _move(task: str, chosen: Version, before: Version | None) -> None:
    """Set the three aliases; each step leaves a state from which the same call goes on."""
    _, client = _mlflow()
    if before is not None:
        client.set_registered_model_alias(_name(task), "previous", before.version)
    client.set_registered_model_alias(_name(task), "champion", chosen.version)
    if "challenger" in chosen.aliases:
        client.delete_registered_model_alias(_name(task), "challenger")


def _set_alias(task: str, alias: str, version: str) -> None:
    _, client = _mlflow()
    client.set_registered_model_alias(_name(task), alias, version)


def _tag(task: str, version: str, **tags: str) -> None:
    _, client = _mlflow()
    for key, value in tags.items():
        client.set_model_version_tag(_name(task), version, key, value)


def _name(task: str) -> str:
    return f"nightmarket.{task}"


def _experiment(client: Any, task: str) -> str:
    found = client.get_experiment_by_name(task)
    if found is not None:
        return str(found.experiment_id)
    place = None if get_settings().tracking_uri else (_store().parent / "artifacts" / task).as_uri()
    return str(client.create_experiment(task, artifact_location=place))


def _ensure_model(client: Any, task: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(_name(task))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _store() -> Path:
    return get_settings().state / "mlflow" / "mlflow.db"


def _stamp() -> list[int] | None:
    """What changes with every commit to the embedded store: SQLite's own change counter, and the files' times."""
    try:
        with _store().open("rb") as store:
            counter = int.from_bytes(store.read(28)[24:28], "big")
            seen = os.fstat(store.fileno())
    except FileNotFoundError:
        return None
    stamp = [counter, seen.st_size, seen.st_mtime_ns]
    log = _store().with_name(_store().name + "-wal")
    return [*stamp, log.stat().st_size, log.stat().st_mtime_ns] if log.exists() else stamp


def _mlflow() -> tuple[Any, Any]:
    """MLflow, quiet and told to reach nobody, with a client of this shop's store."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "HF_HUB_OFFLINE": "1",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.pyfunc

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not get_settings().tracking_uri:
        _store().parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri())
    mlflow.set_registry_uri(uri())
    return mlflow, mlflow.MlflowClient(uri(), uri())


@contextmanager
def _locked(task: str) -> Iterator[None]:
    """One process at a time registers or moves aliases of a task; the lock goes with the process."""
    folder = get_settings().state / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{task}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _git_commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=get_settings().project,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as MLflow takes them: `ease.l2`."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


__all__ = [
    "Champion", "DataSet", "Study", "Training", "Version", "challenger", "champion", "find", "models", "promote",
    "reconcile", "record", "recorded", "refuse", "register", "rollback", "run_url", "uri", "versions",
]  # fmt: skip
