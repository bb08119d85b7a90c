"""The three steps on a small shop with the real lake, registry and weights: trained once, judged once, used by `embed`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nightmarket import encoder, lake, ledger, tracking
from nightmarket.errors import ModelRefused
from nightmarket.settings import get_settings
from nightmarket.training import finetune_encoder, retrieval
from tests.ranking.purchases import shop

DAY = date(2026, 3, 2)
KEY = ("customer_id", "ordered_at", "order_id", "product_id")


@pytest.fixture(autouse=True)
def _small(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NIGHTMARKET_ENCODER_STEPS", "1")
    monkeypatch.setenv("NIGHTMARKET_ENCODER_TRIAL_PRODUCTS", "50")
    get_settings.cache_clear()
    encoder._serving.cache_clear()
    yield
    encoder._serving.cache_clear()
    get_settings.cache_clear()


def extract(day: date, customers: int = 200, products: int = 60) -> None:
    bought = shop(customers=customers, products=products)
    lake.write("purchases", day, bought, key=KEY)
    aisles = ("tents", "mugs", "lamps")
    rows = [
        {"product_id": f"p{n:03d}", "title": f"{aisles[n * 3 // products]} number {n}", "brand": "Alder",
         "category": f"Home > {aisles[n * 3 // products]}", "attributes": "{}", "description": "Made well. Lasts long."}
        for n in range(products)
    ]  # fmt: skip
    lake.write("products", day, pa.Table.from_pylist(rows), key=("product_id",))


def night(day: date) -> list[str]:
    steps = (finetune_encoder.build_examples, finetune_encoder.train, finetune_encoder.promote)
    return [step(day, f"run-{day}").note for step in steps]


def decisions() -> list[tuple[str | None, str]]:
    return [(r["to_version"], r["decision"]) for r in ledger.rows("promotions").to_pylist()]


def test_a_training_leaves_curves_a_card_and_a_verdict_and_what_is_not_certainly_better_is_refused() -> None:
    extract(DAY)
    notes = night(DAY)
    assert "version 1: pre-training on the shop's texts: " in notes[1]
    (made,) = tracking.versions("encoder")
    report = json.loads(made.tags["gate_report"])
    assert report["examples"] >= 50 and report["variant"] in retrieval.VARIANTS
    assert made.tags["paid"] == report["paid"] and "Did it pay?" in _description()
    assert (decisions(), notes[2].split(":")[0]) == (
        ([("1", "promoted")], "version 1 is champion") if report["promote"] else ([("1", "refused")], "version 1 refused")
    )  # fmt: skip
    _, client = tracking._mlflow()
    for loss in ("pretrain.masked_token", "pretrain.next_sentence", "contrast.info_nce", "both.info_nce"):
        steps = [m.step for m in client.get_metric_history(made.run_id, f"{loss}.held_out")]
        assert steps == [0, 1], loss
    assert sorted(p.name for p in made.path.iterdir()) == ["encoder.json", "tuned.safetensors"]
    assert "trained for this day already" in night(DAY)[1] and len(tracking.versions("encoder")) == 1
    extract(DAY + timedelta(days=1), products=63)
    assert "5.0% new products since version 1, 1 days ago" in night(DAY + timedelta(days=1))[0]


def _description() -> str:
    _, client = tracking._mlflow()
    return str(client.get_model_version("nightmarket.encoder", "1").description)


def test_too_little_to_learn_from_trains_nothing() -> None:
    extract(DAY, customers=20)
    assert night(DAY)[1].startswith("too little to learn from: ")
    assert night(DAY)[2] == "no champion: the packaged encoder serves"
    assert tracking.versions("encoder") == []


def registered(scale: float, folder: Path, digest: str = "d1") -> tracking.Version:
    """A registered encoder whose last layer is the packaged one's, moved a little."""
    from nightmarket.training.bert import open_packaged

    layers = {name: p.detach().numpy() * scale for name, p in open_packaged(7).layers().items()}
    encoder.write_tuned(folder / "model", layers)
    example = ({"text": ["tea pot"]}, {"vector": [[0.0] * encoder.DIMENSIONS]})
    return tracking.register("encoder", tracking.Training(
        day=DAY, run_id="r", dag_id="finetune_encoder", inputs_digest=digest, params={}, metrics={}, datasets=[],
        model=folder / "model", loader="nightmarket.encoder", example=example, requirements=["numpy==2.4.6"],
        documents={}, tags={},
    ))  # fmt: skip


def test_the_champion_makes_the_vectors_and_they_are_kept_beside_those_of_the_packaged_one(
    tmp_path: Path,
) -> None:
    packaged = encoder.embed(["tea pot"])
    assert (encoder.name(), encoder.version()) == ("all-MiniLM-L6-v2", encoder.MINILM.digest)
    made = registered(0.7, tmp_path)
    assert np.array_equal(encoder.embed(["tea pot"]), packaged)  # a challenger serves nobody
    tracking.promote("encoder", made.version, reason="better")
    assert np.array_equal(encoder.embed(["tea pot"]), packaged)  # asked once a process
    encoder._serving.cache_clear()
    tuned = encoder.embed(["tea pot"])
    assert (encoder.name(), encoder.version()) == ("nightmarket.encoder", "1")
    assert not np.allclose(tuned, packaged, atol=1e-3)
    encoder.as_of(DAY)
    assert encoder.version() == encoder.MINILM.digest  # what was trained on a day serves from the next one on
    encoder.as_of(DAY + timedelta(days=1))
    assert encoder.version() == "1"
    encoder.as_of(None)
    stores = sorted(p.name for p in (get_settings().state / "embeddings").glob("*.sqlite"))
    digest = json.loads((made.path / "encoder.json").read_text())["sha256"][:12]
    assert stores == sorted(
        [f"all-MiniLM-L6-v2-{encoder.MINILM.digest}.sqlite", f"all-MiniLM-L6-v2-tuned-{digest}.sqlite"]
    )
    import pandas as pd

    served = encoder._load_pyfunc(str(made.path)).predict(pd.DataFrame({"text": ["tea pot"]}))
    assert np.allclose(served["vector"][0], tuned[0], atol=1e-5)
    (made.path / "tuned.safetensors").write_bytes(b"something else")
    with pytest.raises(ModelRefused, match="digest"):
        encoder.tuned_layers(made.path)
    (made.path / "encoder.json").write_text('{"base_sha256": "of others"}')
    encoder._serving.cache_clear()
    with pytest.raises(ModelRefused, match="other packaged weights"):
        encoder.embed(["tea pot"])
