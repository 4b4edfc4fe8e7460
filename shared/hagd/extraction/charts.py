"""Small charts as SVG: axes with round ticks, lines and bars, of nothing but text and shapes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

WIDTH: Final = 430
HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 34, 40
_INK, _GRID = "#374151", "#e5e7eb"
_RAMP: Final = ((68, 1, 84), (42, 120, 142), (122, 209, 81))
"""Part of viridis: told apart by lightness alone."""
_MOST_TICKS: Final = 6


@dataclass(frozen=True)
class Axis:
    """One direction of a chart."""

    label: str
    low: float
    high: float
    log: bool = False
    """By powers of ten; both ends are positive then."""

    @staticmethod
    def over(label: str, values: Sequence[float], *, log: bool = False, zero: bool = False) -> "Axis":
        """Give an axis that holds some values; `zero` makes it begin at 0. A log axis ends four powers of ten
        below its largest value, if not before."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        if log:
            high = max(known, default=1.0)
            low = max(min(known, default=0.1), 1e-4 * high)
            return Axis(label, 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9), log)
        low, high = (0.0 if zero else min(known, default=0.0)), max(known, default=1.0)
        return Axis(label, low, high if high > low else low + 1)

    def share(self, value: float) -> float:
        """Give where a value stands: 0 at the low end, 1 at the high end, never beyond."""
        if self.log:
            span = math.log10(self.high) - math.log10(self.low)
            return _clip((math.log10(max(value, self.low)) - math.log10(self.low)) / span)
        return _clip((value - self.low) / (self.high - self.low))

    def ticks(self) -> list[float]:
        """Give round values between the ends, at most a handful."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            step = -(-(last - first + 1) // _MOST_TICKS)
            return [10.0**exponent for exponent in range(first, last + 1, step)]
        rough = (self.high - self.low) / (_MOST_TICKS - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Chart:
    """One chart; what is added later lies above."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        self.root = Element("g")
        self._x, self._y = x, y
        _text(self.root, title, _LEFT, 18, weight="600", size=13)
        for value in y.ticks():
            at = self._down(value)
            _line(self.root, _LEFT, at, WIDTH - _RIGHT, at, _GRID)
            _text(self.root, number_text(value), _LEFT - 6, at + 4, anchor="end")
        _text(self.root, y.label, WIDTH - _RIGHT, 18, anchor="end")
        _text(self.root, x.label, (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, anchor="middle")

    def mark(self, names: Sequence[tuple[float, str]] | None = None) -> None:
        """Write below the horizontal axis: its numbers, or names of places."""
        for value, name in names or [(value, number_text(value)) for value in self._x.ticks()]:
            _text(self.root, name, self._across(value), HEIGHT - _BOTTOM + 16, anchor="middle")

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, name: str, *, dashed: bool = False) -> None:
        """Join points; a reader who rests on the line is told its name."""
        points = " ".join(
            f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in zip(xs, ys, strict=True) if math.isfinite(y)
        )
        given = {"points": points, "fill": "none", "stroke": colour, "stroke-width": "1.5"}
        line = SubElement(self.root, "polyline", given | ({"stroke-dasharray": "4 3"} if dashed else {}))
        SubElement(line, "title").text = printable(name)

    def bar(self, left: float, right: float, value: float, colour: str, name: str) -> None:
        """Draw a bar from the low end of the vertical axis, as wide as from `left` to `right`."""
        x, top, base = self._across(left), self._down(value), self._down(self._y.low)
        size = {"width": f"{max(self._across(right) - x, 0.5):.1f}", "height": f"{base - top:.1f}"}
        bar = SubElement(self.root, "rect", {"x": f"{x:.1f}", "y": f"{top:.1f}", "fill": colour} | size)
        SubElement(bar, "title").text = printable(name)

    def _across(self, value: float) -> float:
        return _LEFT + self._x.share(value) * (WIDTH - _LEFT - _RIGHT)

    def _down(self, value: float) -> float:
        return HEIGHT - _BOTTOM - self._y.share(value) * (HEIGHT - _TOP - _BOTTOM)


def page(title: str, lines: Sequence[str], charts: Sequence[Chart], columns: int = 2) -> str:
    """Give a file with a title, lines of text and charts in rows."""
    head = 44 + 18 * len(lines)
    width, height = columns * WIDTH, head + -(-len(charts) // columns) * HEIGHT
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "sans-serif",
            "role": "img",
            "aria-label": printable(title),
        },
    )
    SubElement(root, "rect", {"width": str(width), "height": str(height), "fill": "#ffffff"})
    _text(root, title, 16, 28, weight="600", size=17)
    for number, text in enumerate(lines):
        _text(root, text, 16, 50 + 18 * number, size=12)
    for number, chart in enumerate(charts):
        row, column = divmod(number, columns)
        chart.root.set("transform", f"translate({column * WIDTH} {head + row * HEIGHT})")
        root.append(chart.root)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def colours(count: int) -> list[str]:
    """Give colours in an order that the eye sees, dark to light."""
    return [_colour(number / max(1, count - 1)) for number in range(count)]


def number_text(value: float) -> str:
    """Give a short number: 12k, 3M, 0.05, 1e-05."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{sign}"
    return f"{value:.3g}"


def printable(text: str) -> str:
    """Leave out what no XML may hold."""
    return "".join(it for it in text if it.isprintable())


def _colour(share: float) -> str:
    place = share * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _clip(share: float) -> float:
    return min(1.0, max(0.0, share))


def _line(parent: Element, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    SubElement(parent, "line", ends | {"stroke": colour})


def _text(
    parent: Element, text: str, x: float, y: float, *, anchor: str = "start", weight: str = "400", size: int = 11
) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-weight": weight, "font-size": str(size)}
    SubElement(parent, "text", place | {"fill": _INK}).text = printable(text)
