"""What a writer says of real products, and what of it may be published: raw, proven, chosen, template, side by side.

    python bench/writing.py --shop PATH [--writer base|champion|template] [--limit 24] [--json FILE] [--home DIR] [--gguf FILE] [--alone]

Products are drawn evenly from the folder, which is read as a night reads it. `raw` is what a writer says freely, before anything
is done about it; `proven` is its free sentences that the facts bear, with what they left out added; `chosen` is the same writer
choosing among house phrasings; `template` needs no writer. With `champion` the packaged weights' `raw` stands beside the
champion's: the champion of --home (a home that has one for this shop), or a GGUF; --alone leaves them out, which take the longest.

Below, of every other text that a writer says it learnt: how many it was asked for, which share of them may stand, and what a first
one is; summaries are about customers that are drawn, so that none of a shop's is in the report.

Printed for each: products, sentences a text and the share of them in the writer's own words, key facts told, claims of raw text
that the facts do not support or bind to another attribute, sentences without a claim row, distinct-2, repeated 4-grams inside a
text, texts that read alike, tokens per second. Violations are counted by a check of this file's own that knows neither the
guard nor cleaned facts: each number, each number with its unit, each capitalised word inside a sentence and each brand
must stand in the product's raw record or in the house phrases, in that spelling.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

_UNIT = re.compile(
    r"(\d+)[\s-]*(ml|cl|l|litres?|mg|g|kg|lbs?|oz|ounces?|w|kw|watts?|v|volts?|mah|hours?|hrs?|h|min|minutes?|days?|weeks?|months?|"
    r"years?|mm|cm|m|in|inch|inches|ft|feet|毫升|升|克|千克|公斤|瓦|伏|小时|分钟|天|个月|年|毫米|厘米|米)"
    r"(?![a-z])",
    re.IGNORECASE,
)
# "3,000" is one number, of which "000" is no part that may stand alone.
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def land(shop: str, home: Path) -> None:
    """The shop's files in `raw` of a home of its own: by contract, renames and quarantine as every night reads them."""
    from nightmarket import landing, shops
    from nightmarket.settings import choose_shop

    settings = choose_shop(shop, home)
    opened = shops.open_shop(settings.shop, landing_root=settings.state / "landing")
    landing.load(opened, shops.default_day(opened), run_id="bench")


def drawn(limit: int) -> tuple[list[dict[str, Any]], set[str]]:
    """Products for sale, evenly drawn from the catalogue, and the names of its departments."""
    from nightmarket import warehouse

    rows = warehouse.read("select * from raw.products order by product_id").to_pylist()
    tops = {str(row.get("category") or "").split(">")[0].strip().lower() for row in rows}
    rows = [row for row in rows if (row.get("status") or "active") == "active"]
    return rows[:: max(1, len(rows) // limit)][:limit], tops


# --- the check of its own ---------------------------------------------------------------------------------------------


def record(product: dict[str, Any]) -> str:
    """A raw product record as text, hidden characters and entities opened as a browser would."""
    told: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if {"value", "unit"} <= set(value):
                told.append(f"{value['value']} {value['unit']}")
            for key, inner in value.items():
                told.append(str(key))
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)
        elif value is not None:
            told.append(f"{value:g} {value}" if isinstance(value, float) else str(value))

    # Copy is written from these alone: a number that only the description knows is no fact.
    for name in ("title", "brand", "category"):
        walk(product.get(name))
    attributes = product.get("attributes")
    walk(
        json.loads(attributes)
        if isinstance(attributes, str) and attributes.strip()[:1] == "{"
        else attributes
    )
    return unicodedata.normalize("NFKC", html.unescape(html.unescape("\n".join(told))))


def house_phrases() -> str:
    """The words of the house, as they stand in their files."""
    folder = files("nightmarket.prompts")
    return "\n".join(
        f.read_text("utf-8")
        for f in folder.iterdir()
        if f.name.startswith("phrases.") and f.name.endswith(".toml")
    )


def violations(shown: Sequence[str], product: dict[str, Any], house: str) -> list[tuple[str, str]]:
    """Numbers, units, names and brands of published pieces that stand neither in the raw record nor in the house phrases."""
    raw = record(product)
    known = f"{raw}\n{house}"
    numbers, words = set(_NUMBER.findall(known)), set(_WORD.findall(known))
    units = {(n, unit.lower()) for n, unit in _UNIT.findall(known)}
    shouted = {word.capitalize() for word in words if word.isupper()}
    brand = unicodedata.normalize("NFKC", html.unescape(str(product.get("brand") or ""))).strip()
    found: list[tuple[str, str]] = []
    for piece in shown:
        text = unicodedata.normalize("NFKC", piece)
        found += [("number", n) for n in _NUMBER.findall(text) if n not in numbers]
        found += [("unit", f"{n} {u}") for n, u in _UNIT.findall(text) if (n, u.lower()) not in units]
        for sentence in re.split(r"(?<=[.!?。！？:：])\s+|\n", text):
            for word in _WORD.findall(sentence)[1:]:
                if word[0].isupper() and word not in words and word not in shouted:
                    found.append(("name", word))
        if brand and brand.isascii():
            for match in re.finditer(rf"(?<!\w){re.escape(brand)}(?!\w)", text, re.IGNORECASE):
                # "the Board Dudes pens", of The Board Dudes: an article before a name that the title begins with.
                bare = match[0].removeprefix("the ")
                if bare not in raw and not (brand.isupper() and match[0] == brand.capitalize()):
                    found.append(("brand", match[0]))
    return found


# --- writers ----------------------------------------------------------------------------------------------------------


class Heard:
    """A writer that may write freely or not as told, asked nothing twice; its seconds and tokens are counted."""

    def __init__(self, inner: Any, *, free: bool, known: dict[Any, Any]) -> None:
        self.name, self.version, self.languages = inner.name, inner.version, inner.languages
        self.spent, self.free, self._inner, self._known = inner.spent, free, inner, known
        self.keeps_grammars, self.writes = inner.keeps_grammars, inner.writes
        self.seconds = 0.0
        self.tokens = 0

    def attempt(self, requests: Sequence[Any]) -> list[Any]:
        new = [request for request in dict.fromkeys(requests) if request not in self._known]
        began = time.perf_counter()
        outcomes = self._inner.attempt(new)
        self.seconds += time.perf_counter() - began
        self.tokens += sum(getattr(outcome, "size", 0) for outcome in outcomes)
        self._known.update(zip(new, outcomes, strict=True))
        return [self._known[request] for request in requests]

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        raise NotImplementedError

    def close(self) -> None:
        self._inner.close()


def open_champion(gguf: Path | None) -> Any:
    """The champion of the chosen shop, or a GGUF as if it were one."""
    from nightmarket import llm

    if gguf is None:
        writer = llm.open_generator()
        if not writer.free:
            sys.exit(
                f"{writer.name} is no champion: train one in the home (--home), or name a GGUF (--gguf)."
            )
        return writer
    import hashlib

    from nightmarket.weights import Weights

    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    writer = llm.LocalGenerator(path=gguf.resolve(), weights=Weights(gguf.stem, "", gguf.name, digest))
    writer.free, writer.writes = True, frozenset(llm.TEXTS)
    return writer


# --- measuring --------------------------------------------------------------------------------------------------------


def told_share(text: str, sheet: Any) -> tuple[int, int]:
    """Key facts that a text tells by their value (a yes or no: by its name), and how many there are."""
    from nightmarket.guard.claims import truth
    from nightmarket.products.product_copy.writing import worth_telling

    low, facts = text.lower(), worth_telling(sheet.facts)
    said = [
        (fact.value if truth(fact.value) is None else fact.label.split()[0]).lower().strip(" .") in low
        for fact in facts
    ]
    return sum(said), len(said)


def language_of(texts: Sequence[str]) -> dict[str, float]:
    """Distinct-2 over all texts, and the share of a text's 4-grams that it has said before, in the mean."""
    pairs: Counter[tuple[str, ...]] = Counter()
    repeated = []
    for text in texts:
        words = re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", text.lower())
        pairs.update(pairwise(words))
        fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
        if fours:
            repeated.append(1 - len(set(fours)) / len(fours))
    return {
        "distinct_2": len(pairs) / max(1, pairs.total()),
        "repetition": sum(repeated) / max(1, len(repeated)),
    }


def raw_texts(
    products: Sequence[dict[str, Any]], sheets: Sequence[Any], writer: Heard, packs: Any
) -> dict[str, Any]:
    """What a writer says freely, and what of it the facts do not bear."""
    from nightmarket import guard
    from nightmarket.products.product_copy import freely, policies

    house, verdicts, wrong = house_phrases(), Counter[str](), Counter[str]()
    held = [policies.hold(s, policies.pack_of(s, packs)) for s in sheets]
    asked = [
        (p, s) for p, s in zip(products, held, strict=True) if s.locale.split("-")[0] in writer.languages
    ]
    replies = writer.attempt([freely.request(s, policies.pack_of(s, packs)) for _, s in asked])
    texts: list[dict[str, Any]] = []
    sentences = covered = facts = good = 0
    for (product, sheet), reply in zip(asked, replies, strict=True):
        text = getattr(reply, "text", "")
        judged = [guard.claims(s, sheet.evidence, sheet.locale) for s in guard.sentences(text)]
        verdicts.update(claim.verdict for claims in judged for claim in claims)
        found = violations([text], product, house)
        wrong.update(kind for kind, _ in found)
        told, of = told_share(text, sheet)
        sentences, covered, facts = sentences + len(judged), covered + told, facts + of
        good += sum(all(claim.verdict == "supported" for claim in claims) for claims in judged)
        texts.append({
            "product_id": sheet.product_id, "facts": sheet.evidence, "text": text, "violations": found,
            "claims": [[c.sentence, c.claim, c.verdict, c.evidence] for claims in judged for c in claims],
        })  # fmt: skip
    row = {
        "products": len(asked), "sentences": sentences / max(1, len(asked)), "free_share": 1.0,
        "supported_share": good / max(1, sentences), "coverage": covered / facts if facts else None,
        "unsupported": verdicts["unsupported"], "misbound": verdicts["misbound"], "banned": verdicts["banned"],
        "violations": wrong.total(), "violations_by_kind": dict(wrong), "tokens_per_s": writer.tokens / max(1e-9, writer.seconds),
        "seconds": writer.seconds, **language_of([t["text"] for t in texts]),
    }  # fmt: skip
    return {"numbers": row, "texts": texts}


def published(
    products: Sequence[dict[str, Any]], sheets: Sequence[Any], writer: Heard | None, packs: Any
) -> dict[str, Any]:
    """What would be published of products by a writer, or by the template."""
    from nightmarket.products.product_copy import Text, by_template, twins, write_many

    house, wrong, verdicts = house_phrases(), Counter[str](), Counter[str]()
    began = time.perf_counter()
    made: list[Text] = []
    for start in range(0, len(sheets), 16):
        part = sheets[start : start + 16]
        if writer is None:
            made += [by_template(sheet, packs, "asked for") for sheet in part]
        else:
            made += [
                t if isinstance(t, Text) else by_template(s, packs)
                for s, t in zip(part, write_many(part, writer, packs), strict=True)
            ]
    seconds = time.perf_counter() - began
    shelf, alike, placed = twins.Shelf(), Counter[str](), []
    for text in made:
        text, had, has = (text, False, False) if text.blocked else twins.place(text, shelf)
        alike.update(reordered=int(had and not has), alike=int(has))
        placed.append(text)
    texts: list[dict[str, Any]] = []
    sentences = free = covered = facts = without = 0
    for product, text in zip(products, placed, strict=True):
        if text.blocked:
            texts.append({"product_id": text.sheet.product_id, "blocked": text.blocked})
            continue
        found = violations(
            [text.title, text.description, *text.bullets, text.meta_description], product, house
        )
        wrong.update(kind for kind, _ in found)
        claimed = {claim.sentence for claim, origin in text.judged if origin}
        without += sum(sentence not in claimed for sentence in (*text.sentences, *text.bullets))
        verdicts.update(
            claim.verdict for claim, origin in text.judged if origin is None and claim.attribute == "sentence"
        )
        told, of = told_share(text.description, text.sheet)
        sentences, free, covered, facts = (
            sentences + len(text.body),
            free + text.free,
            covered + told,
            facts + of,
        )
        texts.append({
            "product_id": text.sheet.product_id, "facts": text.sheet.evidence, "title": text.title, "text": text.description,
            "bullets": list(text.bullets), "meta_description": text.meta_description, "model": text.model_name, "violations": found,
            "claims": [[c.sentence, c.claim, c.verdict, c.evidence, origin] for c, origin in text.judged],
        })  # fmt: skip
    shown = [t for t in texts if "text" in t]
    row = {
        "products": len(shown), "blocked": len(texts) - len(shown), "sentences": sentences / max(1, len(shown)),
        "free_share": free / max(1, sentences), "coverage": covered / facts if facts else None,
        "removed_unsupported": verdicts["unsupported"], "removed_misbound": verdicts["misbound"], "removed_banned": verdicts["banned"],
        "violations": wrong.total(), "violations_by_kind": dict(wrong), "without_claim": without,
        "by_template": sum(t["model"].startswith("template") for t in shown),
        "reordered": alike["reordered"], "alike": alike["alike"],
        "tokens_per_s": writer.tokens / writer.seconds if writer and writer.seconds > 1 else None, "seconds": seconds,
        **language_of([t["text"] for t in shown]),
    }  # fmt: skip
    return {"numbers": row, "texts": texts}


def beside(sheets: Sequence[Any], writer: Heard, packs: Any, limit: int) -> dict[str, Any]:
    """Of each text that is no description: how many a writer was asked for, and what of them may stand."""
    from nightmarket import llm, warehouse
    from nightmarket.products import summaries
    from nightmarket.products.product_copy import fields, policies, writing
    from nightmarket.training import summary_pairs

    told: dict[str, Any] = {}
    packed = [(s, policies.pack_of(s, packs)) for s in sheets]
    held = [
        (policies.hold(s, pack), pack) for s, pack in packed if s.locale.split("-")[0] in writer.languages
    ]
    for field in fields.BESIDE:
        if field not in writer.writes:
            continue
        # As a night asks: of products that there is something to say about.
        asked = [
            (s, p, r) for s, p in held if writing.plan(s, [], p).body and (r := fields.request(field, s, p))
        ]
        replies = writer.attempt([request for _, _, request in asked])
        kept = [
            fields.read(field, reply, s, p, []) if isinstance(reply, llm.Reply) else ()
            for (s, p, _), reply in zip(asked, replies, strict=True)
        ]
        lines = [sum(bool(line.strip()) for line in getattr(r, "text", "").splitlines()) for r in replies]
        said = {
            "title": len(kept), "bullets": sum(lines),
            "meta_description": sum(len(guard_sentences(getattr(r, "text", ""))) for r in replies),
        }[field]  # fmt: skip
        told[field] = {
            "asked": len(asked), "stands": sum(map(bool, kept)), "pieces": said, "pieces_kept": sum(map(len, kept)),
            "texts": [{"said": getattr(r, "text", ""), "kept": [s.text for s in k]} for r, k in zip(replies, kept, strict=True)],
        }  # fmt: skip
    if summaries.SUMMARY in writer.writes:
        rows = warehouse.read("select category, brand from raw.products")
        facts = summary_pairs.drawn(rows, default_day(), seed=11)[:limit]
        made = summaries.write([(f, "") for f in facts], writer)
        replies = writer.attempt([summaries.request(f) for f in facts])
        told["summary"] = {
            "asked": len(facts), "stands": sum(s.by is not None for s in made), "pieces": len(facts),
            "pieces_kept": sum(s.by is not None for s in made),
            "texts": [{"said": getattr(r, "text", ""), "kept": [s.text] if s.by else []} for r, s in zip(replies, made, strict=True)],
        }  # fmt: skip
    return told


def guard_sentences(text: str) -> list[str]:
    """The sentences of a text, line by line, as they are judged."""
    from nightmarket import guard

    return [s for line in text.splitlines() for s in guard.sentences(line)]


def default_day() -> Any:
    """The day that a night of the chosen shop would be for."""
    from nightmarket import shops
    from nightmarket.settings import get_settings

    settings = get_settings()
    return shops.default_day(shops.open_shop(settings.shop, landing_root=settings.state / "landing"))


COLUMNS = (
    ("products", "products", "d"), ("sentences", "sentences", ".1f"), ("free", "free_share", ".1%"), ("facts told", "coverage", ".1%"),
    ("unsupp.", "unsupported", "d"), ("misb.", "misbound", "d"), ("violations", "violations", "d"), ("no claim", "without_claim", "d"),
    ("templates", "by_template", "d"), ("alike", "alike", "d"), ("dist-2", "distinct_2", ".3f"), ("repeat", "repetition", ".3f"),
    ("tok/s", "tokens_per_s", ".0f"), ("s", "seconds", ".1f"),
)  # fmt: skip


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All variants of the chosen writer, the template last; each line is printed when it is there."""
    from nightmarket import guard, llm
    from nightmarket.products.product_copy import read_sheet
    from nightmarket.settings import get_settings

    packs = guard.shop_packs()
    products, departments = drawn(chosen.limit)
    sheets = [read_sheet(product, not_brands=departments) for product in products]
    results: dict[str, Any] = {}
    print(
        f"{len(products)} products of {chosen.shop}\n{'':16}"
        + " ".join(f"{head:>10}" for head, _, _ in COLUMNS)
    )

    def tell(name: str, told: dict[str, Any]) -> None:
        results[name] = told
        values = [(told["numbers"].get(key), form) for _, key, form in COLUMNS]
        print(
            f"{name:16}" + " ".join(f"{'-' if v is None else format(v, form):>10}" for v, form in values),
            flush=True,
        )

    threads = get_settings().threads
    if chosen.writer != "template" and not chosen.alone:
        known: dict[Any, Any] = {}
        base = llm.LocalGenerator(threads=threads)
        tell("base, raw", raw_texts(products, sheets, Heard(base, free=True, known=known), packs))
        if chosen.writer == "base":
            tell("base, proven", published(products, sheets, Heard(base, free=True, known=known), packs))
            tell("base, chosen", published(products, sheets, Heard(base, free=False, known=known), packs))
        base.close()
    if chosen.writer == "champion":
        champion, known = open_champion(chosen.gguf), {}
        tell("champion, raw", raw_texts(products, sheets, Heard(champion, free=True, known=known), packs))
        tell("champion, proven", published(products, sheets, Heard(champion, free=True, known=known), packs))
        others = beside(sheets, Heard(champion, free=True, known=known), packs, chosen.limit)
        for field, found in others.items():
            first = next((t["kept"] for t in found["texts"] if t["kept"]), [])
            print(
                f"{field:16} {found['stands']} of {found['asked']} may stand, {found['pieces_kept']} of {found['pieces']} "
                f"pieces: {' | '.join(first)}",
                flush=True,
            )
        results["champion, beside"] = {"numbers": {}, "texts": [], "beside": others}
        champion.close()
    tell("template", published(products, sheets, None, packs))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shop", required=True, help="a landing folder")
    parser.add_argument("--writer", choices=("base", "champion", "template"), default="base")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--json", type=Path, help="write every text with its facts and claims")
    parser.add_argument(
        "--home", type=Path, help="a home that has had a night of this shop, for its champion"
    )
    parser.add_argument(
        "--alone", action="store_true", help="a champion without the packaged weights beside it"
    )
    parser.add_argument("--gguf", type=Path, help="a writer's weights instead of a registered champion")
    chosen = parser.parse_args()
    if chosen.home:
        from nightmarket.settings import choose_shop

        choose_shop(chosen.shop, chosen.home)
        results = measure(chosen)
    else:
        with tempfile.TemporaryDirectory(prefix="nightmarket-copy-") as home:
            land(chosen.shop, Path(home))
            results = measure(chosen)
    broken = Counter(kind for name, told in results.items() if "raw" not in name for t in told["texts"] for kind, _ in t.get("violations", ()))  # fmt: skip
    print(f"\nViolations in what would be published: {dict(broken) or 'none'}")
    listed = [
        f"  {name}, {text['product_id']}: {kind} {what}"
        for name, told in results.items()
        if "raw" not in name
        for text in told["texts"]
        for kind, what in text.get("violations", ())
    ]
    print("\n".join(listed[:20]))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
