"""What is expected of a table at a border, as data: one file a suite, named as its table.

A suite says what must hold, how bad it is when it does not (`fail` stops the night, `warn` is written down) and why.
Here: the words that suites are written in. Not here: how they are run, where verdicts go (quality.py), and truths
inside the warehouse (dbt tests; docs/decisions/0004-which-checker-owns-a-rule.md says which rule lives where).

Free text never enters a suite: `derive` turns it into numbers and flags first (a length, "has personal data"), so that
neither reports nor ledgers can quote it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["fail", "warn"]
Derive = Callable[["pd.DataFrame", date, Mapping[str, Any]], "pd.DataFrame"]

NAMES = (
    "arrivals", "training_purchases", "customer_profiles", "customer_interests", "recommendations",
    "similar_products", "default_recommendations", "recommendation_lift", "product_copy", "copy_claims",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One expectation: `expect` is the class of Great Expectations, `rule` what the terminal says when it breaks."""

    rule: str
    expect: str
    arguments: Mapping[str, object]
    severity: Severity
    reason: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the check looks at."""
        given = [self.arguments.get(name) for name in ("column", "column_A", "column_B")]
        listed = self.arguments.get("column_list") or ()
        return tuple(str(c) for c in (*given, *listed) if c)  # type: ignore[misc]


@dataclass(frozen=True)
class Suite:
    """What is expected of one table.

    Attributes:
        table: the table's name, which is the suite's too.
        checks: what must hold.
        grain: a name for one row, in words.
        derive: (rows, day, context) -> the rows with the columns that some checks look at; must keep the index.
        reads: columns that `derive` needs beside those the checks look at.
        needs: what `derive` must know beside the rows; quality.py fills in what the caller did not give.
        group: rows with the same value here are sampled together when a table is too long to check whole.
        text: free text, never written beside a verdict unless scrubbed.
        may_be_empty: no rows at all is a good day (nothing was touched), not a failure.
    """

    table: str
    checks: tuple[Check, ...]
    grain: str
    derive: Derive | None = None
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    group: str | None = None
    text: tuple[str, ...] = ()
    may_be_empty: bool = True


def load(name: str) -> Suite:
    """The suite of a table, from the file of its name.

    Raises:
        KeyError: there is no such suite.
    """
    if name not in NAMES:
        raise KeyError(f"There is no suite `{name}`; there are {', '.join(NAMES)}.")
    suite: Suite = importlib.import_module(f"nightmarket.suites.{name}").SUITE
    return suite


def present(*columns: str, why: str, severity: Severity = "fail") -> tuple[Check, ...]:
    """No row lacks a value in these columns."""
    return tuple(
        Check(f"{c} is never missing", "ExpectColumnValuesToNotBeNull", {"column": c}, severity, why)
        for c in columns
    )


def unique(*columns: str, why: str) -> Check:
    """No two rows have the same values in these columns."""
    rule = f"one row a {' and '.join(columns)}"
    if len(columns) == 1:
        return Check(rule, "ExpectColumnValuesToBeUnique", {"column": columns[0]}, "fail", why)
    return Check(rule, "ExpectCompoundColumnsToBeUnique", {"column_list": list(columns)}, "fail", why)


def within(
    column: str,
    low: float | None,
    high: float | None,
    *,
    why: str,
    severity: Severity = "fail",
    rule: str = "",
) -> Check:
    """Every value that is there lies between `low` and `high`, both included."""
    said = [
        f"{word} {bound:g}" for word, bound in (("at least", low), ("at most", high)) if bound is not None
    ]
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Check(
        rule or f"{column} is {' and '.join(said)}", "ExpectColumnValuesToBeBetween", arguments, severity, why
    )


def one_of(column: str, values: Sequence[object], *, why: str, severity: Severity = "fail") -> Check:
    """Every value that is there is one of a short list."""
    arguments = {"column": column, "value_set": list(values)}
    return Check(
        f"{column} is one of the known values", "ExpectColumnValuesToBeInSet", arguments, severity, why
    )


def holds(flag: str, rule: str, *, why: str, severity: Severity = "fail") -> Check:
    """A flag that `derive` made is true in every row."""
    arguments = {"column": flag, "value_set": [True]}
    return Check(rule, "ExpectColumnValuesToBeInSet", arguments, severity, why)


def mean_within(
    column: str, low: float, high: float, rule: str, *, why: str, severity: Severity = "warn"
) -> Check:
    """The mean of a column (a share, when it is a flag) lies between two numbers."""
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Check(rule, "ExpectColumnMeanToBeBetween", arguments, severity, why)


def rows_between(low: int, high: int | None, rule: str, *, why: str, severity: Severity = "fail") -> Check:
    """How many rows there may be."""
    arguments = {"min_value": low, "max_value": high}
    return Check(rule, "ExpectTableRowCountToBeBetween", arguments, severity, why)


def distinct_at_least(column: str, least: int, rule: str, *, why: str, severity: Severity = "warn") -> Check:
    """How many different values a column has at least."""
    arguments = {"column": column, "min_value": least, "max_value": None}
    return Check(rule, "ExpectColumnUniqueValueCountToBeBetween", arguments, severity, why)


def is_counting(rows: pd.DataFrame, keys: Sequence[str], rank: str) -> pd.Series:
    """Whether the ranks of a row's group are exactly 1, 2, ... k, for every row of the group.

    k different numbers of which the least is 1 and the greatest k are just these.
    """
    grouped = rows.groupby(list(keys), sort=False, observed=True)[rank]
    size = grouped.transform("size")
    whole = (grouped.transform("min") == 1) & (grouped.transform("max") == size)
    return whole & ~rows.duplicated([*keys, rank], keep=False) & rows[rank].notna()
