"""A trace as one page that needs nothing else: no script, no request to anywhere, and a policy that forbids both.

Everything that a span says is text of somebody else: it is escaped for HTML, and control characters are written as
escapes, as in the terminal.
"""

from __future__ import annotations

from html import escape

from services.cli.trace_text import OUTCOME, heading, short
from services.cli.waterfall import Row, Waterfall, format_ns
from stoscore.tables import plain

_HUES = (210, 140, 275, 45, 180, 320, 90, 240)
"""Of the processes, in their order. Red is none: it says that something failed."""
_COLOURS = len(_HUES)
_STYLE = """
:root { color-scheme: light dark; font: 13px/1.5 system-ui, sans-serif; }
body { margin: 1.5em; } h1 { font-size: 1.1em; font-weight: 600; } .legend span { margin-right: 1.2em; }
details { border-top: 1px solid #8883; }
summary { display: flex; align-items: center; cursor: pointer; list-style: none; }
summary:hover { background: #8881; }
.name, .took { box-sizing: border-box; flex: none; }
.name { width: 42%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.took { width: 7em; text-align: right; padding-right: 1em; font-variant-numeric: tabular-nums; }
.line { flex: 1; position: relative; height: 1.1em; } .bar { position: absolute; height: 100%; min-width: 2px;
border-radius: 2px; } .failed { background: #d22; }
.who { opacity: .65; } .error { color: #d22; } dl { display: grid; margin: .3em 0 .8em 2em;
grid-template-columns: max-content 1fr; gap: 0 1.5em; } dd { margin: 0; overflow-wrap: anywhere; } dt { opacity: .65; }
"""


def render(waterfall: Waterfall) -> str:
    colours = {process: number % _COLOURS for number, process in enumerate(waterfall.processes)}
    style = _STYLE + "".join(f".c{n} {{ background: hsl({_HUES[n]} 55% 50%); }}\n" for n in range(_COLOURS))
    legend = "".join(f"<span><b class='c{colours[who]}'>&emsp;</b> {_text(who)}</span>" for who in waterfall.processes)
    rows = "\n".join(_row(row, waterfall, colours) for row in waterfall.rows)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<title>{_text(f"trace {waterfall.trace_id}")}</title><style>{style}</style></head>
<body><h1>{_text(heading(waterfall).replace("  ", " · "))}</h1><p class="legend">{legend}</p>
<main>
{rows}
</main></body></html>
"""


def _row(row: Row, waterfall: Waterfall, colours: dict[str, int]) -> str:
    indent = f"padding-left:{min(row.depth, 40) * 1.1:.1f}em"
    if row.told is None:
        return f"<p style='{indent}'>… {row.hidden} more</p>"
    span, who = row.told.span, row.told.process
    whole_ns = max(waterfall.duration_ns, 1)
    left = min(99.9, max(0.0, 100 * row.start_ns / whole_ns))
    width = min(100 - left, 100 * span.duration_ns / whole_ns)
    name = f"<span class='{'name error' if span.error else 'name'}' style='{indent}'>{_text(short(span.name))} "
    name += f"<span class='who'>{_text(who)} {_text(span.attributes.get(OUTCOME, ''))}</span></span>"
    colour = "failed" if span.error else f"c{colours[who]}"
    bar = f"<span class='bar {colour}' style='left:{left:.3f}%;width:{width:.3f}%'></span>"
    facts = "".join(f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in _facts(row))
    return (
        f"<details id='s{span.span_id}'><summary>{name}<span class='took'>{_text(format_ns(span.duration_ns))}</span>"
        f"<span class='line'>{bar}</span></summary><dl>{facts}</dl></details>"
    )


def _facts(row: Row) -> list[tuple[str, object]]:
    assert row.told is not None
    span = row.told.span
    facts: list[tuple[str, object]] = [
        ("name", span.name),
        ("span", span.span_id),
        ("start", f"+{format_ns(max(0, row.start_ns))}"),
    ]
    if span.error:
        facts.append(("failed", span.error))
    if row.orphan:
        facts.append(("parent", f"{span.parent_id}, which was not kept"))
    if row.moved_ns:
        facts.append(("clock", f"corrected by {row.moved_ns / 1e6:.3f} ms"))
    facts += [("link to", f"{link.trace_id} {link.span_id}: {link.why}") for link in span.links]
    facts += [("linked by", f"{link.span_id}: {link.why}") for link in row.linked_by]
    return facts + sorted(span.attributes.items())


def _text(text: object) -> str:
    return escape(plain(text), quote=True)
