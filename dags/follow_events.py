"""Lands new files between two nights, and makes the lists of the customers they touch anew.

An early, partial run of the coming night's day, a few minutes after a file came: what lists need is built, the lists of
touched customers are made by the champion, checked and published. The night makes that day anew and replaces it. A look
that finds nothing new ends within seconds; while a night works up to its lists, this steps aside. Paused until unpaused.

**Reads** the shop's landing files, the champion of `nightmarket.ranking` · **Writes** `raw`, those marts that lists are
made from, `outputs.recommendations`, `outputs.similar_products`, and `ops.reactions` with the delay from event to list

**If it fails**: the lists that are live stay, and the coming night is as it would be without it. `ops.runs` names the step
(`dag_id = 'follow_events'`) and its error. It is tried three times, then waits for something new: mend the file or the
rule, or leave it to the night.
"""

from __future__ import annotations

from airflow.sdk import dag

from nightmarket import microbatch
from nightmarket.orchestration import COMMON, WAREHOUSE, between_nights, coming_day, new_files, step


@dag(
    schedule=between_nights(),
    is_paused_upon_creation=True,
    tags=["recommendations", "tier-2"],
    doc_md=__doc__,
    **COMMON,
)
def follow_events() -> None:
    look = new_files("look")
    # One task, so that no night begins between two steps: its first task waits for this one's place in the pool.
    follow = step("follow", microbatch.take_turn, day_of=coming_day, pool=WAREHOUSE)

    look >> follow


follow_events()
