"""A line chart with intervals as SVG; small enough not to need a plotting library."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from refine_ops.eval.stats import Interval

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 400, 64, 20, 44, 52
_COLOURS: Final = ("#8a5cd0", "#1d9a6c", "#d0742c", "#2c74d0")


def curves_svg(
    title: str, x_label: str, y_label: str, xs: Sequence[float], series: Mapping[str, Sequence[Interval]]
) -> str:
    """Each series as points at `xs`, joined, with bars from `low` to `high` where these are finite."""
    values = [v for points in series.values() for p in points for v in (p.low, p.mean, p.high) if abs(v) < 1e6]
    low, high = min(values), max(values)
    pad = (high - low or 1) * 0.06
    low, high = low - pad, high + pad
    first, last = min(xs), max(xs)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / ((last - first) or 1)
        up = (min(max(y, low), high) - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="16" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {_HEIGHT / 2})">'
        f"{escape(y_label)}</text>",
    ]
    for step in range(5):
        value = low + (high - low) * step / 4
        y = at(first, value)[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    for x in xs:
        here = at(x, low)[0]
        parts.append(f'<text x="{here:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    for n, (name, points) in enumerate(series.items()):
        colour = _COLOURS[n % len(_COLOURS)]
        places = [at(x, p.mean) for x, p in zip(xs, points, strict=True)]
        line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, p in zip(xs, points, strict=True):
            (here, bottom), top = at(x, p.low), at(x, p.high)[1]
            parts.append(f'<path d="M{here:.1f} {bottom:.1f}V{top:.1f}" stroke="{colour}" opacity=".5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(
            f'<text x="{_WIDTH - _RIGHT - 6}" y="{22 + 16 * n}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
        )
    return "".join(parts) + "</svg>"
