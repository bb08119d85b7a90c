"""Documents for people: one HTML file with everything in it, for MLflow's artefacts.

Here: the frame, tables and bars, and the escaping: a product's title is the shop's data and never markup. Not here: what a
document says (shadow, worst). Nothing is loaded from anywhere, and no script runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2430;background:#f6f7f9;margin:0}
main{max-width:1080px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:24px;margin:8px 0 2px}h2{font-size:18px;margin:34px 0 8px}p{margin:6px 0}
.quiet{color:#667085}.cards{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}
.card{background:#fff;border:1px solid #e3e6eb;border-radius:8px;padding:12px 16px;min-width:150px}
.card b{display:block;font-size:22px}.card span{color:#667085;font-size:13px}
table{border-collapse:collapse;background:#fff;border:1px solid #e3e6eb;width:100%}
th,td{padding:6px 10px;border-bottom:1px solid #eceef2;text-align:left;vertical-align:top}
th{font-size:13px;color:#667085;font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:block;height:8px;border-radius:4px;background:#3f7cff}.bar.down{background:#e0653a}
article{background:#fff;border:1px solid #e3e6eb;border-radius:8px;padding:12px 16px;margin:10px 0}
article ol{margin:4px 0 4px 22px;padding:0}.columns{display:grid;grid-template-columns:1fr 1fr;gap:20px}
.hit{background:#e5f6ea}.told{font-weight:600}
"""


def document(title: str, body: Sequence[str]) -> str:
    """A whole page. `title` is text; `body` is markup whose texts were escaped (`text`)."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{text(title)}</title>'
        # No source is allowed: should an escape ever be forgotten, nothing is fetched and nothing runs.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n'
        f"<body><main>\n<h1>{text(title)}</h1>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Any text as markup that shows exactly it; control characters become spaces."""
    return escape("".join(c if c.isprintable() else " " for c in str(value)))


def heading(value: str, note: str = "") -> str:
    """A section's title with a line below it."""
    return f"<h2>{text(value)}</h2>" + (f'<p class="quiet">{text(note)}</p>' if note else "")


def cards(values: Sequence[tuple[str, str]]) -> str:
    """The few numbers that matter, each with what it is: (number, meaning)."""
    inside = "".join(f'<div class="card"><b>{text(n)}</b><span>{text(m)}</span></div>' for n, m in values)
    return f'<div class="cards">{inside}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers stand to the right. A cell that is a `Markup` is taken as it is, any other is escaped."""
    numeric = [bool(rows) and all(isinstance(row[n], (int, float)) for row in rows) for n in range(len(head))]
    tops = "".join(
        f'<th class="n">{text(h)}</th>' if n else f"<th>{text(h)}</th>"
        for h, n in zip(head, numeric, strict=True)
    )
    lines = "".join(
        "<tr>" + "".join(_cell(value, n) for value, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{tops}</tr></thead><tbody>{lines}</tbody></table>"


def bar(share: float) -> Markup:
    """A bar of up to a tenth of the page; a negative share is drawn in another colour."""
    kind = "bar down" if share < 0 else "bar"
    return Markup(f'<span class="{kind}" style="width:{round(min(abs(share), 1) * 110)}px"></span>')


class Markup(str):
    """Text that is markup already: made here, never from data."""


def _cell(value: object, numeric: bool) -> str:
    shown = (
        value if isinstance(value, Markup) else text(f"{value:,.4g}" if isinstance(value, float) else value)
    )
    if isinstance(value, int) and not isinstance(value, bool):
        shown = text(f"{value:,}")
    return f'<td class="n">{shown}</td>' if numeric else f"<td>{shown}</td>"
