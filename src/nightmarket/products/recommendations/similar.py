"""What goes with a product: two lists for its page, bought together and alike by text, each obeying the shop's rules.

A product without co-purchases simply has no list of the first kind; one whose text waits for its turn (texts) has none of
the second. Both kinds of a product are made in the same night, so that a list that is no longer there disappears with it.
Not here: how co-purchases are counted (ranking) and texts become vectors (encoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket import encoder, lake, ranking, warehouse
from nightmarket.merchandising import Candidates
from nightmarket.products.recommendations import placements, slots, texts, touched
from nightmarket.products.recommendations.serving import Serving
from nightmarket.products.recommendations.shelf import Opened, Shelf
from nightmarket.ranking import Histories
from nightmarket.settings import get_settings

TABLE = "similar_products"
TOGETHER, BY_TEXT = "bought_together", "similar_text"
# A product is compared with the most bought ones only: 10,000 vectors answer in milliseconds.
TEXT_CANDIDATES = 10_000
# Candidates beyond the length of a list, for rules to choose from.
_BESIDE = 20
_TEXT_COLUMNS = ("title", "brand", "category", "attributes")
_WAITING = "0" * 32


class Similar(NamedTuple):
    """Rows of the touched products, how many products were looked at, and how many texts wait for another night."""

    rows: pa.Table
    asked: int
    waiting: int


def lists(shelf: Shelf, serving: Serving, base: str, *, nights: Mapping[str, date]) -> Similar:
    """The lists of products whose text, model or rules changed, that hold what is gone, or that grew old."""
    day = shelf.day
    known = lake.read("products", day, ["product_id", "is_available"])
    ids = known.filter(known["is_available"])["product_id"].combine_chunks()
    text = lake.digests("products", day, by="product_id", columns=_TEXT_COLUMNS)
    text = text["digest"].take(pc.index_in(ids, value_set=text["product_id"]))
    # The encoder is part of what a text's vector is; the second half of a digest says what was embedded.
    whole = _joined(base, _shortened(text, encoder_digest()))
    before = touched.in_force(TABLE, day, "similar_product_id", nights)
    anew = touched.compared(ids, whole, before)
    if not len(anew):
        return Similar(_SCHEMA.empty_table(), len(ids), 0)
    had = pc.equal(
        pc.utf8_slice_codeunits(touched.in_order(ids, before), 32), pc.utf8_slice_codeunits(whole, 32)
    )
    missing = ~np.asarray(pc.fill_null(had, False).to_numpy(), bool)
    missing[missing] = ~_embedded(day, ids.filter(pa.array(missing)))
    buyers = _buyers(day, ids)
    has_text = texts.within_budget(missing, buyers, get_settings().texts_embedded_per_night)
    hashes = pc.if_else(pa.array(has_text), whole, base[:32] + _WAITING)
    # Who waits and was told so already need not be told again.
    anew = touched.compared(ids, hashes, before)
    if not len(anew):
        return Similar(_SCHEMA.empty_table(), len(ids), int((~has_text).sum()))
    opened = shelf.open()
    parts = [_together(opened, serving, ids, anew), _alike(opened, serving, ids, anew, has_text, buyers)]
    rows = pa.concat_tables(parts)
    own = hashes.take(pc.index_in(rows["product_id"], value_set=ids))
    return Similar(rows.append_column("input_hash", own), len(ids), int((~has_text).sum()))


def encoder_digest() -> str:
    """Tells apart the encoders that make vectors of texts."""
    return warehouse.digest(encoder.name(), encoder.version())


def _embedded(day: date, ids: pa.Array) -> NDArray[np.bool_]:
    """Which of these products have a text whose vector is known already, whoever asked for it."""
    held = lake.columns("products", day)
    columns = ["product_id", *(c for c in _TEXT_COLUMNS if c in held)]
    rows = lake.read("products", day, columns)
    rows = rows.take(pc.index_in(ids, value_set=rows["product_id"])).to_pylist()
    known: NDArray[np.bool_] = encoder.embedded([encoder.product_text(row) for row in rows])
    return known


def _joined(base: str, text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(base[:32], text, "")


def _shortened(text: pa.ChunkedArray, version: str) -> pa.ChunkedArray:
    """Digests of texts with the encoder's in them: 32 characters."""
    return pc.binary_join_element_wise(pc.utf8_slice_codeunits(text, 0, 24), version[:8], "")


def _buyers(day: date, ids: pa.Array) -> NDArray[np.int64]:
    """How often each product was bought."""
    bought = lake.read("purchases", day, ["product_id"])["product_id"]
    counts = pc.value_counts(bought)
    at = pc.index_in(ids, value_set=counts.field("values"))
    return np.asarray(
        pc.fill_null(counts.field("counts").take(at), 0).to_numpy(zero_copy_only=False), np.int64
    )


def _together(shelf: Opened, serving: Serving, ids: pa.Array, anew: NDArray[np.int64]) -> pa.Table:
    """Rows of what is bought together with the touched products that were ever bought."""
    model = serving.together()
    own = model.catalogue.codes(ids.take(pa.array(anew)))
    bought = own[own >= 0]
    codes = shelf.codes_of(model.catalogue)
    allowed = shelf.allowed(model.catalogue, placements.PRODUCT_PAGE)
    best = model.recommend(
        Histories.single(bought, model.catalogue),
        get_settings().similar_per_product + _BESIDE,
        allowed=allowed,
    )
    listed = np.where(best.products >= 0, codes[np.maximum(best.products, 0)] if len(codes) else -1, -1)
    rows = _arranged(shelf, codes[bought] if len(codes) else bought, listed, best.scores, TOGETHER)
    return _by(rows, serving.name, serving.version)


def _alike(
    shelf: Opened, serving: Serving, ids: pa.Array, anew: NDArray[np.int64], has_text: NDArray[np.bool_],
    buyers: NDArray[np.int64],
) -> pa.Table:  # fmt: skip
    """Rows of what is alike by text, for the touched products whose text has a vector."""
    width = get_settings().similar_per_product + _BESIDE
    asked, able = anew[has_text[anew]], np.flatnonzero(has_text)
    compared = np.sort(able[np.lexsort((able, -buyers[able]))[:TEXT_CANDIDATES]])
    needed = np.union1d(compared, asked)
    code = shelf.catalogue.codes(ids)
    _, vectors = encoder.embed_products(shelf.table.take(pa.array(code[needed])))
    target = vectors[np.searchsorted(needed, compared)].astype(np.float32).T
    near = np.full((len(asked), width), -1, np.int64)
    score = np.zeros((len(asked), width), np.float32)
    for begin in range(0, len(asked), 512):
        some = asked[begin : begin + 512]
        cosine = vectors[np.searchsorted(needed, some)].astype(np.float32) @ target
        # Vectors are of bfloat16; rounding keeps a tie between equal texts a tie.
        cosine = np.round(cosine, 4)
        cosine[some[:, None] == compared[None, :]] = 0
        top = ranking.top_of(cosine, width)
        near[begin : begin + len(some)] = np.where(
            top.products >= 0, code[compared[np.maximum(top.products, 0)]], -1
        )
        score[begin : begin + len(some)] = top.scores
    return _by(_arranged(shelf, code[asked], near, score, BY_TEXT), encoder.name(), encoder.version())


def _arranged(
    shelf: Opened, own: NDArray[np.int32], listed: NDArray[np.integer], scores: NDArray[np.float32], kind: str
) -> pa.Table:
    """Rows of the lists of products `own`, arranged by the shop's rules; no product stands in its own list."""
    k = get_settings().similar_per_product
    names = shelf.table["product_id"].combine_chunks()
    held = Candidates(listed.astype(np.int32), scores, np.zeros(listed.shape, np.int8))
    made = shelf.book.apply(
        held, placements.PRODUCT_PAGE, k, customer_ids=names.take(pa.array(own)).to_pylist(), exposures=None,
        exploration=0.0, seed=0, day=shelf.day, seen=(np.arange(len(own) + 1, dtype=np.int64), own),
    )  # fmt: skip
    found = slots.filled(made, shelf, (kind,))
    return pa.table({
        "product_id": names.take(pa.array(own[found.row])), "rank": found.columns["rank"],
        "similar_product_id": found.columns["product_id"], "score": found.columns["score"],
        "reason_code": pa.array([kind] * len(found.row), pa.string()),
        "rank_before_rules": found.columns["rank_before_rules"], "rules_applied": found.columns["rules_applied"],
    })  # fmt: skip


def _by(rows: pa.Table, name: str, version: str) -> pa.Table:
    return rows.append_column("model_name", pa.array([name] * rows.num_rows, pa.string())).append_column(
        "model_version", pa.array([version] * rows.num_rows, pa.string())
    )


_SCHEMA = pa.schema([
    ("product_id", pa.string()), ("rank", pa.int64()),
    ("similar_product_id", pa.string()), ("score", pa.float64()),
    ("reason_code", pa.string()), ("rank_before_rules", pa.int64()),
    ("rules_applied", pa.string()), ("model_name", pa.string()),
    ("model_version", pa.string()), ("input_hash", pa.string()),
])  # fmt: skip
