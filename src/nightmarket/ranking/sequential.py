"""What comes next: a transformer over the order of purchases, with product vectors that begin from the products' texts.

Its score is a probability: the softmax over the catalogue of the products that may follow the history. Not here: the
network and its training (transformer).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking.base import ByDeletion, Lists
from nightmarket.ranking.interactions import Catalogue, Histories, Interactions, Texts
from nightmarket.ranking.topk import top_by_softmax

if TYPE_CHECKING:
    from nightmarket.ranking.transformer import Network, Recipe

_ROWS = 512  # histories read at once
_PAIRS = 16_384  # of a history and a product, looked at together: 8 MB of vectors each
# Up to so many products a block of all scores is small, and looking at all of them as fast as looking at few.
DENSE = 4000


class Sequential(ByDeletion):
    """A causal transformer; `texts` lets it speak of products that nobody bought yet. Of one without either it is silent.

    `start`, a fitted model of the same recipe, is where training goes on from (products it knows keep their vectors).
    With `fresh`, the customers who bought since, it learns from them and from `REPLAYED` times as many others, so that it
    does not forget: cost follows what is new. `checkpoint`, a folder, lets a killed training resume. None of these is
    saved with the model.
    """

    REPLAYED: ClassVar[int] = 2
    WARM_STEPS: ClassVar[int] = 40
    WARM_RATE: ClassVar[float] = 0.1

    kind = "sequential"

    def __init__(
        self, *, texts: Texts | None = None, start: Sequential | None = None, fresh: Collection[str] | None = None,
        checkpoint: Path | None = None, **recipe: Any,
    ) -> None:  # fmt: skip
        from nightmarket.ranking.transformer import Recipe

        self.texts, self.start, self.fresh, self.checkpoint = texts, start, fresh, checkpoint
        self.recipe: Recipe = Recipe(**recipe)
        self.catalogue = Catalogue.of([])
        self.network: Network | None = None
        self.table = np.zeros((0, self.recipe.dimensions), np.float32)

    def fit(self, interactions: Interactions) -> Self:
        from nightmarket.ranking.transformer import train

        self.catalogue = interactions.catalogue
        told = self.texts(self.catalogue.product_ids) if self.texts is not None else None
        begun = self._begun(told)
        histories, how = interactions.histories(), self.recipe
        if begun is not None and self.fresh is not None:
            histories, how = histories.rows(self._learnt_from(histories)), self._gentle()
        self.network = train(
            how, sequences(histories), len(self.catalogue), told, start=begun, checkpoint=self.checkpoint
        )
        self.table = self._table(told)
        return self

    def score(self, histories: Histories) -> NDArray[np.float32]:
        """Probabilities of what comes next; zeros for an empty history."""
        import torch

        found = np.zeros((len(histories), len(self.catalogue)), np.float32)
        table, silent = torch.from_numpy(self.table), torch.from_numpy(~self.heard())
        for rows, vectors in self.read(histories):
            logits = torch.from_numpy(vectors) @ table.t()
            found[rows] = torch.softmax(logits.masked_fill(silent, -1e9), dim=1).numpy()
        return found

    def heard(self) -> NDArray[np.bool_]:
        """The products of which anything is known: a logit of 0 would rank the others above many."""
        return (self.table != 0).any(axis=1)

    def read(self, histories: Histories) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Rows that hold a product, and their vectors: inner products with the table are logits of what comes next."""
        import torch

        from nightmarket.encoder import has_bfloat16

        known = np.flatnonzero(np.diff(histories.offsets))
        if self.network is None or not len(known) or not len(self.catalogue):
            return
        table = torch.from_numpy(self.table)
        read = sequences(histories)
        lengths = np.minimum([len(read[row]) for row in known], self.recipe.length)
        # Rows of like length together: padding costs what a product costs.
        known = known[np.argsort(lengths, kind="stable")]
        with torch.inference_mode():
            for begin in range(0, len(known), _ROWS):
                rows = known[begin : begin + _ROWS]
                latest = [read[row][-self.recipe.length :] for row in rows]
                ids = np.zeros((len(rows), max(map(len, latest))), np.int64)
                for r, sequence in enumerate(latest):
                    ids[r, : len(sequence)] = sequence
                ends = torch.tensor([len(sequence) - 1 for sequence in latest])
                with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch)):
                    vectors = self.network(table, torch.from_numpy(ids))
                yield rows, vectors[torch.arange(len(rows)), ends].float().numpy()

    def told(self, histories: Histories) -> NDArray[np.float32]:
        """The vectors of `read`, a row each; zeros for an empty history."""
        found = np.zeros((len(histories), self.recipe.dimensions), np.float32)
        for rows, vectors in self.read(histories):
            found[rows] = vectors
        return found

    def scores_of(self, histories: Histories, products: NDArray[np.int32]) -> NDArray[np.float32]:
        if len(self.catalogue) <= DENSE:
            return super().scores_of(histories, products)
        vectors = self.told(histories)
        _, sums = top_by_softmax(vectors, self.table, 0, heard=self.heard())
        rows = np.repeat(np.arange(len(products)), products.shape[1])
        return self.chances(vectors, sums, rows, products.reshape(-1)).reshape(products.shape)

    def chances(
        self, vectors: NDArray[np.float32], sums: NDArray[np.float32], rows: NDArray[np.int64], products: NDArray[np.int32]
    ) -> NDArray[np.float32]:  # fmt: skip
        """Probabilities of `products` at `rows`, given the rows' vectors and the logarithms of their sums."""
        found = np.zeros(len(rows), np.float32)
        able = vectors.any(axis=1) & np.isfinite(sums)
        kept = np.flatnonzero(able[rows] & self.heard()[products])
        for begin in range(0, len(kept), _PAIRS):
            at = kept[begin : begin + _PAIRS]
            logits = np.einsum("nd,nd->n", vectors[rows[at]], self.table[products[at]])
            found[at] = np.exp(logits - sums[rows[at]])
        return found

    def _width(self) -> int:
        return min(len(self.catalogue), DENSE)

    def _best(self, block: Histories, k: int, exclude_seen: bool, allowed: NDArray[np.bool_] | None) -> Lists:
        if len(self.catalogue) <= DENSE:
            return super()._best(block, k, exclude_seen, allowed)
        lists, sums = self.likeliest(block, self.told(block), k, exclude_seen, allowed)
        chances = np.exp(lists.scores - np.where(np.isfinite(sums), sums, 0)[:, None])
        there = (lists.products >= 0) & (chances > 0)
        return Lists(np.where(there, lists.products, -1).astype(np.int32), np.where(there, chances, 0))

    def likeliest(
        self, block: Histories, vectors: NDArray[np.float32], k: int, exclude_seen: bool,
        allowed: NDArray[np.bool_] | None,
    ) -> tuple[Lists, NDArray[np.float32]]:  # fmt: skip
        """The best logits of each row and the logarithms of the sums; nothing for an empty history."""
        lists, sums = top_by_softmax(
            vectors, self.table, k, seen=(block.offsets, block.items) if exclude_seen else None,
            allowed=allowed, heard=self.heard(),
        )  # fmt: skip
        lists.products[np.diff(block.offsets) == 0] = -1
        return lists, sums

    def params(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def arrays(self) -> dict[str, NDArray[Any]]:
        if self.network is None:
            return {"table": self.table}
        state = {f"network.{name}": t.numpy() for name, t in self.network.state_dict().items()}
        return {"table": self.table, **state}

    @classmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        import torch

        from nightmarket.ranking.transformer import Network

        model = cls(**params)
        model.catalogue, model.table = catalogue, arrays["table"]
        if len(model.table) != len(catalogue) or not np.isfinite(model.table).all():
            raise ModelRefused(
                f"A sequential model of {len(catalogue)} products has vectors of {len(model.table)}, or some that are "
                f"not finite; it was damaged."
            )
        state = {
            name.removeprefix("network."): torch.from_numpy(np.array(array))
            for name, array in arrays.items()
            if name.startswith("network.")
        }
        if state:
            model.network = Network(model.recipe, len(catalogue), state["words"].shape[0])
            model.network.load_state_dict(state)
            model.network.eval()
        return model

    def _gentle(self) -> Recipe:
        """The recipe to go on with: one pass of small steps, or what was learnt before is overwritten."""
        rate = self.WARM_RATE * self.recipe.learning_rate
        return replace(self.recipe, epochs=1, steps=self.WARM_STEPS, learning_rate=rate)

    def _learnt_from(self, histories: Histories) -> NDArray[np.int64]:
        """The rows of the fresh customers and of others drawn by seed."""
        fresh = set(self.fresh or ())
        new = np.array([customer in fresh for customer in histories.customer_ids], np.bool_)
        others = np.random.default_rng(self.recipe.seed).permutation(np.flatnonzero(~new))
        return np.sort(np.concatenate([np.flatnonzero(new), others[: self.REPLAYED * int(new.sum())]]))

    def _table(self, told: NDArray[np.float32] | None) -> NDArray[np.float32]:
        import torch

        assert self.network is not None
        made = self.network.table(None if told is None else torch.from_numpy(told))
        return np.array(made.detach().numpy(), np.float32)

    def _begun(self, told: NDArray[np.float32] | None) -> Network | None:
        """The network to go on from: that of `start`, with its vectors in the places of today's catalogue."""
        import torch

        from nightmarket.ranking.transformer import Network

        before = self.start.network if self.start is not None else None
        if self.start is None or before is None:
            return None
        width = 0 if told is None else told.shape[1]
        same = asdict(self.start.recipe) | {"epochs": 0} == asdict(self.recipe) | {"epochs": 0}
        if not same or before.words.shape[0] != width:
            raise ModelRefused(
                "A sequential model can go on only from one of the same recipe, and with texts as before."
            )
        state = dict(before.state_dict())
        own = torch.zeros(len(self.catalogue), self.recipe.dimensions)
        codes = self.catalogue.codes(list(self.start.catalogue.product_ids))
        own[torch.from_numpy(codes[codes >= 0].astype(np.int64))] = before.own.detach()[
            torch.from_numpy(np.flatnonzero(codes >= 0))
        ]
        begun = Network(self.recipe, len(self.catalogue), width)
        begun.load_state_dict(state | {"own": own})
        return begun


def sequences(histories: Histories) -> list[NDArray[np.int32]]:
    """Each row's products, the oldest first."""
    offsets = histories.offsets
    return [histories.items[offsets[r] : offsets[r + 1]][::-1] for r in range(len(histories))]
