"""The best products by inner product, exactly, for many customers: the scores are never all in memory, nor all looked at.

A block of customers meets the products a tile at a time: BLAS products small enough to stay in cache. A sample of the
products gives each customer a score that its list will most likely begin above; of a tile only the greatest of each few
scores is looked at, and only groups that reach that score are opened. A customer whose guess was too high is asked
again with one that cannot be. Products stand in order of their length, so a customer leaves the scan once no vector
that follows is long enough to reach the list.

Not here: which model made the vectors (sequential, mixture) and rules of the shop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nightmarket.errors import ModelRefused
from nightmarket.ranking.base import Lists

if TYPE_CHECKING:
    import torch

# 512 customers x 512 products in fp32 are a megabyte. Eight such products are looked at together, in the cache both cores share.
ROWS, STEP, TILE = 512, 512, 4096
# Products of which only the greatest score is looked at first.
GROUP = 8
# Products that the first guess is made from.
LEAST_SAMPLE, MOST_SAMPLE = 4096, 16_384
# Catalogues beyond this have few groups worth opening: larger groups are less to look at.
LARGE = 300_000
# Candidates kept for a block before they are cut to the best (32 MB).
MOST_KEPT = 2_000_000
# Candidates of a customer that are put beside those of others.
MOST_BESIDE = 4096
# Rounding of an fp32 inner product may lift it this far above the product of the lengths.
SLACK = np.float32(1.0001)
_LOWEST = -np.finfo(np.float32).max
_NOBODY = np.uint64(np.iinfo(np.uint64).max)

Flat = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Offsets (rows + 1) and codes: a list of products a row, as one array."""


def top_by_product(
    queries: NDArray[np.float32], items: NDArray[np.float32], k: int, *,
    seen: Flat | None = None, allowed: NDArray[np.bool_] | None = None,
) -> Lists:  # fmt: skip
    """The `k` items with the greatest inner product for each query: score descending, then lower code first.

    The lists are those of sorting all scores in fp32. A row with fewer than `k` items to list ends in -1. As many
    threads as torch has in this process share the queries. Memory: the items once more, and a few megabytes a thread.

    Args:
        queries: rows x dimensions.
        items: codes x dimensions.
        seen: what to leave out for each row.
        allowed: a flag an item; the others are never listed.

    Raises:
        ModelRefused: shapes that do not fit each other, or numbers that are not finite.
    """
    queries, items = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(items, np.float32)
    _require(queries, items, seen, allowed)
    products = np.full((len(queries), k), -1, np.int32)
    scores = np.zeros((len(queries), k), np.float32)
    shelf = Shelf.of(items, allowed)
    if k and len(shelf.codes):

        def work(begin: int, end: int) -> None:
            out = None if seen is None else _cut(seen, begin, end)
            products[begin:end], scores[begin:end] = shelf.best(queries[begin:end], k, out)

        spread(work, len(queries))
    return Lists(products, scores)


def top_by_softmax(
    queries: NDArray[np.float32], items: NDArray[np.float32], k: int, *,
    seen: Flat | None = None, allowed: NDArray[np.bool_] | None = None, heard: NDArray[np.bool_] | None = None,
) -> tuple[Lists, NDArray[np.float32]]:  # fmt: skip
    """`top_by_product`, and the logarithm of each row's sum of exponentials over the items that are `heard` (all, when
    not given) whether they may be listed or not: `exp(score - logarithm)` is an item's probability by softmax.

    Items that are not heard are not listed. The scores are made once for both.
    """
    queries, items = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(items, np.float32)
    _require(queries, items, seen, allowed)
    products = np.full((len(queries), k), -1, np.int32)
    scores = np.zeros((len(queries), k), np.float32)
    sums = np.full(len(queries), -np.inf, np.float32)
    heard = np.ones(len(items), np.bool_) if heard is None else heard
    shelf = Shelf.of(items, heard if allowed is None else heard & allowed)
    rest = Shelf.of(items, np.zeros(len(items), np.bool_) if allowed is None else heard & ~allowed)

    def work(begin: int, end: int) -> None:
        out = None if seen is None else _cut(seen, begin, end)
        total = LogSum(end - begin)
        rest.add_up(queries[begin:end], total)
        if k and len(shelf.codes):
            products[begin:end], scores[begin:end] = shelf.best(queries[begin:end], k, out, total)
        else:
            shelf.add_up(queries[begin:end], total)
        sums[begin:end] = total.log()

    spread(work, len(queries))
    return Lists(products, scores), sums


def spread(work: Callable[[int, int], None], rows: int) -> None:
    """Do `work` for ranges of at most `ROWS` rows, on as many threads as torch has, each with one thread inside."""
    import torch

    threads = torch.get_num_threads()
    step = min(ROWS, max(32, -(-rows // threads)))
    spans = [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]
    if threads == 1 or len(spans) < 2:
        for begin, end in spans:
            work(begin, end)
        return
    # OpenMP keeps a number of threads for each thread, MKL one for all: both are as before at the end.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for done in [pool.submit(work, begin, end) for begin, end in spans]:
                done.result()
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class Shelf:
    """Items in the order in which they are scanned: a sample first, then the others, the longest vector first.

    Attributes:
        vectors, codes, lengths: of each place.
        places: the place of each code, -1 for an item that is not on the shelf.
        sample: places that the first guess is made from, drawn evenly from short and long vectors.
    """

    vectors: torch.Tensor
    codes: NDArray[np.int32]
    lengths: NDArray[np.float32]
    places: NDArray[np.int32]
    sample: int

    @classmethod
    def of(cls, items: NDArray[np.float32], allowed: NDArray[np.bool_] | None = None) -> Shelf:
        """A shelf of the items that are allowed."""
        import torch

        able = np.arange(len(items)) if allowed is None else np.flatnonzero(allowed)
        lengths = np.sqrt(np.einsum("nd,nd->n", items, items))[able]
        order = np.argsort(-lengths, kind="stable")
        wanted = min(max(len(able) // 12, LEAST_SAMPLE), MOST_SAMPLE)
        drawn = np.zeros(len(able), np.bool_)
        drawn[:: max(1, len(able) // wanted)] = True
        first = order[drawn]
        # The longest vectors are on most lists: apart from each other, they are not the same group's greatest.
        apart = np.argsort(np.arange(len(first)) % max(1, len(first) // GROUP), kind="stable")
        order = np.concatenate([first[apart], order[~drawn]])
        codes: NDArray[np.int32] = able[order].astype(np.int32)
        places = np.full(len(items), -1, np.int32)
        places[codes] = np.arange(len(codes))
        return cls(torch.from_numpy(items[codes]), codes, lengths[order], places, int(drawn.sum()))

    def best(
        self, queries: NDArray[np.float32], k: int, seen: tuple[NDArray[np.int64], NDArray[np.int32]] | None,
        total: LogSum | None = None,
    ) -> Lists:  # fmt: skip
        """The `k` best for a block of queries; `seen`: rows and codes to leave out; `total` is told of every score."""
        if seen is not None:
            order = np.argsort(self.places[seen[1]], kind="stable")
            seen = seen[0][order], self.places[seen[1]][order]
        products, scores, counts = self._scan(queries, k, seen, sure=False, total=total)
        short = np.flatnonzero(counts < k)
        if len(short) and self.sample < len(self.codes):
            if seen is not None:
                at = np.full(len(queries), -1)
                at[short] = np.arange(len(short))
                inside = at[seen[0]] >= 0
                seen = at[seen[0][inside]], seen[1][inside]
            products[short], scores[short], _ = self._scan(queries[short], k, seen, sure=True)
        return Lists(products, scores)

    def add_up(self, queries: NDArray[np.float32], total: LogSum) -> None:
        """Tell `total` of every score, without lists."""
        import torch

        across = torch.from_numpy(queries).t().contiguous()
        for begin in range(0, len(self.codes), STEP):
            total.add(torch.mm(self.vectors[begin : begin + STEP], across))

    def _scan(
        self, queries: NDArray[np.float32], k: int, seen: tuple[NDArray[np.int64], NDArray[np.int32]] | None, *,
        sure: bool, total: LogSum | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:  # fmt: skip
        """Lists and how many items reached the score that was guessed: fewer than `k` make the list doubtful."""
        import torch

        size, width = len(self.codes), len(queries)
        group = 2 * GROUP if size > LARGE else GROUP
        across = torch.from_numpy(queries).t().contiguous()
        reach = np.sqrt(np.einsum("nd,nd->n", queries, queries)) * SLACK
        room = torch.empty(max(self.sample, min(TILE, size)) * width)
        live = np.arange(width)
        bar = np.empty(0, np.float32)
        kept = Kept(self, width, k)
        begin, end = 0, self.sample
        while begin < size:
            if begin and total is None:
                able = reach[live] * self.lengths[begin] >= bar
                if not able.any():
                    break
                # Narrower products are less efficient, and copying costs: only for a fifth of them.
                if able.mean() < 0.8:
                    live, bar = live[able], bar[able]
                    across = across[:, torch.from_numpy(able)].contiguous()
            wide = len(live)
            tile = room[: (end - begin) * wide].view(-1, wide)
            for step in range(0, end - begin, STEP):
                stop = min(step + STEP, end - begin)
                torch.mm(self.vectors[begin + step : begin + stop], across, out=tile[step:stop])
            if total is not None:
                total.add(tile)
            scores = tile.numpy()
            if seen is not None:
                _forget(scores, seen, begin, end, live, width)
            whole = (end - begin) // group * group
            greatest = torch.amax(tile[:whole].view(-1, group, wide), 1).numpy()
            if not begin:
                bar = _guess(greatest, scores, k, size, sure)
            kept.open(scores, greatest, group, bar, live, begin)
            if kept.size > MOST_KEPT:
                bar = np.maximum(bar, kept.cut()[live])
            begin, end = end, min(end + TILE, size)
        return kept.lists()


class LogSum:
    """The logarithm of a sum of exponentials for each column of the tiles it is told of, whatever their size."""

    def __init__(self, width: int) -> None:
        import torch

        self.most = torch.full((width,), -torch.inf)
        self.sum = torch.zeros(width)

    def add(self, tile: torch.Tensor) -> None:
        """Take the scores of a tile (items x columns) in."""
        import torch

        most = torch.maximum(self.most, tile.amax(0))
        # Exponents are of differences to the greatest so far: none overflows, and what is lost was nothing beside it.
        self.sum = self.sum * torch.exp(self.most - most) + torch.sub(tile, most).exp_().sum(0)
        self.most = most

    def log(self) -> NDArray[np.float32]:
        """The logarithms; minus infinity for a sum of nothing."""
        return (self.sum.log() + self.most.nan_to_num(neginf=0.0)).numpy()  # type: ignore[no-any-return]


class Kept:
    """What may still be on the lists of a block: customers, places on the shelf, scores."""

    def __init__(self, shelf: Shelf, width: int, k: int) -> None:
        self.shelf, self.width, self.k = shelf, width, k
        self.parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self.size = 0

    def open(
        self, scores: NDArray[np.float32], greatest: NDArray[np.float32], group: int, bar: NDArray[np.float32],
        live: NDArray[np.int64], begin: int,
    ) -> None:  # fmt: skip
        """Keep of a tile (places from `begin` x `live` customers) what reaches the bar of its customer."""
        wide = len(live)
        hit = np.flatnonzero(greatest >= bar)
        number = hit // wide
        column = hit - number * wide
        first = number * (group * wide) + column
        values = scores.reshape(-1).take(first[:, None] + np.arange(0, group * wide, wide))
        at = np.flatnonzero(values >= bar[column][:, None])
        which = at // group
        place = number[which] * group + (at - which * group)
        self._add(live[column[which]], place + begin, values.reshape(-1)[at])
        whole = len(greatest) * group
        if whole < len(scores):
            row, column = np.nonzero(scores[whole:] >= bar)
            self._add(live[column], row + whole + begin, scores[whole:][row, column])

    def _add(
        self, columns: NDArray[np.int64], places: NDArray[np.int64], values: NDArray[np.float32]
    ) -> None:
        self.parts.append((columns, places, values))
        self.size += len(values)

    def cut(self) -> NDArray[np.float32]:
        """Keep the best `k` of each customer; returns the last score of each list that is full."""
        products, scores, _ = self.lists()
        there = products >= 0
        columns = np.nonzero(there)[0]
        self.parts, self.size = [], 0
        self._add(columns, self.shelf.places[products[there]].astype(np.int64), scores[there])
        return np.where(there[:, -1], scores[:, -1], np.float32(_LOWEST))

    def lists(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
        """The best `k` of each customer, in order, and how many were kept."""
        columns, places, values = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        return best_of(columns, self.shelf.codes[places], values, self.width, self.k)


def best_of(
    columns: NDArray[np.int64], codes: NDArray[np.int32], scores: NDArray[np.float32], width: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Of candidates in any order the best `k` of each of `width` customers, and how many each had.

    A customer's candidates have different codes.
    """
    # Sixteen bits are sorted by their digits: time goes with the number of candidates alone.
    order = np.argsort(columns.astype(np.uint16) if width <= 0xFFFF else columns, kind="stable")
    columns, keys = columns[order], ordered(scores[order], codes[order])
    counts = np.bincount(columns, minlength=width)
    starts = np.cumsum(counts) - counts
    long = np.flatnonzero(counts > max(4 * k, MOST_BESIDE))
    if len(long):
        # Side by side the others would be as long as they.
        kept = np.ones(len(keys), np.bool_)
        for row in long:
            span = slice(starts[row], starts[row] + counts[row])
            kept[span] = keys[span] <= np.partition(keys[span], k - 1)[k - 1]
        columns, keys = columns[kept], keys[kept]
    left = np.bincount(columns, minlength=width)
    most = int(left.max(initial=1))
    beside = np.full((width, most), _NOBODY)
    spot = np.arange(len(columns)) + (np.arange(width) * most - (np.cumsum(left) - left))[columns]
    beside.reshape(-1)[spot] = keys
    if most > k:
        beside.partition(k - 1, axis=1)
    beside = np.sort(beside[:, :k], axis=1)
    products = np.full((width, k), -1, np.int32)
    values = np.zeros((width, k), np.float32)
    there = beside != _NOBODY
    products[:, : beside.shape[1]][there], values[:, : beside.shape[1]][there] = unordered(beside[there])
    return products, values, counts


def ordered(scores: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Scores and codes as whole numbers that ascend from the greatest score on, and by code among equals."""
    # Adding 0 makes the two zeros one.
    bits = (scores + np.float32(0)).view(np.uint32)
    rank = np.where(bits < 0x80000000, np.uint32(0x7FFFFFFF) - bits, bits)
    keys = np.empty((len(bits), 2), np.uint32)
    keys[:, 0], keys[:, 1] = codes, rank
    return keys.view("<u8").reshape(-1)


def unordered(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The codes and scores that `ordered` was given."""
    halves = np.ascontiguousarray(keys).view("<u4").reshape(-1, 2)
    rank = halves[:, 1]
    bits = np.where(rank < 0x80000000, np.uint32(0x7FFFFFFF) - rank, rank)
    return halves[:, 0].astype(np.int32), bits.view(np.float32)


def _guess(
    greatest: NDArray[np.float32], scores: NDArray[np.float32], k: int, size: int, sure: bool
) -> NDArray[np.float32]:
    """For each customer a score that at least `k` of all items reach: most likely, or surely, from the sample's scores."""
    share = len(scores) / size
    # Of the best k about k x share are in the sample; three standard deviations more are seldom exceeded.
    most = (
        k if sure or share == 1 else min(k, math.ceil(k * share + 3 * math.sqrt(k * share * (1 - share))) + 2)
    )
    # The n-th greatest of groups is no greater than the n-th greatest of all, and near it while n is small.
    pool = greatest if len(greatest) >= 4 * most else scores
    if len(pool) < most:
        return np.full(scores.shape[1], _LOWEST, np.float32)
    across = np.array(pool.T, order="C")
    across.partition(len(pool) - most, axis=1)
    return np.maximum(across[:, len(pool) - most], np.float32(_LOWEST))


def _forget(
    scores: NDArray[np.float32], seen: tuple[NDArray[np.int64], NDArray[np.int32]], begin: int, end: int,
    live: NDArray[np.int64], width: int,
) -> None:  # fmt: skip
    """Put what was seen below every bar; `seen` is in order of places."""
    low, high = np.searchsorted(seen[1], (begin, end))
    column, place = seen[0][low:high], seen[1][low:high] - begin
    if len(live) < width:
        at = np.full(width, -1)
        at[live] = np.arange(len(live))
        place, column = place[at[column] >= 0], at[column[at[column] >= 0]]
    scores[place, column] = -np.inf


def _cut(seen: Flat, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The rows (from 0) and codes of a range of rows."""
    offsets = seen[0][begin : end + 1]
    return np.repeat(np.arange(end - begin), np.diff(offsets)), seen[1][offsets[0] : offsets[-1]]


def _require(
    queries: NDArray[np.float32], items: NDArray[np.float32], seen: Flat | None, allowed: NDArray[np.bool_] | None
) -> None:  # fmt: skip
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ModelRefused(f"Queries of shape {queries.shape} do not go with items of shape {items.shape}.")
    if not (np.isfinite(queries).all() and np.isfinite(items).all()):
        raise ModelRefused(
            "A vector holds a number that is not finite; the model was not fitted or was damaged."
        )
    if allowed is not None and len(allowed) != len(items):
        raise ModelRefused(f"`allowed` has {len(allowed)} flags for {len(items)} items.")
    if seen is not None and (
        len(seen[0]) != len(queries) + 1
        or seen[0][-1] != len(seen[1])
        or (len(seen[1]) and (seen[1].min() < 0 or seen[1].max() >= len(items)))
    ):
        raise ModelRefused(
            f"What was seen ({len(seen[0]) - 1} rows, {len(seen[1])} codes) does not go with {len(queries)} queries "
            f"and {len(items)} items."
        )
