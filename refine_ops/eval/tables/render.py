"""Tables as Markdown and as one HTML page without any request."""

from collections.abc import Sequence
from html import escape
from typing import Final

from refine_ops.eval.tables.layout import ResultTable

_STYLE: Final = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}body{margin:2rem auto;max-width:90rem;padding:0 1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #8884}th{border-bottom:2px solid #888}
tr.paper{opacity:.65;font-style:italic}p.note{font-size:.85rem;opacity:.8;max-width:60rem}
"""


def as_markdown(tables: Sequence[ResultTable]) -> str:
    """GitHub's Markdown; cell text cannot break a table."""
    parts = ["# RefineEval\n"]
    for table in tables:
        lines = [f"## {table.title}", "", _line(table.header), _line(["---"] * len(table.header))]
        lines += [_line(row.cells) for row in table.rows]
        lines += [f"\n{note}" for note in table.notes]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def as_html(tables: Sequence[ResultTable]) -> str:
    """A whole page; everything from outside is escaped."""
    body = "".join(_section(t) for t in tables)
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{policy}<title>RefineEval</title>'
    return f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body><h1>RefineEval</h1>{body}'


def _section(table: ResultTable) -> str:
    header = "".join(f'<th scope="col">{escape(c)}</th>' for c in table.header)
    rows = "".join(
        f'<tr class="{row.kind}">' + "".join(f"<td>{escape(c)}</td>" for c in row.cells) + "</tr>" for row in table.rows
    )
    notes = "".join(f'<p class="note">{escape(n)}</p>' for n in table.notes)
    return f'<h2>{escape(table.title)}</h2><div class="wide"><table><tr>{header}</tr>{rows}</table></div>{notes}'


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
