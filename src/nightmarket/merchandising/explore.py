"""A share of slots shows something else than the best, drawn so that each slot's propensity is known exactly.

Here: which slots explore, what they show, and draws that depend on who and what, never on the order of rows. Not here:
which slots may explore and what the pool holds (arrange).

The policy: of a list's free slots the last ones may explore, as many as the pool has products. Each does so by itself with
the chance `share`; those that do take distinct products, all choices equally likely. So the regular product of such a slot
has the propensity 1 - share, each product of the pool share / (size of the pool), and every other slot 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# The constants of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits whose output passes BigCrush.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def explore(
    chosen: NDArray[np.int64], free: NDArray[np.bool_], pool: NDArray[np.bool_], *, share: float, keys: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:  # fmt: skip
    """What the slots show in the end, which of them explore, and every slot's propensity.

    Args:
        chosen: rows x k, the regular column of each slot, -1 for an empty one.
        free: rows x k, slots that may explore.
        pool: rows x columns, columns that may be drawn; none of them is chosen.
        share: the chance that a slot explores, 0 to 1.
        keys: one number a row, from which all its draws follow.
    """
    none = np.zeros(chosen.shape, np.bool_)
    sizes = pool.sum(axis=1)
    if share <= 0 or not pool.size or not sizes.any():
        return chosen, none, np.ones(chosen.shape)
    free = free & (chosen >= 0)
    from_the_end = np.cumsum(free[:, ::-1], axis=1)[:, ::-1]
    able = free & (from_the_end <= sizes[:, None])
    explores = able & (draws(keys, chosen.shape[1], stream=1) < share)
    # A random order of the pool; the first exploring slot takes the first of it, and so on.
    order = np.argsort(np.where(pool, draws(keys, pool.shape[1], stream=2), 2.0), axis=1, kind="stable")
    nth = np.clip(np.cumsum(explores, axis=1) - 1, 0, pool.shape[1] - 1)
    shown = np.where(explores, np.take_along_axis(order, nth, axis=1), chosen)
    propensity = np.where(able, np.where(explores, share / np.maximum(sizes, 1)[:, None], 1 - share), 1.0)
    return shown, explores, propensity


def hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """A number of 64 bits for each text, the same on every machine and in every order."""
    array = pa.array(texts, pa.large_string())
    if not len(array):
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    letters = (
        np.frombuffer(array.buffers()[2], np.uint8)
        if array.buffers()[2] is not None
        else np.zeros(0, np.uint8)
    )
    lengths = np.diff(offsets)
    words = int(lengths.max()) // 8 + 1
    padded = np.zeros((len(array), 8 * words), np.uint8)
    row = np.repeat(np.arange(len(array)), lengths)
    padded[row, np.arange(len(row)) - np.repeat(offsets[:-1] - offsets[0], lengths)] = letters[
        offsets[0] : offsets[-1]
    ]
    number = mixed(lengths.astype(np.uint64))
    for word in padded.view("<u8").T:
        # A text that has ended keeps its number: it must not depend on the longest one beside it.
        going = word != 0
        number = np.where(going, mixed((number ^ word) + _STEP), number)
    return number


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number with its bits well mixed."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    found: NDArray[np.uint64] = numbers ^ (numbers >> np.uint64(31))
    return found


def keyed(key: NDArray[np.uint64], *parts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A key of a key and further numbers; their order matters."""
    for part in parts:
        key = mixed((key ^ part) + _STEP)
    return key


def draws(keys: NDArray[np.uint64], width: int, *, stream: int) -> NDArray[np.float64]:
    """Rows of `width` numbers from [0, 1), independent for each key, place and stream."""
    places = (np.arange(1, width + 1, dtype=np.uint64) + np.uint64(stream << 32)) * _STEP
    bits = mixed(mixed(keys)[:, None] + places[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
