"""Every customer's list for the home page and every product's list of what goes with it, each with its reason.

The champion ranks; where there is none, the shelf does: the last trained item-to-item, or one fitted here on the day's
purchases. Customers who refused profiling, bots, and customers without a history get what is popular, and the row says
so; who refused training gets a list of their own, from a model that has not learnt from them. Products that are archived,
drafts, out of stock, or bought before never appear. Not here: how models rank (ranking), which one is champion
(tracking), the loop around (products).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import lake, products, ranking, tracking, warehouse
from nightmarket.contracts import OUTPUTS
from nightmarket.ledger import Outcome
from nightmarket.products import Made, Product
from nightmarket.ranking import Histories, Interactions, ItemToItem, Lists, Popularity, Ranker
from nightmarket.settings import get_settings

PLACEMENT = "home"
BECAUSE = 3
"""Products of the history named as the cause of a recommendation, at most."""
# Two rows of the same inputs may only differ when this does: raise it when lists or texts are made differently.
MAKING = "lists-1"
# A product without purchases is compared with the most bought products only: 10,000 vectors answer in milliseconds.
TEXT_CANDIDATES = 10_000
TITLE_CHARACTERS = 80
_SENTENCES = {
    "en": {"bought": "Because you bought {title}", "popular": "Popular with other customers"},
    "zh": {"bought": "因为您购买过{title}", "popular": "其他顾客也在购买"},
}
_TEXT_COLUMNS = ("title", "brand", "category", "attributes")


@dataclass(frozen=True)
class _Serving:
    """What ranks tonight: a model and its popularity, with the name and version that rows carry."""

    ranker: Ranker
    popularity: Popularity
    name: str
    version: str

    @property
    def source(self) -> str:
        return self.ranker.kind


def version(day: date) -> str:
    """A digest of the model that would serve and of the settings that shape lists; asks the registry, loads nothing."""
    settings = get_settings()
    held, shelf = tracking.champion("ranking"), _kept_shelf()
    serving = held.version if held else f"shelf of {shelf.version}" if shelf else "shelf of the day"
    return warehouse.digest(
        MAKING, serving, settings.recommendations_per_customer, settings.similar_per_product
    )


def make(day: date, run_id: str) -> Made:
    """The lists of touched customers and products: whose inputs changed since the last night they were made in."""
    purchases = lake.read("purchases", day, ["customer_id", "product_id", "ordered_at", "may_train"])
    catalogue = lake.read("products", day)
    serving = _serving(day, purchases)
    allowed_ids = catalogue.filter(catalogue["is_available"])["product_id"]
    lists, customers = _customer_lists(day, serving, purchases, catalogue, allowed_ids)
    similar = _similar_lists(day, serving, catalogue, allowed_ids)
    asked = customers + len(allowed_ids)
    note = f"{serving.name} {serving.version}: {_lists_in(lists, 'customer_id')} customers, " + (
        f"{_lists_in(similar, 'product_id')} products"
    )
    return Made(
        {"recommendations": lists, "similar_products": similar},
        Outcome(rows_in=asked, rows_out=lists.num_rows + similar.num_rows, note=note),
    )


def context(table: str, day: date) -> dict[str, object]:
    """What the suites must know: which products there are, and which may be shown."""
    catalogue = lake.read("products", day, ["product_id", "is_available"])
    return {
        "available_products": catalogue.filter(catalogue["is_available"])["product_id"].to_pylist(),
        "product_ids": catalogue["product_id"].to_pylist(),
    }


def _serving(day: date, purchases: pa.Table) -> _Serving:
    """The champion; else the shelf of the last training; else a shelf fitted on the day's purchases."""
    held = tracking.champion("ranking")
    if held is not None:
        return _Serving(
            ranking.load(held.path / "ranker"), _popularity(held), "nightmarket.ranking", held.version
        )
    kept = _kept_shelf()
    if kept is not None:
        shelf = ranking.load(kept.path / "item_to_item")
        return _Serving(
            shelf, _popularity(kept), shelf.kind, _shelf_version(kept.tags.get("inputs_digest", ""))
        )
    interactions = Interactions.of(ranking.learnable(purchases))
    made_from = _shelf_version(lake.require("purchases", day).content_hash)
    return _Serving(
        ItemToItem().fit(interactions), Popularity().fit(interactions), ItemToItem.kind, made_from
    )


def _kept_shelf() -> tracking.Version | None:
    """The last training that the gate refused: its shelf serves while there is no champion, so lists stay put."""
    return next((v for v in reversed(tracking.versions("ranking")) if v.tags.get("shelf") == "yes"), None)


def _popularity(held: tracking.Version) -> Popularity:
    loaded = ranking.load(held.path / "popularity")
    assert isinstance(loaded, Popularity)
    return loaded


def _shelf_version(digest: str) -> str:
    return warehouse.digest(ItemToItem.kind, digest)[:12]


def _customer_lists(
    day: date, serving: _Serving, purchases: pa.Table, catalogue: pa.Table, allowed_ids: pa.ChunkedArray
) -> tuple[pa.Table, int]:
    """Rows of the touched customers, and how many customers were looked at."""
    features = lake.read("customer_features", day, ["customer_id", "locale", "is_bot", "profiling"])
    everybody = features["customer_id"].to_pylist()
    languages = [
        "zh" if (value or "").lower().startswith("zh") else "en" for value in features["locale"].to_pylist()
    ]
    history = _history_digests(purchases)
    refusals = [
        "bot"
        if bot
        else "profiling_refused"
        if profiling == "refused"
        else ""
        if c in history
        else "no_history"
        for c, bot, profiling in zip(
            everybody, features["is_bot"].to_pylist(), features["profiling"].to_pylist(), strict=True
        )
    ]
    base = warehouse.digest(
        MAKING, serving.name, serving.version, get_settings().recommendations_per_customer
    )
    hashes = [
        _sha(base, refusal, language, "" if refusal else history[customer])
        for customer, refusal, language in zip(everybody, refusals, languages, strict=True)
    ]
    touched = _touched("recommendations", day, "customer_id", "product_id", everybody, hashes, allowed_ids)
    ids = [everybody[i] for i in touched]
    fallback = np.array([refusals[i] for i in touched], object)
    # Nobody's history is looked at who refused: their row is empty, whatever the purchases hold.
    known = pc.is_in(
        purchases["customer_id"],
        value_set=pa.array([c for c, f in zip(ids, fallback, strict=True) if not f], pa.string()),
    )
    model = serving.ranker.catalogue
    histories = Histories.of(purchases.filter(known), model, ids)
    allowed = model.mask(allowed_ids)
    best = serving.ranker.recommend(histories, get_settings().recommendations_per_customer, allowed=allowed)
    causes = serving.ranker.because(histories, best, BECAUSE)
    lists, filled = serving.popularity.fill(best, histories, allowed=allowed)
    titles = _titles(catalogue)
    table = _customer_rows(
        serving,
        ids,
        fallback,
        [languages[i] for i in touched],
        [hashes[i] for i in touched],
        lists,
        filled,
        causes,
        titles,
    )
    return table, len(everybody)


def _customer_rows(
    serving: _Serving, ids: Sequence[str], fallback: NDArray[Any], languages: Sequence[str], hashes: Sequence[str],
    lists: Lists, filled: NDArray[np.bool_], causes: NDArray[np.int32], titles: Mapping[str, str],
) -> pa.Table:  # fmt: skip
    row, place = np.nonzero(lists.products >= 0)
    product, personal = lists.products[row, place], ~filled[row, place]
    names = serving.ranker.catalogue.product_ids
    why_not = np.where(fallback[row] != "", fallback[row], "list_filled")
    codes, texts, because = [], [], []
    made: dict[
        tuple[str, ...], tuple[str, str | None, str]
    ] = {}  # a list's places often have the same causes
    for r, is_personal, cause in zip(
        row.tolist(), personal.tolist(), causes[row, place].tolist(), strict=True
    ):
        key = (languages[r], *(names[c] for c in cause if c >= 0 and is_personal))
        if key not in made:
            made[key] = _reason(key[0], key[1:], titles)
        code, text, named = made[key]
        codes.append(code)
        texts.append(text)
        because.append(named)
    rank = pa.array(place + 1, pa.int64())
    n = len(row)
    popularity = serving.popularity.counts / max(float(serving.popularity.counts.max(initial=0)), 1e-9)
    return pa.table({
        "customer_id": _taken(ids, row), "placement": pa.array([PLACEMENT] * n, pa.string()), "rank": rank,
        "product_id": _taken(names, product),
        # A popular product's score is its share of the most popular one's buyers; the source says which scale it is.
        "score": pa.array(np.where(personal, lists.scores[row, place], popularity[product]).astype(np.float64)),
        "candidate_source": pa.array(np.where(personal, serving.source, Popularity.kind).tolist(), pa.string()),
        "rank_before_rules": rank, "rules_applied": pa.array(["[]"] * n, pa.string()),
        "propensity": pa.array(np.ones(n)), "is_exploration": pa.array(np.zeros(n, np.bool_)),
        "is_personalised": pa.array(personal),
        "fallback_reason": pa.array(why_not, pa.string(), mask=personal),
        "reason_code": pa.array(codes, pa.string()), "reason_text": pa.array(texts, pa.string()),
        "because_product_ids": pa.array(because, pa.string()), "input_hash": _taken(hashes, row),
        "model_name": pa.array([serving.name] * n, pa.string()),
        "model_version": pa.array([serving.version] * n, pa.string()),
    })  # fmt: skip


def _reason(language: str, causes: tuple[str, ...], titles: Mapping[str, str]) -> tuple[str, str | None, str]:
    """Code, sentence and causes (JSON) of one place. The sentence names the strongest cause with a title, or is left out."""
    if not causes:
        return "popular", _SENTENCES[language]["popular"], "[]"
    title = next((titles[c] for c in causes if titles.get(c)), None)
    return (
        "because_you_bought",
        _SENTENCES[language]["bought"].format(title=title) if title else None,
        json.dumps(causes),
    )


def _similar_lists(
    day: date, serving: _Serving, catalogue: pa.Table, allowed_ids: pa.ChunkedArray
) -> pa.Table:
    """Rows of the touched products: bought together where the model knows them, alike by text where it does not."""
    k = get_settings().similar_per_product
    model = serving.ranker.catalogue
    shown = catalogue.filter(catalogue["is_available"])
    ids = shown["product_id"].to_pylist()
    codes = model.codes(shown["product_id"])
    base = warehouse.digest(MAKING, serving.name, serving.version, k)
    texts = _product_texts(shown)
    hashes = [
        _sha(base, "bought" if code >= 0 else f"text\x1f{text}")
        for code, text in zip(codes.tolist(), texts, strict=True)
    ]
    touched = _touched("similar_products", day, "product_id", "similar_product_id", ids, hashes, allowed_ids)
    places = np.array(touched, np.int64)
    bought = places[codes[places] >= 0] if len(places) else places
    best = serving.ranker.recommend(
        Histories.single(codes[bought], model), k, allowed=model.mask(allowed_ids)
    )
    row, place = np.nonzero(best.products >= 0)
    parts = [
        _similar_rows(
            serving, _taken(ids, bought[row]), place, _taken(model.product_ids, best.products[row, place]),
            best.scores[row, place], "bought_together", _taken(hashes, bought[row]),
        )
    ]  # fmt: skip
    # A product that was bought, but with nothing else that is on sale, is described by its text too.
    alone = np.setdiff1d(places, bought[np.unique(row)]) if len(places) else places
    if len(alone):
        near, score = _alike(shown, alone, serving, k)
        row, place = np.nonzero(near >= 0)
        parts.append(_similar_rows(
            serving, _taken(ids, alone[row]), place, _taken(ids, near[row, place]), score[row, place], "similar_text",
            _taken(hashes, alone[row]), name="all-MiniLM-L6-v2",
        ))  # fmt: skip
    return pa.concat_tables(parts)


def _similar_rows(
    serving: _Serving, ids: pa.Array, place: NDArray[Any], similar: pa.Array, score: NDArray[Any], reason: str,
    hashes: pa.Array, name: str | None = None,
) -> pa.Table:  # fmt: skip
    n = len(place)
    return pa.table({
        "product_id": ids, "rank": pa.array(place + 1, pa.int64()), "similar_product_id": similar,
        "score": pa.array(score.astype(np.float64)), "reason_code": pa.array([reason] * n, pa.string()),
        "input_hash": hashes, "model_name": pa.array([name or serving.name] * n, pa.string()),
        "model_version": pa.array([_encoder_version() if name else serving.version] * n, pa.string()),
    })  # fmt: skip


def _encoder_version() -> str:
    from nightmarket import encoder

    return encoder.MINILM.digest


def _alike(
    shown: pa.Table, alone: NDArray[np.int64], serving: _Serving, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For some rows of `shown`, the rows whose texts are nearest: places (-1: none) and cosines."""
    from nightmarket import encoder

    codes = serving.ranker.catalogue.codes(shown["product_id"])
    buyers = np.where(
        codes >= 0,
        serving.popularity.counts[np.maximum(codes, 0)] if len(serving.popularity.counts) else 0,
        0,
    )
    candidates = np.sort(np.lexsort((np.arange(len(codes)), -buyers))[:TEXT_CANDIDATES])
    needed = np.union1d(candidates, alone)
    _, vectors = encoder.embed_products(shown.take(pa.array(needed)))
    target = vectors[np.searchsorted(needed, candidates)].astype(np.float32).T
    near = np.full((len(alone), k), -1, np.int64)
    score = np.zeros((len(alone), k), np.float32)
    for begin in range(0, len(alone), 512):
        some = alone[begin : begin + 512]
        cosine = vectors[np.searchsorted(needed, some)].astype(np.float32) @ target
        # Vectors are of bfloat16; rounding keeps a tie between equal texts a tie.
        cosine = np.round(cosine, 4)
        cosine[some[:, None] == candidates[None, :]] = 0
        top = ranking.top_of(cosine, k)
        near[begin : begin + len(some)] = np.where(
            top.products >= 0, candidates[np.maximum(top.products, 0)], -1
        )
        score[begin : begin + len(some)] = top.scores
    return near, score


def _touched(
    table: str,
    day: date,
    key: str,
    listed: str,
    keys: Sequence[str],
    hashes: Sequence[str],
    allowed_ids: pa.ChunkedArray,
) -> list[int]:
    """Places of the keys to be made again: new inputs, or a list that holds what is no longer on sale."""
    contract = OUTPUTS[table]
    assert key in contract.current_key
    before = products.previous(table, day, (listed, "input_hash"))
    gone = before.filter(pc.invert(pc.is_in(before[listed], value_set=pc.unique(allowed_ids))))
    broken = set(pc.unique(gone[key]).to_pylist())
    first = before.filter(pc.equal(before["rank"], 1))
    known = dict(zip(first[key].to_pylist(), first["input_hash"].to_pylist(), strict=True))
    return [i for i, (k, h) in enumerate(zip(keys, hashes, strict=True)) if known.get(k) != h or k in broken]


def _history_digests(purchases: pa.Table) -> dict[str, str]:
    """A digest of what each customer bought and when."""
    ids = purchases["product_id"].to_pylist()
    times = purchases["ordered_at"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    customers = purchases["customer_id"].to_pylist()
    digests: dict[str, str] = {}
    begin = 0
    for end in range(1, len(customers) + 1):
        if end == len(customers) or customers[end] != customers[begin]:
            text = "\x1f".join(ids[begin:end]).encode() + times[begin:end].tobytes()
            digests[customers[begin]] = hashlib.sha256(text).hexdigest()
            begin = end
    return digests


def _titles(catalogue: pa.Table) -> dict[str, str]:
    """Titles as a sentence can carry them: one line, cut at a word; they are the shop's text and only ever quoted."""
    titles = {}
    for product_id, title in zip(
        catalogue["product_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True
    ):
        line = re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f]", " ", title or "")).strip()
        if len(line) > TITLE_CHARACTERS:
            cut = line[: TITLE_CHARACTERS - 1]
            line = (cut.rsplit(" ", 1)[0] if " " in cut[40:] else cut).rstrip(" ,.;:-") + "…"
        titles[product_id] = line
    return titles


def _product_texts(shown: pa.Table) -> list[str]:
    columns = [shown[name].to_pylist() for name in _TEXT_COLUMNS if name in shown.column_names]
    return (
        ["\x1f".join(value or "" for value in row) for row in zip(*columns, strict=True)] if columns else []
    )


def _taken(values: Sequence[str], places: NDArray[Any]) -> pa.Array:
    return pa.array(values, pa.string()).take(pa.array(places, pa.int64()))


def _sha(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _lists_in(table: pa.Table, key: str) -> int:
    return int(pc.count_distinct(table[key]).as_py())


PRODUCT = Product(
    name="recommendations", tables=("recommendations", "similar_products"),
    reads=("purchases", "products", "customer_features"), version=version, make=make, context=context,
)  # fmt: skip
