"""Small charts as inline SVG: no scripts, nothing fetched, the same bytes for the same numbers.

Colours come from the page's style (page.py), so that charts follow light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44
_MOST_DOTS = 1500


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps numbers to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return about five round numbers within the axis."""
        step = 10 ** np.floor(np.log10((self.high - self.low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (self.high - self.low) / (step * factor) <= 6)
        first = np.ceil(self.low / step)
        # Adding 0 makes a negative zero positive.
        return [float(i * step) + 0.0 for i in np.arange(first, np.floor(self.high / step + 1e-9) + 1)]


def histogram(series: Mapping[str, Numbers], *, title: str, x_label: str, bins: int = 40) -> str:
    """Draw how often values occur; several series share bins, each scaled to its own share of values."""
    everything = np.concatenate(list(series.values()))
    low, high = _padded(float(everything.min()), float(everything.max()))
    edges = np.linspace(low, high, bins + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in series.items()}
    x = _Axis(low, high, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(0, max(float(share.max()) for share in shares.values()) * 1.08, _HEIGHT - _BOTTOM, _TOP)

    def body() -> Iterator[str]:
        for number, share in enumerate(shares.values()):
            for left, right, value in zip(edges, edges[1:], share, strict=False):
                if value > 0:
                    width = max(x(right) - x(left) - 1, 0.5)
                    yield (
                        f'<rect class="fill{number}" x="{x(left):.1f}" y="{y(value):.1f}" '
                        f'width="{width:.1f}" height="{y(0) - y(value):.1f}"/>'
                    )

    return _chart(title, x_label, "share", x, y, list(series), body)


def scatter(x_values: Numbers, y_values: Numbers, *, title: str, x_label: str, y_label: str) -> str:
    """Draw dots, and the running median through them. Beyond 1,500 dots every n-th is drawn."""
    x = _Axis(*_padded(float(x_values.min()), float(x_values.max())), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_padded(float(y_values.min()), float(y_values.max())), _HEIGHT - _BOTTOM, _TOP)
    thin = max(1, len(x_values) // _MOST_DOTS)

    def body() -> Iterator[str]:
        for a, b in zip(x_values[::thin], y_values[::thin], strict=True):
            yield f'<circle class="dot" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.4"/>'
        order = np.argsort(x_values, kind="stable")
        parts = [part for part in np.array_split(order, min(12, len(order))) if len(part)]
        points = [(x(float(np.median(x_values[part]))), y(float(np.median(y_values[part])))) for part in parts]
        yield f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'

    return _chart(title, x_label, y_label, x, y, [], body)


def bars(values: Mapping[str, float], *, title: str, x_label: str) -> str:
    """Draw one horizontal bar for each name, from 0."""
    height = 26 * len(values) + 40
    widest = max(*values.values(), 1e-12)
    rows = []
    for number, (name, value) in enumerate(values.items()):
        top = 8 + 26 * number
        length = value / widest * (_WIDTH - 300)
        rows.append(
            f'<text class="tick end" x="150" y="{top + 14}">{escape(name)}</text>'
            f'<rect class="fill0" x="158" y="{top + 2}" width="{max(length, 0.5):.1f}" height="16"/>'
            f'<text class="tick" x="{164 + length:.1f}" y="{top + 14}">{value:.4g}</text>'
        )
    label = f'<text class="label" x="158" y="{height - 8}">{escape(x_label)}</text>'
    return _svg(title, height, "".join(rows) + label)


def _chart(
    title: str, x_label: str, y_label: str, x: _Axis, y: _Axis, names: list[str], body: Callable[[], Iterator[str]]
) -> str:
    parts = []
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}">{tick:.6g}</text>')
    parts += [
        f'<text class="tick middle" x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}">{tick:.6g}</text>'
        for tick in x.ticks()
    ]
    parts += body()
    parts.append(f'<text class="label middle" x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 6}">{escape(x_label)}</text>')
    parts.append(f'<text class="label" x="4" y="12">{escape(y_label)}</text>')
    for number, name in enumerate(names if len(names) > 1 else []):
        parts.append(f'<rect class="fill{number}" x="{_WIDTH - 170}" y="{_TOP + 18 * number}" width="10" height="10"/>')
        parts.append(f'<text class="tick" x="{_WIDTH - 154}" y="{_TOP + 9 + 18 * number}">{escape(name)}</text>')
    return _svg(title, _HEIGHT, "".join(parts))


def _svg(title: str, height: int, content: str) -> str:
    name = escape(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{name}"><title>{name}</title>{content}</svg></figure>'
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    """Give a range a little room, and a width where it has none."""
    room = (high - low) * 0.02 or max(abs(high), 1e-6) * 0.02
    return low - room, high + room
