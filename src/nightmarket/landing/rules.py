"""What a value must be to enter `raw`, as SQL over a file's own columns.

Here: casts and limits of each kind of column, the names of the rules, and what a person does about each. Not here:
which columns a file must have (columns), and truths between tables inside the warehouse (dbt tests).

A rule is judged set-wise: `fitted` gives, for one column, the expression of its typed value and the conditions under
which a row breaks it, in the order in which they are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from nightmarket.contracts import FLOAT, JSON, LANDING, MONEY, TIME, WHOLE, Column, LandingTable

EARLIEST = datetime(1990, 1, 1)
AHEAD = timedelta(days=366)  # a shop may know of things a year ahead; more is a slip of the keyboard
LONGEST_ID = 200
LONGEST_TEXT = 2_000_000
DEAREST = 1e9
_INT32 = 2**31 - 1

# Letters, marks and digits of any script, and the punctuation that shops use in ids; single spaces inside. What is left
# out cannot be seen (control and direction marks, zero-width), breaks other programs (quotes, backslash) or is a picture.
_ID_SIGNS = r"\-_.:/#+@~=|*&,;()"
_ID_PART = rf"[\p{{L}}\p{{M}}\p{{N}}{_ID_SIGNS}]+"
_ASCII_PART = f"[A-Za-z0-9{_ID_SIGNS}]+"
ID_PATTERN = f"{_ID_PART}( {_ID_PART})*"
# The engine needs 8 ms to make ready for all scripts, and half of a millisecond for this: it is what most files need.
ASCII_ID_PATTERN = f"{_ASCII_PART}( {_ASCII_PART})*"
_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
_WHOLE = r"[+-]?\d+(\.0+)?"
_MOMENT = r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?"
ZONED = r".*\d{2}:\d{2}.*([Zz]|[+-]\d{2}(:?\d{2})?)"
_NOT_FINITE = "('nan', '+nan', '-nan', 'inf', '+inf', '-inf', 'infinity', '+infinity', '-infinity')"

# Quantity 0 is a line that was put back or paid by voucher; what comes back is `refunded_quantity`, so no minus.
# Stock may be negative (sold before it came in). Ratings are stars; satisfaction may be on a scale to ten.
RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("order_items", "line"): (0, _INT32),
    ("order_items", "quantity"): (0, _INT32),
    ("order_items", "refunded_quantity"): (0, _INT32),
    ("products", "stock"): (-_INT32, _INT32),
    ("reviews", "rating"): (0, 5),
    ("tickets", "satisfaction"): (0, 10),
    ("recommendation_rules", "value"): (0, 1_000_000),
    ("recommendation_rules", "within_days"): (1, 28),
}
BLANK_ALLOWED = frozenset({"body"})  # stars without a word, a ticket that is only a picture

ADVICE = {
    "malformed_line": "Write this line again as its format asks (CSV: as many fields as the header, quotes doubled; "
    "JSON Lines: one object a line).",
    "missing_key": "Give the row its key at the source: without it nothing can replace or find the row.",
    "missing_value": "Give the required column a value at the source.",
    "wrong_type": "Write the value in the column's type: numbers without signs of money or thousands, times as ISO 8601.",
    "bad_id": f"Give the row an id of at most {LONGEST_ID} letters, digits, single inner spaces and -_.:/#+@~=|*&,;().",
    "text_too_long": f"Shorten the text to at most {LONGEST_TEXT:,} characters.",
    "nul_byte": "Take the NUL character out of the text at the source.",
    "invalid_json": "Write a JSON object, as in {\"colour\": \"red\"}.",
    "not_accepted": "Use one of the contract's values.",
    "impossible_date": f"Correct the date: from {EARLIEST:%Y-%m-%d} to a year after the run's day.",
    "not_finite": "Leave the value empty where it is not known: NaN and infinity are no numbers.",
    "out_of_range": f"Correct the number: money from 0 to {DEAREST:,.0f}, quantities from 0 to 2^31-1 (returns belong "
    "into refunded_quantity), ratings from 0 to 5, satisfaction from 0 to 10, a rule's value from 0 to 1,000,000 and its within_days from 1 to 28.",
    "unknown_reference": "Deliver the row it refers to; this row is then loaded by itself.",
}  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """A column's typed value as SQL, and (rule, condition) pairs under which the row is set aside."""

    value: str
    faults: tuple[tuple[str, str], ...]


def family(sql_type: str) -> str:
    """What sort of thing an engine type is: whole, number, text, flag, zoned time, naive time, date, nested, other."""
    name = sql_type.upper()
    if name.removeprefix("U") in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"):
        return "whole"
    if name in ("FLOAT", "DOUBLE") or (name.startswith("DECIMAL(") and not name.endswith("]")):
        return "number"
    if name in ("VARCHAR", "UUID", "JSON") or (name.startswith("ENUM(") and not name.endswith("]")):
        return "text"
    simple = {"BOOLEAN": "flag", "TIMESTAMP WITH TIME ZONE": "zoned time", "DATE": "date"}
    if name in simple:
        return simple[name]
    if name in ("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"):
        return "naive time"
    return "nested" if name.startswith(("STRUCT", "MAP")) or name.endswith("]") else "other"


def fitted(
    table: LandingTable,
    column: Column,
    source: str | None,
    sql_type: str,
    day: date,
    *,
    only_ascii: bool = False,
) -> Fitted:
    """How the file's column `source` (SQL, of type `sql_type`) becomes `column`; None where the file has no such column.

    `only_ascii` says that no value of an id has a letter outside ASCII, which makes the check cheaper, not different.
    """
    if source is None:
        return Fitted(f"cast(null as {column.sql_type})", ())
    kind = family(sql_type)
    if column.kind == TIME:
        fit = _time(source, kind, day)
    elif column.kind in (WHOLE, FLOAT, MONEY):
        fit = _number(source, kind, sql_type, column.kind, _range(table, column))
    elif column.kind == JSON:
        fit = _json(source, kind, sql_type)
    elif is_id(column):
        fit = _id(source, kind, ASCII_ID_PATTERN if only_ascii else ID_PATTERN)
    else:
        fit = _text(source, kind, column)
    if not (column.required or column.name in table.key):
        return fit
    rule = "missing_key" if column.name in table.key else "missing_value"
    # Faults of a value come first: `abc` in a number column is a wrong type, although its typed value is null as well.
    return Fitted(fit.value, (*fit.faults, (rule, f"({fit.value}) is null")))


def is_id(column: Column) -> bool:
    return column.name.endswith("_id")


def reference_faults(table: LandingTable, judged: Sequence[str]) -> list[tuple[str, str]]:
    """(column, condition) of rows whose reference is in none of the tables `judged`: those this shop delivers."""
    return [
        (c.name, f"{c.name} is not null and {c.name} not in (select {LANDING[to].key[0]} from raw.{to})")
        for c in table.columns
        if (to := c.references) is not None and to in judged
    ]


def _range(table: LandingTable, column: Column) -> tuple[float, float]:
    if column.kind == MONEY:
        return (0, DEAREST)
    return RANGES.get((table.name, column.name), (-_INT32, _INT32) if column.kind == WHOLE else (-1e15, 1e15))


def _time(source: str, kind: str, day: date) -> Fitted:
    faults: list[tuple[str, str]] = []
    if kind == "zoned time":
        value = f"({source} at time zone 'UTC')"
    elif kind in ("naive time", "date"):
        value = f"cast({source} as timestamp)"
    elif kind == "text":
        text = f"nullif(trim({source}), '')"
        # A text cast to TIMESTAMP would drop its zone; only TIMESTAMPTZ reckons with it.
        value = f"(try_cast(case when {_matches(text, _MOMENT)} then upper({text}) end as timestamptz) at time zone 'UTC')"
        faults = [
            ("impossible_date", f"{_matches(text, _MOMENT)} and {value} is null"),
            ("wrong_type", f"{text} is not null and {value} is null"),
        ]
    else:
        return Fitted("cast(null as timestamp)", (("wrong_type", f"{source} is not null"),))
    latest = datetime(day.year, day.month, day.day) + AHEAD
    beyond = f"{value} < timestamp '{EARLIEST}' or {value} > timestamp '{latest}'"
    return Fitted(value, (*faults, ("impossible_date", beyond)))


def _number(source: str, kind: str, sql_type: str, target: str, limits: tuple[float, float]) -> Fitted:
    low, high = limits
    faults: list[tuple[str, str]] = []
    if kind == "text":
        text = f"nullif(trim({source}), '')"
        pattern = _WHOLE if target == WHOLE else _NUMBER
        faults.append(("not_finite", f"lower({text}) in {_NOT_FINITE}"))
        faults.append(("wrong_type", f"not {_matches(text, pattern)}"))
        number = f"case when {_matches(text, pattern)} then {text} end"
        size = f"try_cast({number} as double)"
        faults.append(("out_of_range", f"{number} is not null and {size} is null"))
    elif kind in ("whole", "number"):
        number = source
        size = f"cast({source} as double)"
        if sql_type.upper() in ("FLOAT", "DOUBLE"):
            faults.append(("not_finite", f"not isfinite({size})"))
            number = f"case when isfinite({source}) then {source} end"
            size = f"case when isfinite({source}) then {size} end"
        if kind == "number" and target == WHOLE:
            faults.append(("wrong_type", f"{size} <> floor({size})"))
    else:
        return Fitted(f"cast(null as {target})", (("wrong_type", f"{source} is not null"),))
    faults.append(("out_of_range", f"{size} < {low!r} or {size} > {high!r}"))
    within = f"case when {size} between {low!r} and {high!r} then {number} end"
    return Fitted(f"try_cast({within} as {target})", tuple(faults))


def _json(source: str, kind: str, sql_type: str) -> Fitted:
    if kind == "nested" and not sql_type.endswith("]"):
        return Fitted(f"cast(to_json({source}) as varchar)", ())
    if kind != "text":
        return Fitted("cast(null as varchar)", (("wrong_type", f"{source} is not null"),))
    text = f"nullif(cast({source} as varchar), '')"
    bare = f"""regexp_replace({text}, '"([^"\\\\]|\\\\.)*"', '""', 'g')"""
    # The engine's reader lets NaN, infinity and a comma at the end pass; JSON does not, nor do other warehouses.
    loose = f"regexp_matches({text}, '(?i)nan|inf|,\\s*[\\]}}]') and regexp_matches({bare}, '(?i)nan|inf|,\\s*[\\]}}]')"
    faults = (
        ("text_too_long", f"length({text}) > {LONGEST_TEXT}"),
        ("nul_byte", f"contains({text}, chr(0))"),
        ("invalid_json", f"not json_valid({text}) or {loose}"),
        ("invalid_json", f"case when json_valid({text}) then json_type({text}) <> 'OBJECT' end"),
    )
    return Fitted(text, faults)


def _id(source: str, kind: str, pattern: str) -> Fitted:
    if kind == "number":  # 17850.0 is what a table with empty cells makes of the id 17850
        value = f"case when {source} = floor({source}) and abs({source}) < 9e15 then cast(cast({source} as bigint) as varchar) end"
        blank = f"isnan(cast({source} as double))"
        return Fitted(value, (("wrong_type", f"{source} is not null and not {blank} and {value} is null"),))
    if kind not in ("text", "whole"):
        return Fitted("cast(null as varchar)", (("wrong_type", f"{source} is not null"),))
    value = f"nullif(cast({source} as varchar), '')"
    if kind == "whole":
        return Fitted(value, ())
    return Fitted(value, (("bad_id", f"length({value}) > {LONGEST_ID} or not {_matches(value, pattern)}"),))


def _text(source: str, kind: str, column: Column) -> Fitted:
    if kind not in ("text", "whole", "number", "flag"):
        return Fitted("cast(null as varchar)", (("wrong_type", f"{source} is not null"),))
    text = f"cast({source} as varchar)"
    value = text if column.name in BLANK_ALLOWED else f"case when trim({text}) <> '' then {text} end"
    if column.accepted:
        listed = ", ".join(f"'{accepted}'" for accepted in column.accepted)
        return Fitted(value, (("not_accepted", f"{value} not in ({listed})"),))
    faults = (
        ("text_too_long", f"length({text}) > {LONGEST_TEXT}"),
        ("nul_byte", f"contains({text}, chr(0))"),
    )
    return Fitted(value, faults)


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, '{pattern}')"
