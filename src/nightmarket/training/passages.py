"""Texts a language model may read again: sentences of the catalogue and of reviews, cleaned; masks and neighbours.

Text from outside is data: markup goes, personal data is scrubbed, a text that speaks to a model is left out whole.
Here: documents, pairs of sentences, and masking. Not here: networks and losses (pretrain).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket import guard

# One product in ten is never trained on: held-out losses are about texts of products that are new to the network.
HELD_OUT = 10
SHARE = 0.15  # of word pieces are asked for; of these 80 % masked, 10 % replaced, 10 % left as they are
_LONGEST = 300  # characters of a sentence


@dataclass(frozen=True)
class Documents:
    """Sentences that stand one after the other, a tuple a text; two texts of one product share their `owners`."""

    sentences: tuple[tuple[str, ...], ...]
    owners: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sentences)

    def halves(self) -> tuple[Documents, Documents]:
        """What is learnt from, and what is held out: by product, so a product's texts are all on one side."""
        drawn = [zlib.crc32(f"held out\x1f{owner}".encode()) % HELD_OUT == 0 for owner in self.owners]
        return self._where([not d for d in drawn]), self._where(drawn)

    def _where(self, kept: Sequence[bool]) -> Documents:
        rows = [i for i, keep in enumerate(kept) if keep]
        return Documents(tuple(self.sentences[i] for i in rows), tuple(self.owners[i] for i in rows))


@dataclass(frozen=True)
class Neighbours:
    """Pairs of sentences: `follows` where the second stands right behind the first in one text."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    follows: NDArray[np.bool_]


def documents(products: pa.Table, reviews: pa.Table | None, *, most: int) -> Documents:
    """The texts of at most `most` products, drawn by a digest of their ids: their catalogue text, and each review.

    Texts of one sentence are left out: nothing stands behind it.

    Args:
        reviews: `product_id`, `title` and `body`; None: the catalogue alone.
    """
    ids = products["product_id"].to_pylist()
    drawn = sorted(range(len(ids)), key=lambda row: (zlib.crc32(ids[row].encode()), ids[row]))[:most]
    told: list[tuple[str, tuple[str, ...]]] = []
    for row in products.take(pa.array(sorted(drawn), pa.int64())).to_pylist():
        told.append((row["product_id"], _catalogue_text(row)))
    chosen = {product_id for product_id, _ in told}
    for row in [] if reviews is None else reviews.select(["product_id", "title", "body"]).to_pylist():
        if row["product_id"] in chosen:
            told.append((row["product_id"], (*sentences(row["title"]), *sentences(row["body"]))))
    kept = [(owner, text) for owner, text in told if len(text) > 1]
    return Documents(tuple(text for _, text in kept), tuple(owner for owner, _ in kept))


def sentences(text: str | None) -> tuple[str, ...]:
    """The sentences of a text from outside, without markup and personal data; none when it speaks to a model."""
    plain = guard.normalise(text or "")
    if not plain or guard.injection(plain):
        return ()
    found = (sentence[:_LONGEST].strip() for sentence in guard.sentences(guard.scrub(plain)))
    return tuple(sentence for sentence in found if sum(c.isalnum() for c in sentence) > 2)


def neighbours(texts: Documents, count: int, random: np.random.Generator) -> Neighbours:
    """`count` pairs of sentences, half of them (odd: one more) adjacent, the others from texts of another product."""
    if len(set(texts.owners)) < 2:
        raise ValueError("neighbours needs texts of two products at least")
    follows = random.permutation(np.arange(count) % 2 == 0)
    first, second = [], []
    for adjacent in follows:
        one = int(random.integers(len(texts)))
        at = int(random.integers(len(texts.sentences[one]) - 1))
        other = one
        while not adjacent and texts.owners[other] == texts.owners[one]:
            other = int(random.integers(len(texts)))
        first.append(texts.sentences[one][at])
        behind = texts.sentences[other]
        second.append(behind[at + 1] if adjacent else behind[int(random.integers(len(behind)))])
    return Neighbours(tuple(first), tuple(second), follows)


def masked(
    ids: NDArray[np.int64], able: NDArray[np.bool_], random: np.random.Generator, *, mask: int, words: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Word pieces with some hidden, and what is asked: the piece that stood there, -100 where nothing is asked.

    `SHARE` of the `able` places are asked, at least one a row that has any: 80 % become `mask`, 10 % one of `words`, and
    10 % stay.
    """
    drawn = random.random(ids.shape)
    drawn[~able] = 2.0
    asked = drawn < SHARE
    some = able.any(axis=1)
    asked[np.flatnonzero(some), drawn.argmin(axis=1)[some]] = True
    told = ids.copy()
    kind = random.random(ids.shape)
    told[asked & (kind < 0.8)] = mask
    swapped = asked & (kind >= 0.8) & (kind < 0.9)
    told[swapped] = random.choice(words, int(swapped.sum()))
    return told, np.where(asked, ids, -100)


def _catalogue_text(product: dict[str, Any]) -> tuple[str, ...]:
    try:
        attributes = json.loads(product.get("attributes") or "{}")
    except ValueError:
        attributes = {}
    facts = attributes if isinstance(attributes, dict) else {}
    shelf = ", ".join(
        part for part in (product.get("brand"), (product.get("category") or "").replace(">", ",")) if part
    )
    listed = ", ".join(f"{k}: {v}" for k, v in sorted(facts.items()) if isinstance(v, str | int | float))
    parts = (product.get("title"), shelf, listed, product.get("description"))
    return tuple(sentence for part in parts for sentence in sentences(part))
