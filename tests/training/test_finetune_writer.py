"""The writer is tuned on what facts bear, serves as llama.cpp reads it, and is promoted only when it certainly tells more."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nightmarket import guard, lake, ledger, llm, tracking
from nightmarket.errors import ModelRefused
from nightmarket.llm import tuned
from nightmarket.settings import get_settings
from nightmarket.training import curriculum, finetune_writer, pairs, preferences, proof, stepping
from nightmarket.training.stepping import Objective, best_step, descend
from tests.conftest import choose
from tests.training.tiny_writer import catalogue, edits, plain_shop, tiny_writer

DAY = date(2026, 3, 2)


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[pairs.Pair]:
    """The descriptions of a shop that has a catalogue."""
    with plain_shop(tmp_path_factory.mktemp("pairs")):
        return pairs.made(catalogue(), seed=7, languages=frozenset({"en"}))


def test_no_product_and_no_text_is_on_two_sides_and_every_side_has_some(made: list[pairs.Pair]) -> None:
    sides = {side: pairs.on(side, made) for side in pairs.SIDES}
    assert {side: len(some) > 3 for side, some in sides.items()} == {
        "train": True, "validation": True, "test": True,
    }  # fmt: skip
    for what in ("product_id", "text"):
        sets = [{getattr(pair, what) for pair in some} for some in sides.values()]
        assert sum(map(len, sets)) == len(set().union(*sets)), what


def test_variants_that_differ_in_colour_size_or_number_are_one_group_and_another_thing_is_not() -> None:
    from nightmarket.products.product_copy.facts import read_sheet

    def group(title: str) -> str:
        return pairs.group_of(read_sheet({"product_id": "1", "title": title, "brand": "Alder"}))

    assert group("Alder Steel Kettle, Black, 2 Pack") == "alder steel kettle"
    assert group("Alder Steel Kettle 750 ml Small").startswith("alder steel kettle")
    titles = ("Alder Steel Kettle, Black", "Alder Steel Kettle, Red", "Alder Small Steel Kettle 2")
    assert {group(title) for title in titles} == {"alder steel kettle"}
    assert group("Alder Oak Ladle") == "alder oak ladle"


def test_a_text_says_nothing_that_the_facts_do_not_bear_and_asks_as_the_night_asks(
    made: list[pairs.Pair],
) -> None:
    from nightmarket.products.product_copy import writing
    from nightmarket.products.product_copy.facts import read_sheet
    from nightmarket.prompts import render

    sheets = {row["product_id"]: read_sheet(row) for row in catalogue().to_pylist()}
    assert len({pair.product_id for pair in made}) > 80
    for pair in made:
        sheet = sheets[pair.product_id]
        assert guard.unsupported(pair.text, sheet.evidence, "en") == []
        assert "7946" not in pair.text and "cures" not in pair.text
        assert pair.messages == tuple(render("product_copy", writing.own_facts(sheet), "en"))
    assert any("The material is" in pair.text for pair in made)


def test_pairs_ask_in_the_shops_voice_and_teach_nothing_that_it_avoids(home: Path) -> None:
    own = guard.shop_voice()
    own.parent.mkdir(parents=True)
    own.write_text("tone = 'Plain.'\navoid.en = ['the material is']\n")
    products = catalogue().slice(0, 12)
    with_voice = pairs.made(products, seed=7, languages=frozenset({"en"}))
    assert all("\nTone: Plain." in system for ((_, system), _) in (pair.messages for pair in with_voice))
    assert not any("The material is" in pair.text for pair in with_voice)
    own.unlink()
    silent = pairs.made(products, seed=7, languages=frozenset({"en"}))
    assert any("The material is" in pair.text for pair in silent)


# --- steps ------------------------------------------------------------------------------------------------------------


def line(**more: Any) -> Objective:
    """A line through two points: its slope learns; held out is what it misses the third by."""
    import torch

    slope = torch.nn.Parameter(torch.tensor(0.0))
    seen: list[int] = more.pop("seen", [])
    told = iter(more.pop("held_out", [float(n) for n in range(100, 0, -1)]))
    slopes: list[float] = more.pop("slopes", [])

    def losses(part: int) -> dict[str, Any]:
        seen.append(part)
        return {"miss": (slope - 1.0) ** 2}

    def look() -> dict[str, float]:
        slopes.append(float(slope.detach()))
        return {"miss": next(told)}

    return Objective("line", "d", 8, losses, look, {"slope": (slope, 0.1)}, lambda _: None, 7, **more)


def slope_of(objective: Objective) -> float:
    return float(objective.parameters["slope"][0].detach())


def test_micro_batches_make_one_step_and_each_is_asked_for_once() -> None:
    seen: list[int] = []
    curves = descend(line(parts=3, seen=seen), None)
    assert seen == list(range(24))
    assert [step for step, _ in curves["line.miss.train"]] == list(range(1, 9))


def test_steps_end_when_the_held_out_loss_stops_falling_at_the_best_state_and_a_second_start_takes_none(
    tmp_path: Path,
) -> None:
    told, slopes, seen = [5.0, 4.0, 4.5, 4.6, 1.0], [], []
    first = line(looks=8, patience=2, held_out=told, slopes=slopes)
    curves = descend(first, tmp_path / "kept.safetensors")
    assert curves["line.miss.held_out"] == [(0, 5.0), (1, 4.0), (2, 4.5), (3, 4.6)]
    assert best_step(curves, "line") == 1
    assert slope_of(first) == slopes[1] != slopes[3]
    again = line(looks=8, patience=2, held_out=told, seen=seen)
    assert descend(again, tmp_path / "kept.safetensors") == curves
    assert seen == [] and slope_of(again) == slope_of(first)


@pytest.mark.parametrize(("told", "best"), [
    ([1.0, 2.0, 3.0], 0), ([3.0, 2.0, 1.0], 8), ([float("nan"), 2.0, float("nan")], 4), ([2.0, 1.0, 1.0], 4),
])  # fmt: skip
def test_the_state_with_the_lowest_held_out_loss_is_kept_wherever_it_was(
    told: list[float], best: int
) -> None:
    slopes: list[float] = []
    objective = line(patience=9, held_out=told, slopes=slopes)
    assert best_step(descend(objective, None), "line") == best
    assert slope_of(objective) == slopes[best // 4] and len(set(slopes)) == 3


def test_a_training_killed_behind_its_best_look_ends_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepping, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(stepping, "CHECKPOINT_SHARE", math.inf)
    told = [5.0, 4.0, 4.5, 4.6]
    whole = line(looks=4, patience=9, held_out=[*told, 4.7])
    curves = descend(whole, None)
    halted = line(looks=4, patience=9, held_out=told)  # the look after 8 steps fails
    with pytest.raises(StopIteration):
        descend(halted, tmp_path / "kept.safetensors")
    again = line(looks=4, patience=9, held_out=[4.7])
    assert descend(again, tmp_path / "kept.safetensors") == curves
    assert slope_of(again) == slope_of(whole) and best_step(curves, "line") == 2


def test_steps_are_told_at_looks_and_not_more_than_once_in_ten_seconds_between(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))  # each step takes 4 s
    monkeypatch.setattr(stepping.time, "perf_counter", lambda: float(next(clock)))
    with caplog.at_level("INFO", "nightmarket.training"):
        descend(line(looks=1), None)
    assert [record.getMessage() for record in caplog.records] == [
        "line: step 0 of 8, miss held out 100.000, 4 s",
        "line: step 3 of 8, miss 0.640, 12 s, some 20 s left",
        "line: step 6 of 8, miss 0.344, 24 s, some 8 s left",
        "line: step 8 of 8, miss 0.266, miss held out 99.000, 32 s",
    ]


def test_without_patience_the_last_state_stays() -> None:
    slopes: list[float] = []
    objective = line(held_out=[1.0, 2.0, 3.0], slopes=slopes)
    descend(objective, None)
    assert slope_of(objective) == slopes[2]


# --- the gate ---------------------------------------------------------------------------------------------------------


def proved(told: float, unsupported: float = 0.1, count: int = 30) -> proof.Proof:
    averages = {
        "told": told, "passed": 0.5, "unsupported": unsupported, "misbound": 0.0, "repeated": 0.0, "distinct_2": 0.5,
        "seconds": 1.0, "tokens_per_second": 10.0,
    }  # fmt: skip
    return proof.Proof(np.full(count, told), averages, ("",) * count)


@pytest.mark.parametrize(("base", "ours", "loss", "promote", "reason"), [
    (proved(0.1), proved(0.6), 0.5, True, "tells more than the packaged writer (+0.500); held-out loss -50.0%"),
    (proved(0.6), proved(0.6), 0.5, False, "do not certainly tell more"),
    (proved(0.1, count=5), proved(0.6, count=5), 0.5, False, "only 5 held-out products, 20 are needed"),
    (proved(0.1), proved(0.6), 1.5, False, "held-out texts surprise it more"),
    (proved(0.1), proved(0.6, unsupported=0.4), 0.5, False, "it says more that is unsupported"),
    (proved(0.1), proved(0.6), float("nan"), False, "its loss is no number"),
])  # fmt: skip
def test_a_writer_is_promoted_only_when_it_certainly_tells_more_and_invents_no_more(
    base: proof.Proof, ours: proof.Proof, loss: float, promote: bool, reason: str
) -> None:
    losses = {"base": np.ones(4), "tuned": np.full(4, loss)}
    report = proof.report({"base": base, "tuned": ours}, losses, champion=None, seed=7)
    assert report["promote"] is promote and reason in report["reason"]


def test_a_catalogue_of_titles_alone_has_its_names_to_tell() -> None:
    from nightmarket.products.product_copy.facts import read_sheet

    sheet = read_sheet({"product_id": "1", "title": "Alder Kettle, Black", "brand": "Alder"})
    said = SimpleNamespace(attempt=lambda _: [llm.Reply("Meet the Alder Kettle.", 9, 6, "stop", False, 6)])
    found = proof.prove([sheet], said)  # type: ignore[arg-type]
    assert (found.told.tolist(), found.averages["passed"]) == ([1.0], 1.0)


# --- from adapters to what serves -------------------------------------------------------------------------------------


def test_a_tuning_that_was_killed_in_any_stage_goes_on_to_the_same_numbers(
    home: Path, made: list[pairs.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightmarket.training import writer

    monkeypatch.setattr(stepping, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(stepping, "CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr(writer, "LOOKED_AT", 2)
    monkeypatch.setattr(writer, "EDITS_RATE", 1e-2)
    settings = get_settings().model_copy(update={"writer_steps": 4, "writer_pretrain_steps": 2})
    people = preferences.made(catalogue(), edits(), languages=frozenset({"en"}))
    taken: list[tuple[str, int]] = []

    def learnt(folder: Path, killed_at: tuple[str, int] | None = None) -> tuple[Any, Any, writer.Writer]:
        begun = writer.descend

        def watched(objective: Objective, checkpoint: Path | None) -> Any:
            def losses(step: int) -> Any:
                if killed_at == (objective.name, step):
                    raise KeyboardInterrupt
                taken.append((objective.name, step))
                return objective.losses(step)

            return begun(replace(objective, losses=losses), checkpoint)

        opened = tiny_writer(made)
        with monkeypatch.context() as patched:
            patched.setattr(writer, "descend", watched)
            told = finetune_writer.learn(opened, catalogue(), made, people, settings=settings, folder=folder)
        return *told, opened

    curves, gained, whole = learnt(tmp_path / "whole")
    for stage in ("read_on", "finetune", "prefer"):
        with pytest.raises(KeyboardInterrupt):
            learnt(tmp_path / "halted", (stage, 1 if stage == "read_on" else 2))
    taken.clear()
    again, gained_again, last = learnt(tmp_path / "halted")
    assert taken == [("prefer", 2), ("prefer", 3)]
    assert (again, gained_again) == (curves, gained)
    assert [
        len(curves[f"{name}.train"]) for name in ("read_on.next_token", "finetune.text", "prefer.dpo")
    ] == [2, 4, 4]
    ours, theirs = last.learns(), whole.learns()
    assert len(ours) == 16 and all(ours[name].equal(theirs[name]) for name in theirs)


def test_all_weights_learn_where_asked_gently_and_a_tuning_that_was_killed_goes_on(
    made: list[pairs.Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import safe_open

    from nightmarket.training import writer

    monkeypatch.setattr(stepping, "CHECKPOINT_STEPS", 1)
    monkeypatch.setattr(stepping, "CHECKPOINT_SHARE", math.inf)
    rates: set[float] = set()
    learnt, looked = pairs.on("train", made)[:24], pairs.on("validation", made)[:2]

    def tuned_to(kept: Path, killed_at: int = 99) -> tuple[Any, dict[str, Any]]:
        def watched(objective: Objective, checkpoint: Path | None) -> Any:
            def losses(part: int) -> Any:
                if part == killed_at:
                    raise KeyboardInterrupt
                return objective.losses(part)

            rates.update(rate for _, rate in objective.parameters.values())
            return descend(replace(objective, losses=losses), checkpoint)

        opened = tiny_writer(made, "full")
        with monkeypatch.context() as patched:
            patched.setattr(writer, "descend", watched)
            curves = writer.finetune(opened, learnt, looked, steps=4, parts=1, seed=7, checkpoint=kept)
        return curves, opened.learns()

    curves, whole = tuned_to(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        tuned_to(tmp_path / "halted.safetensors", killed_at=2)
    names = {}
    for when, act in (("halted", lambda: None), ("ended", lambda: tuned_to(tmp_path / "halted.safetensors"))):
        again = act()
        with safe_open(tmp_path / "halted.safetensors", "pt") as kept:
            names[when] = {name.split(".")[0] for name in kept.keys()}  # noqa: SIM118 - it is no dictionary
    assert again is not None and again[0] == curves
    assert len(whole) == 2 * 9 + 2 and all(again[1][name].equal(whole[name]) for name in whole)
    fresh = tiny_writer(made, "full").learns()
    assert not any(fresh[name].equal(whole[name]) for name in whole)
    assert rates == {2e-5}
    # What is only needed to go on is gone once a stage ended: Adam's moments are twice the weights.
    assert names == {"halted": {"network", "best", "adam"}, "ended": {"network"}}


def test_another_method_makes_another_version(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = finetune_writer.recipe(get_settings())
    monkeypatch.setenv("NIGHTMARKET_WRITER_METHOD", "full")
    get_settings.cache_clear()
    assert finetune_writer.recipe(get_settings()) != plain


@pytest.mark.parametrize(("able", "chosen"), [
    ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True, "avx512_bf16": False}, "bf16"), ({"avx512_f": True}, "fp32"), ({}, "fp32"),
])  # fmt: skip
def test_bf16_is_chosen_where_the_processor_multiplies_it_and_makes_another_version(
    home: Path, monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], chosen: str
) -> None:
    import torch

    from nightmarket.training import writer

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    plain = finetune_writer.recipe(get_settings())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert writer.precision() == chosen
    assert (finetune_writer.recipe(get_settings()) == plain) is (chosen == "fp32")


def test_a_step_in_bf16_is_near_one_in_fp32_and_what_learns_stays_fp32(
    made: list[pairs.Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from nightmarket.training import writer

    opened = tiny_writer(made)
    batch = opened._batch([opened._coded(pair) for pair in made[:4]])
    whole = float(opened.loss(*batch).detach())
    monkeypatch.setattr(writer, "precision", lambda device: "bf16")
    loss = opened.loss(*batch)
    loss.backward()
    assert loss.dtype == torch.float32 and 0 < abs(float(loss.detach()) - whole) < 0.01 * whole
    learnt = [p for p in opened.learns().values() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(learnt) == 8 and {p.dtype for p in learnt} == {p.grad.dtype for p in learnt} == {torch.float32}


def test_adapters_of_other_weights_or_changed_ones_are_refused(home: Path, tmp_path: Path) -> None:
    tuned.write(tmp_path, {"model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((2, 576))}, scale=1.0)
    about = json.loads((tmp_path / "writer.json").read_text())
    (tmp_path / "adapters.safetensors").write_bytes(b"another")
    with pytest.raises(ModelRefused, match="have the digest"):
        tuned.located(tmp_path)
    (tmp_path / "writer.json").write_text(json.dumps(about | {"base_sha256": "0" * 64}))
    with pytest.raises(ModelRefused, match="belongs to other packaged weights"):
        tuned.digest_of(tmp_path)
    (tmp_path / "writer.json").unlink()
    with pytest.raises(ModelRefused, match="nightmarket rollback writer"):
        tuned.digest_of(tmp_path)
    (tmp_path / "pickled.bin").write_bytes(b"\x80\x04")
    strange = {"model.layers.0.mlp.router.lora_A.weight": np.zeros((2, 2))}
    tuned.write(tmp_path, strange, scale=1.0)
    with pytest.raises(ModelRefused, match="which is no adapter"):
        tuned.located(tmp_path)


@pytest.fixture
def packaged(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A GGUF of one layer in place of the packaged one, with its heads; returns its weights as a network has them."""
    import gguf

    random, path = np.random.default_rng(3), tmp_path / "packaged.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    shapes = {"attn_q": (36, 32), "attn_k": (12, 32), "attn_norm": (32,), "ffn_down": (32, 64)}
    named = {f"blk.0.{part}": shape for part, shape in shapes.items()} | {"token_embd": (40, 32), "output_norm": (32,)}  # fmt: skip
    for name, shape in named.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    weights = SimpleNamespace(name="a tiny one", sha256="5" * 64, digest="5" * 12, verify=lambda: path)
    monkeypatch.setattr(tuned, "SMOLLM2", weights)
    for kind in ("_TUNED", "_WHOLE"):
        monkeypatch.setattr(tuned, kind, replace(getattr(tuned, kind), base=weights))
    return dict(tuned.packaged_tensors())


def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The weights that a version serves with, as a network has them."""
    path = tuned.located(folder)
    with monkeypatch.context() as patched:
        patched.setattr(tuned, "SMOLLM2", SimpleNamespace(verify=lambda: path))
        return dict(tuned.packaged_tensors())


def test_changes_of_all_weights_serve_as_the_same_adapters_do_and_each_reaches_its_weight(
    packaged: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, random = "model.layers.0.self_attn.q_proj", np.random.default_rng(4)
    low = {"A": random.normal(size=(2, 32)).astype(np.float32), "B": random.normal(size=(36, 2)).astype(np.float32)}  # fmt: skip
    tuned.write(tmp_path / "lora", {f"{query}.lora_{m}.weight": n for m, n in low.items()}, scale=0.5)
    changed = packaged | {f"{query}.weight": packaged[f"{query}.weight"] + 0.5 * low["B"] @ low["A"]}
    tuned.write_whole(tmp_path / "full", changed)
    assert [tuned.is_whole(tmp_path / name) for name in ("lora", "full")] == [False, True]
    by_adapters, by_changes = (served(tmp_path / name, monkeypatch) for name in ("lora", "full"))
    for name, numbers in by_changes.items():
        assert np.abs(numbers - by_adapters[name]).max() < 0.05, name
        assert np.abs(numbers - changed[name]).max() < 0.05, name
    everything = {name: numbers + 1 for name, numbers in packaged.items()}
    tuned.write_whole(tmp_path / "all", everything)
    for name, numbers in served(tmp_path / "all", monkeypatch).items():
        assert np.abs(numbers - everything[name]).max() < 0.05, name
    assert tuned.digest_of(tmp_path / "all") != tuned.digest_of(tmp_path / "full")


def test_changes_of_what_the_packaged_weights_lack_or_of_other_ones_are_refused(
    packaged: dict[str, np.ndarray], tmp_path: Path
) -> None:
    tuned.write_whole(tmp_path, packaged)
    (tmp_path / "changes.safetensors").write_bytes(b"another")
    with pytest.raises(ModelRefused, match="have the digest"):
        tuned.located(tmp_path)
    for name, words in (("model.layers.0.mlp.router.weight", "no weight of"), ("model.layers.7.mlp.up_proj.weight", "has no layer")):  # fmt: skip
        tuned._WHOLE.write(tmp_path, {name: np.ones((2, 2), np.float16)}, method="full")
        with pytest.raises(ModelRefused, match=words):
            tuned.located(tmp_path)


def test_a_disk_that_fills_during_export_leaves_no_file_and_says_what_to_do(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned.write(tmp_path, {}, scale=1.0)

    def full(deltas: dict[str, np.ndarray], target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuned, "_export", full)
    with pytest.raises(ModelRefused, match=r"No space left on device.*150 MB"):
        tuned.located(tmp_path)
    assert list((home / "models").iterdir()) == []


@pytest.mark.slow
def test_the_real_weights_make_one_version_that_llama_cpp_serves_as_the_network_says_it(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from nightmarket.training import writer

    choose(monkeypatch, WRITER_STEPS="1", WRITER_PRETRAIN_STEPS="1", WRITER_TRIAL_PRODUCTS="1")
    # As little as there can be, in a step that is large enough to be heard.
    for name, value in (
        ("HELD_OUT", 1),
        ("LOOKED_AT", 1),
        ("BATCH", 1),
        ("BLOCKS", 1),
        ("BLOCK", 32),
        ("RATE", 0.03),
    ):
        monkeypatch.setattr(writer, name, value)
    monkeypatch.setattr(proof, "MOST_TOKENS", 8)
    monkeypatch.setattr(writer, "HELD_OUT_BESIDE", 1)
    monkeypatch.setattr(curriculum, "SHARES", {"meta_description": 0.25})
    said, save = [], writer.Writer.save

    def heard(self: writer.Writer, folder: Path, *writes: list[str]) -> None:
        asked = pairs.on("test", pairs.load(DAY))[0].messages
        ids = self.tokenizer.apply_chat_template(
            [{"role": role, "content": text} for role, text in asked], add_generation_prompt=True,
            return_tensors="pt", return_dict=True,
        )  # fmt: skip
        with torch.no_grad():
            whole = self.network.generate(**ids, max_new_tokens=6, do_sample=False)
        said.append(self.tokenizer.decode(whole[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
        save(self, folder, *writes)

    monkeypatch.setattr(writer.Writer, "save", heard)
    lake.write("products", DAY, catalogue().slice(0, 60), key=("product_id",))
    first, second, third = (
        step(DAY, "r").note
        for step in (finetune_writer.build_examples, finetune_writer.train, finetune_writer.promote)
    )
    few = "0 edits of people to learn from, 32 are needed"
    assert first == few
    assert second.startswith("version 1: held-out loss ") and second.endswith(few)
    assert "only 1 held-out products, 20 are needed" in third
    (found,) = tracking.versions("writer")
    assert sorted(p.name for p in found.path.iterdir()) == ["adapters.safetensors", "writer.json"]
    said_of_it = found.metrics["meta_description.passed"]
    assert json.loads((found.path / "writer.json").read_text())["writes"] == [
        "description", *(["meta_description"] if said_of_it >= 0.5 else [])
    ]  # fmt: skip
    assert found.params["best_step"] in (0, 1) and found.params["precision"] == writer.precision()
    report = json.loads(found.tags["gate_report"])
    assert (report["products"], report["promote"]) == (1, False)
    _, client = tracking._mlflow()
    for loss in ("read_on.next_token", "finetune.text"):
        assert [m.step for m in client.get_metric_history(found.run_id, f"{loss}.held_out")] == [0, 1], loss
    card = str(client.get_model_version("nightmarket.writer", "1").description)
    assert "passed" in card and f"Nothing was learnt from edits: {few}." in card
    # Too few edits (one of these three is held out) make nothing new.
    ledger.copy_reviews(edits()[:3])
    preferences.freeze(DAY, languages=finetune_writer.LANGUAGES)
    assert finetune_writer.train(DAY, "r2").note == second.replace(few, few.replace("0", "2", 1))
    assert len(tracking.versions("writer")) == 1
    # What llama.cpp reads says what the network said. Blocks of 8 bits decide a near tie otherwise: the first words are none.
    told = Path(client.download_artifacts(found.run_id, "texts.md")).read_text()
    served = re.findall(r"^\*\*(?:base|tuned)\*\*: (.*)", told, re.MULTILINE)
    assert len(served) == 2 and served[0].split()[:3] != served[1].split()[:3] == said[0].split()[:3]
    # Nobody was promoted: the packaged writer serves, and may not write freely.
    assert (llm.open_generator(DAY).version, llm.open_generator(DAY).free) == (llm.SMOLLM2.digest, False)
