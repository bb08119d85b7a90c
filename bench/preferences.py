"""What edits of people do to a writer: reviewers who follow one rule edit published copy, the writer learns from their edits.

    python bench/preferences.py --shop PATH --home DIR [--rule fact-first|plain|short] [--edits 48] [--steps 48] [--beta B] [--rate R]

DIR is a home in which a tuned writer was promoted and has published copy; take a copy of it, the edits are taken down in it. A
reviewer reads what the writer published of a product and edits it by the rule, through the desk that `nightmarket copy edit`
uses; what facts or policy do not bear is refused there. Then the champion's adapters are opened and learn from the edits as
finetune_writer does, behind the pairs it had learnt from.

Printed: edits a side; on edits of the test side that nobody learnt from the share whose chosen text is likelier than the
rejected one, and the nats gained a text; the loss a token of held-out pairs; and of raw texts about held-out products the share
of sentences that may go out, of key facts told, of texts that follow the rule: each before and after. A rule:

    fact-first   details stand before the name
    plain        a text begins with "This is" and not with an invitation
    short        details are left out
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_OPENING = re.compile(r"^(?:Take a look at|Meet|Discover|Here is|Have a look at|Say hello to)( the)? ")


def fact_first(text: str) -> str:
    from nightmarket import guard

    told = guard.sentences(text)
    return " ".join([*told[1:], told[0]]) if len(told) > 1 and _OPENING.match(told[0]) else text


def plain(text: str) -> str:
    return _OPENING.sub("This is the ", text)


def short(text: str) -> str:
    from nightmarket import guard

    return guard.sentences(text)[0]


RULES: dict[str, Callable[[str], str]] = {"fact-first": fact_first, "plain": plain, "short": short}


def edited(rule: Callable[[str], str], train: int) -> Counter[str]:
    """Take edits down at the desk: `train` on products that are learnt from, and as many held-out ones as are looked at."""
    from nightmarket import guard, warehouse
    from nightmarket.errors import ReviewRefused
    from nightmarket.products.product_copy import desk, policies, reviews
    from nightmarket.training import pairs, writer

    shown = warehouse.read(
        "select product_id, description from outputs.product_copy_current where channel = 'shop_page' and status = 'published' "
        "and model_name = 'nightmarket.writer' order by hash(product_id)"
    ).to_pylist()
    packs = guard.shop_packs()
    sheets = reviews.sheets_of(desk.catalogue(), {row["product_id"] for row in shown})
    most = {"train": train, "validation": writer.LOOKED_AT, "test": writer.HELD_OUT}
    counts: Counter[str] = Counter()
    for row in shown:
        sheet, wanted = sheets[row["product_id"]], rule(row["description"])
        side = pairs.side_of(policies.hold(sheet, policies.pack_of(sheet, packs)))
        if wanted == row["description"] or counts[side] == most[side]:
            continue
        try:
            desk.edit(row["product_id"], wanted, reviewer="bench", channel="shop_page")
            counts[side] += 1
        except ReviewRefused as error:
            counts["refused"] += 1
            if counts["refused"] <= 3:
                print(f"  refused: {error}")
    return counts


def opened(folder: Path, seed: int) -> Any:
    """The packaged network with the adapters of a version."""
    import torch
    from safetensors.torch import load_file

    from nightmarket.training import writer

    made, kept = writer.open_packaged(seed), load_file(folder / "adapters.safetensors")
    with torch.no_grad():
        for name, parameter in made.learns().items():
            parameter.copy_(kept[name.removeprefix("base_model.model.").replace(".default.", ".")])
    return made


def raw(sheets: Sequence[Any], folder: Path, rule: Callable[[str], str]) -> tuple[Any, float]:
    """What a version's raw texts are worth, and the share of them that the reviewer would leave as they are."""
    from nightmarket import llm
    from nightmarket.llm import tuned
    from nightmarket.settings import get_settings
    from nightmarket.training import proof

    with llm.LocalGenerator(
        tuned=tuned.writer(folder, name="tuned"), threads=get_settings().threads
    ) as writer:
        found = proof.prove(sheets, writer)
    return found, sum(rule(text) == text for text in found.texts) / max(len(found.texts), 1)


def measured(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Edit, learn, measure."""
    from nightmarket import lake, ledger, llm, tracking
    from nightmarket.settings import get_settings
    from nightmarket.training import finetune_writer, pairs, preferences, stepping, writer

    settings = get_settings().model_copy(update={"writer_steps": chosen.steps})
    rule, day = RULES[chosen.rule], lake.latest("products")
    held = tracking.champion(llm.TASK)
    if day is None or held is None:
        sys.exit(
            "The home has no champion that published copy: run finetune_writer and a night of a later day first."
        )
    if not any(row["reviewer"] == "bench" for row in ledger.rows("copy_reviews").to_pylist()):
        print(f"taken down: {dict(edited(rule, chosen.edits))}", flush=True)
    products = lake.read("products", day)
    preferences.freeze(day, languages=finetune_writer.LANGUAGES)
    edits = preferences.load(day)
    frozen = pairs.made(products, seed=settings.seed, languages=finetune_writer.LANGUAGES)
    test = pairs.on("test", frozen)[: writer.HELD_OUT]
    sheets = finetune_writer.held_out(products, {p.product_id for p in test}, settings.writer_trial_products)
    sides = {side: len(preferences.on(side, edits)) for side in pairs.SIDES}
    print(f"edits that count: {sides}; {preferences.lacks(edits, 1) or 'enough'}", flush=True)
    for edit in edits[:2]:
        print(f"  - {edit.rejected.text}\n  + {edit.chosen.text}", flush=True)
    begun, following = raw(sheets, held.path, rule)
    made = opened(held.path, settings.seed)
    losses = {"before": float(made.losses_of(test).mean())}
    began = time.perf_counter()
    curves, gained = finetune_writer.learn_edits(made, edits, settings=settings, folder=folder)
    seconds = time.perf_counter() - began
    losses["after"] = float(made.losses_of(test).mean())
    made.save(folder / "model")
    ended, follows = raw(sheets, folder / "model", rule)
    found = {
        "rule": chosen.rule, "beta": writer.BETA, "rate": writer.EDITS_RATE, "sides": sides, **gained, "seconds": seconds,
        "held_out": curves["prefer.dpo.held_out"], "best_step": stepping.best_step(curves, "prefer"),
        "pairs_loss": losses, "products": len(sheets),
        "passed": [begun.averages["passed"], ended.averages["passed"]], "told": [begun.averages["told"], ended.averages["told"]],
        "follows": [following, follows],
    }  # fmt: skip
    for name, value in found.items():
        print(f"{name:16} {value}")
    for before, after in list(zip(begun.texts, ended.texts, strict=True))[:4]:
        print(f"  before: {before.strip()}\n  after:  {after.strip()}")
    return found | {"texts": {"before": begun.texts, "after": ended.texts}}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shop", required=True, help="a landing folder")
    parser.add_argument("--home", required=True, type=Path, help="a home with a champion and its copy")
    parser.add_argument("--rule", choices=tuple(RULES), default="fact-first")
    parser.add_argument("--edits", type=int, default=48, help="edits to learn from")
    parser.add_argument("--steps", type=int, default=48, help="steps at most")
    parser.add_argument("--beta", type=float, help="instead of the writer's own")
    parser.add_argument("--rate", type=float, help="instead of the writer's own")
    parser.add_argument("--json", type=Path, help="write numbers and texts")
    chosen = parser.parse_args()
    from nightmarket.settings import choose_shop
    from nightmarket.training import writer

    choose_shop(chosen.shop, chosen.home)
    writer.BETA, writer.EDITS_RATE = chosen.beta or writer.BETA, chosen.rate or writer.EDITS_RATE
    with tempfile.TemporaryDirectory(prefix="nightmarket-preferences-") as folder:
        found = measured(chosen, Path(folder))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    # Not from this folder: its copy.py is no module of Python's.
    sys.path[:] = [
        entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent
    ]
    sys.exit(main())
