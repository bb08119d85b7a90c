"""The registry on a real MLflow with a SQLite store: versions, aliases, promotions, and what a kill leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import mlflow
import pytest

from nightmarket import ledger, ranking, tracking
from nightmarket.errors import ModelNotFound
from nightmarket.ranking import Interactions, ItemToItem, Popularity
from nightmarket.tracking import DataSet, Training
from tests.ranking.purchases import shop

DAY = date(2026, 3, 2)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    interactions = Interactions.of(shop())
    ItemToItem().fit(interactions).save(tmp_path / "model/ranker")
    Popularity().fit(interactions).save(tmp_path / "model/popularity")
    return tmp_path / "model"


def training(files: Path, digest: str = "d1") -> Training:
    return Training(
        day=DAY, run_id="run-1", dag_id="finetune_models", inputs_digest=digest, params={"seed": 7, "ease": {"l2": 100.0}},
        metrics={"ndcg_10": 0.25, "popularity.ndcg_10": 0.125},
        datasets=[DataSet("purchases", "ab" * 32, "marts.purchases", DAY, 500, "training")], model=files,
        loader="nightmarket.ranking.served",
        example=({"history": [["p001", "p002"]]}, {"product_ids": [["p003"]], "scores": [[0.5]]}),
        requirements=["numpy==2.4.6"], documents={"model_card.md": "# A card", "gate_report.json": "{}"},
        tags={"purchases": "500"},
    )  # fmt: skip


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking.uri(), tracking.uri())


def promotions() -> list[tuple[str | None, str | None, str, str]]:
    rows = ledger.rows("promotions").to_pylist()
    return [(r["from_version"], r["to_version"], r["actor"], r["decision"]) for r in rows]


def test_a_home_without_a_store_has_no_versions_and_gets_none_by_asking(home: Path) -> None:
    assert tracking.champion("ranking") is None and tracking.versions("ranking") == []
    assert tracking.models().num_rows == 0
    assert not (home / "shops/demo/mlflow").exists()


def test_a_registered_training_is_a_challenger_with_everything_that_belongs_to_it(
    registry: Path, files: Path
) -> None:
    made = tracking.register("ranking", training(files))
    assert (made.version, made.aliases) == ("1", ("challenger",))
    assert made.params == {"seed": 7, "ease": {"l2": 100.0}} and made.metrics["popularity.ndcg_10"] == 0.125
    assert isinstance(ranking.load(made.path / "ranker"), ItemToItem)
    run = client().get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "7", "ease.l2": "100.0"}
    assert {k: run.data.tags[k] for k in ("day", "dag_id", "run_id", "inputs_digest")} == {
        "day": "2026-03-02", "dag_id": "finetune_models", "run_id": "run-1", "inputs_digest": "d1",
    }  # fmt: skip
    assert run.data.tags["git_commit"]
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "purchases" and json.loads(given.dataset.source) == {
        "table": "marts.purchases",
        "day": "2026-03-02",
    }
    assert sorted(f.path for f in client().list_artifacts(made.run_id)) == [
        "gate_report.json",
        "model_card.md",
    ]
    assert client().get_model_version("nightmarket.ranking", "1").description == "# A card"
    assert tracking.run_url(made.run_id, "ranking") == f"/#/experiments/1/runs/{made.run_id}"


def test_curves_are_the_steps_of_a_metric(registry: Path, files: Path) -> None:
    curve = [(step, 1 / (step + 1)) for step in range(1500)]  # more than MLflow takes at once
    made = tracking.register("ranking", replace(training(files), curves={"loss.train": curve}))
    kept = client().get_metric_history(made.run_id, "loss.train")
    assert sorted((point.step, point.value) for point in kept) == curve


def test_the_registered_model_serves_through_mlflow(registry: Path, files: Path) -> None:
    tracking.register("ranking", training(files))
    mlflow.set_registry_uri(tracking.uri())
    served = mlflow.pyfunc.load_model("models:/nightmarket.ranking@challenger")
    import pandas as pd

    answer = served.predict(pd.DataFrame({"history": [["p001", "p002"], ["unheard-of"]]}))
    assert len(answer["product_ids"][0]) == 10 and "p001" not in answer["product_ids"][0]
    assert "p003" in answer["product_ids"][0]
    assert len(answer["product_ids"][1]) == 10  # nothing is known of this history: popular products
    requirements = tracking.versions("ranking")[0].path.parents[1]
    assert (requirements / "requirements.txt").read_text().split() == ["mlflow==3.17.2", "numpy==2.4.6"]
    assert not list(requirements.rglob("*.pkl"))


def test_the_same_inputs_give_the_same_version_and_no_second_run(registry: Path, files: Path) -> None:
    first = tracking.register("ranking", training(files))
    assert tracking.register("ranking", training(files)) == first
    assert len(client().search_runs(["1"])) == 1
    assert tracking.find("ranking", "d1") == first and tracking.find("ranking", "other") is None


def test_what_a_killed_run_left_is_deleted_before_the_next_one(registry: Path, files: Path) -> None:
    experiment = client().create_experiment("ranking")
    client().create_run(experiment, tags={"inputs_digest": "d1"})
    made = tracking.register("ranking", training(files))
    assert [run.info.run_id for run in client().search_runs([experiment])] == [made.run_id]


def test_a_version_that_a_kill_left_without_alias_becomes_challenger(registry: Path, files: Path) -> None:
    tracking.register("ranking", training(files))
    client().delete_registered_model_alias("nightmarket.ranking", "challenger")
    assert tracking.register("ranking", training(files)).aliases == ("challenger",)


def test_promotion_moves_three_aliases_and_is_written_down_once(registry: Path, files: Path) -> None:
    tracking.register("ranking", training(files, "d1"))
    tracking.promote("ranking", "1", reason="better", gate_report={"promote": True})
    tracking.register("ranking", training(files, "d2"))
    for _ in range(2):
        tracking.promote("ranking", "2", reason="better still")
    assert [(v.version, v.aliases) for v in tracking.versions("ranking")] == [
        ("1", ("previous",)),
        ("2", ("champion",)),
    ]
    assert promotions() == [(None, "1", "gate", "promoted"), ("1", "2", "gate", "promoted")]
    assert json.loads(ledger.rows("promotions")["gate_report"][0].as_py()) == {"promote": True}


def test_a_promotion_killed_before_the_ledger_is_finished_by_the_next_call(
    registry: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.register("ranking", training(files))
    with monkeypatch.context() as patch:
        patch.setattr(tracking.ledger, "promotion", _killed)
        with pytest.raises(KeyboardInterrupt):
            tracking.promote("ranking", "1", reason="better")
    assert tracking.champion("ranking") is not None and promotions() == []
    tracking.reconcile("ranking")
    tracking.reconcile("ranking")
    assert promotions() == [(None, "1", "gate", "promoted")]


def test_rollback_makes_the_previous_champion_serve_again(registry: Path, files: Path) -> None:
    for digest in ("d1", "d2"):
        version = tracking.register("ranking", training(files, digest)).version
        tracking.promote("ranking", version, reason="better")
    assert tracking.rollback("ranking", reason="complaints", actor="mia") == "1"
    assert [(v.version, v.aliases) for v in tracking.versions("ranking")] == [
        ("1", ("champion",)),
        ("2", ("previous",)),
    ]
    assert promotions()[-1] == ("2", "1", "mia", "promoted")


def test_there_is_nothing_to_roll_back_to_at_first(registry: Path) -> None:
    with pytest.raises(ModelNotFound, match="no previous champion"):
        tracking.rollback("ranking", reason="-")


def test_a_version_that_does_not_exist_cannot_be_promoted(registry: Path) -> None:
    with pytest.raises(ModelNotFound, match="no version 9"):
        tracking.promote("ranking", "9", reason="-")


def test_an_alias_moved_in_mlflow_holds_and_is_written_down(registry: Path, files: Path) -> None:
    for digest in ("d1", "d2"):
        version = tracking.register("ranking", training(files, digest)).version
        tracking.promote("ranking", version, reason="better")
    client().set_registered_model_alias("nightmarket.ranking", "champion", "1")
    held = tracking.champion("ranking")
    assert held is not None and held.version == "1"
    tracking.reconcile("ranking")
    assert promotions()[-1] == ("2", "1", "mlflow", "promoted")
    client().set_registered_model_alias("nightmarket.ranking", "champion", "2")
    tracking.reconcile("ranking")
    assert promotions()[-1] == ("1", "2", "mlflow", "promoted")
    client().delete_registered_model_alias("nightmarket.ranking", "champion")
    assert tracking.reconcile("ranking") is None
    assert promotions()[-1] == ("2", None, "mlflow", "promoted")


def test_a_refusal_is_written_down_once_and_changes_no_champion(registry: Path, files: Path) -> None:
    tracking.register("ranking", training(files))
    for _ in range(2):
        tracking.refuse("ranking", "1", reason="not certain", gate_report={"promote": False})
    assert promotions() == [(None, "1", "gate", "refused")] and tracking.champion("ranking") is None
    assert tracking.models()["gate"].to_pylist() == ["refused"]


def test_asking_again_does_not_import_mlflow(registry: Path, files: Path) -> None:
    tracking.register("ranking", training(files))
    tracking.promote("ranking", "1", reason="better")
    assert tracking.champion("ranking") is not None  # the answer of now is kept
    code = "import sys; from nightmarket import tracking; print(tracking.champion('ranking').version, 'mlflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "False"]


def test_a_home_that_was_moved_still_finds_its_models(
    registry: Path, files: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.settings import get_settings

    tracking.register("ranking", training(files))
    home.rename(home.with_name("elsewhere"))
    monkeypatch.setenv("NIGHTMARKET_HOME", str(home.with_name("elsewhere")))
    get_settings.cache_clear()
    assert isinstance(ranking.load(tracking.versions("ranking")[0].path / "ranker"), ItemToItem)


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
