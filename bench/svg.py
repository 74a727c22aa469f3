"""Charts as SVG: text and lines in tones that can be read on a light and on a dark page, no background, no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

INK = "#767d86"
GRID = "#767d8640"
# By hue and lightness far enough apart; the first one is ours.
PALETTE = ("#2f81f7", "#d1702c", "#2da44e", "#a371f7", "#bf8700", "#cf5c8f", "#1b9aaa", "#8b949e", "#c4432b", "#6e7f2f")
FONT = "font-family='-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"
WIDTH = 860
LEFT = 75
RIGHT = 130
TOP = 56
PLOT_HEIGHT = 320
BOTTOM = 46
PANEL_GAP = 22
PANEL_HEAD = 36
PANEL_LABELS = 108
PANEL_VALUES = 58
ROW_HEIGHT = 17
LETTER_PX = 6.2  # of an average letter at size 12


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


@dataclass(frozen=True, slots=True)
class Panel:
    """One small bar chart: `values` is label -> positive value, best first; None where there is none to show."""

    title: str
    note: str
    values: Mapping[str, float | None]


def panel_chart(
    title: str, subtitle: str, panels: Sequence[Panel], colours: Mapping[str, str], legend: Mapping[str, str]
) -> str:
    """Panels in two columns, bars on logarithmic scales. `colours` is label -> colour, `legend` text -> colour; the
    first label of `colours` stands out."""
    strong = next(iter(colours), "")
    parts = _legend(legend, TOP)
    bottom = float(TOP)
    for index in range(0, len(panels), 2):
        top = bottom + PANEL_GAP
        for column, panel in enumerate(panels[index : index + 2]):
            parts += _panel(panel, column * (WIDTH + PANEL_GAP) / 2, top, colours, strong)
            bottom = max(bottom, top + PANEL_HEAD + len(panel.values) * ROW_HEIGHT)
    return _document(title, subtitle, bottom + 10, parts)


def _panel(panel: Panel, x: float, top: float, colours: Mapping[str, str], strong: str) -> list[str]:
    start, end = x + PANEL_LABELS, x + (WIDTH - PANEL_GAP) / 2 - PANEL_VALUES
    shown = [value for value in panel.values.values() if value is not None]
    scale = LogScale(min(shown, default=1.0) / 2, max(shown, default=1.0), start, end)
    rows_top = top + PANEL_HEAD
    rows_bottom = rows_top + len(panel.values) * ROW_HEIGHT
    parts = [_text(x + 4, top + 13, panel.title, size=13, weight="600"), _text(x + 4, top + 28, panel.note, size=11)]
    parts += [_vertical(scale.at(tick), rows_top, rows_bottom) for tick in scale.ticks()]
    for row, (label, value) in enumerate(panel.values.items()):
        y = rows_top + row * ROW_HEIGHT
        weight, ink = ("600", colours[label]) if label == strong else ("400", INK)
        parts.append(_text(start - 8, y + 12, label, anchor="end", size=12, colour=ink, weight=weight))
        if value is None:
            parts.append(_text(start + 4, y + 12, "-", size=12))
            continue
        length = scale.at(value) - start
        parts.append(
            f"<rect x='{start:.1f}' y='{y + 2:.1f}' width='{length:.1f}' height='{ROW_HEIGHT - 5}' rx='2' "
            f"fill='{colours[label]}'/>"
        )
        parts.append(_text(start + length + 6, y + 12, number(value), size=12, colour=ink, weight=weight))
    return parts


def _vertical(x: float, top: float, bottom: float) -> str:
    return f"<line x1='{x:.1f}' y1='{top:.1f}' x2='{x:.1f}' y2='{bottom:.1f}' stroke='{GRID}'/>"


def line_chart(title: str, subtitle: str, lines: Mapping[str, Mapping[str, float]]) -> str:
    """Lines over labelled steps, logarithmic upwards: `lines` is name -> step -> positive value."""
    steps = list(dict.fromkeys(step for points in lines.values() for step in points))
    values = [value for points in lines.values() for value in points.values()]
    height = TOP + PLOT_HEIGHT + BOTTOM
    scale = log_scale(values, TOP + PLOT_HEIGHT, TOP)
    width = (WIDTH - LEFT - RIGHT) / max(1, len(steps) - 1)
    x_of = {step: LEFT + index * width for index, step in enumerate(steps)}
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


def _grid_lines(scale: LogScale) -> list[str]:
    parts = []
    for tick in scale.ticks():
        y = scale.at(tick)
        parts.append(f"<line x1='{LEFT}' y1='{y:.1f}' x2='{WIDTH - RIGHT}' y2='{y:.1f}' stroke='{GRID}'/>")
        parts.append(_text(LEFT - 10, y + 4, f"{number(tick)} ms", anchor="end", size=11))
    return parts


def _legend(texts: Mapping[str, str], y: float) -> list[str]:
    parts = []
    x = 4.0
    for text, colour in texts.items():
        parts.append(f"<rect x='{x:.0f}' y='{y - 9:.0f}' width='10' height='10' rx='2' fill='{colour}'/>")
        parts.append(_text(x + 15, y, text, size=12))
        x += 40 + LETTER_PX * len(text)
    return parts


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int, colour: str = INK, weight: str = "400"
) -> str:
    bold = "" if weight == "400" else f" font-weight='{weight}'"
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}'{bold} fill='{colour}' text-anchor='{anchor}'>"
        f"{escape(text)}</text>"
    )


def _document(title: str, subtitle: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' width='{WIDTH}' "
        f"height='{height:.0f}' role='img' aria-label={quoteattr(title)} {FONT}>"
    )
    titles = [
        f"<title>{escape(title)}</title>",
        _text(4, 18, title, size=16, weight="600"),
        _text(4, 35, subtitle, size=12),
    ]
    return "\n".join([head, *titles, *parts, "</svg>"]) + "\n"


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
