"""What every ranker can do: fit, recommend, explain, save. A model is a file that says how it scores.

Here: the interface, cutting the top from score blocks, the form on disk (safetensors and JSON, nothing that runs code).
Not here: what a score is (a file a model), and which customers or products are allowed (products and rules).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking.interactions import Catalogue, Histories, Interactions

if TYPE_CHECKING:
    import scipy.sparse as sp

FORMAT = 1
# Scores are made in blocks of at most this many numbers (32 MB), whatever customers and products there are.
BLOCK_SCORES = 8_000_000


class Lists(NamedTuple):
    """Ranked products: `products` int32 (rows x k), -1 where the model has nothing more to say; `scores` beside them."""

    products: NDArray[np.int32]
    scores: NDArray[np.float32]


class Contribution(NamedTuple):
    """What one product of the history added to a score."""

    product: int
    amount: float


class Ranker(ABC):
    """A model that ranks products for histories. Same data and parameters give the same lists, to the bit."""

    kind: ClassVar[str]
    catalogue: Catalogue

    @abstractmethod
    def fit(self, interactions: Interactions) -> Self:
        """Learn from purchases; the model's catalogue is theirs from now on."""

    @abstractmethod
    def score(self, histories: Histories) -> NDArray[np.float32]:
        """Scores of all products (rows x products) for a block of histories; 0 or less: nothing speaks for it."""

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Everything that made this model beside the data, as plain JSON values."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fitted numbers, by name."""

    @classmethod
    @abstractmethod
    def restore(
        cls, catalogue: Catalogue, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The model that gave these parameters and arrays."""

    def explain(self, histories: Histories, row: int, product: int) -> list[Contribution]:
        """What each product of a row's history adds to the score of `product`, greatest first.

        Empty for a model that does not look at the history. For linear models the amounts add up to the score.
        """
        return []

    def because(self, histories: Histories, lists: Lists, top: int = 3) -> NDArray[np.int32]:
        """The `top` products of each history that raise each listed product most: codes (rows x k x top), -1 for none."""
        return np.full((*lists.products.shape, top), -1, np.int32)

    def recommend(
        self,
        histories: Histories,
        k: int,
        *,
        exclude_seen: bool = True,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Lists:
        """The best `k` products for each row: score descending, then product id ascending.

        Only products with a score above 0 are listed; the rest of a row is -1. Memory is one block of scores, never
        customers x products.

        Args:
            exclude_seen: leave out every product of the row's own history.
            allowed: a flag a product of the catalogue; the others are never listed.

        Raises:
            ModelRefused: the histories were coded with another catalogue.
        """
        self.catalogue.require(histories.digest, "A history")
        if allowed is not None and len(allowed) != len(self.catalogue):
            raise ModelRefused(
                f"`allowed` has {len(allowed)} flags, the model's catalogue {len(self.catalogue)} products."
            )
        products = np.full((len(histories), k), -1, np.int32)
        scores = np.zeros((len(histories), k), np.float32)
        for begin, end in blocks(len(histories), self._width()):
            products[begin:end], scores[begin:end] = self._best(
                histories.slice(begin, end), k, exclude_seen, allowed
            )
        return Lists(products, scores)

    def _width(self) -> int:
        """Numbers that are made for a row when lists are."""
        return len(self.catalogue)

    def _best(self, block: Histories, k: int, exclude_seen: bool, allowed: NDArray[np.bool_] | None) -> Lists:
        dense = self.score(block)
        if exclude_seen:
            dense[np.repeat(np.arange(len(block)), np.diff(block.offsets)), block.items] = 0
        if allowed is not None:
            dense[:, ~allowed] = 0
        return top_of(dense, k)

    def save(self, folder: Path) -> None:
        """Write the model into `folder`: model.safetensors, model.json, catalogue.json."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.safetensors"
        save_file({name: np.ascontiguousarray(a) for name, a in sorted(self.arrays().items())}, weights)
        (folder / "catalogue.json").write_text(json.dumps(self.catalogue.product_ids, ensure_ascii=False))
        about = {
            "format": FORMAT, "kind": self.kind, "params": self.params(), "catalogue": self.catalogue.digest,
            "products": len(self.catalogue), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }  # fmt: skip
        (folder / "model.json").write_text(json.dumps(about, indent=1, sort_keys=True))


class Linear(Ranker):
    """A ranker whose score is a weighted sum over the history: every contribution is exact."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """The matrices that are added up."""

    def score(self, histories: Histories) -> NDArray[np.float32]:
        return self._sums(histories).toarray()  # type: ignore[no-any-return]

    def _sums(self, histories: Histories) -> sp.csr_matrix:
        """The scores of a block as a sparse matrix: a history of ten products reaches a thousand, not a catalogue."""
        import scipy.sparse as sp

        size = len(self.catalogue)
        total = sp.csr_matrix((len(histories), size), dtype=np.float32)
        for part in self.parts():
            total = total + coded(histories, size, part.half_life, part.weight) @ part.matrix
        return total

    def _best(self, block: Histories, k: int, exclude_seen: bool, allowed: NDArray[np.bool_] | None) -> Lists:
        sums = self._sums(block)
        kept = sums.data > 0
        if allowed is not None:
            kept &= allowed[sums.indices]
        if exclude_seen and len(block.items):
            kept &= ~_among(sums, block)
        products = np.full((len(block), k), -1, np.int32)
        scores = np.zeros((len(block), k), np.float32)
        for row in range(len(block)):
            span = slice(sums.indptr[row], sums.indptr[row + 1])
            inside = kept[span]
            column, value = sums.indices[span][inside], sums.data[span][inside]
            if len(value) > k:
                able = value >= np.partition(value, len(value) - k)[len(value) - k]
                column, value = column[able], value[able]
            order = np.lexsort((column, -value))[:k]
            products[row, : len(order)], scores[row, : len(order)] = column[order], value[order]
        return Lists(products, scores)

    def explain(self, histories: Histories, row: int, product: int) -> list[Contribution]:
        self.catalogue.require(histories.digest, "A history")
        one = histories.slice(row, row + 1)
        amounts = self._amounts(
            one, np.zeros(len(one.items), np.int64), np.full(len(one.items), product), one.items
        )
        order = np.lexsort((one.items, -amounts))
        return [Contribution(int(one.items[i]), float(amounts[i])) for i in order if amounts[i] != 0]

    def because(self, histories: Histories, lists: Lists, top: int = 3) -> NDArray[np.int32]:
        self.catalogue.require(histories.digest, "A history")
        rows, k = lists.products.shape
        found = np.full((rows, k, top), -1, np.int32)
        lengths = np.minimum(np.diff(histories.offsets), 0x7FFFFFFF)
        for begin, end in _runs(lengths * max(k, 1), BLOCK_SCORES // 4):
            block = histories.slice(begin, end)
            sizes = np.diff(block.offsets)
            # Every pair of a listed product and a product of the same row's history, as one long array.
            slots = np.arange((end - begin) * k)
            repeats = np.repeat(sizes, k)
            slot = np.repeat(slots, repeats)
            starts = np.concatenate([[0], np.cumsum(repeats)[:-1]]) if len(repeats) else repeats
            place = (
                np.repeat(block.offsets[:-1], k).repeat(repeats)
                + np.arange(len(slot))
                - np.repeat(starts, repeats)
            )
            target = lists.products[begin:end].reshape(-1)[slot]
            amounts = np.where(target >= 0, self._amounts(block, place, np.maximum(target, 0)), 0)
            kept = np.flatnonzero(amounts > 0)
            order = kept[np.lexsort((block.items[place[kept]], -amounts[kept], slot[kept]))]
            ordered = slot[order]
            nth = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
            use = nth < top
            flat = found[begin:end].reshape(-1, top)
            flat[ordered[use], nth[use]] = block.items[place[order[use]]]
            found[begin:end] = flat.reshape(end - begin, k, top)
        return found

    def _amounts(
        self, histories: Histories, places: NDArray[np.int64], targets: NDArray[np.int64] | NDArray[np.int32],
        items: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """What the history items at `places` (or all, when `items` is given) add to the scores of `targets`."""
        at = np.arange(len(items)) if items is not None else places
        amounts = np.zeros(len(at), np.float32)
        for part in self.parts():
            weights = histories.weights(part.half_life) * np.float32(part.weight)
            amounts += weights[at] * lookup(part.matrix, histories.items[at], targets)
        return amounts


class ByDeletion(Ranker):
    """A ranker whose reasons are found by asking again: what would the score be without this product of the history?

    Only the latest `ASKED` products of a history are taken out one by one.
    """

    ASKED: ClassVar[int] = 10

    def scores_of(self, histories: Histories, products: NDArray[np.int32]) -> NDArray[np.float32]:
        """The scores of some products a row (rows x any), as `score` gives them."""
        found: NDArray[np.float32] = np.take_along_axis(self.score(histories), products, axis=1)
        return found

    def explain(self, histories: Histories, row: int, product: int) -> list[Contribution]:
        self.catalogue.require(histories.digest, "A history")
        one = histories.slice(row, row + 1)
        amounts = self._amounts(one, np.array([[product]], np.int32))[0, 0]
        items = one.items[: len(amounts)]
        order = np.lexsort((items, -amounts))
        return [Contribution(int(items[i]), float(amounts[i])) for i in order if amounts[i] != 0]

    def because(self, histories: Histories, lists: Lists, top: int = 3) -> NDArray[np.int32]:
        self.catalogue.require(histories.digest, "A history")
        rows, k = lists.products.shape
        found = np.full((rows, k, top), -1, np.int32)
        for begin, end in _runs(
            np.minimum(np.diff(histories.offsets) + 1, self.ASKED + 1) * len(self.catalogue), BLOCK_SCORES
        ):
            block = histories.slice(begin, end)
            amounts = self._amounts(block, lists.products[begin:end])
            for row in range(end - begin):
                items = block.items[block.offsets[row] : block.offsets[row + 1]][: self.ASKED]
                for place in np.flatnonzero(lists.products[begin + row] >= 0):
                    gain = amounts[row, place, : len(items)]
                    order = np.lexsort((items, -gain))[:top]
                    order = order[gain[order] > 0]
                    found[begin + row, place, : len(order)] = items[order]
        return found

    def _amounts(self, histories: Histories, products: NDArray[np.int32]) -> NDArray[np.float32]:
        """What each of the latest products of a row adds to each of its `products` (rows x k): rows x k x products."""
        sizes = np.minimum(np.diff(histories.offsets), self.ASKED)
        rows, k = products.shape
        amounts = np.zeros((rows, k, int(sizes.max(initial=0))), np.float32)
        if not amounts.size:
            return amounts
        targets = np.maximum(products, 0)
        row = np.repeat(np.arange(rows), sizes)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        whole = self.scores_of(histories, targets)
        amounts[row, :, nth] = whole[row] - self.scores_of(histories.without(row, nth), targets[row])
        return amounts


@dataclass(frozen=True)
class Part:
    """A matrix (from product of the history, to product scored), how fast the history fades, and its weight."""

    matrix: sp.csr_matrix
    half_life: float | None
    weight: float = 1.0


def nested(models: Mapping[str, Ranker]) -> dict[str, NDArray[Any]]:
    """The arrays of several models under their names, for a model that is made of them."""
    return {f"{name}.{key}": array for name, model in models.items() for key, array in model.arrays().items()}


def within(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """The arrays that `nested` put under a name."""
    return {k.removeprefix(f"{name}."): a for k, a in arrays.items() if k.startswith(f"{name}.")}


def coded(histories: Histories, size: int, half_life: float | None, weight: float = 1.0) -> sp.csr_matrix:
    """Histories as a sparse matrix (rows x `size` products) of faded weights."""
    import scipy.sparse as sp

    values = histories.weights(half_life) * np.float32(weight)
    return sp.csr_matrix((values, histories.items, histories.offsets), shape=(len(histories), size))


def _among(sums: sp.csr_matrix, histories: Histories) -> NDArray[np.bool_]:
    """For each entry of `sums`: does the row's own history hold that product? One byte a score of the block."""
    seen = np.zeros(sums.shape, np.bool_)
    seen[np.repeat(np.arange(len(histories)), np.diff(histories.offsets)), histories.items] = True
    rows = np.repeat(np.arange(sums.shape[0]), np.diff(sums.indptr))
    found: NDArray[np.bool_] = seen[rows, sums.indices]
    return found


def lookup(matrix: sp.csr_matrix, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
    """The entries of a CSR matrix with sorted indices at many places at once."""
    if matrix.nnz == 0 or len(rows) == 0:
        return np.zeros(len(rows), np.float32)
    low, high = matrix.indptr[:-1][rows].astype(np.int64), matrix.indptr[1:][rows].astype(np.int64)
    end = high.copy()
    # Binary search inside each row, all rows in step; at most log2(longest row) rounds.
    for _ in range(int(np.diff(matrix.indptr).max()).bit_length()):
        middle = (low + high) // 2
        open_ = low < high
        less = open_ & (matrix.indices[np.minimum(middle, matrix.nnz - 1)] < columns)
        low = np.where(less, middle + 1, low)
        high = np.where(open_ & ~less, middle, high)
    at = np.minimum(low, matrix.nnz - 1)
    hit = (low < end) & (matrix.indices[at] == columns)
    return np.where(hit, matrix.data[at], 0).astype(np.float32)


def top_of(dense: NDArray[np.float32], k: int) -> Lists:
    """The `k` greatest scores above 0 of each row, greatest first, equal ones by column."""
    rows, columns = dense.shape
    products = np.full((rows, k), -1, np.int32)
    scores = np.zeros((rows, k), np.float32)
    if rows == 0 or columns == 0:
        return Lists(products, scores)
    if columns > k:
        threshold = np.partition(dense, columns - k, axis=1)[:, columns - k]
        candidate = (dense >= threshold[:, None]) & (dense > 0)
    else:
        candidate = dense > 0
    row, column = np.nonzero(candidate)
    value = dense[row, column]
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row, side="left")
    kept = place < k
    products[row[kept], place[kept]] = column[kept]
    scores[row[kept], place[kept]] = value[kept]
    return Lists(products, scores)


def keep_greatest(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Each row's `k` entries of greatest size (equal ones: lower column first), indices sorted, zeros gone."""
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    size = np.abs(matrix.data)
    kept = matrix.data != 0
    starts = matrix.indptr.astype(np.int64)
    for row in np.flatnonzero(np.diff(starts) > k):
        span = slice(starts[row], starts[row + 1])
        sizes = size[span]
        least = np.partition(sizes, len(sizes) - k)[len(sizes) - k]
        able = sizes > least
        # Columns are in order, so the first of those that tie are the lowest.
        able[np.flatnonzero(sizes == least)[: k - int(able.sum())]] = True
        kept[span] &= able
    places = np.flatnonzero(kept)
    indptr = np.searchsorted(places, starts)
    return csr(matrix.data[places], matrix.indices[places], indptr, matrix.shape[0])


def csr(data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], size: int) -> sp.csr_matrix:
    """A square CSR matrix from its three arrays, numbers as float32.

    Raises:
        ModelRefused: the arrays do not make such a matrix, or hold a number that is not finite.
    """
    import scipy.sparse as sp

    if len(indptr) != size + 1 or (len(indptr) and indptr[-1] != len(indices)) or len(data) != len(indices):
        raise ModelRefused(
            f"A matrix of {size} products has arrays of {len(indptr)}, {len(indices)} and {len(data)}."
        )
    if len(indices) and (indices.min() < 0 or indices.max() >= size or (np.diff(indptr) < 0).any()):
        raise ModelRefused(f"A matrix of {size} products points outside its catalogue.")
    if not np.isfinite(data).all():
        raise ModelRefused(
            "A matrix holds numbers that are not finite; the model was not fitted or was damaged."
        )
    return sp.csr_matrix(
        (data.astype(np.float32, copy=False), indices.astype(np.int32, copy=False), indptr.astype(np.int32, copy=False)),
        shape=(size, size),
    )  # fmt: skip


def blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each with at most `BLOCK_SCORES` numbers."""
    step = max(1, BLOCK_SCORES // max(columns, 1))
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)


def _runs(costs: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose costs add up to at most `limit` (or one row that costs more)."""
    total, begin = np.concatenate([[0], np.cumsum(costs)]), 0
    while begin < len(costs):
        end = int(np.searchsorted(total, total[begin] + limit, side="right")) - 1
        end = min(max(end, begin + 1), len(costs))
        yield begin, end
        begin = end
