"""Charts as SVG: text and lines in tones that can be read on a light and on a dark page, no background, no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK = "#7d8590"
GRID = "#7d859040"
# By hue and lightness far enough apart; the first one is ours.
PALETTE = ("#2f81f7", "#d1702c", "#2da44e", "#a371f7", "#bf8700", "#cf5c8f", "#1b9aaa", "#8b949e", "#c4432b", "#6e7f2f")
FONT = "font-family='-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"
WIDTH = 860
LEFT = 150
RIGHT = 130
TOP = 56
BAR_HEIGHT = 13
ROW_GAP = 16
PLOT_HEIGHT = 320
BOTTOM = 46


@dataclass(frozen=True, slots=True)
class LogScale:
    """Maps positive values to pixels."""

    low: float
    high: float
    start_px: float
    end_px: float

    def at(self, value: float) -> float:
        """Values outside of the scale are put on its edge."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """The powers of ten inside."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def log_scale(values: Sequence[float], start_px: float, end_px: float) -> LogScale:
    """Whole decades around the values."""
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)) + 1e-9)
    return LogScale(low, high if high > low else low * 10, start_px, end_px)


def bar_chart(title: str, subtitle: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Groups of horizontal bars on a logarithmic axis around 1: `rows` is label -> series -> positive value."""
    series = list(dict.fromkeys(name for bars in rows.values() for name in bars))
    values = [value for bars in rows.values() for value in bars.values()]
    scale = log_scale([*values, 1.0], LEFT, WIDTH - RIGHT)
    height = TOP + sum(len(bars) * BAR_HEIGHT + ROW_GAP for bars in rows.values()) + BOTTOM
    parts = _grid(scale, TOP, height - BOTTOM)
    y = float(TOP + ROW_GAP / 2)
    for label, bars in rows.items():
        middle = y + len(bars) * BAR_HEIGHT / 2 + 4
        parts.append(_text(LEFT - 10, middle, label, anchor="end", size=13))
        for name, value in bars.items():
            parts += _bar(scale, y, value, PALETTE[series.index(name) % len(PALETTE)])
            y += BAR_HEIGHT
        y += ROW_GAP
    parts += _legend(series, height - 12)
    return _document(title, subtitle, height, parts)


def _bar(scale: LogScale, y: float, value: float, colour: str) -> list[str]:
    base, end = scale.at(1.0), scale.at(value)
    rectangle = (
        f"<rect x='{min(base, end):.1f}' y='{y:.1f}' width='{max(abs(end - base), 1):.1f}' height='{BAR_HEIGHT - 2}' "
        f"fill='{colour}'/>"
    )
    return [rectangle, _text(max(base, end) + 5, y + BAR_HEIGHT - 4, f"{number(value)}x", size=11)]


def line_chart(title: str, subtitle: str, lines: Mapping[str, Mapping[str, float]]) -> str:
    """Lines over labelled steps, logarithmic upwards: `lines` is name -> step -> positive value."""
    steps = list(dict.fromkeys(step for points in lines.values() for step in points))
    values = [value for points in lines.values() for value in points.values()]
    height = TOP + PLOT_HEIGHT + BOTTOM
    scale = log_scale(values, TOP + PLOT_HEIGHT, TOP)
    width = (WIDTH - LEFT / 2 - RIGHT) / max(1, len(steps) - 1)
    x_of = {step: LEFT / 2 + index * width for index, step in enumerate(steps)}
    parts = _grid_lines(scale)
    parts += [_text(x, TOP + PLOT_HEIGHT + 20, step, anchor="middle", size=12) for step, x in x_of.items()]
    label_y = _spread_labels({name: scale.at(list(points.values())[-1]) for name, points in lines.items()})
    for index, (name, points) in enumerate(lines.items()):
        colour = PALETTE[index % len(PALETTE)]
        parts += _line([(x_of[step], scale.at(value)) for step, value in points.items()], colour, index == 0)
        parts.append(_text(WIDTH - RIGHT + 12, label_y[name] + 4, name, size=12, colour=colour))
    return _document(title, subtitle, height, parts)


def _line(points: list[tuple[float, float]], colour: str, strong: bool) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    width = 3 if strong else 1.6
    line = f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='{width}'/>"
    return [line, *(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{width + 1}' fill='{colour}'/>" for x, y in points)]


def _spread_labels(wanted: Mapping[str, float], gap: float = 15.0) -> dict[str, float]:
    """Moves labels down where they would cover each other."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for name in sorted(wanted, key=lambda name: wanted[name]):
        lowest = placed[name] = max(wanted[name], lowest + gap)
    return placed


def _grid(scale: LogScale, top: float, bottom: float) -> list[str]:
    parts = []
    for tick in scale.ticks():
        x = scale.at(tick)
        stroke = INK if tick == 1.0 else GRID
        parts.append(f"<line x1='{x:.1f}' y1='{top}' x2='{x:.1f}' y2='{bottom:.1f}' stroke='{stroke}'/>")
        parts.append(_text(x, top - 6, f"{number(tick)}x", anchor="middle", size=11))
    return parts


def _grid_lines(scale: LogScale) -> list[str]:
    parts = []
    for tick in scale.ticks():
        y = scale.at(tick)
        parts.append(f"<line x1='{LEFT / 2}' y1='{y:.1f}' x2='{WIDTH - RIGHT}' y2='{y:.1f}' stroke='{GRID}'/>")
        parts.append(_text(LEFT / 2 - 10, y + 4, f"{number(tick)} ms", anchor="end", size=11))
    return parts


def _legend(series: Sequence[str], y: float) -> list[str]:
    parts = []
    x = float(LEFT)
    for index, name in enumerate(series):
        parts.append(
            f"<rect x='{x:.0f}' y='{y - 10:.0f}' width='11' height='11' fill='{PALETTE[index % len(PALETTE)]}'/>"
        )
        parts.append(_text(x + 16, y, name, size=12))
        x += 34 + 6.6 * len(name)
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int, colour: str = INK) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{colour}' text-anchor='{anchor}'>{escape(text)}</text>"
    )


def _document(title: str, subtitle: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' width='{WIDTH}' "
        f"height='{height:.0f}' role='img' aria-label={quoteattr(title)} {FONT}>"
    )
    titles = [f"<title>{escape(title)}</title>", _text(4, 18, title, size=16), _text(4, 35, subtitle, size=12)]
    return "\n".join([head, *titles, *parts, "</svg>"]) + "\n"


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
