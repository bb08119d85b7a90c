"""Several processes learn what one would have learnt, over this machine's loopback, and end together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nightmarket.errors import SettingMissing, TrainingStopped
from nightmarket.settings import get_settings
from nightmarket.training import finetune_writer, launch, pairs, peers, preferences, stepping
from tests.training.line_for_two import learnt
from tests.training.test_finetune_writer import line
from tests.training.tiny_writer import catalogue, edits, tiny_writer


@dataclass
class Together:
    """What came of two processes: what they learnt, and the error when the second was killed in the next training."""

    curves: stepping.Curves
    weights: list[Any]
    heard: set[str]
    error: TrainingStopped
    folder: Path


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """One start of a second process for all tests: it costs some four seconds."""
    folder = tmp_path_factory.mktemp("together")
    first = {"checkpoint": str(folder / "first.safetensors")}
    second = {"checkpoint": str(folder / "second.safetensors"), "steps": 8, "killed_at": 5}
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(TrainingStopped) as stopped,
        launch.helped(2, "tests.training.line_for_two:helper", [], folder=folder),
    ):
        patch.setattr(stepping, "CHECKPOINT_STEPS", stepping.CHECKPOINT_STEPS)
        patch.setattr(stepping, "CHECKPOINT_SHARE", stepping.CHECKPOINT_SHARE)
        peers.told_by_first(lambda: first)
        found = learnt(**first)
        heard = listening()
        peers.told_by_first(lambda: second)
        learnt(**second)
    return Together(*found, heard, stopped.value, folder)


def listening() -> set[str]:
    """The addresses that this process accepts connections on."""
    import psutil

    return {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """`learnt` sets how often checkpoints are written; other tests have their own."""
    for name in ("CHECKPOINT_STEPS", "CHECKPOINT_SHARE"):
        monkeypatch.setattr(stepping, name, getattr(stepping, name))


def test_two_processes_learn_what_one_learns_with_two_micro_batches_a_step(
    together: Together, tmp_path: Path
) -> None:
    curves, weights = learnt(str(tmp_path / "alone.safetensors"))
    assert {name: [step for step, _ in points] for name, points in together.curves.items()} == {
        "line.miss.held_out": [0, 2, 4, 6], "line.miss.train": [1, 2, 3, 4, 5, 6], "line.size.train": [1, 2, 3, 4, 5, 6],
    }  # fmt: skip
    for name, points in curves.items():
        assert [loss for _, loss in together.curves[name]] == pytest.approx([v for _, v in points], rel=1e-5)
    for ours, theirs in zip(together.weights, weights, strict=True):
        assert ours.flatten().tolist() == pytest.approx(theirs.flatten().tolist(), rel=1e-4, abs=1e-6)
    assert peers.count() == 1 and together.heard <= {"127.0.0.1", "::1"}


def test_a_process_that_is_killed_ends_all_with_its_name_and_the_training_goes_on_from_its_checkpoint(
    together: Together, tmp_path: Path
) -> None:
    assert "Process 1 of the 2 of this training was killed (SIGKILL)" in str(together.error)
    assert together.error.retry_helps
    whole, weights = learnt(str(tmp_path / "whole.safetensors"), steps=8, killed_at=5)
    again, same = learnt(str(together.folder / "second.safetensors"), steps=8, killed_at=5)
    assert [n for n, _ in again["line.miss.train"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    for name, points in whole.items():
        assert [loss for _, loss in again[name]] == pytest.approx([v for _, v in points], rel=1e-5)
    assert same[0].flatten().tolist() == pytest.approx(weights[0].flatten().tolist(), rel=1e-4, abs=1e-6)


def test_a_process_that_cannot_begin_ends_all_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(TrainingStopped, match=r"Process 1 of .* ended with status 1: ModuleNotFoundError"),
        launch.helped(2, "tests.training.no_such_module:helper", [], folder=tmp_path),
    ):
        pass


def test_processes_that_do_not_learn_the_same_take_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(peers, "gathered", lambda mine: [mine, ("line", "another", 4)])
    with pytest.raises(TrainingStopped, match=r"process 0: line d after step 0; process 1: line another after step 4"):  # fmt: skip
        stepping.descend(line(seen=seen), None)
    assert seen == []


def test_more_processes_than_micro_batches_of_a_step_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTMARKET_WRITER_PROCESSES", "3")
    monkeypatch.setenv("NIGHTMARKET_WRITER_PARTS", "2")
    get_settings.cache_clear()
    with pytest.raises(SettingMissing, match=r"3 processes .*NIGHTMARKET_WRITER_PARTS=2.* set it to 3"):
        finetune_writer.train(date(2026, 3, 2), "r")


def test_the_texts_and_edits_of_a_step_are_shared_out_without_a_change_of_the_loss(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.training import writer

    told = pairs.made(catalogue().slice(0, 20), seed=7, languages=frozenset({"en"}))
    people = preferences.made(catalogue(), edits()[:12], languages=frozenset({"en"}))
    opened, texts = tiny_writer(told), [pair.text for pair in told]
    monkeypatch.setattr(writer, "BLOCK", 16)
    taken: list[stepping.Objective] = []
    monkeypatch.setattr(writer, "descend", lambda objective, _: taken.append(objective) or {})
    found: dict[int, list[float]] = {}
    for count in (1, 2, 3):
        monkeypatch.setattr(peers, "count", lambda count=count: count)
        writer.pretrain(opened, texts, texts[:9], steps=1, seed=7, checkpoint=None)
        writer.prefer(opened, people, people[:1], steps=2, seed=7, checkpoint=None)
        found[count] = []
        for objective in taken[-2:]:
            parts = [
                sum(loss.item() for loss in objective.losses(n).values()) for n in range(objective.parts)
            ]
            found[count].append(sum(parts) / len(parts))
            assert len(parts) == (2 if count == 2 else 1)
    assert found[2] == pytest.approx(found[1], rel=1e-5) and found[3] == found[1]
    assert taken[0].digest == taken[2].digest
