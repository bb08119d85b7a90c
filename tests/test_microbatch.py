"""Micro-batches: whose turn it is, when there is work, and how following ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nightmarket import landing, ledger, microbatch, scheduler
from nightmarket.cli import app
from nightmarket.errors import LandingRejected, NightFailed
from nightmarket.settings import get_settings
from nightmarket.shops import open_shop
from tests.conftest import write_tiny_shop

DAY = date(2026, 3, 2)
NIGHT_IN_ORDER = [
    ("build_warehouse", "land"), ("build_warehouse", "extract"), ("finetune_models", "promote"),
    ("refresh_recommendations", "generate"), ("refresh_recommendations", "publish"),
]  # fmt: skip


def try_of(dag: str, task: str, state: str = "success", *, day: date = DAY, ago_s: float = 1.0) -> None:
    """A try in `ops.runs` that began so long ago, and took no time."""
    started = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=ago_s)
    with ledger._engine().begin() as tx:
        tx.execute(
            ledger.RUNS.insert().values(
                dag_id=dag, task_id=task, run_id="r", day=day, state=state, started_at=started, duration_s=0.0
            )
        )


@pytest.fixture
def shop(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tiny shop of its own whose files are loaded, and whose night of the second of March is over."""
    folder = write_tiny_shop(tmp_path / "tiny", customers=3)
    monkeypatch.setenv("NIGHTMARKET_SHOP", str(folder))
    monkeypatch.setattr(microbatch, "AT_REST_S", 0.0)
    get_settings.cache_clear()
    landing.load_night(DAY, "night")
    for dag, task in NIGHT_IN_ORDER:
        try_of(dag, task)
    return folder


def order(folder: Path, number: int, customer: str = "c000") -> Path:
    path = folder / "orders" / f"{number}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"order_id,customer_id,ordered_at,status,channel\nn{number},{customer},2026-03-02T10:00:00Z,placed,web\n"
    )
    return path


class TestTurns:
    def test_before_the_first_night_there_is_no_day_and_no_work(self, home: Path) -> None:
        assert microbatch.coming_day() is None
        assert microbatch.has_work() is False
        with pytest.raises(NightFailed, match="make nightly SHOP=demo"):
            microbatch.follow(DAY, "r")

    def test_the_coming_day_follows_the_latest_night_whatever_was_filled_in_later(self, home: Path) -> None:
        try_of("refresh_recommendations", "publish")
        try_of("refresh_recommendations", "publish", day=date(2026, 2, 1))
        try_of("refresh_recommendations", "publish", "failed", day=date(2026, 3, 9))
        try_of("follow_events", "publish", day=date(2026, 3, 8))
        assert microbatch.coming_day() == date(2026, 3, 3)

    @pytest.mark.parametrize("done", range(1, len(NIGHT_IN_ORDER)))
    def test_while_a_night_is_on_its_way_to_its_lists_a_micro_batch_steps_aside(
        self, home: Path, done: int
    ) -> None:
        for dag, task in NIGHT_IN_ORDER[:done]:
            try_of(dag, task)
        said = microbatch.take_turn(date(2026, 3, 3), "r").note
        assert said.startswith(f"stepped aside: the night of 2026-03-02 has just done {dag}.{task}")

    def test_a_task_at_work_counts_until_it_must_have_been_killed(self, home: Path) -> None:
        try_of("build_warehouse", "land", ago_s=3000)
        try_of("finetune_models", "train", "running", ago_s=2900)
        assert microbatch.night_at_work() == "the night of 2026-03-02 is at finetune_models.train"
        try_of("build_warehouse", "land", day=date(2026, 3, 3), ago_s=5000)
        try_of("finetune_models", "train", "running", day=date(2026, 3, 3), ago_s=4900)
        assert microbatch.night_at_work() is None

    @pytest.mark.parametrize("how", ["failed", "stopped short", "published"])
    def test_a_night_that_is_over_is_in_nobodys_way(self, home: Path, how: str) -> None:
        try_of("build_warehouse", "land", ago_s=900)
        if how == "failed":
            try_of("build_warehouse", "check_arrivals", "failed")
        if how == "published":
            try_of("refresh_recommendations", "publish")
            try_of("build_warehouse", "extract", "running", day=date(2026, 3, 1))
        assert microbatch.night_at_work() is None


class TestWork:
    def test_a_new_file_is_work_until_it_was_loaded_and_no_longer(self, shop: Path) -> None:
        assert microbatch.has_work() is False
        order(shop, 1)
        assert microbatch.has_work() is True
        landing.load_night(DAY, "r")
        assert microbatch.has_work() is False

    def test_a_refused_file_is_not_new_again_until_it_changes(self, shop: Path) -> None:
        path = order(shop, 1, customer="nobody")
        with pytest.raises(LandingRejected):
            landing.load_night(DAY, "r")
        opened = open_shop(str(shop), landing_root=shop)
        assert landing.fresh(opened) == []
        order(shop, 2)
        assert [file.name for file in landing.fresh(opened)] == ["orders/2.csv"]
        path.write_text(path.read_text().replace("nobody", "c001"))
        assert [file.name for file in landing.fresh(opened)] == ["orders/1.csv", "orders/2.csv"]

    def test_a_file_that_grows_is_waited_for_until_it_rests(
        self, shop: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(microbatch, "AT_REST_S", 0.3)
        began = datetime.now(UTC)
        path = order(shop, 1)
        whole = path.read_text()
        threading.Timer(0.2, path.write_text, [whole]).start()
        assert microbatch.has_work() is True
        assert 0.4 < (datetime.now(UTC) - began).total_seconds() < 10

    def test_what_failed_is_tried_three_times_and_then_waits_for_something_new(self, shop: Path) -> None:
        coming, looks = date(2026, 3, 3), []
        for n in range(4):
            looks.append(microbatch.has_work())
            ledger.reaction(f"r{n}", coming, started_at=datetime(2026, 3, 2, 12))
        assert looks == [False, True, True, False]
        order(shop, 1)
        assert microbatch.has_work() is True

    def test_a_look_imports_nothing_heavy(self, shop: Path) -> None:
        program = (
            "import sys; from nightmarket import microbatch; print(microbatch.has_work(), "
            "sorted({'torch', 'dbt', 'mlflow', 'great_expectations', 'airflow', 'transformers', 'scipy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert done.stdout == "False []\n", done.stderr


class TestFollowing:
    def test_a_hindrance_is_told_once_and_a_turn_at_work_is_finished(self) -> None:
        stop, told, turns = threading.Event(), [], 0

        def turn() -> str | None:
            nonlocal turns
            turns += 1
            if turns in {1, 2, 5}:
                raise NightFailed("a night is at work")
            if turns == 6:
                stop.set()
                return "the last"
            return None if turns == 3 else "two files"

        microbatch.keep_following(turn, 0.01, stop, told.append)
        assert told == [
            "NightFailed: a night is at work",
            "two files",
            "NightFailed: a night is at work",
            "the last",
        ]

    def test_sigterm_and_ctrl_c_ask_to_stop_and_a_second_ctrl_c_does_not_wait(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with scheduler.asked_to_stop() as stop:
                os.kill(os.getpid(), number)
                assert stop.wait(1)
        with pytest.raises(KeyboardInterrupt), scheduler.asked_to_stop() as stop:
            stop.set()
            signal.raise_signal(signal.SIGINT)

    def test_once_says_that_nothing_is_new_or_that_a_night_has_the_shop(self, shop: Path) -> None:
        def nightmarket(*arguments: str) -> Any:
            return CliRunner().invoke(app, ["follow", *arguments, "--once"], env={"COLUMNS": "200"})

        assert (nightmarket().output, nightmarket().exit_code) == ("Nothing new.\n", 0)
        order(shop, 1)
        with scheduler.only_one(get_settings()):
            said = nightmarket()
        assert said.exit_code == 1
        assert "Another night, or `make up`, is at work" in said.stderr
        said = nightmarket("--day", "2026-03-02")
        assert said.exit_code == 1
        assert "nightmarket run --day 2026-03-02" in said.stderr
