"""Candidates come from a checked file, each is tried apart, and the cheapest that is as good as the best is recommended."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from nightmarket import lake, llm, tracking
from nightmarket.errors import CandidatesRefused, ModelRefused
from nightmarket.settings import get_settings
from nightmarket.training import bake_off, candidates, finetune_writer
from nightmarket.training.bake_off import Point
from tests.conftest import choose
from tests.training.test_finetune_writer import catalogue, plain_shop
from tests.training.tiny_llama import write_tiny_llama

DAY = date(2026, 3, 2)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="module")
def pairs_of_the_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a catalogue and the pairs that are frozen from it."""
    with plain_shop(tmp_path_factory.mktemp("pairs")):
        lake.write("products", DAY, catalogue(), key=("product_id",))
        finetune_writer.build_examples(DAY, "r")
        return get_settings().state / "lake"


def _have(pairs: Path) -> None:
    """The catalogue and its pairs for the shop that was chosen."""
    shutil.copytree(pairs, get_settings().state / "lake", dirs_exist_ok=True)


def point(name: str, told: float, *, pairs: int = 0, seconds: float = 10.0, cost: float = 0.0) -> Point:
    own = sum(map(ord, name)) + pairs
    shares = tuple(told + 0.02 * ((n * own) % 5 - 2) for n in range(25))
    averages = {"passed": 0.5, "unsupported": 0.1}
    return Point(name, pairs, shares, averages, 1.0, 1000, 5.0, seconds, cost, 100.0)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_without_a_file_the_packaged_writer_is_tried_alone(tiny: Path) -> None:
    assert candidates.candidates_file() == tiny / "writers.toml"
    assert [(c.name, c.kind) for c in candidates.read()] == [("packaged", "packaged")]


def test_a_file_names_candidates_of_every_kind_and_a_folder_is_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "qwen").mkdir()
    file = tmp_path / "writers.toml"
    file.write_text(
        '[[candidate]]\nname = "packaged"\nkind = "packaged"\nprice_per_hour = 0.2\n'
        '[[candidate]]\nname = "own"\nkind = "folder"\npath = "qwen"\n'
        f'[[candidate]]\nname = "hub"\nkind = "hub"\nmodel = "owner/model"\nrevision = "{COMMIT}"\n'
        '[[candidate]]\nname = "gpt"\nkind = "endpoint"\nurl = "https://models.example.com/v1"\nmodel = "m"\nprice_out = 2.0\n'
    )
    read = candidates.read(file)
    assert [(c.name, c.kind) for c in read] == [
        ("packaged", "packaged"), ("own", "folder"), ("hub", "hub"), ("gpt", "endpoint"),
    ]  # fmt: skip
    assert (read[1].source, read[2].source) == (str(tmp_path / "qwen"), f"owner/model@{COMMIT}")


def test_every_problem_of_a_file_is_told_at_once_with_the_candidate_and_the_key(tmp_path: Path) -> None:
    file = tmp_path / "writers.toml"
    file.write_text(
        'candidates = 1\n[[candidate]]\nname = "a"\nkind = "hub"\nmodel = "owner/model"\nrevision = "main"\n'
        '[[candidate]]\nname = "b"\nkind = "folder"\npath = "nowhere"\n[[candidate]]\nname = "b"\nkind = "packaged"\n'
        '[[candidate]]\nname = "c"\nkind = "endpoint"\nmodel = "m"\n[[candidate]]\nname = "d"\nkind = "packaged"\nkey = "s"\n'
        '[[candidate]]\nname = "e"\nkind = "packaged"\nmodel = "m"\n'
    )
    with pytest.raises(CandidatesRefused) as refused:
        candidates.read(file)
    told = "\n".join(refused.value.problems)
    assert len(refused.value.problems) == 7
    for said in (
        "no key `candidates`", "candidate `a`: `revision`", "nowhere is no folder", "two candidates have the name `b`",
        "candidate `c`: a candidate of kind `endpoint` needs url", "candidate `d`: `key`",
        "candidate `e`: `model` has no meaning for a candidate of kind `packaged`",
    ):  # fmt: skip
        assert said in told, said


@pytest.mark.parametrize("text", ["", "[[candidate", "\xff"], ids=["empty", "no TOML", "no UTF-8"])
def test_a_file_that_holds_no_candidate_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "writers.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(CandidatesRefused, match=r"writers\.toml"):
        candidates.read(file)


# --- what is recommended ----------------------------------------------------------------------------------------------


def test_of_points_that_are_as_good_as_the_best_the_cheapest_is_recommended_then_the_fastest() -> None:
    made = [
        point("small", 0.60, pairs=16, seconds=5.0),
        point("small", 0.90, pairs=64, seconds=5.0),
        point("large", 0.9001, cost=4.0, seconds=1.0),
        point("free", 0.8999, seconds=9.0),
    ]
    report = bake_off.verdict(made, seed=7)
    assert (report["recommended"], report["pairs"], report["best"]) == ("small", 64, ["large", 0])
    assert report["as_good"] == [["small", 64], ["large", 0]]
    assert "the best, large with 0 pairs, tells 90%, not certainly more" in report["reason"]


def test_where_nobody_could_be_tried_nobody_is_recommended() -> None:
    assert bake_off.verdict([], seed=7)["recommended"] is None


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_candidates_are_compared_once_with_a_learning_curve_and_a_page(
    registry: Path,
    tiny: Path,
    tiny_llama: Path,
    pairs_of_the_day: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "writers.toml").write_text(
        f'[[candidate]]\nname = "tiny"\nkind = "folder"\npath = "{tiny_llama}"\nprice_per_hour = 3.6\n'
    )
    choose(
        monkeypatch, SHOP=str(shop), WRITER_STEPS="4", WRITER_TRIAL_PRODUCTS="1", BAKE_OFF_PAIRS="16", ENDPOINT_TRIES="1"
    )  # fmt: skip
    _empty_store(registry)
    _have(pairs_of_the_day)
    done = bake_off.compare(DAY, "r")
    assert (done.rows_out, "is recommended" in done.note) == (2, True)
    again = bake_off.compare(DAY, "r2")
    assert again.note.startswith("unchanged: ") and again.rows_out == 0
    _, client = tracking._mlflow()
    (run,) = client.search_runs([client.get_experiment_by_name("bake_off").experiment_id])
    assert sorted(f.path for f in client.list_artifacts(run.info.run_id)) == [
        "points.json", "scorecard.html", "scorecard.md",
    ]  # fmt: skip
    points = json.loads(_text(client, run, "points.json"))
    assert [(p["candidate"], p["pairs"]) for p in points] == [("tiny", 0), ("tiny", 16)]
    assert points[0]["bits"] > points[1]["bits"] > 0  # it learnt
    assert points[0]["parameters"] == points[1]["parameters"] < 10_000
    assert points[0]["cost"] == pytest.approx(points[0]["seconds"] * 0.001)
    page = _text(client, run, "scorecard.html")
    assert "<svg" in page and "tiny" in page and "<script" not in page
    assert "cost: in EUR, by the prices of" in page
    assert [m.step for m in client.get_metric_history(run.info.run_id, "tiny.told_after_pairs")] == [0, 16]


def _empty_store(registry: Path) -> None:
    """MLflow's empty store for the shop that was chosen: making its tables takes seconds."""
    folder = get_settings().state / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(registry, folder / "mlflow.db")


def _text(client: object, run: object, name: str) -> str:
    return Path(client.download_artifacts(run.info.run_id, name)).read_text()  # type: ignore[attr-defined]


def test_candidates_that_cannot_be_tried_cost_a_line_each_and_are_tried_again_when_asked_for_again(
    registry: Path, pairs_of_the_day: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "writers.toml").write_text(
        '[[candidate]]\nname = "pickled"\nkind = "folder"\npath = "pickled"\n'
        '[[candidate]]\nname = "gone"\nkind = "endpoint"\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    )
    choose(monkeypatch, SHOP=str(tmp_path), WRITER_TRIAL_PRODUCTS="1", ENDPOINT_TRIES="1")
    _empty_store(registry)
    _have(pairs_of_the_day)
    # In this process: what is tried apart is a process of its own, whose start is not what is promised here.
    monkeypatch.setattr(bake_off, "_tried", bake_off.trial)
    for run in ("r1", "r2"):
        done = bake_off.compare(DAY, run)
        assert (done.rows_out, done.note) == (
            0, "nothing is recommended: no candidate could be tried; could not be tried: pickled, gone",
        )  # fmt: skip
    _, client = tracking._mlflow()
    runs = client.search_runs([client.get_experiment_by_name("bake_off").experiment_id])
    assert len(runs) == 2
    page = _text(client, runs[0], "scorecard.html")
    assert (
        "pytorch_model.bin, which can run code when opened" in page and "answered none of 1 requests" in page
    )


def test_a_point_that_is_whole_is_not_measured_again_after_a_kill(
    home: Path, pairs_of_the_day: Path, tmp_path: Path
) -> None:
    _have(pairs_of_the_day)
    kept = point("gone", 0.5)
    (tmp_path / "gone-0.json").write_text(json.dumps(kept.__dict__))
    nobody = candidates.Candidate(name="gone", kind="endpoint", url="http://127.0.0.1:9/v1", model="m")
    assert bake_off.trial(nobody, DAY, tmp_path) == [kept]


# --- the runtime ------------------------------------------------------------------------------------------------------


def test_a_network_answers_in_order_pays_once_and_keeps_no_grammar(tiny_llama: Path, tmp_path: Path) -> None:
    asked = [
        llm.Request((llm.Message("user", "Name a tea. " * n),), max_tokens=5, grammar='root ::= "a"' if n == 2 else None)
        for n in (3, 1, 2)
    ]  # fmt: skip
    with llm.NetworkGenerator(str(tiny_llama), store=tmp_path / "replies.sqlite") as writer:
        together = writer.attempt(asked)
        (alone,) = writer.attempt(asked[1:2])
    assert [type(outcome).__name__ for outcome in together] == ["Reply", "Reply", "Failure"]
    assert together[2].kind == "invalid" and "keeps no grammar" in together[2].reason  # type: ignore[union-attr]
    assert alone.cached and alone.text == together[1].text  # type: ignore[union-attr]
    assert (writer.spent.calls, writer.free) == (1, True)
    with llm.NetworkGenerator(str(tiny_llama)) as fresh:
        assert fresh.attempt(asked[1:2])[0].text == together[1].text  # type: ignore[union-attr]
    assert all(0 < reply.size <= 5 for reply in together[:2])  # type: ignore[union-attr]


@pytest.mark.parametrize(("source", "why"), [
    ("owner/model", "no `owner/model@commit`"),
    ("owner/model@main", "a branch can become another model overnight"),
    ("pickled", "pytorch_model.bin, which can run code when opened"),
    ("empty", "has no weights as safetensors"),
])  # fmt: skip
def test_a_model_that_may_change_or_run_code_is_refused(tmp_path: Path, source: str, why: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelRefused, match=why):
        llm.NetworkGenerator(source if "/" in source else str(tmp_path / source))


def test_a_model_without_a_chat_template_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    from nightmarket.llm import network

    folder = shutil.copytree(tiny_llama, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelRefused, match="has no chat template"):
        network.opened(str(folder))


def test_settings_choose_another_model_and_say_which_is_missing(
    home: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.errors import SettingMissing

    monkeypatch.setenv("NIGHTMARKET_GENERATOR", "network")
    get_settings.cache_clear()
    with pytest.raises(SettingMissing, match="NIGHTMARKET_GENERATOR_MODEL is not set"):
        llm.open_generator(DAY)
    monkeypatch.setenv("NIGHTMARKET_GENERATOR_MODEL", str(tiny_llama))
    get_settings.cache_clear()
    opened = llm.open_generator(DAY)
    assert (type(opened).__name__, opened.version) == ("NetworkGenerator", llm.version_of(str(tiny_llama)))
