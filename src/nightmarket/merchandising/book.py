"""The rules of a day, checked against the catalogue and ready to be applied to lists.

Here: which rules are in force, what they match, the digest of it, and the way from candidates to slots for any number of
lists. Not here: what makes a rule valid (rules), what an action does to a list (arrange), the draws (explore).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightmarket.contracts import PLACEMENTS
from nightmarket.errors import ModelRefused, RuleRefused
from nightmarket.merchandising import explore
from nightmarket.merchandising.arrange import Cap, Pairs, Pin, Plan, Promotion, arrange
from nightmarket.merchandising.matching import Catalogue
from nightmarket.merchandising.rules import Rule, check, read
from nightmarket.merchandising.slots import Candidates, Slots

# Lists arranged at once: 4096 lists of 64 candidates and a few rules need some 30 MB.
ROWS_AT_ONCE = 4096
# Two books of the same rules may only differ when this does: raise it when rules do something else than before.
MAKING = "rules-1"


@dataclass(frozen=True, eq=False)
class RuleBook:
    """The rules in force on a day, compiled against a catalogue.

    Attributes:
        product_ids: the catalogue that codes point into.
        rule_ids: rules in force; bit i of `Slots.rules` is `rule_ids[i]`.
        digest: changes when what is in force changes: a rule, its effect, its priority, or whether what it pins can be
            had. Owners, reasons and days that do not matter today leave it as it is, and so does the rest of the catalogue.
        warnings: sentences about rules in force that will not do what they say.
        rules: the rules themselves, in the order of `rule_ids`.
        matches: of each rule, the products that it speaks of.
    """

    product_ids: tuple[str, ...]
    rule_ids: tuple[str, ...]
    digest: str
    warnings: tuple[str, ...]
    rules: tuple[Rule, ...]
    matches: tuple[NDArray[np.bool_], ...]
    catalogue: Catalogue | None
    product_keys: NDArray[np.uint64]

    @classmethod
    def of(cls, rules: pa.Table, products: pa.Table, product_ids: Sequence[str], day: date) -> RuleBook:
        """The book of `day` from rows of the marts `recommendation_rules` and `products`.

        Rules that have not ended are checked, also those that have not begun.

        Raises:
            RuleRefused: a rule is wrong, or rules cannot hold together; lists every problem with its rules.
        """
        asked, problems = read(rules, day)
        catalogue = Catalogue.of(products, product_ids)
        found, warnings = check(asked, day, catalogue)
        if problems or found:
            raise RuleRefused([*problems, *found])
        now = tuple(rule for rule in asked if rule.in_force(day))
        matches = tuple(catalogue.matches(rule) for rule in now)
        return cls(
            catalogue.product_ids,
            tuple(rule.rule_id for rule in now),
            _digest(now, matches, catalogue),
            tuple(warnings),
            now,
            matches,
            catalogue,
            explore.hashes(product_ids),
        )

    @classmethod
    def empty(cls, product_ids: Sequence[str]) -> RuleBook:
        """A book without a rule: lists stay as the candidates are, but for exploration."""
        digest = _digest((), (), None)
        return cls(tuple(product_ids), (), digest, (), (), (), None, explore.hashes(product_ids))

    def names(self, rules: int) -> list[str]:
        """The ids of the rules whose bits are set in a number of `Slots.rules`."""
        return [rule_id for i, rule_id in enumerate(self.rule_ids) if rules >> i & 1]

    def actions(self, rules: int) -> list[str]:
        """The actions of those rules, in the same order."""
        return [rule.action for i, rule in enumerate(self.rules) if rules >> i & 1]

    def removed(self, placement: str) -> NDArray[np.bool_]:
        """Products that a filter keeps out of a placement: a list made earlier that holds one must be made again.

        A pin or promotion of higher priority may still put one in.
        """
        gone = np.zeros(len(self.product_ids), np.bool_)
        for rule, mine in zip(self.rules, self.matches, strict=True):
            if rule.action == "filter" and placement in rule.placements:
                gone |= mine
        return gone

    def counts_showings(self, placement: str) -> bool:
        """Whether lists of a placement depend on what customers were shown."""
        return any(r.action == "frequency_cap" and placement in r.placements for r in self.rules)

    def tired(
        self, placement: str, customer_ids: Sequence[str], exposures: pa.Table | None, day: date
    ) -> Pairs:
        """Who was shown what often enough in the days before `day`, by rows of `customer_ids`."""
        caps = [
            i for i, r in enumerate(self.rules) if r.action == "frequency_cap" and placement in r.placements
        ]
        if not caps or exposures is None or not exposures.num_rows or not len(customer_ids):
            return Pairs.none()
        row = _places(exposures["customer_id"], customer_ids)
        product = _places(exposures["product_id"], self.product_ids)
        shown = exposures["shown"].to_numpy().astype(np.int64)
        column = "shown_on" if "shown_on" in exposures.column_names else "last_shown_at"
        shown_on = exposures[column].cast(pa.timestamp("us")).cast(pa.date32()).to_numpy()
        where = exposures["placement"]
        parts: list[tuple[NDArray[np.int64], int]] = []
        for i in caps:
            rule = self.rules[i]
            first = np.datetime64(day - timedelta(days=rule.within_days or 0), "D")
            kept = (row >= 0) & (product >= 0) & (shown_on >= first) & (shown_on < np.datetime64(day, "D"))
            if rule.placement is not None:
                kept &= np.asarray(pc.fill_null(pc.equal(where, rule.placement), False).to_numpy())
            kept[kept] &= self.matches[i][product[kept]]
            pair, back = np.unique(row[kept] * len(self.product_ids) + product[kept], return_inverse=True)
            often = np.bincount(back, weights=shown[kept], minlength=len(pair)) >= (rule.value or 0)
            parts.append((pair[often], i))
        pairs = np.concatenate([pair for pair, _ in parts])
        rules = np.concatenate([np.full(len(pair), i, np.int16) for pair, i in parts])
        # Of several caps that say so the strongest stays; `caps` are in the order of ids.
        order = np.lexsort((rules, -self._priorities[rules], pairs))
        pairs, rules = pairs[order], rules[order]
        firsts = np.ones(len(pairs), np.bool_)
        firsts[1:] = pairs[1:] != pairs[:-1]
        pairs, rules = pairs[firsts], rules[firsts]
        return Pairs(pairs // len(self.product_ids), pairs % len(self.product_ids), rules)

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
        plan = self.plan(placement)
        rows = len(candidates)
        if len(customer_ids) != rows:
            raise ModelRefused(
                f"There are {rows} lists of candidates and {len(customer_ids)} customers; each list is one's."
            )
        tired = self.tired(placement, customer_ids, exposures, day)
        bought = Pairs.none() if seen is None else _pairs(*seen)
        place_key = explore.keyed(
            explore.mixed(np.array([seed % 2**64], np.uint64)), explore.hashes([placement])
        )
        keys = explore.keyed(explore.hashes(customer_ids), np.repeat(place_key, rows))
        parts = []
        for begin in range(0, rows, ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, rows)
            parts.append(arrange(
                plan, candidates.slice(begin, end), k, tired=tired.slice(begin, end),
                seen=bought.slice(begin, end), share=exploration,
                keys=keys[begin:end], product_keys=self.product_keys,
            ))  # fmt: skip
        return Slots.joined(parts, k)

    def plan(self, placement: str) -> Plan:
        """The rules of a placement as `arrange` needs them."""
        here = [i for i, rule in enumerate(self.rules) if placement in rule.placements]
        by_action = {
            action: sorted(
                (i for i in here if self.rules[i].action in action), key=lambda i: self.rules[i].order
            )
            for action in (("boost", "bury"), ("filter",), ("pin",), ("promote",), ("cap",))
        }
        factors = marks = filtered = None
        size = len(self.product_ids)
        for i in by_action["boost", "bury"]:
            factors = np.ones(size) if factors is None else factors
            marks = np.zeros(size, np.int64) if marks is None else marks
            factors[self.matches[i]] *= self.rules[i].value or 1.0
            marks[self.matches[i]] |= np.int64(1) << np.int64(i)
        for i in reversed(by_action["filter",]):  # the strongest last, so that it is the one that stays
            filtered = np.full(size, -1, np.int16) if filtered is None else filtered
            filtered[self.matches[i]] = i
        pins, promotions, caps = [], [], []
        for i in by_action["pin",]:
            rule, able = self.rules[i], self._able(i, filtered)
            pins += [Pin(i, rule.priority, int(p), int(rule.value or 1) - 1) for p in np.flatnonzero(able)]
        for i in by_action["promote",]:
            promotions.append(
                Promotion(i, self.rules[i].priority, self.rules[i].value or 0.0, self._able(i, filtered))
            )
        for i in by_action["cap",]:
            assert self.catalogue is not None
            groups = self.catalogue.groups(self.rules[i])
            caps.append(Cap(i, self.rules[i].priority, int(self.rules[i].value or 0), groups))
        return Plan(factors, marks, filtered, self._priorities, tuple(pins), tuple(promotions), tuple(caps))

    def _able(self, rule: int, filtered: NDArray[np.int16] | None) -> NDArray[np.bool_]:
        """What a pin or promotion may put in: available, and not filtered with its priority or a higher one."""
        assert self.catalogue is not None
        able = self.matches[rule] & self.catalogue.available
        if filtered is not None:
            strong = self._priorities[np.maximum(filtered, 0)] >= self.rules[rule].priority
            able &= ~((filtered >= 0) & strong)
        return able

    @property
    def _priorities(self) -> NDArray[np.int64]:
        return np.array([rule.priority for rule in self.rules], np.int64)


def _digest(rules: Sequence[Rule], matches: Sequence[NDArray[np.bool_]], catalogue: Catalogue | None) -> str:
    told = [MAKING]
    for rule, mine in zip(rules, matches, strict=True):
        effect = (
            rule.rule_id, rule.action, rule.placement, *rule.selectors.items(), rule.value, rule.per, rule.within_days,
            rule.priority, rule.action == "pin" and catalogue is not None and bool((mine & catalogue.available).any()),
        )  # fmt: skip
        told.append(repr(effect))
    return hashlib.sha256("\x1f".join(told).encode()).hexdigest()


def _places(values: pa.ChunkedArray, among: Sequence[str]) -> NDArray[np.int64]:
    """Where each value stands in a list, -1 where it does not."""
    found = pc.index_in(values.cast(pa.string()), value_set=pa.array(among, pa.string()))
    return np.asarray(pc.fill_null(found, -1).to_numpy().astype(np.int64))


def _pairs(offsets: NDArray[np.int64], codes: NDArray[np.int32]) -> Pairs:
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return Pairs(rows, codes.astype(np.int64), np.full(len(codes), -1, np.int16))
