"""The rules of a day, checked against the catalogue and ready to be applied to lists.

Here: which rules are in force, what they match, the digest of it, and the way from candidates to slots for any number of
lists. Not here: what makes a rule valid (rules), what an action does to a list (arrange), the draws (explore).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightmarket.contracts import PLACEMENTS
from nightmarket.errors import RuleRefused
from nightmarket.merchandising import explore
from nightmarket.merchandising.arrange import Pairs, Plan, arrange
from nightmarket.merchandising.slots import Candidates, Slots

# Lists arranged at once: 4096 lists of 64 candidates and a few rules need some 30 MB.
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class RuleBook:
    """The rules in force on a day, compiled against a catalogue.

    Attributes:
        product_ids: the catalogue that codes point into.
        rule_ids: rules in force; bit i of `Slots.rules` is `rule_ids[i]`.
        digest: changes when what is in force changes.
        warnings: sentences about rules that are valid but will not do what they say.
    """

    product_ids: tuple[str, ...]
    rule_ids: tuple[str, ...]
    digest: str
    warnings: tuple[str, ...]
    product_keys: NDArray[np.uint64]

    @classmethod
    def empty(cls, product_ids: Sequence[str]) -> RuleBook:
        """A book without a rule: lists stay as the candidates are, but for exploration."""
        return cls(tuple(product_ids), (), "no rules", (), explore.hashes(product_ids))

    def apply(
        self, candidates: Candidates, placement: str, k: int, *, customer_ids: Sequence[str], exposures: pa.Table | None,
        exploration: float, seed: int, day: date, seen: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None,
    ) -> Slots:  # fmt: skip
        """The `k` slots of every list, with what each slot's content came from and how likely it was.

        Draws depend on the seed, the customer, the placement and what the list chooses among; neither on the day nor on
        the order or number of rows.

        Args:
            customer_ids: whose lists these are, one an id; any key of a list does.
            exposures: rows of the mart `exposures`; None counts no showing.
            exploration: the chance with which a free slot explores, 0 to 1.
            seen: (offsets, codes) of the products that no rule may put into a row, as a history has them.

        Raises:
            ModelRefused: the candidates do not fit the catalogue, or hold a score that is not finite.
            RuleRefused: there is no such placement, or `exploration` is no share.
        """
        if placement not in PLACEMENTS:
            raise RuleRefused([f"There is no placement {placement!r}; there are {', '.join(PLACEMENTS)}."])
        if not 0 <= exploration <= 1:
            raise RuleRefused([f"Exploration is a share from 0 to 1, not {exploration!r}."])
        candidates.check(len(self.product_ids))
        plan = Plan(None, None, None, np.zeros(0, np.int64))
        place_key = explore.keyed(
            explore.mixed(np.array([seed % 2**64], np.uint64)), explore.hashes([placement])
        )
        keys = explore.keyed(explore.hashes(customer_ids), np.repeat(place_key, len(customer_ids)))
        parts = []
        for begin in range(0, len(candidates), ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, len(candidates))
            parts.append(arrange(
                plan, candidates.slice(begin, end), k, tired=Pairs.none(), seen=Pairs.none(), share=exploration,
                keys=keys[begin:end], product_keys=self.product_keys,
            ))  # fmt: skip
        return Slots.joined(parts, k)
