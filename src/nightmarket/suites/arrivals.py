"""What is expected of yesterday's arrivals: about as many rows as on the same weekday before, and none of them old.

A row is one measure of one landing table, made by `quality.volume`; only measures with enough history behind them are
given to this suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.suites import Suite, holds, present, unique, within

if TYPE_CHECKING:
    import pandas as pd

# Without these no profile, list or model of the night is right; events only sharpen them.
VITAL = ("orders", "order_items")
STOP_BELOW, WARN_BELOW, WARN_ABOVE = 0.1, 0.5, 5.0
WARN_GAPS, STOP_GAPS = 1.5, 3.0


def derive(rows: pd.DataFrame, day: date, context: Mapping[str, Any]) -> pd.DataFrame:
    """A column for each measure, empty where the row is about another one."""
    vital, volume = rows["table_name"].isin(VITAL), rows["measure"] == "volume"
    return rows.assign(
        share_of_usual=rows["ratio"].where(volume),
        share_of_usual_vital=rows["ratio"].where(volume & vital),
        share_of_usual_other=rows["ratio"].where(volume & ~vital),
        age_in_longest_gaps=rows["ratio"].where(~volume),
        age_in_longest_gaps_vital=rows["ratio"].where(~volume & vital),
        arrived_when_usual=(rows["observed"] > 0) | ~volume | ~vital,
    )


SUITE = Suite(
    table="arrivals",
    grain="table and measure",
    derive=derive,
    reads=("table_name", "measure", "ratio", "observed"),
    checks=(
        *present("table_name", "measure", "ratio", why="A measure that could not be taken proves nothing."),
        unique("table_name", "measure", why="Two measures of one thing would be judged twice."),
        holds("arrived_when_usual", "orders and their lines arrived at all",
              why="An empty delivery would publish a night in which nobody bought anything."),
        within("share_of_usual_vital", STOP_BELOW, None,
               rule="orders and lines are at least a tenth of the usual weekday",
               why="Nine tenths missing is a broken export, not a slow day: cadence, stages and lists would be wrong."),
        within("share_of_usual_other", STOP_BELOW, None, severity="warn",
               rule="events are at least a tenth of the usual weekday",
               why="Without browsing the outputs are blunter but still true, so the night goes on."),
        within("share_of_usual", WARN_BELOW, WARN_ABOVE, severity="warn",
               rule="rows are between half and five times the usual weekday",
               why="Holidays and campaigns do this; a person should know, the night should not stop."),
        within("age_in_longest_gaps_vital", None, STOP_GAPS,
               rule="the last order is no older than three of the longest gaps",
               why="The shop has not been quiet for so long before: the source stopped."),
        within("age_in_longest_gaps", None, WARN_GAPS, severity="warn",
               rule="the last row is no older than one and a half of the longest gaps",
               why="Longer than ever before, but a quiet night can do it."),
    ),
)  # fmt: skip
