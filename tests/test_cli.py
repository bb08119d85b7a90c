"""The commands as a person types them: help everywhere, clear errors, exit statuses that mean something."""

from __future__ import annotations

import logging
import os
from datetime import date
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from nightmarket.cli import app

COMMANDS = {
    "nightly", "run", "follow", "prepare", "query", "models", "promote", "rollback", "doctor", "up", "down", "rules",
    "policy", "copy",
}  # fmt: skip


def nightmarket(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "DAY": ""})


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(typer.main.get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_and_every_option_of_it(command: str) -> None:
    said = nightmarket(command, "--help")
    assert said.exit_code == 0
    described = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert len(described.help) > 40
    assert all(parameter.help for parameter in described.params if parameter.name != "help"), command


def test_a_shop_that_is_not_there_is_a_sentence_and_exit_1(home: Path) -> None:
    said = nightmarket("run", "--shop", "/nowhere/at/all")
    assert said.exit_code == 1
    assert "ShopNotFound" in said.stderr
    assert "/nowhere/at/all" in said.stderr
    assert "Traceback" not in said.output


def test_a_dag_that_is_none_is_named_with_those_that_are(tiny: Path) -> None:
    said = nightmarket("run", "--only", "refresh_profile")
    assert said.exit_code == 1
    assert "refresh_profile" in said.stderr
    assert "refresh_profiles" in said.stderr


def test_a_query_before_the_first_night_says_what_to_run(home: Path) -> None:
    said = nightmarket("query", "select 1")
    assert said.exit_code == 1
    assert "make nightly SHOP=demo" in said.stderr


def test_a_day_that_is_no_day_is_refused_before_anything_starts(tiny: Path) -> None:
    said = nightmarket("run", "--day", "tomorrow")
    assert said.exit_code == 2
    assert "tomorrow" in said.stderr


def test_what_a_training_says_of_itself_is_told_while_it_is_at_work(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket import night
    from nightmarket.ledger import Outcome

    def train(day: date) -> Outcome:
        logging.getLogger("nightmarket.training.stepping").info("finetune: step %d of [48]", 3)
        logging.getLogger("nightmarket.products").info("something else")
        return Outcome()

    monkeypatch.setattr(night, "steps", lambda: {"finetune_writer": {"train": train}})
    said = nightmarket("run", "--only", "finetune_writer")
    assert said.exit_code == 0, said.output
    begun, line, done = said.output.splitlines()[:3]
    assert begun.startswith("Night of ") and line == f"{'':<24}finetune: step 3 of [48]"
    assert done.split()[:3] == ["finetune_writer", "train", "success"]
    assert logging.getLogger("nightmarket.training").handlers == []


@pytest.fixture(scope="module")
def after_a_night(tmp_path_factory: pytest.TempPathFactory, tiny_shop: Path) -> Path:
    """A home in which `nightmarket run` made the tiny shop's night; two commands, the second with nothing new."""
    from nightmarket.settings import get_settings

    home = tmp_path_factory.mktemp("cli") / "var"
    before = os.environ.get("NIGHTMARKET_HOME")
    os.environ["NIGHTMARKET_HOME"] = str(home)
    get_settings.cache_clear()
    first = nightmarket("run", "--shop", str(tiny_shop))
    assert first.exit_code == 0, first.output + first.stderr
    again = nightmarket("run", "--shop", str(tiny_shop))
    (home / "first.txt").write_text(first.output)
    (home / "again.txt").write_text(again.output)
    assert again.exit_code == 0, again.output + again.stderr
    if before is None:
        os.environ.pop("NIGHTMARKET_HOME")
    else:
        os.environ["NIGHTMARKET_HOME"] = before
    os.environ.pop("NIGHTMARKET_SHOP", None)
    get_settings.cache_clear()
    return home


@pytest.fixture
def done(after_a_night: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from nightmarket.settings import get_settings

    monkeypatch.setenv("NIGHTMARKET_HOME", str(after_a_night))
    monkeypatch.delenv("NIGHTMARKET_SHOP", raising=False)
    get_settings.cache_clear()
    yield after_a_night
    os.environ.pop("NIGHTMARKET_SHOP", None)
    get_settings.cache_clear()


def test_a_run_tells_each_step_and_ends_with_what_is_published(done: Path) -> None:
    told = (done / "first.txt").read_text()
    for words in (
        "build_warehouse",
        "land",
        "extract",
        "finetune_models",
        "train",
        "refresh_product_copy",
        "publish",
    ):
        assert words in told
    for table in (
        "customer_profiles", "customer_interests", "recommendations", "similar_products", "default_recommendations",
        "product_copy", "copy_claims",
    ):  # fmt: skip
        assert f"outputs.{table}" in told
    assert "2026-03-02" in told


def test_the_same_run_again_changes_nothing(done: Path) -> None:
    first, again = (done / "first.txt").read_text(), (done / "again.txt").read_text()
    assert " changed " in first
    assert " changed " not in again
    hashes = [
        line.split("│")[-2].strip() for line in first.splitlines() if "outputs." in line and "│" in line
    ]
    assert len(hashes) == 8
    assert [
        line.split("│")[-2].strip() for line in again.splitlines() if "outputs." in line and "│" in line
    ] == hashes


def test_a_query_shows_rows_of_the_last_shop_and_every_step_of_the_night_is_in_ops_runs(done: Path) -> None:
    said = nightmarket("query", "select dag_id, task_id, state from ops.runs order by started_at")
    assert said.exit_code == 0
    assert "build_examples" in said.output
    assert "38 rows" in said.output  # 19 steps, twice
    assert "failed" not in said.output


def test_a_query_can_write_csv_and_parquet(done: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    sql = "select day, count(*) as n from outputs.customer_profiles group by day"
    for name in ("rows.csv", "rows.parquet"):
        said = nightmarket("query", sql, "--to", str(tmp_path / name))
        assert said.exit_code == 0
        assert "1 rows written" in said.output
    assert parquet.read_table(tmp_path / "rows.parquet")["day"].to_pylist() == [date(2026, 3, 2)]
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == '"day","n"'
    refused = nightmarket("query", sql, "--to", str(tmp_path / "rows.xlsx"))
    assert refused.exit_code == 1
    assert ".csv or .parquet" in refused.stderr


def test_a_wrong_statement_and_one_that_writes_are_refused_with_the_reason(done: Path) -> None:
    wrong = nightmarket("query", "select nothing from outputs.customer_profiles")
    assert wrong.exit_code == 1
    assert "QueryFailed" in wrong.stderr
    assert "nothing" in wrong.stderr
    writes = nightmarket("query", "delete from warehouse.outputs.customer_profiles")
    assert writes.exit_code == 1
    assert "QueryFailed" in writes.stderr


def test_models_lists_the_champion_and_a_rollback_without_a_previous_one_is_refused(done: Path) -> None:
    listed = nightmarket("models")
    assert listed.exit_code == 0
    assert "ranking" in listed.output
    refused = nightmarket("rollback", "ranking", "--reason", "a test")
    assert refused.exit_code == 1
    assert "ModelNotFound" in refused.stderr


def test_promote_asks_for_a_reason_and_refuses_a_version_that_is_not_there(done: Path) -> None:
    assert nightmarket("promote", "ranking", "1").exit_code == 2
    refused = nightmarket("promote", "ranking", "99", "--reason", "a test")
    assert refused.exit_code == 1
    assert "ModelNotFound" in refused.stderr


def test_doctor_finds_this_machine_fit_for_a_night(done: Path) -> None:
    said = nightmarket("doctor")
    assert said.exit_code == 0, said.output
    for word in ("Python", "Packages", "Weights", "Disk", "Warehouse", "8 tables published"):
        assert word in said.output


def test_the_lake_of_the_last_shop_stands_in_the_home(done: Path) -> None:
    assert (done / "lake").is_symlink()
    assert (done / "lake" / "customer_features" / "day=2026-03-02" / "rows.parquet").is_file()
