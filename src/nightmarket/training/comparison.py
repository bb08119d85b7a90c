"""The scorecard of a bake-off for people: Markdown, and a page with the learning curve drawn.

Not here: how candidates are tried and which is recommended (bake_off).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from nightmarket.training import pages

if TYPE_CHECKING:
    from nightmarket.training.bake_off import Point

_HEAD = (
    "candidate", "pairs", "told", "passed", "unsupported", "bits a byte", "parameters (M)", "memory (MB)", "tuning (s)",
    "s for 1,000", "cost for 1,000",
)  # fmt: skip
_MEANING = (
    "told: key facts of held-out products that its own sentences tell which may go out. passed: share of its sentences that may. "
    "unsupported: claims a sentence that the facts do not bear. bits a byte: what held-out texts cost; fewer is better, whatever "
    "the tokens. cost: in {currency}, by the prices of `writers.toml`."
)
_COLOURS = ("#3f7cff", "#e0653a", "#1f9d61", "#8a4fd3", "#b58900", "#d6336c")
_WIDE, _HIGH, _EDGE = 640, 260, 44


def markdown(
    made: Sequence[Point], report: Mapping[str, Any], failed: Mapping[str, str], template: float
) -> str:
    """The scorecard as text."""
    lines = [
        "# Which base model",
        "",
        f"Recommendation: {report['reason']}.",
        "",
        "| " + " | ".join(_HEAD) + " |",
    ]
    lines.append("|" + "---|" * len(_HEAD))
    lines += ["| " + " | ".join(_shown(value) for value in _row(point)) + " |" for point in made]
    lines += ["", f"The template tells {template:.0%}, in words that nobody wrote for the product.", ""]
    lines += [f"- `{name}` could not be tried: {why}" for name, why in failed.items()]
    return "\n".join([*lines, "", _meaning(report), ""])


def page(
    made: Sequence[Point], report: Mapping[str, Any], failed: Mapping[str, str], template: float, *, day: date
) -> str:
    """The scorecard as a page: the recommendation, the learning curve, the table."""
    cards = [
        (report["recommended"] or "nobody", "recommended"),
        (str(report["pairs"]), "pairs it needs"),
        (f"{template:.0%}", "told by the template"),
    ]
    body = [
        f'<p class="quiet">Day {day}. {pages.text(report["reason"])}.</p>',
        pages.cards(cards),
        pages.heading(
            "Learning curve", "Share of key facts that its own sentences tell, by pairs it was tuned on."
        ),
        _curve(made),
        pages.heading("Scorecard", _meaning(report)),
        pages.table(_HEAD, [[*map(_shown, _row(point))] for point in made]),
    ]
    if failed:
        body += [
            pages.heading("Could not be tried"),
            pages.table(("candidate", "why"), list(failed.items())),
        ]
    return pages.document("Which base model", body)


def _meaning(report: Mapping[str, Any]) -> str:
    return _MEANING.format(currency=report["currency"])


def _row(point: Point) -> tuple[object, ...]:
    return (
        point.candidate, point.pairs, point.mean, point.averages["passed"], point.averages["unsupported"], point.bits,
        point.parameters / 1e6 if point.parameters else None, round(point.memory_mb), round(point.tuning_s),
        round(point.seconds), point.cost,
    )  # fmt: skip


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


def _curve(made: Sequence[Point]) -> str:
    """The points of each candidate, joined; a place to the right for each size, so that 0 has one too."""
    places = sorted({point.pairs for point in made})
    if not places:
        return ""
    step = (_WIDE - 2 * _EDGE) / max(len(places) - 1, 1)

    def at(point: Point) -> tuple[float, float]:
        return (
            _EDGE + places.index(point.pairs) * step,
            _HIGH - _EDGE - point.mean * (_HIGH - 2 * _EDGE),
        )

    marks = []
    for share in (0.0, 0.5, 1.0):
        y = _HIGH - _EDGE - share * (_HIGH - 2 * _EDGE)
        marks.append(f'<line x1="{_EDGE}" x2="{_WIDE - _EDGE}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e3e6eb"/>')
        marks.append(_label(4, y + 4, f"{share:.0%}"))
    marks += [_label(_EDGE + n * step - 8, _HIGH - 16, str(size)) for n, size in enumerate(places)]
    for n, name in enumerate(dict.fromkeys(point.candidate for point in made)):
        colour = _COLOURS[n % len(_COLOURS)]
        own = [at(point) for point in made if point.candidate == name]
        drawn = " ".join(f"{x:.0f},{y:.0f}" for x, y in own)
        marks.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        marks += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{colour}"/>' for x, y in own]
        marks.append(_label(_WIDE - 150, 20 + 18 * n, name, colour))
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" role="img" '
        f'aria-label="Learning curve of each candidate">{"".join(marks)}</svg>'
    )


def _label(x: float, y: float, told: str, colour: str = "#667085") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="12" fill="{colour}">{pages.text(told)}</text>'
