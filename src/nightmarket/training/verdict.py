"""The last step of a training: what the gate said of the challenger becomes an alias and a line in the ledger.

Not here: how a verdict is reached (scorecard, retrieval), and aliases (tracking).
"""

from __future__ import annotations

import json
from typing import Any

from nightmarket import tracking
from nightmarket.ledger import Outcome

REPORT = "gate_report.json"
"""The report among a model's files; a tag of the registry holds no more than some thousand characters."""


def decide(task: str, *, nobody: str) -> Outcome:
    """Let the challenger's own gate report decide, and write the decision down; a refusal is no error.

    A champion that somebody chose in MLflow by hand is written down first, and holds: a challenger that was measured
    against another one is refused. Done again, it changes nothing.

    Args:
        nobody: what serves while there is no champion, in words.
    """
    held = tracking.reconcile(task)
    waiting = tracking.challenger(task)
    if waiting is None or "decision" in waiting.tags:
        return Outcome(note=f"champion: version {held.version}" if held else f"no champion: {nobody}")
    report = report_of(waiting)
    now = held.version if held else None
    reason = str(report.get("reason", "it carries no gate report"))
    may = bool(report.get("promote"))
    if held is not None and report.get("champion") != now and now != waiting.version:
        may = False
        reason = f"version {now} became champion after version {waiting.version} was measured against another"
    if not may:
        tracking.refuse(task, waiting.version, reason=reason, gate_report=report)
        return Outcome(rows_in=1, note=f"version {waiting.version} refused: {reason}")
    tracking.promote(task, waiting.version, reason=reason, gate_report=report)
    return Outcome(rows_in=1, rows_out=1, note=f"version {waiting.version} is champion: {reason}")


def report_of(version: tracking.Version) -> dict[str, Any]:
    """What the gate said of a version: the report among its files, else its tag, else nothing."""
    file = version.path / REPORT
    return dict(json.loads(file.read_text() if file.exists() else version.tags.get("gate_report", "{}")))
